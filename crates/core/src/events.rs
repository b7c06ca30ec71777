//! What happens to streams: one value for each change, published after the table is unlocked.
//!
//! Subscribers run in the task that made the change, so they must not block. Two tasks may publish in another order than their changes
//! happened.

use std::time::Duration;

use rendezvous_protocol::Side;

use crate::outcome::Outcome;
use crate::rendezvous::Snapshot;

/// One change of a stream.
#[derive(Debug, Clone)]
pub struct Event {
    /// The stream as the change left it.
    pub stream: Snapshot,
    /// What changed.
    pub change: Change,
}

/// What changes of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was created.
    Created,
    /// This side waits for the other.
    Waiting(Side),
    /// This side left while it waited.
    Left(Side),
    /// Both sides are connected, so long after the stream was created.
    Paired {
        /// From the creation to the pairing.
        wait: Duration,
    },
    /// A client reported an error of this status before any side had connected: the next to connect gets it.
    Reported {
        /// The status: 400–599.
        status: u16,
    },
    /// It has ended.
    Ended {
        /// How.
        outcome: Outcome,
        /// From the pairing to the end, if its sides had paired.
        duration: Option<Duration>,
    },
}

/// Is told of every change of every stream.
pub trait Subscriber: Send + Sync {
    /// Takes note of `event`. Called without the table's lock, in the task that made the change.
    fn publish(&self, event: &Event);
}
