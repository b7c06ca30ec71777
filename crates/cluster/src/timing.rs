//! [`Timing`]: the periods of the directory's rules.

use std::time::Duration;

/// The periods of the directory's rules. A server uses the default; tests use it [`Timing::scaled_down`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Interval at which a node renews its record and reads all. Default: 1 second.
    pub interval: Duration,
    /// Least distance of two reads that requests ask for. Default: 100 milliseconds, so at most 10 a second.
    pub spacing: Duration,
    /// Time limit of one call to the engine, and of one attempt to connect to it. Default: 1 second.
    pub call: Duration,
    /// How long a record lives that is not renewed, by the engine's clock. Default: 10 seconds.
    pub life: Duration,
    /// Runs of the script that are further apart than this, by the engine's clock, mean that the engine was down or its clock was set. All
    /// records are extended by the gap. Default: 3 seconds.
    pub gap: Duration,
    /// How long no node is removed, and no absence believed, after records may have been lost: the time in which every live node
    /// registers again. Default: 10 seconds.
    pub hold: Duration,
    /// How long a node that has vanished is remembered, so that its streams get 503 and not yet 404. Default: 60 seconds.
    pub memory: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            spacing: Duration::from_millis(100),
            call: Duration::from_secs(1),
            life: Duration::from_secs(10),
            gap: Duration::from_secs(3),
            hold: Duration::from_secs(10),
            memory: Duration::from_mins(1),
        }
    }
}

impl Timing {
    /// Returns the periods divided by `divisor`, except the time limit of calls: a busy machine does not get faster.
    #[must_use]
    pub fn scaled_down(self, divisor: u32) -> Self {
        Self {
            interval: self.interval / divisor,
            spacing: self.spacing / divisor,
            call: self.call,
            life: self.life / divisor,
            gap: self.gap / divisor,
            hold: self.hold / divisor,
            memory: self.memory / divisor,
        }
    }
}
