//! The list of all streams as JSON, generated in parts while the client reads them.
//!
//! *Concurrency.* The table is locked for one batch of [`BATCH`] streams at a time.
//!
//! *Bounds.* For any number of streams, an unfinished list holds [`MEMORY`] bytes at most, and no stream.

use std::sync::Arc;

use bytes::Bytes;
use rendezvous_core::budget::Reservation;
use rendezvous_core::snapshot::Cursor;
use tokio::task::yield_now;

use super::status::status;
use crate::request_body::Rendezvous;

/// The largest size of a part in bytes. Only a part with a single status object may be larger.
const PART: usize = 64 * 1024;
/// The bytes that an unfinished list may hold: a part and the send buffer of its connection. Header sets and a report make a status object of
/// at most twice [`PART`].
pub(crate) const MEMORY: u64 = 4 * PART as u64;
/// The number of streams that are read from the table under one lock.
const BATCH: usize = 64;

/// The list of all streams, oldest first. It may or may not contain streams that are created or forgotten meanwhile.
pub(crate) struct Listing {
    rendezvous: Arc<Rendezvous>,
    /// The last stream that was written.
    cursor: Cursor,
    is_started: bool,
    is_finished: bool,
    /// The first part, until it is returned.
    first: Option<Bytes>,
    _reservation: Option<Reservation>,
    is_truncated: bool,
}

impl Listing {
    /// Starts a list. Nothing is read from the table before the first part.
    pub(crate) fn new(rendezvous: &Arc<Rendezvous>) -> Self {
        Self {
            rendezvous: Arc::clone(rendezvous),
            cursor: Cursor::default(),
            is_started: false,
            is_finished: false,
            first: None,
            _reservation: None,
            is_truncated: false,
        }
    }

    /// Like [`Listing::new`], of the newest `count` streams.
    pub(crate) fn newest(rendezvous: &Arc<Rendezvous>, count: usize) -> Self {
        let before = rendezvous.position_before_newest(count);
        let is_truncated = before.is_some();
        Self { cursor: before.unwrap_or_default(), is_truncated, ..Self::new(rendezvous) }
    }

    /// Whether older streams are left out.
    pub(crate) fn is_truncated(&self) -> bool {
        self.is_truncated
    }

    /// Puts the first part back, and holds the reservation of the memory of the list until it is dropped.
    pub(crate) fn resumed(self, first: Bytes, reserved: Reservation) -> Self {
        Self { first: Some(first), _reservation: Some(reserved), ..self }
    }

    /// Whether the last part was returned.
    pub(crate) fn is_finished(&self) -> bool {
        self.is_finished
    }

    /// Returns the first part.
    ///
    /// # Errors
    /// If a status cannot be serialized, which is a defect.
    pub(crate) fn first_part(&mut self) -> serde_json::Result<Bytes> {
        let mut part = Vec::with_capacity(PART);
        while !self.add_batch(&mut part)? {}
        Ok(part.into())
    }

    /// Returns the next part. It yields before each batch, because a client that reads as fast as it is written would otherwise keep the
    /// thread, and the tasks that this thread has woken, for the whole list.
    ///
    /// # Errors
    /// As [`Listing::first_part`].
    pub(crate) async fn next_part(&mut self) -> serde_json::Result<Bytes> {
        if let Some(first) = self.first.take().filter(|first| !first.is_empty()) {
            return Ok(first);
        }
        let mut part = Vec::with_capacity(PART);
        loop {
            yield_now().await;
            if self.add_batch(&mut part)? {
                return Ok(part.into());
            }
        }
    }

    /// Adds up to [`BATCH`] streams to a part. Returns whether the part is complete.
    fn add_batch(&mut self, part: &mut Vec<u8>) -> serde_json::Result<bool> {
        let batch = self.rendezvous.snapshots(self.cursor, BATCH);
        if batch.is_empty() {
            part.extend_from_slice(if self.is_started { b"]" } else { b"[]" });
            self.is_finished = true;
        }
        for snapshot in batch {
            let length = part.len();
            part.push(if self.is_started { b',' } else { b'[' });
            serde_json::to_writer(&mut *part, &status(&snapshot))?;
            if part.len() > PART && length > 0 {
                // It begins the next part.
                part.truncate(length);
                part.shrink_to_fit();
                return Ok(true);
            }
            self.is_started = true;
            self.cursor = snapshot.position;
        }
        Ok(self.is_finished)
    }
}
