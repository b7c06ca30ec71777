//! The rate of the last seconds. Pure.
//!
//! The estimator of indicatif counts the way to an offset as speed, and takes a minute to notice that nothing moves.
//!
//! *Bounds.* A sample for each [`SPACING`] of the last [`WINDOW`].

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// What is averaged.
const WINDOW: Duration = Duration::from_secs(5);
/// The least time between two samples.
const SPACING: Duration = Duration::from_millis(200);
/// Before this, a rate is a guess.
const LEAST: Duration = Duration::from_millis(500);

/// How far a transfer was at several moments.
#[derive(Debug, Default)]
pub(super) struct Meter {
    samples: VecDeque<(Instant, u64)>,
    bytes: u64,
}

impl Meter {
    /// Begins anew at this offset.
    pub(super) fn go_to(&mut self, bytes: u64, now: Instant) {
        self.samples = VecDeque::from([(now, bytes)]);
        self.bytes = bytes;
    }

    /// Notes how far the transfer is.
    pub(super) fn moved(&mut self, bytes: u64, now: Instant) {
        let is_due = self.samples.back().is_none_or(|(last, _)| now.duration_since(*last) >= SPACING);
        if is_due {
            self.samples.push_back((now, self.bytes));
        }
        self.bytes = bytes;
        while self.samples.front().is_some_and(|(first, _)| now.duration_since(*first) > WINDOW) {
            self.samples.pop_front();
        }
    }

    /// Returns the bytes per second, 0 if nothing has moved lately.
    #[expect(clippy::cast_precision_loss, reason = "it is shown with two digits")]
    pub(super) fn rate(&self, now: Instant) -> f64 {
        let recent = self.samples.iter().find(|(at, _)| now.duration_since(*at) <= WINDOW);
        let Some((since, bytes)) = recent else { return 0.0 };
        let elapsed = now.duration_since(*since).max(LEAST);
        self.bytes.saturating_sub(*bytes) as f64 / elapsed.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten steps of `bytes` in a second, from an offset on.
    fn second(meter: &mut Meter, now: &mut Instant, offset: u64, bytes: u64) {
        for step in 1..=10 {
            *now += Duration::from_millis(100);
            meter.moved(offset + step * bytes / 10, *now);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_way_to_an_offset_is_no_speed_and_a_pause_is_seen_within_seconds() {
        let (mut meter, mut now) = (Meter::default(), Instant::now());
        assert!(meter.rate(now) < 0.1);
        let held = 3 << 30;
        meter.go_to(held, now);
        assert!(meter.rate(now) < 0.1);
        for at in 0..8 {
            second(&mut meter, &mut now, held + at * 1000, 1000);
            assert!((900.0..1200.0).contains(&meter.rate(now)), "{}", meter.rate(now));
            assert!(meter.samples.len() <= 26);
        }
        let stood = |seconds| meter.rate(now + Duration::from_secs(seconds));
        assert!(stood(2) < 900.0 && stood(4) < stood(2), "{} {}", stood(2), stood(4));
        assert!(stood(6) < 0.1);
        // What was sent again counts from where it begins.
        meter.go_to(10, now);
        second(&mut meter, &mut now, 10, 500);
        assert!((450.0..600.0).contains(&meter.rate(now)), "{}", meter.rate(now));
    }
}
