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

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use std::time::Duration;

    use rendezvous_protocol::Tag;

    use super::*;
    use crate::rendezvous::{Limits, NewStream};
    use crate::transfer::{self, StreamLimits};

    fn table() -> Arc<Rendezvous<()>> {
        let minute = Duration::from_mins(1);
        let transfer = transfer::Limits { idle: minute, stream: StreamLimits::default() };
        Rendezvous::new(Limits { ttl: minute, transfer, max_streams: 10 }, Vec::new())
    }

    fn create(table: &Rendezvous<()>) -> StreamId {
        table.create(NewStream::default(), || Ok(None)).unwrap()
    }

    #[test]
    fn the_streams_behind_a_position_are_the_newest() {
        let table = table();
        let created: Vec<_> = (0..5).map(|_| create(&table)).collect();
        assert!(table.position_before_newest(5).is_none());
        for count in 0..5 {
            let newest = table.snapshots(table.position_before_newest(count).unwrap(), 10);
            let names: Vec<_> = newest.into_iter().map(|snapshot| snapshot.name).collect();
            let expected: Vec<_> = created[5 - count..].iter().cloned().map(StreamName::Id).collect();
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn ids_begin_with_the_tag_that_was_set_last() {
        let (table, tag) = (table(), Tag::draw());
        assert_ne!(create(&table).tag(), Some(tag));
        table.mint(tag);
        assert_eq!(create(&table).tag(), Some(tag));
    }
}
