//! The list of all streams as JSON, generated in parts while the client reads them.
//!
//! *Concurrency.* The table is locked for one batch of [`BATCH`] streams at a time.
//!
//! *Bounds.* For any number of streams, a list needs the memory of one part ([`PART`] bytes and one status object) and one batch.

use std::sync::Arc;
use std::vec::IntoIter;

use bytes::Bytes;
use rendezvous_core::budget::Reservation;
use rendezvous_core::rendezvous::Cursor;
use rendezvous_core::snapshot::Snapshot;

use super::status::status;
use crate::request_body::Rendezvous;

/// The size of a part in bytes. A part is longer by at most one status object.
pub(crate) const PART: usize = 64 * 1024;
/// The number of streams that are read from the table under one lock.
const BATCH: usize = 64;

/// The list of all streams, oldest first. It may or may not contain streams that are created or forgotten meanwhile.
pub(crate) struct Listing {
    rendezvous: Arc<Rendezvous>,
    cursor: Cursor,
    batch: IntoIter<Snapshot>,
    is_started: bool,
    is_finished: bool,
    _reservation: Option<Reservation>,
}

impl Listing {
    /// Starts a list. Nothing is read from the table before the first part.
    pub(crate) fn new(rendezvous: &Arc<Rendezvous>) -> Self {
        Self {
            rendezvous: Arc::clone(rendezvous),
            cursor: Cursor::default(),
            batch: IntoIter::default(),
            is_started: false,
            is_finished: false,
            _reservation: None,
        }
    }

    /// Holds the reservation of its memory until the list is dropped.
    pub(crate) fn with(self, reserved: Reservation) -> Self {
        Self { _reservation: Some(reserved), ..self }
    }

    /// Whether [`Listing::next_part`] has returned the last part.
    pub(crate) fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Returns the next part.
    ///
    /// # Errors
    /// If a status cannot be serialized, which is a defect.
    pub(crate) fn next_part(&mut self) -> serde_json::Result<Bytes> {
        let mut part = Vec::new();
        while part.len() < PART && !self.is_finished {
            let next = self.next_snapshot();
            match (&next, self.is_started) {
                (_, false) => part.push(b'['),
                (Some(_), true) => part.push(b','),
                (None, true) => {}
            }
            self.is_started = true;
            if let Some(snapshot) = next {
                serde_json::to_writer(&mut part, &status(&snapshot))?;
            } else {
                part.push(b']');
                self.is_finished = true;
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
