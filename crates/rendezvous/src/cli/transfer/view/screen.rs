//! The view on a terminal: a bar on standard error, with rate and time left.

use std::io::{Write, stderr};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::meter::Meter;
use super::{Ending, Event, Repeats, Side, described, print_link, sentence};
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
    meter: Arc<Mutex<Meter>>,
    repeats: Repeats,
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
        Self {
            side,
            bar,
            total: None,
            began: None,
            is_moving: false,
            meter: Arc::default(),
            repeats: Repeats::default(),
        }
    }

    pub(crate) fn show(&mut self, event: &Event<'_>) {
        let is_news = self.repeats.is_news(event);
        if let Some(sentence) = sentence(event).filter(|_| is_news && is_worth_a_line(event)) {
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
        self.meter.lock().moved(bytes, Instant::now());
        self.bar.set_position(bytes);
    }

    /// Moves the bar to an offset, without counting the way there as speed.
    fn go_to(&mut self, offset: u64) {
        if !self.is_moving {
            self.is_moving = true;
            if let Some(total) = self.total {
                self.bar.set_length(total);
            }
            let template = if self.total.is_some() { OF_KNOWN_SIZE } else { OF_UNKNOWN_SIZE };
            self.bar.set_style(with_rate(style(template), &self.meter));
        }
        self.bar.set_message(self.side.moved());
        self.meter.lock().go_to(offset, Instant::now());
        self.bar.set_position(offset);
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
}

/// Adds the rate, and the time left at that rate.
fn with_rate(style: ProgressStyle, meter: &Arc<Mutex<Meter>>) -> ProgressStyle {
    let (of_rate, of_left) = (Arc::clone(meter), Arc::clone(meter));
    style
        .with_key("rate", move |_: &ProgressState, out: &mut dyn std::fmt::Write| {
            let _ = write!(out, "{}", rate(of_rate.lock().rate(Instant::now())));
        })
        .with_key("left", move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let left = state.len().unwrap_or_default().saturating_sub(state.pos());
            if let Some(left) = time_left(left, of_left.lock().rate(Instant::now())) {
                let _ = write!(out, " · {} left", time(left));
            }
        })
}

/// Returns how long this many bytes take at a rate in bytes per second. `None` for no bytes, and if nothing moves.
#[expect(clippy::cast_precision_loss, reason = "it is shown with two digits")]
fn time_left(bytes: u64, rate: f64) -> Option<Duration> {
    (bytes > 0).then(|| Duration::try_from_secs_f64((bytes as f64 / rate).round()).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_move_has_no_time_left() {
        assert_eq!(time_left(100, 10.0), Some(Duration::from_secs(10)));
        for (bytes, rate) in [(0, 10.0), (100, 0.0), (100, 1e-300)] {
            assert_eq!(time_left(bytes, rate), None, "{bytes} at {rate}");
        }
    }

    #[test]
    fn every_template_is_valid() {
        for template in [WAITING, OF_KNOWN_SIZE, OF_UNKNOWN_SIZE, ENDED, CUT] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }
}
