//! How long to wait before a request is repeated.

use std::time::Duration;

/// After so many failures in a row the waits grow.
const PATIENT_AFTER: u32 = 20;

/// The longest wait, also if a relay wishes a longer one.
const LONGEST: Duration = Duration::from_secs(30);

/// Waits of 0.5 to 1.5 s at random, which grow to [`LONGEST`] after 20 failures in a row.
#[derive(Debug)]
pub(crate) struct Backoff {
    failures: u32,
    random: fastrand::Rng,
}

impl Backoff {
    pub(crate) fn new(seed: u64) -> Self {
        Self { failures: 0, random: fastrand::Rng::with_seed(seed) }
    }

    /// Returns how long to wait after one more failure, at least as long as the relay wishes.
    pub(crate) fn after_failure(&mut self, retry_after: Option<Duration>) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let doublings = self.failures.saturating_sub(PATIENT_AFTER).min(6);
        let wait = Duration::from_secs_f64(0.5 + self.random.f64()) * (1 << doublings);
        wait.max(retry_after.unwrap_or_default()).min(LONGEST)
    }

    /// Notes that a request succeeded.
    pub(crate) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_around_a_second_and_up_to_30_s_after_many_failures_in_a_row() {
        let mut backoff = Backoff::new(1);
        for round in 0..2 {
            for failure in 0..60 {
                let wait = backoff.after_failure(None).as_secs_f64();
                let expected = if failure < 20 { 0.5..=1.5 } else { 1.0..=30.0 };
                assert!(expected.contains(&wait), "round {round}, failure {failure}: {wait} s");
                assert!(failure < 55 || wait >= 30.0, "{wait}");
            }
            backoff.succeeded();
        }
    }

    #[test]
    fn a_relay_can_make_clients_wait_longer_but_not_forever() {
        let mut backoff = Backoff::new(1);
        assert_eq!(backoff.after_failure(Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(backoff.after_failure(Some(Duration::from_hours(24))), LONGEST);
    }
}
