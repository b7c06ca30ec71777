//! The clock of the state machines: time in which this process ran.

use std::time::Duration;

use tokio::time::Instant;

/// A step longer than this means that the process, or the machine, was stopped.
const LONGEST_STEP: Duration = Duration::from_secs(1);

/// A clock that stands still while the process is stopped.
///
/// After a stop all deadlines of the monotonic clock would have passed, although nobody had the chance to meet them: a peer whose answer waits in
/// the socket would be given up.
#[derive(Debug)]
pub(crate) struct Clock {
    last: Instant,
    ran: Duration,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { last: Instant::now(), ran: Duration::ZERO }
    }

    /// Returns the time since the start. To be called at least every [`Clock::LOOK`].
    pub(crate) fn now(&mut self) -> Duration {
        let now = Instant::now();
        self.ran += now.saturating_duration_since(self.last).min(LONGEST_STEP);
        self.last = now;
        self.ran
    }

    /// The longest time between two looks at the clock.
    pub(crate) const LOOK: Duration = Duration::from_millis(500);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_stop_of_a_minute_counts_as_a_second() {
        let mut clock = Clock::start();
        tokio::time::advance(Duration::from_millis(700)).await;
        assert_eq!(clock.now(), Duration::from_millis(700));
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!(clock.now(), Duration::from_millis(1700));
    }
}
