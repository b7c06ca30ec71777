//! The view without a terminal: a line for each event, and for progress one every ten seconds.

use std::io::Write;
use std::time::Duration;

use tokio::time::Instant;

use super::{Ending, Event, Repeats, Side, described, print_link, sentence};
use crate::cli::transfer::text::{overall_rate, size};

/// The time between two lines of progress.
const INTERVAL: Duration = Duration::from_secs(10);

/// Writes lines to standard error.
pub(crate) struct Lines {
    side: Side,
    total: Option<u64>,
    /// When the first byte was asked for, and its offset.
    began: Option<(Instant, u64)>,
    last_line: Option<Instant>,
    repeats: Repeats,
}

impl Lines {
    pub(crate) fn new(side: Side) -> Self {
        Self { side, total: None, began: None, last_line: None, repeats: Repeats::default() }
    }

    pub(crate) fn show(&mut self, event: &Event<'_>, out: &mut impl Write) {
        let now = Instant::now();
        let is_news = self.repeats.is_news(event);
        if let Some(sentence) = sentence(event).filter(|_| is_news) {
            let _ = writeln!(out, "{sentence}");
        }
        match event {
            Event::Description { description, files } => {
                self.total = description.size;
                let _ = writeln!(out, "{}", described(description, *files));
            }
            Event::Link { link, command, qr } => {
                print_link(link, command);
                if let Some(qr) = qr {
                    let _ = writeln!(out, "{qr}");
                }
                let _ = writeln!(out, "{}", self.side.awaited());
            }
            Event::Asked { offset, .. } | Event::Resumed { offset } => {
                self.began.get_or_insert((now, *offset));
            }
            Event::Moved { bytes } => {
                self.began.get_or_insert((now, 0));
                if self.last_line.get_or_insert(now).elapsed() >= INTERVAL {
                    self.last_line = Some(now);
                    let _ = writeln!(out, "{}", self.progress(*bytes));
                }
            }
            Event::AllSent { bytes } => {
                let _ = writeln!(out, "sent {}, waiting for the receiver to verify it", size(*bytes));
            }
            _ => {}
        }
    }

    fn progress(&self, bytes: u64) -> String {
        let of = self.total.map(|total| format!(" of {}", size(total))).unwrap_or_default();
        format!("{} {}{of}{}", self.side.moved(), size(bytes), self.rate(bytes))
    }

    fn rate(&self, bytes: u64) -> String {
        let rate = self
            .began
            .and_then(|(began, offset)| overall_rate(bytes.saturating_sub(offset), began.elapsed()));
        rate.map(|rate| format!(" · {rate}")).unwrap_or_default()
    }

    pub(crate) fn end(&mut self, ending: &Ending, out: &mut impl Write) {
        if let (true, Some(bytes)) = (ending.is_success, ending.bytes) {
            let _ = writeln!(out, "{}{} · {}", size(bytes), self.rate(bytes), ending.message);
        }
    }
}

#[cfg(test)]
mod tests {
    use rendezvous_client::source::{Description, Kind};

    use super::*;
    use crate::cli::exit::Exit;

    fn description() -> Description {
        Description {
            kind: Kind::Tar,
            name: "a\x1bb".to_owned(),
            size: Some(3 << 20),
            mtime: None,
            mode: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn progress_is_a_line_every_ten_seconds_and_the_end_says_both_facts() {
        let (mut lines, mut out) = (Lines::new(Side::Send), Vec::new());
        lines.show(&Event::Description { description: &description(), files: Some(3) }, &mut out);
        lines.show(&Event::Asked { receivers: 1, offset: 0 }, &mut out);
        for second in 1..=25 {
            tokio::time::advance(Duration::from_secs(1)).await;
            lines.show(&Event::Moved { bytes: second << 10 }, &mut out);
        }
        for _ in 0..3 {
            lines.show(&Event::Cut { why: "the relay\r\nis gone" }, &mut out);
        }
        lines.show(&Event::AllSent { bytes: 3 << 20 }, &mut out);
        lines.end(&Ending::success(Exit::Stored, "received and verified", 3 << 20), &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "a_b/ · 3 files · 3.0 MiB\n\
             the receiver has asked\n\
             sent 11 KiB of 3.0 MiB · 1.0 KiB/s\n\
             sent 21 KiB of 3.0 MiB · 1.0 KiB/s\n\
             cut, trying again: the relay__is gone\n\
             sent 3.0 MiB, waiting for the receiver to verify it\n\
             3.0 MiB · 123 KiB/s · received and verified\n"
        );
    }
}
