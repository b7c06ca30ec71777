//! The list of all streams as JSON, written a part at a time as the client takes it: neither its memory nor the time for which the table
//! is locked grows with the number of streams.

use std::sync::Arc;
use std::vec::IntoIter;

use bytes::Bytes;
use rendezvous_core::budget::Reservation;
use rendezvous_core::rendezvous::{Cursor, Snapshot};

use super::status::status;
use crate::request_body::Rendezvous;

/// Bytes of a part, to which the status of one stream is added.
pub(crate) const PART: usize = 64 * 1024;
/// Streams that are looked up at a time, while the table is locked.
const BATCH: usize = 64;

/// The list of all streams, oldest first. Those that are created or forgotten while it is written may be in it or not.
pub(crate) struct Listing {
    rendezvous: Arc<Rendezvous>,
    cursor: Cursor,
    batch: IntoIter<Snapshot>,
    is_begun: bool,
    is_over: bool,
    _reserved: Option<Reservation>,
}

impl Listing {
    pub(crate) fn new(rendezvous: &Arc<Rendezvous>) -> Self {
        Self {
            rendezvous: Arc::clone(rendezvous),
            cursor: Cursor::default(),
            batch: IntoIter::default(),
            is_begun: false,
            is_over: false,
            _reserved: None,
        }
    }

    /// Keeps the reservation of its memory.
    pub(crate) fn with(self, reserved: Reservation) -> Self {
        Self { _reserved: Some(reserved), ..self }
    }

    /// Whether the last part was made.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Makes the next part.
    ///
    /// # Errors
    /// A status cannot be written as JSON, which is a defect.
    pub(crate) fn next_part(&mut self) -> serde_json::Result<Bytes> {
        let mut part = Vec::new();
        while part.len() < PART && !self.is_over {
            let next = self.next_snapshot();
            match (&next, self.is_begun) {
                (_, false) => part.push(b'['),
                (Some(_), true) => part.push(b','),
                (None, true) => {}
            }
            self.is_begun = true;
            match next {
                Some(snapshot) => serde_json::to_writer(&mut part, &status(&snapshot))?,
                None => {
                    part.push(b']');
                    self.is_over = true;
                }
            }
        }
        Ok(part.into())
    }

    fn next_snapshot(&mut self) -> Option<Snapshot> {
        if self.batch.len() == 0 {
            self.batch = self.rendezvous.snapshots(&mut self.cursor, BATCH).into_iter();
        }
        self.batch.next()
    }
}
