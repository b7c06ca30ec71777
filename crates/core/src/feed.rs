//! A bounded broadcast to many subscribers, which does not delay transfers: of snapshots, or of what other nodes send of theirs.
//!
//! A [`Feed`] keeps the latest items. Each [`Subscription`] reads them at its own speed. One that is too slow learns how many it has
//! missed, and goes on with the oldest one that is left.
//!
//! *Concurrency.* One lock for each feed, held for a few assignments. The publisher may hold the lock of the table. Subscribers are woken after
//! it is released, many of them in `turns`.
//!
//! *Bounds.* A feed keeps at most a fixed number of items and of bytes, of snapshots those of header sets and reports, and for each of these a
//! short text, shared by all its subscribers. A subscription is a position and a waker.

mod turns;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::Mutex;

use self::turns::WaitingWakers;
pub(crate) use self::turns::{Turns, Wakers};
use crate::snapshot::Snapshot;

/// The longest text that is kept with a snapshot, in bytes.
const KEPT_TEXT: usize = 4 * 1024;

/// The limits of a feed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Capacity {
    /// The number of items, at least 1.
    pub(crate) items: usize,
    /// The bytes of them all: see [`Item::memory`]. One item is kept in any case.
    pub(crate) bytes: u64,
}

impl Capacity {
    /// For the changes of one stream: those of a usual life, and some sides that leave. They share their header sets.
    pub(crate) const OF_A_STREAM: Self = Self { items: 16, bytes: u64::MAX };

    /// For the changes of all streams. Of streams that are forgotten, only the feed holds the header sets.
    pub(crate) const OF_ALL_STREAMS: Self = Self { items: 1024, bytes: 1 << 20 };
}

/// What a feed keeps. Its clones share it.
pub trait Item: Clone {
    /// Returns the bytes that it holds and that a peer decides about.
    fn memory(&self) -> u64;
}

/// The latest items, and the subscribers that wait for the next one.
#[derive(Debug)]
pub struct Feed<T: Item = Arc<Published>> {
    capacity: Capacity,
    turns: Arc<Turns>,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    /// The latest items, oldest first, from the first on that a subscriber has not read.
    kept: VecDeque<Kept<T>>,
    /// The bytes of `kept`.
    bytes: u64,
    subscribers: usize,
    /// The position of the next item: the number of those that were published.
    end: u64,
    is_closed: bool,
    /// The subscribers that have read everything, by their numbers.
    waiting: WaitingWakers,
}

/// An item that a feed keeps.
#[derive(Debug)]
struct Kept<T> {
    item: T,
    /// The subscribers that have not read it.
    unread: usize,
}

/// A snapshot in a feed.
#[derive(Debug)]
pub struct Published {
    /// The new state of a stream.
    pub snapshot: Snapshot,
    /// What the subscribers send of it, once the first one has made it.
    text: OnceLock<Box<[u8]>>,
}

/// The next news of a feed.
#[derive(Debug)]
pub enum News<T = Arc<Published>> {
    /// A stream has changed.
    Changed(T),
    /// The subscriber was too slow: so many items are lost to it.
    Missed(u64),
    /// Nothing will follow: the stream was forgotten, or the server is closing.
    Closed,
}

/// A position in a feed.
#[derive(Debug)]
pub struct Subscription<T: Item = Arc<Published>> {
    feed: Arc<Feed<T>>,
    /// Its number among the subscriptions to all feeds.
    number: u64,
    /// The position of the next item to read.
    next: u64,
}

impl<T: Item> Feed<T> {
    /// Creates a feed without items, whose subscribers are woken in `turns`.
    pub(crate) fn new(capacity: Capacity, turns: &Arc<Turns>) -> Arc<Self> {
        Arc::new(Self { capacity, turns: Arc::clone(turns), state: Mutex::new(State::new()) })
    }

    /// Returns a subscription to what is published from now on.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>) -> Subscription<T> {
        let mut state = self.state.lock();
        state.subscribers += 1;
        let next = state.end;
        drop(state);
        Subscription { feed: Arc::clone(self), number: self.turns.next_number(), next }
    }

    /// Adds an item, and wakes the subscribers that wait for it.
    pub fn publish(&self, item: T) {
        let mut wakers = Wakers::default();
        self.add(item, &mut wakers);
        self.turns.wake(wakers);
    }

    /// Adds an item, and moves the wakers of the subscribers that wait for it to `wakers`. Over the capacity, the oldest are dropped.
    pub(crate) fn add(&self, item: T, wakers: &mut Wakers) {
        let mut state = self.state.lock();
        state.bytes += item.memory();
        let unread = state.subscribers;
        state.kept.push_back(Kept { item, unread });
        state.end += 1;
        while state.kept.len() > self.capacity.items
            || state.bytes > self.capacity.bytes && state.kept.len() > 1
        {
            state.drop_oldest();
        }
        wakers.take(&mut state.waiting);
    }

    /// Ends all subscriptions behind the last item. Their wakers are moved to `wakers`.
    pub(crate) fn close(&self, wakers: &mut Wakers) {
        self.state.lock().close(wakers);
    }

    /// Closes the feed and drops its items, so that a subscriber does not hold them for longer than the table does.
    pub(crate) fn forget(&self, wakers: &mut Wakers) {
        let mut state = self.state.lock();
        state.close(wakers);
        state.kept.clear();
        state.bytes = 0;
    }
}

impl<T: Item> Kept<T> {
    /// Counts a subscriber that has read it.
    fn read(&mut self) -> T {
        self.unread -= 1;
        self.item.clone()
    }
}

impl<T: Item> State<T> {
    fn new() -> Self {
        Self {
            kept: VecDeque::new(),
            bytes: 0,
            subscribers: 0,
            end: 0,
            is_closed: false,
            waiting: WaitingWakers::new(),
        }
    }

    fn close(&mut self, wakers: &mut Wakers) {
        self.is_closed = true;
        wakers.take(&mut self.waiting);
    }

    fn oldest(&self) -> u64 {
        self.end - self.kept.len() as u64
    }

    /// Returns what a subscriber at this position has not read.
    fn unread(&mut self, position: u64) -> impl Iterator<Item = &mut Kept<T>> {
        let skipped = position.saturating_sub(self.oldest());
        self.kept.iter_mut().skip(usize::try_from(skipped).unwrap_or(usize::MAX))
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.kept.pop_front() {
            self.bytes -= oldest.item.memory();
        }
    }

    /// Drops the items that all subscribers have read.
    fn drop_read(&mut self) {
        while self.kept.front().is_some_and(|oldest| oldest.unread == 0) {
            self.drop_oldest();
        }
    }
}

impl Item for Arc<Published> {
    fn memory(&self) -> u64 {
        self.snapshot.memory()
    }
}

/// What another node sends of the change of a stream.
impl Item for Bytes {
    fn memory(&self) -> u64 {
        self.len() as u64
    }
}

impl Published {
    /// Makes an item of a feed.
    pub(crate) fn new(snapshot: Snapshot) -> Arc<Self> {
        Arc::new(Self { snapshot, text: OnceLock::new() })
    }

    /// Appends what subscribers send of the snapshot. The first one makes it, and a short text is kept for the others.
    ///
    /// # Errors
    /// The error of `make`.
    pub fn write_to<E>(
        &self,
        out: &mut Vec<u8>,
        make: impl FnOnce(&Snapshot, &mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(text) = self.text.get() {
            out.extend_from_slice(text);
            return Ok(());
        }
        let start = out.len();
        make(&self.snapshot, out)?;
        if let Some(text) = out.get(start..).filter(|text| text.len() <= KEPT_TEXT) {
            // Another subscriber may have kept the same text.
            let _ = self.text.set(text.into());
        }
        Ok(())
    }
}

impl<T: Item> Subscription<T> {
    /// Returns a number from 0 to 1 that spreads subscriptions evenly, for what each of them does periodically.
    #[must_use]
    pub fn spread(&self) -> f64 {
        // The multiples of the golden ratio: Knuth, The Art of Computer Programming, volume 3, section 6.4, "Fibonacci hashing".
        let spread = self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        f64::from(u32::try_from(spread).unwrap_or(u32::MAX)) / f64::from(u32::MAX)
    }

    /// Waits until the subscribers that were woken before have had their turn. A subscriber that sends much calls it after each part.
    pub async fn turn(&mut self) {
        self.feed.turns.wait().await;
    }

    /// Waits for the next news. Cancelling it loses nothing.
    pub async fn next(&mut self) -> News<T> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Returns the next news if there are any.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<News<T>> {
        let mut state = self.feed.state.lock();
        let oldest = state.oldest();
        if self.next < oldest {
            let missed = oldest - self.next;
            self.next = oldest;
            return Poll::Ready(News::Missed(missed));
        }
        let unread = state.unread(self.next).next().map(Kept::read);
        if let Some(item) = unread {
            self.next += 1;
            state.drop_read();
            return Poll::Ready(News::Changed(item));
        }
        if state.is_closed {
            return Poll::Ready(News::Closed);
        }
        state.waiting.insert(self.number, cx.waker().clone());
        Poll::Pending
    }
}

impl<T: Item> Drop for Subscription<T> {
    fn drop(&mut self) {
        let mut state = self.feed.state.lock();
        state.waiting.remove(&self.number);
        state.subscribers -= 1;
        state.unread(self.next).for_each(|kept| drop(kept.read()));
        state.drop_read();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;
    use std::time::SystemTime;

    use rendezvous_protocol::{StreamId, StreamName};

    use super::*;
    use crate::outcome::{Outcome, Report};
    use crate::snapshot::{Cursor, SnapshotState};

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

    fn publish(feed: &Feed<Arc<Published>>, snapshots: impl IntoIterator<Item = Snapshot>) -> Wakers {
        let mut wakers = Wakers::default();
        for snapshot in snapshots {
            feed.add(Published::new(snapshot), &mut wakers);
        }
        wakers
    }

    /// All news at hand: versions, `-n` for n that were missed, and 0 for the end.
    fn at_hand(subscription: &mut Subscription) -> Vec<i64> {
        let mut news = Vec::new();
        while let Poll::Ready(next) = subscription.poll_next(&mut Context::from_waker(Waker::noop())) {
            news.push(match next {
                News::Changed(published) => i64::try_from(published.snapshot.version).unwrap(),
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
        let feed = Feed::new(Capacity { items: 3, bytes: u64::MAX }, &Arc::default());
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
        let feed = Feed::new(Capacity { items: 10, bytes: 3 * large.memory() }, &Arc::default());
        let (mut subscription, mut slow) = (feed.subscribe(), feed.subscribe());
        publish(&feed, (1..=5).map(|version| large_snapshot(version, &large)));
        assert_eq!(at_hand(&mut subscription), [-2, 3, 4, 5]);
        assert_eq!(Arc::strong_count(&large), 4, "what is missed is dropped");
        publish(&feed, [large_snapshot(6, &report(1 << 20)), snapshot(7)]);
        assert_eq!(at_hand(&mut subscription), [-1, 7]);
        assert_eq!(Arc::strong_count(&large), 1);
        assert_eq!(at_hand(&mut slow), [-6, 7]);
    }

    #[test]
    fn a_subscriber_to_all_streams_may_be_a_thousand_changes_or_a_mebibyte_behind() {
        let report = report(60_000);
        let small = |count| (1..=count).map(snapshot).collect::<Vec<_>>();
        let large = |count| (1..=count).map(|version| large_snapshot(version, &report)).collect();
        for (published, kept) in [(small(1024), 1024), (small(1500), 1024), (large(15), 15), (large(99), 15)]
        {
            let feed = Feed::new(Capacity::OF_ALL_STREAMS, &Arc::default());
            let mut slow = feed.subscribe();
            publish(&feed, published);
            let mut news = at_hand(&mut slow);
            news.retain(|&version| version > 0);
            assert_eq!(news.len(), kept);
        }
    }

    #[test]
    fn subscriptions_are_spread_evenly() {
        let turns = Arc::default();
        let mut tenths = [0; 10];
        for _ in 0..1000 {
            let feed: Arc<Feed> = Feed::new(Capacity { items: 1, bytes: 0 }, &turns);
            let spread = feed.subscribe().spread();
            assert!((0.0..=1.0).contains(&spread), "{spread}");
            let tenth = (0..9).take_while(|tenth| spread >= f64::from(tenth + 1) / 10.0).count();
            tenths[tenth] += 1;
        }
        assert!(tenths.iter().all(|count| (90..=110).contains(count)), "{tenths:?}");
    }

    #[test]
    fn a_feed_keeps_nothing_that_all_subscribers_have_read_or_have_left_behind() {
        let held = report(1000);
        let feed = Feed::new(Capacity { items: 10, bytes: u64::MAX }, &Arc::default());
        let (mut quick, mut slow) = (feed.subscribe(), feed.subscribe());
        publish(&feed, [1, 2].map(|version| large_snapshot(version, &held)));
        assert_eq!(at_hand(&mut quick), [1, 2]);
        let late = feed.subscribe();
        assert_eq!(Arc::strong_count(&held), 3);
        assert!(matches!(
            slow.poll_next(&mut Context::from_waker(Waker::noop())),
            Poll::Ready(News::Changed(_))
        ));
        assert_eq!(Arc::strong_count(&held), 2);
        publish(&feed, [large_snapshot(3, &held)]);
        assert_eq!(at_hand(&mut quick), [3]);
        drop(slow);
        assert_eq!(Arc::strong_count(&held), 2, "one has not read the last one");
        drop(late);
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[test]
    fn a_feed_of_a_forgotten_stream_ends_and_holds_nothing_of_it() {
        let held = report(1000);
        let feed = Feed::new(Capacity { items: 10, bytes: u64::MAX }, &Arc::default());
        let mut subscription = feed.subscribe();
        publish(&feed, [large_snapshot(1, &held)]);
        feed.forget(&mut Wakers::default());
        assert_eq!(Arc::strong_count(&held), 1);
        assert_eq!(at_hand(&mut subscription), [-1, 0]);
    }

    #[test]
    fn a_subscriber_that_waits_is_woken_by_the_next_change_unless_it_has_left() {
        let feed = Feed::new(Capacity { items: 3, bytes: u64::MAX }, &Arc::default());
        let (mut stays, mut leaves) = (feed.subscribe(), feed.subscribe());
        assert_eq!((at_hand(&mut stays), at_hand(&mut leaves)), (vec![], vec![]));
        drop(leaves);
        assert_eq!(publish(&feed, [snapshot(1)]).len(), 1);
        assert_eq!(publish(&feed, [snapshot(2)]).len(), 0, "it does not wait any more");
    }

    #[test]
    fn the_text_of_a_change_is_made_once_if_it_is_short() {
        for (bytes, makes) in [(KEPT_TEXT, 1), (KEPT_TEXT + 1, 2)] {
            let feed = Feed::new(Capacity { items: 1, bytes: 0 }, &Arc::default());
            let mut subscriptions = [feed.subscribe(), feed.subscribe()];
            publish(&feed, [snapshot(1)]);
            let mut count = 0;
            for subscription in &mut subscriptions {
                let Poll::Ready(News::Changed(published)) =
                    subscription.poll_next(&mut Context::from_waker(Waker::noop()))
                else {
                    panic!("nothing was published");
                };
                let mut out = b"before".to_vec();
                let make = |_: &Snapshot, out: &mut Vec<u8>| {
                    count += 1;
                    out.resize(out.len() + bytes, b'x');
                    Ok::<_, ()>(())
                };
                published.write_to(&mut out, make).unwrap();
                assert_eq!((&out[..6], out.len()), (&b"before"[..], 6 + bytes));
            }
            assert_eq!(count, makes);
        }
    }
}
