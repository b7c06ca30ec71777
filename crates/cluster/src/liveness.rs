//! Whether a peer is heard: two stages, from its silence alone. Pure, but for a flag.
//!
//! ```text
//!            heard                      unheard for 2 s                    unheard for 15 s
//!   Heard ◄───────── Silent ◄─────────────────────── Heard     Silent ───────────────────────► Lost
//!                    new requests get 503,                     paired transfers are cut;
//!                    waiting sides are let go                  final: a new link begins anew
//! ```
//!
//! A process that dies is noticed at once by its closed connections. These stages are for machines and networks that fall silent.
//!
//! *Invariant.* Time in which this process did not run (a paused machine, SIGSTOP) does not count as a peer's silence.
//!
//! *Concurrency.* One task owns [`Liveness`] and ticks. Any number of connections share its [`Heard`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Interval of the ticks. A peer's silence is noticed at most two ticks late.
pub const TICK: Duration = Duration::from_millis(250);
/// After this silence new requests are refused, and sides that have not paired are let go.
pub const SILENT_AFTER: Duration = Duration::from_secs(2);
/// After this silence paired transfers are cut.
pub const LOST_AFTER: Duration = Duration::from_secs(15);

/// Whether a peer can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It was heard within the last 2 seconds.
    Heard,
    /// It was not heard for 2 seconds: start nothing with it, and let go what has not begun.
    Silent,
    /// It was not heard for 15 seconds: cut what has begun. Final.
    Lost,
}

/// Tells that something was heard of a peer, on any connection with it. Cloning
/// copies a reference.
#[derive(Debug, Clone, Default)]
pub struct Heard(Arc<AtomicBool>);

impl Heard {
    /// Notes that the peer was heard. Reads no clock and mostly writes nothing, so it may be called for every read.
    pub fn note(&self) {
        if !self.0.load(Ordering::Relaxed) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// The liveness of one peer.
#[derive(Debug)]
pub struct Liveness {
    heard: Heard,
    last_heard: Instant,
    last_tick: Instant,
    stage: Stage,
}

impl Liveness {
    /// Starts with a peer that was heard `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { heard: Heard::default(), last_heard: now, last_tick: now, stage: Stage::Heard }
    }

    /// Returns the flag for the connections with this peer.
    #[must_use]
    pub fn heard(&self) -> Heard {
        self.heard.clone()
    }

    /// Returns the stage of the last tick.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Returns how long the peer was not heard at the last tick.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.last_tick - self.last_heard
    }

    /// Updates the stage. To be called every [`TICK`].
    pub fn tick(&mut self, now: Instant) -> Stage {
        let passed = now.saturating_duration_since(self.last_tick);
        if passed > 2 * TICK {
            // This process did not run, or not enough: it could have heard nothing. What the kernel received meanwhile is read after this
            // tick.
            self.last_heard += passed.saturating_sub(TICK);
        }
        self.last_tick = self.last_tick.max(now);
        if self.heard.take() {
            self.last_heard = self.last_tick;
        }
        self.stage = match self.silence() {
            _ if self.stage == Stage::Lost => Stage::Lost,
            silence if silence >= LOST_AFTER => Stage::Lost,
            silence if silence >= SILENT_AFTER => Stage::Silent,
            _ => Stage::Heard,
        };
        self.stage
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Ticks for `time` and returns the stages, each with the time of its begin.
    fn stages(liveness: &mut Liveness, begin: Instant, time: Duration) -> Vec<(Duration, Stage)> {
        let mut stages = vec![];
        for tick in 1..=time.as_millis() / TICK.as_millis() {
            let passed = TICK * u32::try_from(tick).unwrap();
            let stage = liveness.tick(begin + passed);
            if stages.last().is_none_or(|(_, last)| *last != stage) {
                stages.push((passed, stage));
            }
        }
        stages
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_falls_silent_passes_both_stages() {
        let begin = Instant::now();
        let found = stages(&mut Liveness::new(begin), begin, Duration::from_secs(20));
        assert_eq!(found, [(TICK, Stage::Heard), (SILENT_AFTER, Stage::Silent), (LOST_AFTER, Stage::Lost)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_that_is_heard_recovers_and_a_lost_one_does_not() {
        let begin = Instant::now();
        for (silence, then) in
            [(Duration::from_secs(14), Stage::Heard), (Duration::from_secs(15), Stage::Lost)]
        {
            let mut liveness = Liveness::new(begin);
            stages(&mut liveness, begin, silence);
            liveness.heard().note();
            assert_eq!(liveness.tick(begin + silence + TICK), then);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_this_process_was_stopped_is_nobodys_silence() {
        for stopped in [1, 3, 20, 3600].map(Duration::from_secs) {
            let begin = Instant::now();
            let mut liveness = Liveness::new(begin);
            stages(&mut liveness, begin, Duration::from_secs(1));
            let resumed = begin + Duration::from_secs(1) + stopped;
            assert_eq!(liveness.tick(resumed), Stage::Heard, "{stopped:?}");
            // A peer that is really gone is noticed after the rest of its 2 seconds.
            let found = stages(&mut liveness, resumed, Duration::from_secs(3));
            assert_eq!(found[1], (Duration::from_millis(750), Stage::Silent), "{stopped:?}");
        }
    }

    proptest! {
        #[test]
        fn a_peer_that_is_heard_in_time_is_never_silent(pauses in vec(1..1750_u64, 1..50)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let begin = runtime.block_on(async { Instant::now() });
            let (mut liveness, mut now, mut next) = (Liveness::new(begin), begin, begin + TICK);
            for pause in pauses {
                now += Duration::from_millis(pause);
                while next <= now {
                    prop_assert_eq!(liveness.tick(next), Stage::Heard);
                    next += TICK;
                }
                liveness.heard().note();
            }
        }
    }
}
