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
use tokio::time::sleep;

use crate::snapshot::Snapshot;

/// The number of subscribers that are woken at the same time. Each writes to its connection, and other tasks have to wait for that.
const AT_ONCE: usize = 32;
/// The pause between two groups of [`AT_ONCE`] subscribers.
const PAUSE: Duration = Duration::from_millis(1);

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
    waiting: BTreeMap<u64, Waker>,
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
    pub(crate) fn publish(&self, snapshot: Snapshot, wakers: &mut Vec<Waker>) {
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
        wakers.extend(std::mem::take(&mut state.waiting).into_values());
    }

    /// Ends all subscriptions behind the last snapshot. Their wakers are moved to `wakers`.
    pub(crate) fn close(&self, wakers: &mut Vec<Waker>) {
        let mut state = self.state.lock();
        state.is_closed = true;
        wakers.extend(std::mem::take(&mut state.waiting).into_values());
    }

    /// Closes the feed and drops its snapshots, so that a subscriber does not hold them for longer than the table does.
    pub(crate) fn forget(&self, wakers: &mut Vec<Waker>) {
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

/// Wakes subscribers in small groups with pauses in between. If thousands were woken at once, each of them would delay the transfers that
/// become ready meanwhile.
#[derive(Debug, Default)]
pub(crate) struct Wakes {
    /// Subscribers whose turn has not come.
    queue: Mutex<VecDeque<Waker>>,
    added: Notify,
}

impl Wakes {
    /// Wakes a few subscribers at once, and more of them one group after another.
    pub(crate) fn wake(&self, wakers: Vec<Waker>) {
        if wakers.is_empty() {
            return;
        }
        {
            let mut queue = self.queue.lock();
            if !queue.is_empty() || wakers.len() > AT_ONCE {
                queue.extend(wakers);
                drop(queue);
                return self.added.notify_one();
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Wakes the subscribers in the queue. Runs forever; one task must run it.
    pub(crate) async fn run(&self) {
        loop {
            let group: Vec<_> = {
                let mut queue = self.queue.lock();
                let count = queue.len().min(AT_ONCE);
                queue.drain(..count).collect()
            };
            if group.is_empty() {
                self.added.notified().await;
            } else {
                group.into_iter().for_each(Waker::wake);
                sleep(PAUSE).await;
            }
        }
    }
}
