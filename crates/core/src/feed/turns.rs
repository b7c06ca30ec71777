//! The turns in which many subscribers are woken.
//!
//! If thousands were woken at once, each of them would delay the transfers that become ready meanwhile. So a few are woken every millisecond:
//! ten thousand learn of a change within seconds, and take some percent of one thread's time meanwhile.
//!
//! *Concurrency.* One lock, held for a few assignments. One task runs [`Turns::run`].
//!
//! *Bounds.* The queue has each subscriber that waits at most once, and one entry for each that has left while it waited until its turn comes.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

/// The number of subscribers of a batch, which are woken at the same time. Each sends a part, and other tasks have to wait for that.
const AT_ONCE: usize = 4;
/// The time from one batch to the next. Shorter ones are beyond the resolution of tokio's timers.
const INTERVAL: Duration = Duration::from_millis(1);

/// Subscribers that wait for a change, by their numbers.
pub(super) type WaitingWakers = BTreeMap<u64, Waker>;

/// The subscribers that a change wakes. Collecting them takes constant time for each feed, because the table is locked meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Wakers(Vec<WaitingWakers>);

impl Wakers {
    pub(super) fn take(&mut self, waiting: &mut WaitingWakers) {
        if !waiting.is_empty() {
            self.0.push(std::mem::take(waiting));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.0.iter().map(BTreeMap::len).sum()
    }
}

/// Wakes many subscribers in turn.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    queue: Mutex<Queue>,
    added: Notify,
    /// The number of subscriptions so far.
    subscribed: AtomicU64,
}

/// Subscribers whose turn has not come.
#[derive(Debug, Default)]
struct Queue {
    groups: VecDeque<WaitingWakers>,
    /// The number of groups that have entered.
    entered: u64,
    /// The number of groups that were woken.
    left: u64,
    is_closed: bool,
}

impl Queue {
    fn enter(&mut self, groups: Vec<WaitingWakers>) {
        self.entered += groups.len() as u64;
        self.groups.extend(groups);
    }

    fn next(&mut self) -> Option<Waker> {
        let group = self.groups.front_mut()?;
        let (_, waker) = group.pop_first()?;
        if group.is_empty() {
            self.groups.pop_front();
            self.left += 1;
        }
        Some(waker)
    }
}

impl Turns {
    /// Returns the number of a new subscription.
    pub(super) fn next_number(&self) -> u64 {
        self.subscribed.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Wakes a few subscribers at once, and more of them in turn.
    pub(crate) fn wake(&self, wakers: Wakers) {
        if wakers.0.is_empty() {
            return;
        }
        let mut queue = self.queue.lock();
        if queue.is_closed || queue.groups.is_empty() && wakers.len() <= AT_ONCE {
            drop(queue);
            wakers.0.into_iter().flat_map(BTreeMap::into_values).for_each(Waker::wake);
        } else {
            queue.enter(wakers.0);
            drop(queue);
            self.added.notify_one();
        }
    }

    /// Waits until all subscribers that are in the queue now were woken. One task must poll it: its first waker is kept.
    pub(super) async fn wait(&self) {
        let mut place = None;
        poll_fn(|cx| {
            let mut queue = self.queue.lock();
            let place = *place.get_or_insert_with(|| {
                if !queue.groups.is_empty() {
                    queue.enter(vec![WaitingWakers::from([(0, cx.waker().clone())])]);
                }
                queue.entered
            });
            if queue.left >= place { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Wakes everybody at once, now and from now on.
    pub(crate) fn close(&self, wakers: Wakers) {
        let woken = {
            let mut queue = self.queue.lock();
            queue.is_closed = true;
            queue.left = queue.entered;
            std::mem::take(&mut queue.groups)
        };
        woken.into_iter().chain(wakers.0).flat_map(BTreeMap::into_values).for_each(Waker::wake);
    }

    /// Wakes the subscribers in the queue. Runs forever; one task must run it.
    pub(crate) async fn run(&self) {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let batch: Vec<_> = {
                let mut queue = self.queue.lock();
                std::iter::from_fn(|| queue.next()).take(AT_ONCE).collect()
            };
            if batch.is_empty() {
                self.added.notified().await;
            }
            batch.into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use tokio::time::{Instant, sleep, timeout};

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Wakeups(AtomicUsize);

    impl Wake for Wakeups {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Wakeups {
        fn wakers(self: &Arc<Self>, count: usize) -> Wakers {
            let waker = |number| (number, Waker::from(Arc::clone(self)));
            Wakers(vec![(0..count as u64).map(waker).collect()])
        }

        fn count(&self) -> usize {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_subscribers_are_woken_in_turn_and_each_once() {
        let (turns, wakeups) = (Turns::default(), Arc::new(Wakeups::default()));
        turns.wake(wakeups.wakers(AT_ONCE));
        assert_eq!(wakeups.count(), AT_ONCE, "a few are woken at once");
        turns.wake(wakeups.wakers(3 * AT_ONCE));
        turns.wake(wakeups.wakers(1));
        assert_eq!(wakeups.count(), AT_ONCE, "nobody overtakes those that wait");
        let begun = Instant::now();
        let all_are_woken = async {
            while wakeups.count() < 4 * AT_ONCE + 1 {
                sleep(INTERVAL).await;
            }
        };
        tokio::select! {
            () = turns.run() => {}
            () = all_are_woken => {}
        }
        assert!(begun.elapsed() >= 3 * INTERVAL, "{:?}", begun.elapsed());
        assert!(timeout(INTERVAL * 10, turns.run()).await.is_err());
        assert_eq!(wakeups.count(), 4 * AT_ONCE + 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscriber_that_has_sent_a_part_waits_for_those_before_it_and_for_no_one_else() {
        let (turns, wakeups) = (Turns::default(), Arc::new(Wakeups::default()));
        turns.wait().await;
        turns.wake(wakeups.wakers(2 * AT_ONCE));
        let second = turns.wait();
        tokio::pin!(second);
        assert!(timeout(Duration::ZERO, &mut second).await.is_err());
        turns.wake(wakeups.wakers(2 * AT_ONCE));
        tokio::select! {
            biased;
            () = second => assert!((2 * AT_ONCE..3 * AT_ONCE).contains(&wakeups.count())),
            () = turns.run() => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_all_are_woken_at_once() {
        let (turns, wakeups) = (Turns::default(), Arc::new(Wakeups::default()));
        turns.wake(wakeups.wakers(100));
        turns.close(wakeups.wakers(50));
        turns.wake(wakeups.wakers(50));
        turns.wait().await;
        assert_eq!(wakeups.count(), 200);
    }
}
