//! The view for programs: each event is an object on a line of its own. docs/send-and-receive.md lists them.

use std::io::Write;
use std::time::Duration;

use rendezvous_client::source::Kind;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Ending, Event, Side};
use crate::cli::transfer::text::is_harmful;

/// The least time between two lines of progress.
const INTERVAL: Duration = Duration::from_millis(250);

/// Writes JSON lines to standard output.
pub(crate) struct Json {
    side: Side,
    last_progress: Option<Instant>,
}

impl Json {
    pub(crate) fn new(side: Side) -> Self {
        Self { side, last_progress: None }
    }

    pub(crate) fn show(&mut self, event: &Event<'_>, out: &mut impl Write) {
        if matches!(event, Event::Moved { .. }) {
            let now = Instant::now();
            if self.last_progress.is_some_and(|last| now.duration_since(last) < INTERVAL) {
                return;
            }
            self.last_progress = Some(now);
        }
        write(out, &self.object(event));
    }

    fn object(&self, event: &Event<'_>) -> Value {
        match event {
            Event::Description { description, files } => json!({
                "event": "description",
                "kind": match description.kind { Kind::File => "file", Kind::Tar => "tar", Kind::Text => "text" },
                "name": description.name,
                "size": description.size,
                "files": files,
            }),
            Event::Link { link, command, .. } => json!({"event": "link", "link": link, "command": command}),
            Event::Asked { receivers, offset } => {
                json!({"event": "asked", "receivers": receivers, "offset": offset})
            }
            Event::Resumed { offset } => json!({"event": "resumed", "offset": offset}),
            Event::Moved { bytes } => json!({"event": self.side.moved(), "bytes": bytes}),
            Event::AllSent { bytes } => json!({"event": "all_sent", "bytes": bytes}),
            Event::Busy => json!({"event": "busy"}),
            Event::Verified { bytes, sha256 } => {
                json!({"event": "verified", "bytes": bytes, "sha256": sha256.to_string()})
            }
            Event::Cut { why } => json!({"event": "cut", "why": why}),
            Event::Warning { message } => json!({"event": "warning", "message": message}),
        }
    }

    #[expect(clippy::unused_self, reason = "the views have the same methods")]
    pub(crate) fn end(&mut self, ending: &Ending, out: &mut impl Write) {
        write(
            out,
            &json!({
                "event": "end",
                "outcome": ending.exit.name(),
                "code": ending.exit.code(),
                "message": ending.message,
                "bytes": ending.bytes,
                "sha256": ending.sha256.map(|digest| digest.to_string()),
                "path": ending.at.as_ref().map(|path| path.to_string_lossy()),
            }),
        );
    }
}

/// Writes a line at once, because a program may wait for it. The reader may be gone, which is no reason to end a transfer.
fn write(out: &mut impl Write, object: &Value) {
    let _ = writeln!(out, "{}", escaped(&object.to_string())).and_then(|()| out.flush());
}

/// Escapes what JSON itself allows in a text and a terminal may obey, such as the controls from U+0080 on. Such characters are in texts only.
fn escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for letter in json.chars() {
        if is_harmful(letter) {
            escaped.extend(letter.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            escaped.push(letter);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;

    #[test]
    fn what_a_peer_wrote_is_unchanged_for_a_program_and_harmless_for_a_terminal() {
        let (mut json, mut out) = (Json::new(Side::Receive), Vec::new());
        let message = "ü 🎉\u{9b}31m\x1b\x7f\u{202e}\u{e0041}\"\n";
        json.show(&Event::Warning { message }, &mut out);
        let line = String::from_utf8(out).unwrap();
        let line = line.strip_suffix('\n').unwrap();
        assert!(!line.chars().any(is_harmful) && line.contains("ü 🎉"), "{line}");
        assert_eq!(serde_json::from_str::<Value>(line).unwrap()["message"], message);
    }

    #[tokio::test(start_paused = true)]
    async fn each_event_is_one_line_and_progress_comes_four_times_a_second_at_most() {
        let (mut json, mut out) = (Json::new(Side::Receive), Vec::new());
        json.show(&Event::Cut { why: "two\nlines" }, &mut out);
        for bytes in 0..100 {
            json.show(&Event::Moved { bytes }, &mut out);
            tokio::time::advance(Duration::from_millis(10)).await;
        }
        json.end(&Ending::failure(Exit::Cut, "gone"), &mut out);
        let out = String::from_utf8(out).unwrap();
        let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0], json!({"event": "cut", "why": "two\nlines"}));
        let progress: Vec<_> = lines.iter().filter(|line| line["event"] == "received").collect();
        assert_eq!(progress.len(), 4, "{out}");
        let end = lines.last().unwrap();
        assert_eq!((&end["outcome"], &end["code"]), (&json!("cut"), &json!(6)));
    }
}
