//! Rates: a limit with a burst, and the measured rate of an upload. Pure: `now` is the time since an epoch of the
//! caller's choice.

use std::collections::VecDeque;
use std::time::Duration;

/// Seconds over which the rate of an upload is averaged.
const UPLOAD_WINDOW: usize = 10;
const SECOND: Duration = Duration::from_secs(1);

/// A rate limit with a burst: the generic cell rate algorithm, which is a token bucket whose state is one time.
///
/// The caller keeps the state, `earned_at`: the time at which all units taken so far will have been earned at this rate. It
/// is zero before the first unit is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    units: u64,
    per: Duration,
    burst: Duration,
}

impl Rate {
    /// Creates a limit of `units` (at least 1) in `per`. Unused units accumulate for at most `burst`.
    pub(crate) fn new(units: u64, per: Duration, burst: Duration) -> Self {
        Self { units: units.max(1), per, burst }
    }

    /// Returns the time in which `units` are earned, rounded down to a nanosecond.
    pub(crate) fn time_of(&self, units: u64) -> Duration {
        let nanos = u128::from(units) * self.per.as_nanos() / u128::from(self.units);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Returns the units that can be taken `now`.
    pub(crate) fn available(&self, earned_at: Duration, now: Duration) -> u64 {
        let unused = (now + self.burst).saturating_sub(earned_at.max(now));
        // `time_of` may have rounded off a nanosecond.
        let unused = unused.as_nanos() + 1;
        let units = unused * u128::from(self.units) / self.per.as_nanos().max(1);
        u64::try_from(units).unwrap_or(u64::MAX)
    }

    /// Returns the new `earned_at` after `units` are taken `now`.
    pub(crate) fn take(&self, earned_at: Duration, now: Duration, units: u64) -> Duration {
        earned_at.max(now).saturating_add(self.time_of(units))
    }

    /// Returns the time until one unit is available.
    pub(crate) fn wait(&self, earned_at: Duration, now: Duration) -> Duration {
        self.take(earned_at, now, 1).saturating_sub(now + self.burst)
    }
}

/// Measures the rate of an upload over the time in which the relay waited for the source. Time in which the destination
/// or a rate limit was the bottleneck does not pass on this clock.
#[derive(Debug)]
pub(crate) struct UploadMeter {
    /// Time waited for the source, up to `waiting_since`.
    waited: Duration,
    waiting_since: Option<Duration>,
    /// Bytes received in each second of the window, oldest first. The last second is incomplete.
    seconds: VecDeque<u64>,
    /// The number of the last second.
    second: u64,
}

impl Default for UploadMeter {
    fn default() -> Self {
        Self { waited: Duration::ZERO, waiting_since: None, seconds: VecDeque::from([0]), second: 0 }
    }
}

impl UploadMeter {
    /// Starts or stops the clock: sets whether the relay waits for the source from `now` on.
    pub(crate) fn set_waiting(&mut self, is_waiting: bool, now: Duration) {
        self.waited = self.waited(now);
        self.waiting_since = is_waiting.then_some(now);
    }

    /// Records bytes received from the source.
    pub(crate) fn record(&mut self, bytes: u64, now: Duration) {
        self.pass_seconds(now);
        if let Some(last) = self.seconds.back_mut() {
            *last += bytes;
        }
    }

    /// Returns the average rate over the last 10 complete seconds, in bytes per second. `None` before 10 seconds have
    /// passed.
    pub(crate) fn rate(&mut self, now: Duration) -> Option<u64> {
        self.pass_seconds(now);
        let full = self.seconds.len() - 1;
        (full == UPLOAD_WINDOW).then(|| self.seconds.iter().take(full).sum::<u64>() / UPLOAD_WINDOW as u64)
    }

    /// Returns the shortest time after which [`UploadMeter::rate`] can change.
    pub(crate) fn until_change(&self, now: Duration) -> Duration {
        let passed = self.waiting_since.map_or(0, |_| self.waited(now).subsec_nanos());
        SECOND.saturating_sub(Duration::from_nanos(passed.into()))
    }

    fn waited(&self, now: Duration) -> Duration {
        self.waited + self.waiting_since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    fn pass_seconds(&mut self, now: Duration) {
        let second = self.waited(now).as_secs();
        let passed = usize::try_from(second - self.second).unwrap_or(usize::MAX);
        self.second = second;
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
    fn unused_units_accumulate_up_to_the_burst() {
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
            assert_eq!(
                rate.available(earned_at, now + wait),
                1,
                "one unit is available after the returned wait"
            );
            assert_eq!(rate.available(earned_at, now + 2 * MINUTE), units);
        }
    }

    #[test]
    fn an_uploads_rate_counts_only_the_time_waited_for_the_source() {
        let mut meter = UploadMeter::default();
        meter.set_waiting(true, seconds(0));
        meter.record(500, seconds(3));
        assert_eq!(meter.rate(seconds(9)), None, "the window is not complete");
        // The time in which the destination was the bottleneck does not count, but bytes received in it do.
        meter.set_waiting(false, seconds(9));
        meter.record(100, seconds(2000));
        assert_eq!(meter.rate(seconds(3609)), None);
        meter.set_waiting(true, seconds(3609));
        assert_eq!(meter.until_change(seconds(3609)), seconds(1));
        assert_eq!(meter.rate(seconds(3610)), Some(60));
        assert_eq!(meter.rate(seconds(3614)), Some(10), "the first bytes have left the window");
        meter.record(700, seconds(3614));
        assert_eq!(
            meter.rate(seconds(3625)),
            Some(0),
            "after a pause longer than the window it has no bytes"
        );
    }

    proptest! {
        #[test]
        fn no_user_gets_more_than_the_rate_and_one_burst(
            units in 1_u64..1_000_000,
            requests in prop::collection::vec((0_u64..2_000, 1_u64..100_000), 1..100),
        ) {
            let burst = Duration::from_millis(50).max(Rate::new(units, SECOND, SECOND).time_of(2));
            let rate = Rate::new(units, SECOND, burst);
            let (mut now, mut earned_at, mut taken) = (Duration::ZERO, Duration::ZERO, 0);
            for (pause, wanted) in requests {
                now += Duration::from_millis(pause);
                let granted = rate.available(earned_at, now).min(wanted);
                earned_at = rate.take(earned_at, now, granted);
                taken += granted;
                // Rounding adds less than one unit per request.
                let most = (now + burst).as_nanos() * u128::from(units) / 1_000_000_000 + 100;
                prop_assert!(u128::from(taken) <= most, "{taken} of {most}");
            }
        }

        #[test]
        fn the_window_has_the_bytes_of_its_seconds(received in prop::collection::vec(0_u64..1000, 11..60)) {
            let mut meter = UploadMeter::default();
            meter.set_waiting(true, Duration::ZERO);
            for (second, bytes) in (0..).zip(&received) {
                meter.record(*bytes, seconds(second));
                let full = received.get(..usize::try_from(second).unwrap()).unwrap();
                let window = full.len().checked_sub(UPLOAD_WINDOW).map(|from| full[from..].iter().sum::<u64>() / 10);
                prop_assert_eq!(meter.rate(seconds(second)), window);
            }
        }
    }
}
