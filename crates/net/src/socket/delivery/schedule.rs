//! When to ask the kernel whether bytes were acknowledged: soon after they were, and seldom meanwhile.
//!
//! - Nothing is acknowledged within a round trip of being sent. So the first look comes after one, and so does the next look
//!   while bytes are unsent.
//! - After that, pauses grow to [`MAX_SHORT_PAUSE`].
//! - While bytes are being acknowledged, a pause is half of the time that the rest needs at the speed since the last look. So the end of
//!   a steady transmission is found within a millisecond or two.
//! - After a second or so, a pause may last 1/64 of the time since the last write, up to [`MAX_PAUSE`]. So a receiver that
//!   pauses for hours, or reads for hours, costs little.
//!
//! *Invariant.* The last acknowledgement is noticed at most [`MAX_SHORT_PAUSE`] late, or, if that is longer, 1/64 of the time since the last
//! write up to [`MAX_PAUSE`]. Timers add 1 to 2 ms, and a round trip that has become shorter adds the difference.
//!
//! *Concurrency.* A value of one wait; no I/O.
//!
//! *Bounds.* Fewer than 80 looks in the first second, and about one per second after the first minute.

use std::time::Duration;

/// The shortest pause, and the resolution of timers.
const MIN_PAUSE: Duration = Duration::from_millis(1);
/// The longest pause soon after the last write. With [`GROWTH`] the looks are 1, 5, 18, 31 and 44 ms after the round trip, because Linux
/// delays an acknowledgement by 40 to 44 ms.
const MAX_SHORT_PAUSE: Duration = Duration::from_millis(13);
/// The longest pause.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// How much longer each pause is than the one before it, while nothing is acknowledged.
const GROWTH: u32 = 4;
/// Beyond [`MAX_SHORT_PAUSE`], a pause is at most this part of the time since the last write.
const PART: u32 = 64;

/// The schedule of one wait. Times are relative to the last write.
#[derive(Debug)]
pub(super) struct Schedule {
    /// The shortest round trip.
    round_trip: Duration,
    /// Time of the last look, or of the start.
    looked: Duration,
    /// The unacknowledged bytes at that time.
    remaining: u64,
    /// The time for which the next look is planned.
    due: Duration,
    pause: Duration,
}

impl Schedule {
    /// Begins to wait at the time `now`, for this number of bytes, over a connection with this shortest round trip.
    pub(super) fn new(now: Duration, remaining: u64, round_trip: Duration) -> Self {
        let round_trip = round_trip.min(MAX_PAUSE);
        let due = round_trip.max(now) + MIN_PAUSE;
        Self { round_trip, looked: now, remaining, due, pause: MIN_PAUSE }
    }

    /// Returns the time of the next look.
    pub(super) fn due(&self) -> Duration {
        self.due
    }

    /// Plans the next look, after one at the time `now` that found this number of unacknowledged bytes.
    pub(super) fn looked(&mut self, now: Duration, remaining: u64, has_unsent: impl FnOnce() -> bool) {
        let acknowledged = self.remaining.saturating_sub(remaining);
        let (planned, pause) = if acknowledged == 0 {
            // Not from `now`: the delays of timers would add up, and miss a delayed acknowledgement.
            (self.due, self.pause * GROWTH)
        } else {
            let elapsed = now.saturating_sub(self.looked).as_micros();
            let rest = elapsed * u128::from(remaining) / u128::from(acknowledged);
            (now, Duration::from_micros(u64::try_from(rest / 2).unwrap_or(u64::MAX)))
        };
        self.pause = pause.clamp(MIN_PAUSE, (now / PART).clamp(MAX_SHORT_PAUSE, MAX_PAUSE));
        let least =
            if self.round_trip > self.pause && has_unsent() { self.round_trip } else { self.pause / 2 };
        self.due = (planned + self.pause).max(now + least);
        (self.looked, self.remaining) = (now, remaining);
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "the numbers are small and positive"
)]
mod tests {
    use super::*;

    /// By how much timers are late, in milliseconds.
    const TIMER_DELAY: f64 = 1.3;
    const ROUND_TRIPS: [f64; 4] = [0.0, 10.0, 50.0, 200.0];
    /// The last bytes are in the kernel.
    const BODY: u64 = 4_000_000;
    const MINUTE: f64 = 60_000.0;

    fn milliseconds(milliseconds: f64) -> Duration {
        Duration::from_secs_f64(milliseconds / 1000.0)
    }

    /// Everything was sent at once, and is acknowledged at this time.
    fn at_once(acknowledged: f64) -> impl Fn(f64) -> f64 {
        move |now| if now < acknowledged { 0.0 } else { 1.0 }
    }

    /// The peer takes bytes at a steady rate from `start` to `end`.
    fn steady(start: f64, end: f64) -> impl Fn(f64) -> f64 {
        move |now| (now - start) / (end - start)
    }

    /// One window is acknowledged after each round trip, within a tenth of it.
    fn in_windows(round_trip: f64, windows: u32) -> impl Fn(f64) -> f64 {
        move |now| {
            let round_trips = now / round_trip - 1.0;
            (round_trips.floor() + (round_trips.fract() * 10.0).min(1.0)) / f64::from(windows)
        }
    }

    /// Looks as scheduled. Returns how many milliseconds after `end` the last look was, and the number of looks. `acknowledged` is the
    /// acknowledged part at a time, `in_flight` how long before its acknowledgement each byte is sent.
    fn play(round_trip: f64, in_flight: f64, end: f64, acknowledged: impl Fn(f64) -> f64) -> (f64, usize) {
        let mut schedule = Schedule::new(Duration::ZERO, BODY, milliseconds(round_trip));
        for looks in 1.. {
            let now = schedule.due().as_secs_f64() * 1000.0 + TIMER_DELAY;
            if now >= end {
                return (now - end, looks);
            }
            let remaining = (1.0 - acknowledged(now).clamp(0.0, 1.0)) * BODY as f64;
            let has_unsent = || acknowledged(now + in_flight) < 1.0;
            schedule.looked(milliseconds(now), (remaining as u64).max(1), has_unsent);
        }
        unreachable!()
    }

    #[test]
    fn an_acknowledgement_is_noticed_soon_at_each_round_trip() {
        for round_trip in ROUND_TRIPS {
            let (late, looks) = play(round_trip, f64::INFINITY, round_trip, at_once(round_trip));
            assert!(late < 3.0 && looks == 1, "{round_trip}: {late} ms late, {looks} looks");
            for delay in (400..=440).map(|delay| f64::from(delay) / 10.0) {
                let end = round_trip + delay;
                let (late, looks) = play(round_trip, f64::INFINITY, end, at_once(end));
                assert!(late < 6.0 && looks <= 5, "{round_trip} + {delay}: {late} ms late, {looks} looks");
            }
            for delay in 0..600 {
                let end = round_trip + f64::from(delay);
                let (late, looks) = play(round_trip, f64::INFINITY, end, at_once(end));
                assert!(late < 16.0, "{round_trip} + {delay}: {late} ms late");
                assert!(looks <= 4 + delay as usize / 12, "{round_trip} + {delay}: {looks} looks");
            }
        }
    }

    #[test]
    fn the_end_of_a_steady_transmission_is_noticed_soon_and_by_few_looks() {
        for (duration, most) in [(10.0, 8), (100.0, 16), (1000.0, 80), (MINUTE, 350), (60.0 * MINUTE, 4000)] {
            for round_trip in ROUND_TRIPS {
                let end = round_trip + duration;
                let (late, looks) = play(round_trip, round_trip, end, steady(round_trip, end));
                assert!(
                    late < 7.0 && looks <= most,
                    "{round_trip} + {duration}: {late} ms late, {looks} looks"
                );
            }
        }
    }

    #[test]
    fn a_window_in_each_round_trip_takes_few_looks() {
        for round_trip in [10.0, 50.0, 200.0] {
            for windows in [1, 2, 3, 4, 10, 100] {
                let end = round_trip * (f64::from(windows) + 0.1);
                let (late, looks) = play(round_trip, round_trip, end, in_windows(round_trip, windows));
                let bound = (end / 64.0).max(13.0) + 2.0 * TIMER_DELAY;
                let most = windows as usize * 3 + 20;
                assert!(
                    late < bound && looks <= most,
                    "{windows} × {round_trip}: {late} ms late, {looks} looks"
                );
            }
        }
    }

    #[test]
    fn a_receiver_that_pauses_costs_one_look_a_second() {
        for (pause, most) in [(1000.0, 80), (MINUTE, 350), (60.0 * MINUTE, 4000)] {
            let (late, looks) = play(0.0, 0.0, pause, at_once(pause));
            let bound = (pause / 64.0 + 2.0 * TIMER_DELAY).min(1010.0);
            assert!(late < bound && looks <= most, "{pause}: {late} ms late, {looks} looks");
        }
    }

    #[test]
    fn a_late_start_counts_from_the_last_write() {
        let mut schedule = Schedule::new(milliseconds(50.0), BODY, milliseconds(80.0));
        assert_eq!(schedule.due(), milliseconds(81.0));
        schedule = Schedule::new(milliseconds(50.0), BODY, milliseconds(10.0));
        assert_eq!(schedule.due(), milliseconds(51.0));
    }

    #[test]
    fn looks_do_not_catch_up_after_the_process_was_stopped() {
        let mut schedule = Schedule::new(Duration::ZERO, BODY, Duration::ZERO);
        let stopped = 60.0 * MINUTE;
        schedule.looked(milliseconds(stopped), BODY, || false);
        schedule.looked(milliseconds(stopped + 10.0), BODY, || false);
        assert!(schedule.due() >= milliseconds(stopped + 16.0), "{:?}", schedule.due());
    }
}
