//! Snapshots: copies of the visible state of streams, for the status routes and for events.

use std::sync::Arc;
use std::time::SystemTime;

use rendezvous_protocol::{Side, StreamId};

use super::Rendezvous;
use crate::header_set::StreamHeaders;
use crate::outcome::Outcome;

/// The visible state of a stream at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The id of the stream.
    pub id: StreamId,
    /// When the stream was created.
    pub created_at: SystemTime,
    /// When the stream ended, or when an error was reported.
    pub deactivated_at: Option<SystemTime>,
    /// The state.
    pub state: SnapshotState,
    /// The header sets that the stream was created with.
    pub headers: Arc<StreamHeaders>,
    /// Body bytes passed on so far.
    pub bytes_transferred: u64,
    /// The position in the order of creation.
    pub(super) number: u64,
}

/// The state of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotState {
    /// Neither side is connected.
    Created,
    /// This side waits for the other.
    Waiting(Side),
    /// Both sides are connected.
    Streaming,
    /// The stream has ended, or an error was reported that no side has received yet.
    Ended(Outcome),
}

impl Snapshot {
    /// Returns whether the stream has neither ended nor a report, so that a `HEAD` gets 200 and not 404.
    #[must_use]
    pub fn is_connectable(&self) -> bool {
        !matches!(self.state, SnapshotState::Ended(_))
    }
}

/// A position in the list of all streams, oldest first.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cursor(u64);

impl<B> Rendezvous<B> {
    /// Returns a snapshot of one stream. `None` if it is unknown or was forgotten after its end.
    #[must_use]
    pub fn snapshot(&self, id: &StreamId) -> Option<Snapshot> {
        self.table.lock().entry(id).map(super::table::Entry::snapshot)
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
