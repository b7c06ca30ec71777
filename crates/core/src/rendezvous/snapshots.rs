//! The snapshots of one stream, and of all streams in parts.

use rendezvous_protocol::StreamId;

use super::Rendezvous;
use super::table::Entry;
use crate::snapshot::Snapshot;

/// A position in the list of all streams, oldest first.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cursor(u64);

impl<B> Rendezvous<B> {
    /// Returns a snapshot of one stream. `None` if it is unknown or was forgotten after its end.
    #[must_use]
    pub fn snapshot(&self, id: &StreamId) -> Option<Snapshot> {
        self.table.lock().entry(id).map(Entry::snapshot)
    }

    /// Returns snapshots of the next `count` streams after `cursor`, oldest first, and advances it. Returns fewer at the end
    /// of the table, and none after it.
    ///
    /// The table is unlocked between calls, so a list may or may not contain streams that are created or forgotten while
    /// it is built.
    #[must_use]
    pub fn snapshots(&self, cursor: &mut Cursor, count: usize) -> Vec<Snapshot> {
        let snapshots: Vec<_> = self.table.lock().snapshots_after(cursor.0).take(count).collect();
        if let Some(last) = snapshots.last() {
            cursor.0 = last.number;
        }
        snapshots
    }
}
