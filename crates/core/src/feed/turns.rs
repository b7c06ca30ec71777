//! The turns in which many subscribers are woken.
//!
//! If thousands were woken at once, each of them would delay the transfers that become ready meanwhile. So they have the smaller part of one
//! thread's time: a few are woken one directly after another, and the pause behind them is much longer than they have run.
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
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

/// The number of subscribers that are woken one directly after another.
const AT_ONCE: usize = 8;
/// The time after which no further one of them is woken.
const BURST: Duration = Duration::from_micros(50);
/// The shortest pause behind them.
const PAUSE: Duration = Duration::from_millis(1);
/// How many times longer the pause is than they have run, at least.
const SHARE_OF_OTHERS: u32 = 15;

/// Subscribers that wait for a change, by their numbers.
pub(super) type Waiting = BTreeMap<u64, Waker>;

/// The subscribers that a change wakes. To collect them takes as long for ten thousand as for one, because the table is locked meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Wakers(Vec<Waiting>);

impl Wakers {
    pub(super) fn take(&mut self, waiting: &mut Waiting) {
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
    groups: VecDeque<Waiting>,
    /// The number of groups that have entered.
    entered: u64,
    /// The number of groups that were woken.
    left: u64,
    is_closed: bool,
}

impl Queue {
    fn enter(&mut self, groups: Vec<Waiting>) {
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
    pub(super) fn number(&self) -> u64 {
        self.subscribed.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Wakes a few subscribers at once, and more of them in turn.
    pub(crate) fn wake(&self, wakers: Wakers) {
        let mut queue = self.queue.lock();
        if queue.is_closed || queue.groups.is_empty() && wakers.len() <= AT_ONCE {
            drop(queue);
            wakers.0.into_iter().flat_map(BTreeMap::into_values).for_each(Waker::wake);
        } else if wakers.len() > 0 {
            queue.enter(wakers.0);
            drop(queue);
            self.added.notify_one();
        }
    }

    /// Waits until all subscribers that are in the queue now were woken.
    pub(super) async fn wait(&self) {
        let mut place = None;
        poll_fn(|cx| {
            let mut queue = self.queue.lock();
            let place = *place.get_or_insert_with(|| {
                if !queue.groups.is_empty() {
                    queue.enter(vec![Waiting::from([(0, cx.waker().clone())])]);
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
        loop {
            let begun = Instant::now();
            if self.wake_some(begun).await {
                sleep(PAUSE.max(begun.elapsed() * SHARE_OF_OTHERS)).await;
            } else {
                self.added.notified().await;
            }
        }
    }

    /// Wakes the next subscribers. Returns whether there were any.
    async fn wake_some(&self, begun: Instant) -> bool {
        for woken in 0..AT_ONCE {
            let next = self.queue.lock().next();
            let Some(waker) = next else { return woken > 0 };
            waker.wake();
            // It runs now, unless another thread has taken it.
            yield_now().await;
            if begun.elapsed() > BURST {
                break;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use tokio::time::timeout;

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
                sleep(PAUSE).await;
            }
        };
        tokio::select! {
            () = turns.run() => {}
            () = all_are_woken => {}
        }
        assert!(begun.elapsed() >= 3 * PAUSE, "{:?}", begun.elapsed());
        assert!(timeout(PAUSE * 10, turns.run()).await.is_err());
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
            () = second => assert_eq!(wakeups.count(), 2 * AT_ONCE),
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
