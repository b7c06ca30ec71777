//! Snapshots: copies of the visible state of streams, for the status routes and for events.

use std::sync::Arc;
use std::time::SystemTime;

use rendezvous_protocol::{Side, StreamName};

use crate::header_set::StreamHeaders;
use crate::outcome::Outcome;

/// The visible state of a stream at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The name of the stream.
    pub name: StreamName,
    /// How often the state has changed, from 1.
    pub version: u64,
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
    /// The position in the list of all streams.
    pub position: Cursor,
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
    /// Returns whether the stream has ended, or has a report that no side has received yet. Its state then stays.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self.state, SnapshotState::Ended(_))
    }

    /// Returns an upper bound of the memory of its header sets and its report in bytes.
    #[must_use]
    pub(crate) fn memory(&self) -> u64 {
        let report = match &self.state {
            SnapshotState::Ended(Outcome::Reported(report)) => report.memory(),
            _ => 0,
        };
        self.headers.memory() + report
    }
}

/// A position in the list of all streams, oldest first. The default is before the first stream.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cursor(pub(crate) u64);
