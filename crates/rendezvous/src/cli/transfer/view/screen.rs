//! The view on a terminal: a bar on standard error, with rate and time left.

use std::io::{Write, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use tokio::time::Instant;

use super::{Ending, Event, Side, described, print_link, sentence};
use crate::cli::transfer::text::{overall_rate, rate, size, time};

/// How often the bar is drawn again when nothing happens, so that rate and time left do not lie.
const TICK: Duration = Duration::from_millis(200);
const WAITING: &str = "{spinner:.cyan} {msg}";
/// The lines fit in 80 columns with the longest figures.
const OF_KNOWN_SIZE: &str = "▕{bar:11.cyan}▏ {done} of {size} · {rate}{left} · {msg}";
const OF_UNKNOWN_SIZE: &str = "{spinner:.cyan} {done} · {rate} · {msg}";
const ENDED: &str = "▕{bar:11.green}▏ {done} · {msg}";
const CUT: &str = "▕{bar:11.red}▏ {done} · {msg}";
const BLOCKS: &str = "█▉▊▋▌▍▎▏ ";

/// Draws on standard error.
pub(crate) struct Screen {
    side: Side,
    bar: ProgressBar,
    total: Option<u64>,
    /// When the first byte was asked for, and its offset.
    began: Option<(Instant, u64)>,
    /// Whether the bar shows bytes.
    is_moving: bool,
}

impl Screen {
    pub(crate) fn new(side: Side) -> Self {
        let bar =
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(style(WAITING));
        // A link that cannot be printed yet and a sender that is not there yet look the same for a moment.
        bar.set_message(match side {
            Side::Send => "connecting to the relay",
            Side::Receive => side.awaited(),
        });
        bar.enable_steady_tick(TICK);
        Self { side, bar, total: None, began: None, is_moving: false }
    }

    pub(crate) fn show(&mut self, event: &Event<'_>) {
        if let Some(sentence) = sentence(event).filter(|_| is_worth_a_line(event)) {
            self.line(&sentence);
        }
        match event {
            Event::Description { description, files } => {
                self.total = description.size;
                self.line(&described(description, *files));
            }
            Event::Link { link, command, qr } => {
                self.bar.suspend(|| print_link(link, command));
                if let Some(qr) = qr {
                    self.line(qr);
                }
                self.bar.set_message(self.side.awaited());
            }
            Event::Asked { offset, .. } | Event::Resumed { offset } => {
                self.began.get_or_insert((Instant::now(), *offset));
                self.go_to(*offset);
            }
            Event::Moved { bytes } => self.moved(*bytes),
            Event::AllSent { bytes } => {
                self.moved(*bytes);
                self.bar.set_message("sent, not yet verified");
            }
            Event::Verified { bytes, .. } => {
                self.moved(*bytes);
                self.bar.set_message("verified, telling the sender");
            }
            _ => {}
        }
    }

    /// Writes a line above the bar.
    fn line(&self, line: &str) {
        self.bar.suspend(|| {
            let _ = writeln!(stderr(), "{line}");
        });
    }

    fn moved(&mut self, bytes: u64) {
        self.began.get_or_insert((Instant::now(), 0));
        if !self.is_moving || bytes < self.bar.position() {
            self.go_to(bytes);
        }
        self.bar.set_position(bytes);
    }

    /// Moves the bar to an offset, without counting the way there as speed.
    fn go_to(&mut self, offset: u64) {
        if !self.is_moving {
            self.is_moving = true;
            if let Some(total) = self.total {
                self.bar.set_length(total);
            }
            self.bar.set_style(style(if self.total.is_some() { OF_KNOWN_SIZE } else { OF_UNKNOWN_SIZE }));
        }
        self.bar.set_message(self.side.moved());
        self.bar.set_position(offset);
        self.bar.reset_eta();
    }

    pub(crate) fn end(&mut self, ending: &Ending) {
        if !self.is_moving {
            self.bar.finish_and_clear();
            if ending.is_success {
                let bytes = ending.bytes.map(|bytes| format!("{} · ", size(bytes))).unwrap_or_default();
                let _ = writeln!(stderr(), "{bytes}{}", ending.message);
            }
            return;
        }
        if !ending.is_success {
            self.bar.set_style(style(CUT));
            self.bar.abandon_with_message(format!("{} so far", self.side.moved()));
            return;
        }
        if let Some(bytes) = ending.bytes {
            self.bar.set_length(bytes);
            self.bar.set_position(bytes);
        }
        let rate = self
            .began
            .zip(ending.bytes)
            .and_then(|((began, offset), bytes)| overall_rate(bytes.saturating_sub(offset), began.elapsed()));
        let rate = rate.map(|rate| format!("{rate} · ")).unwrap_or_default();
        self.bar.set_style(style(ENDED));
        self.bar.finish_with_message(format!("{rate}{}", ending.message));
    }
}

/// Whether an event deserves a line of its own beside the bar, which shows a first ask by itself.
fn is_worth_a_line(event: &Event<'_>) -> bool {
    !matches!(event, Event::Asked { receivers: 0 | 1, .. })
}

/// Returns a style with our own figures. The templates are constants, which the tests parse.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars(BLOCKS)
        .with_key("done", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{}", size(state.pos()));
        })
        .with_key("size", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{}", size(state.len().unwrap_or_default()));
        })
        .with_key("rate", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{}", rate(state.per_sec()));
        })
        .with_key("left", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let is_left = state.len().is_some_and(|length| length > state.pos());
            if is_left && state.per_sec() > 0.0 {
                let _ = write!(out, " · {} left", time(state.eta()));
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_valid() {
        for template in [WAITING, OF_KNOWN_SIZE, OF_UNKNOWN_SIZE, ENDED, CUT] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
