//! What a request prefers: its wait is the first one of any `Prefer`, and `If-None-Match` has a version only if it lists its entity tag.

use rendezvous_codec::head::{Head, parse};
use rendezvous_server::internal::{has_version, preferred_wait};

/// Checks the values of `Prefer` in the lines of the input, and after an empty line those of `If-None-Match`.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (prefer, tags) =
        text.split_once("\n\n").map_or((&*text, None), |(prefer, tags)| (prefer, Some(tags)));
    let prefer: Vec<_> = prefer.split('\n').collect();
    let tags: Vec<_> = tags.into_iter().flat_map(|tags| tags.split('\n')).collect();
    let version = data.len() as u64 % 20;
    let read = |prefer: &[&str], tags: &[&str]| {
        let fields =
            prefer.iter().map(|value| ("Prefer", value)).chain(tags.iter().map(|tag| ("If-None-Match", tag)));
        let lines: Vec<_> = fields.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", lines.concat());
        let both = |head: &Head<'_>| (preferred_wait(head), has_version(head, version));
        parse(head.as_bytes(), both).ok()
    };
    // Not every input can be in a head.
    let Some((wait, has)) = read(&prefer, &tags) else { return };
    assert_eq!(wait, first_wait(&prefer), "{prefer:?}");
    assert_eq!(has, lists(&tags, version), "{tags:?}, version {version}");
    let before = |first| read(&[&[first], &prefer[..]].concat(), &tags).map(|(wait, _)| wait);
    assert!(before("wait=7").is_none_or(|wait| wait == Some(7)), "the first wait counts: {prefer:?}");
    assert!(before("respond-async;wait=7").is_none_or(|same| same == wait), "{prefer:?}");
    let own = format!("W/\"{version}\"");
    let with_own = read(&prefer, &[&tags[..], &[&own]].concat());
    assert!(with_own.is_none_or(|(_, has)| has), "{tags:?}, version {version}");
}

/// The seconds of the first preference `wait` in all fields. `None` if they are not a number above 0.
fn first_wait(fields: &[&str]) -> Option<u64> {
    let all = fields.iter().flat_map(|field| members(field, ','));
    let main = all.map(|preference| members(&preference, ';').swap_remove(0));
    let mut values = main.filter_map(|main| {
        let (name, value) = main.split_once('=').unwrap_or((&main, ""));
        name.trim_ascii().eq_ignore_ascii_case("wait").then(|| value.trim_ascii().to_owned())
    });
    let value = values.next()?;
    let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(&value);
    let is_number = !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_digit());
    let digits = bare.trim_start_matches('0');
    (is_number && !digits.is_empty()).then(|| digits.parse().unwrap_or(u64::MAX))
}

/// Splits a value at the separators that are in no quoted string. In such a string, a backslash quotes the next character.
fn members(value: &str, separator: char) -> Vec<String> {
    let (mut members, mut is_quoted, mut is_escaped) = (vec![String::new()], false, false);
    for character in value.chars() {
        if character == separator && !is_quoted {
            members.push(String::new());
            continue;
        }
        if character == '"' && !is_escaped {
            is_quoted = !is_quoted;
        }
        is_escaped = is_quoted && character == '\\' && !is_escaped;
        members.last_mut().unwrap().push(character);
    }
    members
}

/// Whether the fields list the entity tag of the version, or all.
fn lists(fields: &[&str], version: u64) -> bool {
    let tags = fields.iter().flat_map(|field| members(field, ','));
    let mut tags = tags.map(|tag| tag.trim_ascii().to_owned());
    let (strong, weak) = (format!("\"{version}\""), format!("W/\"{version}\""));
    tags.any(|tag| tag == "*" || tag == strong || tag == weak)
}
