//! The debug log: one line for each change of a stream.

use rendezvous_core::events::{Change, Event, Subscriber};
use tracing::{Level, debug, enabled};

/// Writes each change to the log, where that is wanted. Ids are shortened.
pub(crate) struct Log;

impl Subscriber for Log {
    fn publish(&self, event: &Event) {
        if !enabled!(target: "access", Level::DEBUG) {
            return;
        }
        let id = event.stream.id.short();
        match &event.change {
            Change::Created => debug!(target: "access", stream = %id, "created"),
            Change::Waiting(side) => debug!(target: "access", stream = %id, "{side} waits"),
            Change::Left(side) => debug!(target: "access", stream = %id, "{side} left while it waited"),
            Change::Paired { .. } => debug!(target: "access", stream = %id, "streaming"),
            Change::Reported { status } => {
                debug!(target: "access", stream = %id, "error {status} reported by a client");
            }
            Change::Ended { outcome, duration: None } => debug!(target: "access", stream = %id, "{outcome}"),
            Change::Ended { outcome, duration: Some(_) } => {
                debug!(target: "access", stream = %id, bytes = event.stream.bytes_transferred, "{outcome}");
            }
        }
    }
}
