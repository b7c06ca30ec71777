//! Placeholders for values that differ between runs.

use rendezvous_server::internal::DOCUMENT;

/// Of lines longer than this, in bytes, only the length is recorded.
const LONG: usize = 1000;

/// The bytes as text, with `mark` before each line and visible line ends.
pub(crate) fn show(mark: &str, bytes: &[u8]) -> String {
    let bytes = match bytes.strip_suffix(DOCUMENT.as_bytes()) {
        Some(head) => [head, b"{openapi.json}"].concat(),
        None => bytes.into(),
    };
    let mut lines: Vec<_> = bytes.split_inclusive(|byte| *byte == b'\n').map(redact).collect();
    // The order of the samples of a metric differs between runs, except for histograms.
    for samples in lines.chunk_by_mut(|one, other| metric(one).is_some() && metric(one) == metric(other)) {
        if !samples[0].contains("le=\"") {
            samples.sort();
        }
    }
    lines.iter().map(|line| format!("{mark} {line}\n")).collect::<Vec<_>>().concat()
}

fn metric(line: &str) -> Option<&str> {
    line.strip_prefix("rendezvous_")?.split(['{', ' ']).next()
}

fn redact(line: &[u8]) -> String {
    if line.len() > LONG {
        return if line.starts_with(b"{") {
            "{long JSON}".into()
        } else {
            format!("{{{} bytes}}", line.len())
        };
    }
    let mut line = line.escape_ascii().to_string().replace("\\\"", "\"").replace("\\'", "'");
    line = ids(&line);
    for (before, after, name) in [
        ("date: ", "\\r", "{date}"),
        ("_token\":\"", "\"", "{token}"),
        ("_at\":\"", "\"", "{time}"),
        ("version=\"", "\"", "{version}"),
    ] {
        line = replace_between(&line, before, after, name);
    }
    if line.starts_with("rendezvous_")
        && let Some((sample, _)) = line.rsplit_once(' ')
    {
        line = format!("{sample} {{count}}\\n");
    }
    // The lengths of the API description and of the metrics change.
    match line.strip_prefix("content-length: ").and_then(|length| length.strip_suffix("\\r\\n")) {
        Some(length) if length.len() > 3 => "content-length: {length}\\r\\n".into(),
        _ => line,
    }
}

fn replace_between(line: &str, before: &str, after: &str, name: &str) -> String {
    let Some((start, rest)) = line.split_once(before) else { return line.into() };
    let end = rest.find(after).unwrap();
    format!("{start}{before}{name}{}", replace_between(&rest[end..], before, after, name))
}

fn ids(line: &str) -> String {
    let is_id = |text: &str| {
        text.char_indices().all(|(at, letter)| match at {
            8 | 13 | 18 | 23 => letter == '-',
            _ => letter.is_ascii_hexdigit(),
        })
    };
    match (0..line.len()).find(|at| line.get(*at..at + 36).is_some_and(is_id)) {
        Some(at) => format!("{}{{id}}{}", &line[..at], ids(&line[at + 36..])),
        None => line.into(),
    }
}
