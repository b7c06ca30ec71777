//! The visible state of streams: snapshots of one, of all in parts, and subscriptions to their changes.

use std::sync::Arc;

use rendezvous_protocol::{StreamId, StreamName};

use super::Rendezvous;
use super::entry::Entry;
use crate::feed::{Capacity, Feed, Item, Subscription};
use crate::snapshot::{Cursor, Snapshot};

impl<B> Rendezvous<B> {
    /// Returns a snapshot of one stream. `None` if it is unknown or was forgotten after its end.
    #[must_use]
    pub fn snapshot(&self, id: &StreamId) -> Option<Snapshot> {
        self.table.lock().find(&StreamName::Id(id.clone())).map(Entry::snapshot)
    }

    /// Returns whether a side could find a stream by this name that has neither ended nor a report.
    #[must_use]
    pub fn is_connectable(&self, name: &StreamName) -> bool {
        self.table.lock().find(name).is_some_and(|entry| !entry.is_final())
    }

    /// Returns snapshots of the first `count` created streams after a position, oldest first. Returns fewer at the end of the
    /// table, and none after it.
    ///
    /// The table is unlocked between calls, so a list may or may not contain streams that are created or forgotten while
    /// it is built.
    #[must_use]
    pub fn snapshots(&self, after: Cursor, count: usize) -> Vec<Snapshot> {
        self.table.lock().snapshots_after(after).take(count).collect()
    }

    /// Returns the position before the newest `count` created streams. `None` if there are no more of them.
    #[must_use]
    pub fn position_before_newest(&self, count: usize) -> Option<Cursor> {
        self.table.lock().position_before_newest(count)
    }

    /// Returns a snapshot of one stream and a subscription to the changes that follow it. `None` if it is unknown.
    #[must_use]
    pub fn watch(&self, id: &StreamId) -> Option<(Snapshot, Subscription)> {
        self.table.lock().watch(&StreamName::Id(id.clone()))
    }

    /// Returns a subscription to the creation, the pairing and the end of all created streams from now on.
    #[must_use]
    pub fn watch_all(&self) -> Subscription {
        self.table.lock().watch_all()
    }

    /// Makes a feed with as much room as that of all streams, whose subscribers are woken in the same turns.
    #[must_use]
    pub fn feed<T: Item>(&self) -> Arc<Feed<T>> {
        Feed::new(Capacity::OF_ALL_STREAMS, &self.turns)
    }
}
