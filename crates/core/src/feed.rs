//! A bounded broadcast of snapshots to many subscribers, and wake-ups that do not delay transfers.
//!
//! A [`Feed`] keeps the latest snapshots. Each [`Subscription`] reads them at its own speed. One that is too slow learns how many it has
//! missed, and goes on with the oldest one that is left.
//!
//! *Concurrency.* One lock for each feed, held for a few assignments. The publisher may hold the lock of the table. Subscribers are woken after
//! it is released, at most [`AT_ONCE`] of them at a time: see [`Wakes`].
//!
//! *Bounds.* A feed keeps at most a fixed number of snapshots and of bytes of header sets and reports, shared by all its subscribers. A subscription
//! is a position and a waker.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use crate::snapshot::Snapshot;

/// The number of subscribers that are woken one directly after another. Each writes to its connection, and other tasks have to wait for that.
const AT_ONCE: usize = 8;
/// The time after which no further subscriber of a group is woken.
const BURST: Duration = Duration::from_micros(50);
/// The shortest pause between two groups.
const PAUSE: Duration = Duration::from_millis(1);
/// How much longer than a group the pause behind it is.
const IDLE_SHARE: u32 = 15;

/// The limits of a feed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capacity {
    /// The number of snapshots, at least 1.
    pub(crate) snapshots: usize,
    /// The bytes of their header sets and reports. One snapshot is kept in any case.
    pub(crate) bytes: u64,
}

/// The latest snapshots, and the subscribers that wait for the next one.
#[derive(Debug)]
pub(crate) struct Feed {
    capacity: Capacity,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The latest snapshots, oldest first.
    kept: VecDeque<Snapshot>,
    /// The bytes of `kept`.
    bytes: u64,
    /// The position of the next snapshot: the number of those that were published.
    end: u64,
    is_closed: bool,
    /// The subscribers that have read everything, by their numbers.
    waiting: Waiting,
    /// The number of subscriptions so far.
    subscribed: u64,
}

/// The next news of a feed.
#[derive(Debug)]
pub enum News {
    /// A stream has changed, and this is its new state.
    Changed(Snapshot),
    /// The subscriber was too slow: so many snapshots are lost to it.
    Missed(u64),
    /// Nothing will follow: the stream was forgotten, or the server is closing.
    Closed,
}

/// A position in a feed.
#[derive(Debug)]
pub struct Subscription {
    feed: Arc<Feed>,
    number: u64,
    /// The position of the next snapshot to read.
    next: u64,
}

impl Feed {
    pub(crate) fn new(capacity: Capacity) -> Arc<Self> {
        Arc::new(Self { capacity, state: Mutex::default() })
    }

    /// Returns a subscription to what is published from now on.
    pub(crate) fn subscribe(self: &Arc<Self>) -> Subscription {
        let mut state = self.state.lock();
        state.subscribed += 1;
        Subscription { feed: Arc::clone(self), number: state.subscribed, next: state.end }
    }

    /// Adds a snapshot, and moves the wakers of the subscribers that wait for it to `wakers`. Over the capacity, the oldest are dropped.
    pub(crate) fn publish(&self, snapshot: Snapshot, wakers: &mut Wakers) {
        let mut state = self.state.lock();
        state.bytes += snapshot.memory();
        state.kept.push_back(snapshot);
        state.end += 1;
        while state.kept.len() > self.capacity.snapshots
            || state.bytes > self.capacity.bytes && state.kept.len() > 1
        {
            let Some(oldest) = state.kept.pop_front() else { break };
            state.bytes -= oldest.memory();
        }
        wakers.take(&mut state.waiting);
    }

    /// Ends all subscriptions behind the last snapshot. Their wakers are moved to `wakers`.
    pub(crate) fn close(&self, wakers: &mut Wakers) {
        let mut state = self.state.lock();
        state.is_closed = true;
        wakers.take(&mut state.waiting);
    }

    /// Closes the feed and drops its snapshots, so that a subscriber does not hold them for longer than the table does.
    pub(crate) fn forget(&self, wakers: &mut Wakers) {
        self.close(wakers);
        let mut state = self.state.lock();
        state.kept.clear();
        state.bytes = 0;
    }
}

impl Subscription {
    /// Waits for the next news. Cancelling it loses nothing.
    pub async fn next(&mut self) -> News {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Returns the next news if there are any.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<News> {
        let mut state = self.feed.state.lock();
        let oldest = state.end - state.kept.len() as u64;
        if self.next < oldest {
            let missed = oldest - self.next;
            self.next = oldest;
            return Poll::Ready(News::Missed(missed));
        }
        let index = usize::try_from(self.next - oldest).unwrap_or(usize::MAX);
        if let Some(snapshot) = state.kept.get(index) {
            self.next += 1;
            return Poll::Ready(News::Changed(snapshot.clone()));
        }
        if state.is_closed {
            return Poll::Ready(News::Closed);
        }
        state.waiting.insert(self.number, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.feed.state.lock().waiting.remove(&self.number);
    }
}

type Waiting = BTreeMap<u64, Waker>;

/// The subscribers that a change wakes. To collect them takes as long for ten thousand as for one, because the table is locked meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Wakers(Vec<Waiting>);

impl Wakers {
    fn take(&mut self, waiting: &mut Waiting) {
        if !waiting.is_empty() {
            self.0.push(std::mem::take(waiting));
        }
    }

    fn len(&self) -> usize {
        self.0.iter().map(BTreeMap::len).sum()
    }

    /// Wakes all of them now.
    pub(crate) fn wake(self) {
        self.0.into_iter().flat_map(BTreeMap::into_values).for_each(Waker::wake);
    }
}

/// Wakes subscribers in small groups with pauses in between. If thousands were woken at once, each of them would delay the transfers that
/// become ready meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    /// Subscribers whose turn has not come.
    queue: Mutex<VecDeque<Waiting>>,
    added: Notify,
}

impl Wakes {
    /// Wakes a few subscribers at once, and more of them one group after another.
    pub(crate) fn wake(&self, wakers: Wakers) {
        if wakers.0.is_empty() {
            return;
        }
        {
            let mut queue = self.queue.lock();
            if !queue.is_empty() || wakers.len() > AT_ONCE {
                queue.extend(wakers.0);
                drop(queue);
                return self.added.notify_one();
            }
        }
        wakers.wake();
    }

    /// Wakes the subscribers in the queue. Runs forever; one task must run it.
    pub(crate) async fn run(&self) {
        loop {
            let begun = Instant::now();
            if self.wake_group(begun).await {
                sleep(PAUSE.max(begun.elapsed() * IDLE_SHARE)).await;
            } else {
                self.added.notified().await;
            }
        }
    }

    /// Wakes some subscribers. Returns whether there were any.
    async fn wake_group(&self, begun: Instant) -> bool {
        for woken in 0..AT_ONCE {
            let Some(waker) = self.next() else { return woken > 0 };
            waker.wake();
            // It runs now, unless another thread has taken it.
            yield_now().await;
            if begun.elapsed() > BURST {
                break;
            }
        }
        true
    }

    fn next(&self) -> Option<Waker> {
        let mut queue = self.queue.lock();
        loop {
            match queue.front_mut()?.pop_first() {
                Some((_, waker)) => return Some(waker),
                None => drop(queue.pop_front()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::SystemTime;

    use rendezvous_protocol::{StreamId, StreamName};
    use tokio::time::timeout;

    use super::*;
    use crate::outcome::{Outcome, Report};
    use crate::snapshot::{Cursor, SnapshotState};

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Wakeups(AtomicUsize);

    impl Wake for Wakeups {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn snapshot(version: u64) -> Snapshot {
        Snapshot {
            name: StreamName::Id(StreamId::parse("a").unwrap()),
            version,
            created_at: SystemTime::UNIX_EPOCH,
            deactivated_at: None,
            state: SnapshotState::Created,
            headers: Arc::default(),
            bytes_transferred: 0,
            position: Cursor(1),
        }
    }

    fn large_snapshot(version: u64, report: &Arc<Report>) -> Snapshot {
        Snapshot { state: SnapshotState::Ended(Outcome::Reported(Arc::clone(report))), ..snapshot(version) }
    }

    fn report(bytes: usize) -> Arc<Report> {
        Arc::new(Report { status: 400, name: String::new(), message: "m".repeat(bytes) })
    }

    fn publish(feed: &Feed, snapshots: impl IntoIterator<Item = Snapshot>) -> Wakers {
        let mut wakers = Wakers::default();
        for snapshot in snapshots {
            feed.publish(snapshot, &mut wakers);
        }
        wakers
    }

    /// All news at hand: versions, `-n` for n that were missed, and 0 for the end.
    fn at_hand(subscription: &mut Subscription) -> Vec<i64> {
        let mut news = Vec::new();
        while let Poll::Ready(next) = subscription.poll_next(&mut Context::from_waker(Waker::noop())) {
            news.push(match next {
                News::Changed(snapshot) => i64::try_from(snapshot.version).unwrap(),
                News::Missed(count) => -i64::try_from(count).unwrap(),
                News::Closed => 0,
            });
            if news.last() == Some(&0) {
                break;
            }
        }
        news
    }

    #[test]
    fn a_slow_subscriber_learns_what_it_has_missed_and_goes_on_with_the_oldest_that_is_left() {
        let feed = Feed::new(Capacity { snapshots: 3, bytes: u64::MAX });
        let (mut slow, mut quick) = (feed.subscribe(), feed.subscribe());
        publish(&feed, [1, 2].map(snapshot));
        assert_eq!(at_hand(&mut quick), [1, 2]);
        publish(&feed, [3, 4, 5].map(snapshot));
        assert_eq!(at_hand(&mut slow), [-2, 3, 4, 5]);
        assert_eq!(at_hand(&mut quick), [3, 4, 5]);
        assert!(at_hand(&mut feed.subscribe()).is_empty(), "a subscription begins with what follows");
        feed.close(&mut Wakers::default());
        assert_eq!((at_hand(&mut slow), at_hand(&mut feed.subscribe())), (vec![0], vec![0]));
    }

    #[test]
    fn a_feed_keeps_as_many_bytes_as_it_may_and_one_snapshot_in_any_case() {
        let large = report(1000);
        let feed = Feed::new(Capacity { snapshots: 10, bytes: 3 * large.memory() });
        let mut subscription = feed.subscribe();
        publish(&feed, (1..=5).map(|version| large_snapshot(version, &large)));
        assert_eq!(at_hand(&mut subscription), [-2, 3, 4, 5]);
        assert_eq!(Arc::strong_count(&large), 4, "what is missed is dropped");
        publish(&feed, [large_snapshot(6, &report(1 << 20)), snapshot(7)]);
        assert_eq!(at_hand(&mut subscription), [-1, 7]);
        assert_eq!(Arc::strong_count(&large), 1);
    }

    #[test]
    fn a_feed_of_a_forgotten_stream_ends_and_holds_nothing_of_it() {
        let held = report(1000);
        let feed = Feed::new(Capacity { snapshots: 10, bytes: u64::MAX });
        let mut subscription = feed.subscribe();
        publish(&feed, [large_snapshot(1, &held)]);
        feed.forget(&mut Wakers::default());
        assert_eq!(Arc::strong_count(&held), 1);
        assert_eq!(at_hand(&mut subscription), [-1, 0]);
    }

    #[test]
    fn a_subscriber_that_waits_is_woken_by_the_next_change_unless_it_has_left() {
        let feed = Feed::new(Capacity { snapshots: 3, bytes: u64::MAX });
        let (mut stays, mut leaves) = (feed.subscribe(), feed.subscribe());
        assert_eq!((at_hand(&mut stays), at_hand(&mut leaves)), (vec![], vec![]));
        drop(leaves);
        assert_eq!(publish(&feed, [snapshot(1)]).len(), 1);
        assert_eq!(publish(&feed, [snapshot(2)]).len(), 0, "it does not wait any more");
    }

    #[tokio::test(start_paused = true)]
    async fn many_subscribers_are_woken_in_groups_and_each_once() {
        let (turns, wakeups) = (Wakes::default(), Arc::new(Wakeups::default()));
        let count = || wakeups.0.load(Ordering::Relaxed);
        let waker = || Waker::from(Arc::clone(&wakeups));
        let wakers = |count: usize| Wakers(vec![(0..count as u64).map(|number| (number, waker())).collect()]);
        turns.wake(wakers(AT_ONCE));
        assert_eq!(count(), AT_ONCE, "a few are woken at once");
        turns.wake(wakers(3 * AT_ONCE));
        turns.wake(wakers(1));
        assert_eq!(count(), AT_ONCE, "nobody overtakes those that wait");
        for groups in [1, 2, 3] {
            assert!(timeout(Duration::ZERO, turns.run()).await.is_err());
            assert_eq!(count(), AT_ONCE + groups * AT_ONCE);
        }
        assert!(timeout(PAUSE * 10, turns.run()).await.is_err());
        assert_eq!(count(), 4 * AT_ONCE + 1);
    }
}
