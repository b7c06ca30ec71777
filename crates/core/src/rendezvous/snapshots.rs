//! The snapshots of one stream, and of all streams in parts.

use rendezvous_protocol::StreamId;

use super::Rendezvous;
use super::table::Entry;
use crate::snapshot::{Cursor, Snapshot};

impl<B> Rendezvous<B> {
    /// Returns a snapshot of one stream. `None` if it is unknown or was forgotten after its end.
    #[must_use]
    pub fn snapshot(&self, id: &StreamId) -> Option<Snapshot> {
        self.table.lock().entry(id).map(Entry::snapshot)
    }

    /// Returns snapshots of the first `count` streams after a position, oldest first. Returns fewer at the end of the table,
    /// and none after it.
    ///
    /// The table is unlocked between calls, so a list may or may not contain streams that are created or forgotten while
    /// it is built.
    #[must_use]
    pub fn snapshots(&self, after: Cursor, count: usize) -> Vec<Snapshot> {
        self.table.lock().snapshots_after(after).take(count).collect()
    }
}
