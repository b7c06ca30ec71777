//! How much in how long: an allowance that grows with time, and what a source brings while it is waited for. Pure:
//! "now" is the time since a moment of the caller's choice.

use std::collections::VecDeque;
use std::time::Duration;

/// The time over which an upload's rate is taken, in seconds.
pub const UPLOAD_WINDOW: usize = 10;
const SECOND: Duration = Duration::from_secs(1);

/// So many units in such a time. What is not used adds up for a while.
///
/// What somebody has taken of it is one moment: when all of that will have been earned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    units: u64,
    time: Duration,
    adds_up: Duration,
}

impl Rate {
    /// `units` (at least 1) in `time`, of which the unused add up for `adds_up`.
    #[must_use]
    pub fn new(units: u64, time: Duration, adds_up: Duration) -> Self {
        Self { units: units.max(1), time, adds_up }
    }

    /// The time in which so many units are earned.
    #[must_use]
    pub fn time_of(&self, units: u64) -> Duration {
        let nanos = u128::from(units) * self.time.as_nanos() / u128::from(self.units);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Units that can be taken `now` by one whose last will have been earned at `earned_at`.
    #[must_use]
    pub fn available(&self, earned_at: Duration, now: Duration) -> u64 {
        let added_up = (now + self.adds_up).saturating_sub(earned_at.max(now));
        // The nanosecond that `time_of` may have rounded off.
        let added_up = added_up.as_nanos() + 1;
        let units = added_up * u128::from(self.units) / self.time.as_nanos().max(1);
        u64::try_from(units).unwrap_or(u64::MAX)
    }

    /// When all will have been earned, with `units` more that are taken `now`.
    #[must_use]
    pub fn take(&self, earned_at: Duration, now: Duration, units: u64) -> Duration {
        earned_at.max(now).saturating_add(self.time_of(units))
    }

    /// How long it takes until one unit can be taken.
    #[must_use]
    pub fn wait(&self, earned_at: Duration, now: Duration) -> Duration {
        self.take(earned_at, now, 1).saturating_sub(now + self.adds_up)
    }
}

/// What a source brings, by the seconds for which it was waited for.
#[derive(Debug)]
pub struct Upload {
    waited: Duration,
    waits_since: Option<Duration>,
    /// Bytes of the second at hand, the last, and of as many full ones before it as are in the window.
    seconds: VecDeque<u64>,
    /// Seconds that were begun.
    begun: u64,
}

impl Default for Upload {
    fn default() -> Self {
        Self { waited: Duration::ZERO, waits_since: None, seconds: VecDeque::from([0]), begun: 0 }
    }
}

impl Upload {
    /// From now on the source is waited for, or is not.
    pub fn waits(&mut self, waits: bool, now: Duration) {
        self.waited = self.waited(now);
        self.waits_since = waits.then_some(now);
    }

    /// The source has brought so many bytes.
    pub fn brings(&mut self, bytes: u64, now: Duration) {
        self.pass_seconds(now);
        if let Some(last) = self.seconds.back_mut() {
            *last += bytes;
        }
    }

    /// Bytes per second over the last full seconds that make a window; `None` while there are too few.
    pub fn rate(&mut self, now: Duration) -> Option<u64> {
        self.pass_seconds(now);
        let full = self.seconds.len() - 1;
        (full == UPLOAD_WINDOW).then(|| self.seconds.iter().take(full).sum::<u64>() / UPLOAD_WINDOW as u64)
    }

    /// How long it takes at least until [`Upload::rate`] changes.
    #[must_use]
    pub fn next_look(&self, now: Duration) -> Duration {
        let of_second = self.waits_since.map_or(0, |_| self.waited(now).subsec_nanos());
        SECOND.saturating_sub(Duration::from_nanos(of_second.into()))
    }

    fn waited(&self, now: Duration) -> Duration {
        self.waited + self.waits_since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    fn pass_seconds(&mut self, now: Duration) {
        let second = self.waited(now).as_secs();
        let passed = usize::try_from(second - self.begun).unwrap_or(usize::MAX);
        self.begun = second;
        for _ in 0..passed.min(UPLOAD_WINDOW + 1) {
            self.seconds.push_back(0);
        }
        let too_many = self.seconds.len().saturating_sub(UPLOAD_WINDOW + 1);
        self.seconds.drain(..too_many);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_not_used_adds_up_and_no_further() {
        for units in [1, 3, 7, 60, 6000] {
            let rate = Rate::new(units, MINUTE, MINUTE);
            let (mut earned_at, now) = (Duration::ZERO, seconds(1000));
            for left in (1..=units).rev() {
                assert_eq!(rate.available(earned_at, now), left, "{units}");
                assert_eq!(rate.wait(earned_at, now), Duration::ZERO);
                earned_at = rate.take(earned_at, now, 1);
            }
            assert_eq!(rate.available(earned_at, now), 0);
            let wait = rate.wait(earned_at, now);
            assert!(wait > Duration::ZERO && wait <= rate.time_of(1), "{units} {wait:?}");
            assert_eq!(rate.available(earned_at, now + wait), 1, "the wait is as long as it says");
            assert_eq!(rate.available(earned_at, now + 2 * MINUTE), units);
        }
    }

    #[test]
    fn an_uploads_rate_is_that_of_the_time_it_was_waited_for() {
        let mut upload = Upload::default();
        upload.waits(true, seconds(0));
        upload.brings(500, seconds(3));
        assert_eq!(upload.rate(seconds(9)), None, "not a window yet");
        // An hour in which the destination was the slow one does not count, but what is brought in it does.
        upload.waits(false, seconds(9));
        upload.brings(100, seconds(2000));
        assert_eq!(upload.rate(seconds(3609)), None);
        upload.waits(true, seconds(3609));
        assert_eq!(upload.next_look(seconds(3609)), seconds(1));
        assert_eq!(upload.rate(seconds(3610)), Some(60));
        assert_eq!(upload.rate(seconds(3614)), Some(10), "the first bytes have left the window");
        upload.brings(700, seconds(3614));
        assert_eq!(
            upload.rate(seconds(3625)),
            Some(0),
            "a pause that is longer than the window leaves nothing in it"
        );
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_the_rate_and_what_had_added_up(
            units in 1_u64..1_000_000,
            asks in prop::collection::vec((0_u64..2_000, 1_u64..100_000), 1..100),
        ) {
            let adds_up = Duration::from_millis(50).max(Rate::new(units, SECOND, SECOND).time_of(2));
            let rate = Rate::new(units, SECOND, adds_up);
            let (mut now, mut earned_at, mut taken) = (Duration::ZERO, Duration::ZERO, 0);
            for (pause, wanted) in asks {
                now += Duration::from_millis(pause);
                let got = rate.available(earned_at, now).min(wanted);
                earned_at = rate.take(earned_at, now, got);
                taken += got;
                // What is lost to rounding is less than a unit for each time.
                let most = (now + adds_up).as_nanos() * u128::from(units) / 1_000_000_000 + 100;
                prop_assert!(u128::from(taken) <= most, "{taken} of {most}");
            }
        }

        #[test]
        fn a_window_holds_what_was_brought_in_its_seconds(brought in prop::collection::vec(0_u64..1000, 11..60)) {
            let mut upload = Upload::default();
            upload.waits(true, Duration::ZERO);
            for (second, bytes) in (0..).zip(&brought) {
                upload.brings(*bytes, seconds(second));
                let full = brought.get(..usize::try_from(second).unwrap()).unwrap();
                let window = full.len().checked_sub(UPLOAD_WINDOW).map(|from| full[from..].iter().sum::<u64>() / 10);
                prop_assert_eq!(upload.rate(seconds(second)), window);
            }
        }
    }
}
