//! What can be seen of streams from outside.

use std::sync::Arc;
use std::time::SystemTime;

use rendezvous_protocol::{Side, StreamId};

use super::Rendezvous;
use crate::header_set::StreamHeaders;
use crate::outcome::Outcome;

/// What can be seen of a stream.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its id.
    pub id: StreamId,
    /// When it was created.
    pub created_at: SystemTime,
    /// When it ended, or an error was reported.
    pub deactivated_at: Option<SystemTime>,
    /// Its state.
    pub state: SnapshotState,
    /// The header sets that it was created with.
    pub headers: Arc<StreamHeaders>,
    /// Body bytes passed on so far.
    pub bytes_transferred: u64,
    /// Its place in the order of creation.
    pub(super) number: u64,
}

/// The state of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotState {
    /// No side is connected.
    Created,
    /// This side waits for the other.
    Waiting(Side),
    /// Both sides are connected.
    Streaming,
    /// It has ended, or an error was reported that no side has received yet.
    Ended(Outcome),
}

impl Snapshot {
    /// Whether a GET or PUT might still get something other than 404.
    #[must_use]
    pub fn is_connectable(&self) -> bool {
        !matches!(self.state, SnapshotState::Ended(_))
    }
}

/// A position in the list of all streams, oldest first.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cursor(u64);

impl<B> Rendezvous<B> {
    /// What can be seen of one stream, also after its end while it is retained.
    #[must_use]
    pub fn snapshot(&self, id: &StreamId) -> Option<Snapshot> {
        self.table.lock().entry(id).map(super::table::Entry::snapshot)
    }

    /// At most `count` streams behind `cursor`, oldest first, and moves it behind them; none at the end. The table is unlocked between two
    /// calls, so streams that are created or forgotten meanwhile may be in the list or not.
    #[must_use]
    pub fn snapshots(&self, cursor: &mut Cursor, count: usize) -> Vec<Snapshot> {
        let snapshots: Vec<_> = self.table.lock().entries_after(cursor.0).take(count).collect();
        if let Some(last) = snapshots.last() {
            cursor.0 = last.number;
        }
        snapshots
    }
}
