//! Events: one for each change of a stream, published after the table is unlocked.
//!
//! Subscribers run in the task that made the change, so they must not block. Events of two tasks may be published in another
//! order than their changes. Without subscribers no event is built.

use std::time::Duration;

use rendezvous_protocol::Side;

use crate::outcome::Outcome;
use crate::snapshot::Snapshot;

/// One change of one stream.
#[derive(Debug, Clone)]
pub struct Event {
    /// The stream after the change.
    pub stream: Snapshot,
    /// The change.
    pub change: Change,
}

/// The kind of a change, with its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The stream was created.
    Created,
    /// This side connected and waits for the other.
    Waiting(Side),
    /// This side disconnected while it waited. Its seat is free again.
    Left(Side),
    /// Both sides are connected, and the transfer has started.
    Paired {
        /// Time from the creation of the stream to the pairing.
        wait: Duration,
    },
    /// A client reported an error before either side connected. The next side to connect receives it.
    Reported {
        /// The status of the error, 400–599.
        status: u16,
    },
    /// The stream ended.
    Ended {
        /// How it ended.
        outcome: Outcome,
        /// Time from the pairing to the end. `None` if the sides never paired.
        duration: Option<Duration>,
    },
}

/// Receives every change of every stream.
pub trait Subscriber: Send + Sync {
    /// Handles one event. Called in the task that made the change, without the table's lock; it must not block.
    fn publish(&self, event: &Event);
}
