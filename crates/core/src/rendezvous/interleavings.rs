//! Concurrent operations on one stream or path, in the thread schedules that [`shuttle`] chooses.
//!
//! Shuttle runs the threads of a case one at a time. At each acquisition and release of a lock, and at each wake-up, it
//! decides which thread continues. So a case runs in thousands of schedules, and a schedule that violates an invariant
//! can be replayed. [`fixture`] performs the actions, [`checks`] has the invariants.
//!
//! Not covered: the steps inside tokio's channels, each of which counts as one; memory orderings of the processor, on which
//! the crate does not depend; and sockets, which the races of the server's wire tests cover.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails loudly")]

mod checks;
mod fixture;

use std::sync::atomic::AtomicU32;

use rendezvous_protocol::StreamKind;
use shuttle::rand::Rng;
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::atomic::AtomicUsize;
use shuttle::{Config, Runner, thread};

use self::fixture::{Fixture, yield_point};
use super::*;

/// Schedules that each scheduler runs of a case. The variable `INTERLEAVINGS` overrides it.
const SCHEDULES: usize = 3000;

/// The action of one thread.
#[derive(Debug, Clone, Copy)]
enum Action {
    Put(Behavior),
    Get(Behavior),
    Report,
    /// The time to live of the stream passes.
    Expire,
    /// The time passes for which some sides are willing to wait.
    EndWaits,
    /// The server closes the table and then aborts the running transfer.
    ShutDown,
}

/// The behavior of a side after it connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behavior {
    /// Stays to the end.
    Stays,
    /// Leaves its seat at once.
    Leaves,
    /// Leaves its seat at once, connects again, and stays.
    Returns,
    /// Leaves in the middle of the transfer.
    Breaks,
    /// Stays to the end, but is not willing to wait for long.
    WaitsBriefly,
    /// Its connection is closed before it takes its seat or while it waits, and its task notices later.
    Vanishes,
}

/// The results that occurred in a schedule, as a bit set. A case asserts that the results it is meant to test did occur.
mod observed {
    pub(super) const FINISHED: u32 = 1;
    pub(super) const FAILED: u32 = 1 << 1;
    pub(super) const EXPIRED: u32 = 1 << 2;
    pub(super) const REPORT_RECEIVED: u32 = 1 << 3;
    pub(super) const SEAT_TAKEN: u32 = 1 << 4;
    /// A side left before the stream paired.
    pub(super) const LEFT_UNPAIRED: u32 = 1 << 5;
    /// A side left, and the stream had paired.
    pub(super) const LEFT_PAIRED: u32 = 1 << 6;
    pub(super) const SHUT_DOWN: u32 = 1 << 7;
    pub(super) const WAIT_ENDED: u32 = 1 << 8;
    /// At a path, two transfers have finished.
    pub(super) const TWO_FINISHED: u32 = 1 << 9;
}

/// Runs one schedule of a case: each action in a thread, and then the expiry, for sides that still wait. It is performed after
/// `yields_before_expiry` yield points; `None` for a case in which no side waits forever.
fn run_schedule(kind: StreamKind, actions: &[Action], yields_before_expiry: Option<usize>) -> u32 {
    let fixture = Arc::new(Fixture::new(kind));
    let running = Arc::new(AtomicUsize::new(actions.len()));
    let threads: Vec<_> = (1..)
        .zip(actions.to_vec())
        .map(|(tag, action)| {
            let (fixture, running) = (Arc::clone(&fixture), Arc::clone(&running));
            thread::spawn(move || {
                let results = fixture.perform(action, tag);
                running.fetch_sub(1, Ordering::SeqCst);
                results
            })
        })
        .collect();
    if let Some(yields) = yields_before_expiry {
        (0..yields).for_each(|_| yield_point());
        fixture.expire();
        // A side that comes later makes the path again.
        while kind == StreamKind::Path && running.load(Ordering::SeqCst) > 0 {
            thread::yield_now();
            fixture.expire();
        }
    }
    let results: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    Arc::into_inner(fixture).unwrap().check(&results)
}

/// Runs `case` in the schedules of `scheduler`. Returns the number of schedules, and the union of their results.
fn explore<S: Scheduler + 'static>(
    scheduler: S,
    case: impl Fn() -> u32 + Send + Sync + 'static,
) -> (usize, u32) {
    let all = Arc::new(AtomicU32::new(0));
    let mut config = Config::default();
    config.stack_size = 1 << 18;
    let union = Arc::clone(&all);
    let schedules = Runner::new(scheduler, config).run(move || {
        union.fetch_or(case(), Ordering::Relaxed);
    });
    (schedules, all.load(Ordering::Relaxed))
}

/// Runs `actions` in many schedules, and asserts that each result in `expected` occurred in one of them.
fn run_many_schedules(kind: StreamKind, actions: &'static [Action], expected: u32) {
    let schedules = std::env::var("INTERLEAVINGS").map_or(SCHEDULES, |schedules| schedules.parse().unwrap());
    let case = move || run_schedule(kind, actions, Some(shuttle::rand::thread_rng().gen_range(0..150)));
    let (_, random) = explore(RandomScheduler::new(schedules), case);
    let (_, by_priority) = explore(PctScheduler::new(3, schedules), case);
    assert_eq!((random | by_priority) & expected, expected, "some expected results did not occur");
}

#[test]
fn two_of_each_side_and_a_report() {
    use Behavior::Stays;
    run_many_schedules(
        StreamKind::Created,
        &[Action::Put(Stays), Action::Get(Stays), Action::Put(Stays), Action::Get(Stays), Action::Report],
        observed::FINISHED | observed::EXPIRED | observed::REPORT_RECEIVED | observed::SEAT_TAKEN,
    );
}

#[test]
fn some_leave_and_return() {
    use Behavior::{Returns, Stays};
    run_many_schedules(
        StreamKind::Created,
        &[Action::Put(Returns), Action::Get(Stays), Action::Put(Stays), Action::Get(Returns)],
        observed::FINISHED
            | observed::FAILED
            | observed::EXPIRED
            | observed::SEAT_TAKEN
            | observed::LEFT_UNPAIRED
            | observed::LEFT_PAIRED,
    );
}

#[test]
fn some_vanish_and_others_take_their_seats() {
    use Behavior::{Stays, Vanishes};
    run_many_schedules(
        StreamKind::Created,
        &[
            Action::Put(Vanishes),
            Action::Get(Vanishes),
            Action::Put(Stays),
            Action::Get(Stays),
            Action::Get(Vanishes),
        ],
        observed::FINISHED
            | observed::FAILED
            | observed::EXPIRED
            | observed::SEAT_TAKEN
            | observed::LEFT_UNPAIRED,
    );
}

#[test]
fn either_side_breaks_off_the_transfer() {
    use Behavior::{Breaks, Leaves, Stays};
    run_many_schedules(
        StreamKind::Created,
        &[
            Action::Put(Breaks),
            Action::Get(Breaks),
            Action::Get(Stays),
            Action::Put(Stays),
            Action::Put(Leaves),
        ],
        observed::FINISHED
            | observed::FAILED
            | observed::SEAT_TAKEN
            | observed::LEFT_UNPAIRED
            | observed::LEFT_PAIRED,
    );
}

#[test]
fn the_server_shuts_down_meanwhile() {
    use Behavior::{Returns, Stays};
    run_many_schedules(
        StreamKind::Created,
        &[Action::Put(Stays), Action::Get(Stays), Action::ShutDown, Action::Get(Returns)],
        observed::FINISHED | observed::FAILED | observed::SHUT_DOWN,
    );
}

#[test]
fn all_actions_at_once() {
    use Behavior::{Breaks, Leaves, Returns, Stays};
    run_many_schedules(
        StreamKind::Created,
        &[
            Action::Put(Stays),
            Action::Get(Stays),
            Action::Put(Returns),
            Action::Get(Returns),
            Action::Put(Breaks),
            Action::Get(Breaks),
            Action::Put(Leaves),
            Action::Report,
            Action::Report,
            Action::Expire,
            Action::ShutDown,
        ],
        observed::FINISHED
            | observed::FAILED
            | observed::REPORT_RECEIVED
            | observed::SHUT_DOWN
            | observed::LEFT_UNPAIRED,
    );
}

/// Small cases, in every schedule that exists.
#[test]
fn every_schedule_of_a_side_that_leaves_and_one_other_action() {
    let (put, get) = (Action::Put(Behavior::Leaves), Action::Get(Behavior::Leaves));
    let (created, path) = (StreamKind::Created, StreamKind::Path);
    for (kind, actions, expected) in [
        (created, [put, Action::Report], observed::LEFT_UNPAIRED),
        (created, [get, Action::Expire], observed::LEFT_UNPAIRED),
        (created, [put, Action::ShutDown], observed::LEFT_UNPAIRED),
        (path, [put, Action::EndWaits], observed::LEFT_PAIRED),
        (path, [get, Action::Expire], observed::LEFT_PAIRED),
    ] {
        let limit = 1_000_000;
        let (schedules, all) =
            explore(DfsScheduler::new(Some(limit), false), move || run_schedule(kind, &actions, None));
        assert!(
            schedules < limit && all & expected != 0,
            "{kind:?} {actions:?}: {schedules} schedules, observed {all:b}"
        );
    }
}

#[test]
fn two_of_each_side_meet_at_a_path() {
    use Behavior::Stays;
    run_many_schedules(
        StreamKind::Path,
        &[Action::Put(Stays), Action::Get(Stays), Action::Put(Stays), Action::Get(Stays)],
        observed::FINISHED | observed::TWO_FINISHED | observed::EXPIRED | observed::SEAT_TAKEN,
    );
}

#[test]
fn some_leave_a_path_and_return_or_vanish() {
    use Behavior::{Returns, Stays, Vanishes};
    run_many_schedules(
        StreamKind::Path,
        &[
            Action::Put(Returns),
            Action::Get(Stays),
            Action::Put(Vanishes),
            Action::Get(Returns),
            Action::Put(Stays),
            Action::Get(Vanishes),
        ],
        observed::FINISHED | observed::FAILED | observed::EXPIRED | observed::SEAT_TAKEN,
    );
}

#[test]
fn either_side_breaks_off_the_transfer_at_a_path() {
    use Behavior::{Breaks, Stays};
    run_many_schedules(
        StreamKind::Path,
        &[Action::Put(Breaks), Action::Get(Breaks), Action::Get(Stays), Action::Put(Stays), Action::ShutDown],
        observed::FINISHED | observed::FAILED | observed::SEAT_TAKEN | observed::SHUT_DOWN,
    );
}

#[test]
fn a_wait_ends_while_the_other_side_comes() {
    use Behavior::{Stays, WaitsBriefly};
    for kind in [StreamKind::Created, StreamKind::Path] {
        run_many_schedules(
            kind,
            &[
                Action::Put(WaitsBriefly),
                Action::Get(Stays),
                Action::Get(WaitsBriefly),
                Action::EndWaits,
                Action::Expire,
            ],
            observed::FINISHED | observed::EXPIRED | observed::WAIT_ENDED,
        );
    }
}
