//! The table of streams: where the sides of a stream meet.
//!
//! [`Rendezvous`] is shared by all connections. One lock guards the table; it is held for map operations and a look at a connection only,
//! never across an await, and nothing is sent or published while it is held. Waiting sides hold a [`Seat`]: dropping it frees the seat. One
//! task, [`Rendezvous::keep_time`], expires what waited too long and forgets what ended.
//!
//! `B` is the body of a source, which the table only hands over.
//!
//! Bounds: at most `max_streams` streams that have not ended, and as many that have.

mod admission;
mod census;
mod deadlines;
#[cfg(all(test, shuttle))]
mod interleavings;
mod seats;
mod snapshot;
mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rendezvous_protocol::StreamId;
use tokio::sync::Notify;

use self::admission::AdmissionState;
pub use self::census::Census;
use self::seats::refuse;
pub use self::seats::{Presence, Seat};
pub use self::snapshot::{Cursor, Snapshot, SnapshotState};
use self::table::{Changes, Table};
use crate::budget::Reservation;
use crate::clients::Place;
use crate::events::{Change, Subscriber};
use crate::header_set::StreamHeaders;
use crate::outcome::{Outcome, Report, SeatError, TooMany};
use crate::slot::Phase;
use crate::token::{AuthError, Credential, Needed, Tokens};
use crate::transfer::{self, DestinationHalf, Offer, SourceHalf, Transfer};

/// The limits of a rendezvous.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a stream waits for both sides, and how long it stays visible after its end.
    pub ttl: Duration,
    /// The limits of each transfer.
    pub transfer: transfer::Limits,
    /// Streams at a time that have not ended.
    pub max_streams: usize,
}

/// The table of all streams.
pub struct Rendezvous<B> {
    limits: Limits,
    table: Mutex<Table<B>>,
    subscribers: Vec<Arc<dyn Subscriber>>,
    /// Shared by all streams without header sets, which are most.
    no_headers: Arc<StreamHeaders>,
    /// Body bytes that all transfers have passed on.
    body_bytes: Arc<AtomicU64>,
    /// There is an earlier deadline than before.
    earlier_deadline: Notify,
    /// A stream has ended, or a side has left: what a drain waits for.
    abandoned: Notify,
}

/// What a destination gets when the sides have paired.
pub struct Meeting<B> {
    /// Its hold on the transfer.
    pub half: DestinationHalf,
    /// What the source brought.
    pub offer: Box<Offer<B>>,
    /// The source may have left while it waited.
    pub is_source_in_doubt: bool,
}

/// What a stream is created with.
#[derive(Debug, Default)]
pub struct NewStream {
    /// The header sets.
    pub headers: StreamHeaders,
    /// The tokens of its sides, where each is to have its own.
    pub tokens: Option<Tokens>,
    /// The memory of the header sets, until the stream is forgotten.
    pub reserved: Option<Reservation>,
}

impl<B: Send + 'static> Rendezvous<B> {
    /// An empty table, whose changes are published to `subscribers`.
    #[must_use]
    pub fn new(limits: Limits, subscribers: Vec<Arc<dyn Subscriber>>) -> Arc<Self> {
        Arc::new(Self {
            limits,
            table: Mutex::new(Table::new(limits)),
            subscribers,
            no_headers: Arc::default(),
            body_bytes: Arc::default(),
            earlier_deadline: Notify::new(),
            abandoned: Notify::new(),
        })
    }

    /// Creates a stream that waits for both sides. `place` is called only if there is room for the stream, so a refusal uses up nothing of
    /// its creator's quotas. The stream keeps the place until it has ended.
    ///
    /// # Errors
    /// [`SeatError::TooManyStreams`] at `max_streams`, [`SeatError::ShuttingDown`] after [`Rendezvous::drain`], and those of `place`.
    pub fn create(
        &self,
        mut new: NewStream,
        place: impl FnOnce() -> Result<Option<Place>, TooMany>,
    ) -> Result<StreamId, SeatError> {
        let id = StreamId::mint();
        let headers = std::mem::take(&mut new.headers);
        let headers = if headers.memory() == 0 { Arc::clone(&self.no_headers) } else { Arc::new(headers) };
        self.change(|table, changes| {
            if table.admission != AdmissionState::Open {
                return Err(SeatError::ShuttingDown);
            }
            if table.census.alive() >= self.limits.max_streams {
                return Err(SeatError::TooManyStreams);
            }
            let place = place()?;
            table.insert(&id, headers, new, place, changes);
            Ok(())
        })?;
        Ok(id)
    }

    /// Whether `given` authorizes what needs such a token of this stream. Asked before all else, and affects nothing. An unknown stream has
    /// no tokens: the request that follows gets that it is unknown.
    ///
    /// # Errors
    /// [`AuthError`]
    pub fn authorize(
        &self,
        id: &StreamId,
        needed: Needed,
        given: Option<Credential<'_>>,
    ) -> Result<(), AuthError> {
        let table = self.table.lock();
        let tokens = table.entry(id).and_then(table::Entry::tokens);
        tokens.map_or(Ok(()), |tokens| tokens.check(needed, given))
    }

    /// Reports an error, for the side that waits or the next to connect. Its memory is `reserved` until the stream is forgotten.
    ///
    /// # Errors
    /// [`SeatError::NotFound`], or [`SeatError::AlreadyStarted`] while the stream is retained.
    pub fn report(
        &self,
        id: &StreamId,
        report: Report,
        reserved: Option<Reservation>,
    ) -> Result<(), SeatError> {
        let report = Arc::new(report);
        let waiter = self.change(|table, changes| {
            Self::check_reportable_in(table, id)?;
            let Some((entry, reported)) = table.update(id, |slot| slot.report(Arc::clone(&report))) else {
                return Err(SeatError::NotFound);
            };
            let waiter = reported?;
            entry.reported(reserved);
            if waiter.is_some() {
                table.retain(id, changes);
            } else {
                changes.push(entry, Change::Reported { status: report.status });
            }
            Ok(waiter)
        })?;
        self.abandoned.notify_one();
        if let Some(waiter) = waiter {
            refuse(waiter, SeatError::Reported(report));
        }
        Ok(())
    }

    /// Whether a report could still be delivered, so that its body is worth reading.
    ///
    /// # Errors
    /// As [`Rendezvous::report`].
    pub fn check_reportable(&self, id: &StreamId) -> Result<(), SeatError> {
        Self::check_reportable_in(&self.table.lock(), id)
    }

    fn check_reportable_in(table: &Table<B>, id: &StreamId) -> Result<(), SeatError> {
        match table.entry(id).map(|entry| entry.slot.phase()) {
            None | Some(Phase::Ended(Outcome::Expired { .. })) => Err(SeatError::NotFound),
            Some(Phase::Created | Phase::Waiting(_)) => Ok(()),
            Some(_) => Err(SeatError::AlreadyStarted),
        }
    }

    /// Body bytes that all transfers have passed on so far.
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes.load(Ordering::Relaxed)
    }

    fn start_transfer(
        self: &Arc<Self>,
        id: &StreamId,
        headers: Arc<StreamHeaders>,
    ) -> (SourceHalf, DestinationHalf) {
        let (rendezvous, id) = (Arc::clone(self), id.clone());
        let on_end = Box::new(move |outcome: &Outcome| rendezvous.settle(&id, outcome));
        Transfer::start(headers, self.limits.transfer, Arc::clone(&self.body_bytes), on_end)
    }

    fn settle(&self, id: &StreamId, outcome: &Outcome) {
        self.change(|table, changes| {
            if let Some((_, true)) = table.update(id, |slot| slot.settle(outcome.clone())) {
                table.retain(id, changes);
            }
        });
        self.abandoned.notify_one();
    }

    /// Changes the table, and publishes what that changed once the table is unlocked.
    fn change<T>(&self, change: impl FnOnce(&mut Table<B>, &mut Changes) -> T) -> T {
        let mut changes = Changes::new(!self.subscribers.is_empty());
        let (changed, is_earlier) = {
            let mut table = self.table.lock();
            let before = table.next_deadline();
            let changed = change(&mut table, &mut changes);
            let after = table.next_deadline();
            (changed, after.is_some_and(|after| before.is_none_or(|before| after < before)))
        };
        if is_earlier {
            self.earlier_deadline.notify_one();
        }
        for event in changes.into_events() {
            for subscriber in &self.subscribers {
                subscriber.publish(&event);
            }
        }
        changed
    }
}
