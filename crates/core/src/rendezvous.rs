//! The table of all streams. Sides connect here, wait, and are paired.
//!
//! [`Rendezvous`] is shared by all connections. `B` is the type of a source's body, which the table passes to the
//! destination unread.
//!
//! *Invariants.* A seat has at most one holder. Dropping a waiting [`Seat`] frees it. A side that has disconnected, as far as
//! the kernel knows, is never paired.
//!
//! *Concurrency.* One lock guards the table. It is held for map operations and for a query of the kernel about one
//! connection, never across an await. Feeds get their snapshots while it is held; subscribers and waiting sides are notified after
//! it is released. One task runs [`Rendezvous::run_timers`], which ends waits, expires and forgets streams, and wakes subscribers in turn.
//!
//! *Bounds.* At most [`Limits::max_streams`] streams that have not ended, and as many that have.

mod admission;
mod census;
mod changes;
mod deadlines;
mod entry;
#[cfg(all(test, shuttle))]
mod interleavings;
mod seats;
mod snapshots;
mod table;
mod waiting;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rendezvous_protocol::{StreamId, StreamName, Tag};
use tokio::sync::Notify;

pub use self::census::{Census, Censuses};
use self::changes::Changes;
use self::entry::{Entry, Number};
pub use self::seats::{Seat, SeatRequest};
use self::table::Table;
pub use self::waiting::Presence;
use self::waiting::refuse;
use crate::budget::Reservation;
use crate::clients::Permit;
use crate::events::{Change, Subscriber};
use crate::feed::Turns;
use crate::header_set::StreamHeaders;
use crate::outcome::{Outcome, Report, SeatError, TooMany};
use crate::slot::Phase;
use crate::token::{AuthError, Credential, RequiredToken, Tokens};
use crate::transfer::{self, DestinationHalf, Observer, Offer, SourceHalf, Transfer};

/// The limits of a rendezvous.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a stream waits for both sides by default, counted from its creation; and how long each stays visible after its end.
    pub ttl: Duration,
    /// The limits of each transfer.
    pub transfer: transfer::Limits,
    /// Limit on the streams that have not ended. As many ended streams stay visible; over that, the oldest are forgotten
    /// early.
    pub max_streams: usize,
}

/// The table of all streams.
pub struct Rendezvous<B> {
    limits: Limits,
    /// The ids of new streams begin with it.
    tag: Mutex<Tag>,
    table: Mutex<Table<B>>,
    subscribers: Vec<Arc<dyn Subscriber>>,
    /// Shared by all streams without header sets, which are most streams.
    no_headers: Arc<StreamHeaders>,
    /// Body bytes passed on by all transfers.
    body_bytes: Arc<AtomicU64>,
    /// Wakes the timer task when the earliest deadline has become earlier.
    earlier_deadline: Notify,
    /// Wakes [`Rendezvous::wait_until`] when a stream has ended or a side has left.
    counts_decreased: Notify,
    /// Wakes subscribers of feeds.
    turns: Arc<Turns>,
}

/// The value that a destination receives when the sides have paired.
pub struct Pairing<B> {
    /// The destination's half of the transfer.
    pub half: DestinationHalf,
    /// The source's body and its description.
    pub offer: Box<Offer<B>>,
    /// Whether the source may have left while it waited. The relay then checks its presence.
    pub source_may_have_left: bool,
}

/// The properties of a stream to be created.
#[derive(Debug, Default)]
pub struct NewStream {
    /// The header sets of the two responses. Default: none.
    pub headers: StreamHeaders,
    /// The tokens of its sides. Default: none, so the id alone authorizes both sides.
    pub tokens: Option<Tokens>,
    /// The memory of the header sets, held until the stream is forgotten.
    pub reserved: Option<Reservation>,
    /// How long it waits for both sides, counted from now. Default: [`Limits::ttl`].
    pub ttl: Option<Duration>,
}

impl<B: Send + 'static> Rendezvous<B> {
    /// Creates an empty table, and draws the tag of its ids. Each change is published to all `subscribers`.
    #[must_use]
    pub fn new(limits: Limits, subscribers: Vec<Arc<dyn Subscriber>>) -> Arc<Self> {
        let turns = Arc::default();
        Arc::new(Self {
            limits,
            tag: Mutex::new(Tag::draw()),
            table: Mutex::new(Table::new(limits, Arc::clone(&turns))),
            subscribers,
            no_headers: Arc::default(),
            body_bytes: Arc::default(),
            earlier_deadline: Notify::new(),
            counts_decreased: Notify::new(),
            turns,
        })
    }

    /// Returns the tag with which the ids of new streams begin.
    #[must_use]
    pub fn tag(&self) -> Tag {
        *self.tag.lock()
    }

    /// Sets the tag with which the ids of new streams begin.
    pub fn mint(&self, tag: Tag) {
        *self.tag.lock() = tag;
    }

    /// Creates a stream that waits for both sides.
    ///
    /// `permit` is called with the table locked, and only if there is room for the stream, so that a refusal does not count
    /// against the quotas of its creator. The stream holds the permit until it ends.
    ///
    /// # Errors
    /// [`SeatError::TooManyStreams`] at [`Limits::max_streams`], [`SeatError::ShuttingDown`] after [`Rendezvous::drain`],
    /// and the error of `permit`.
    pub fn create(
        &self,
        mut new: NewStream,
        permit: impl FnOnce() -> Result<Option<Permit>, TooMany>,
    ) -> Result<StreamId, SeatError> {
        let id = StreamId::mint(self.tag());
        let headers = std::mem::take(&mut new.headers);
        let headers = if headers.memory() == 0 { Arc::clone(&self.no_headers) } else { Arc::new(headers) };
        let name = StreamName::Id(id.clone());
        self.change(|table, changes| table.create(name, headers, new, permit, changes))?;
        Ok(id)
    }

    /// Checks the credential of a request against the tokens of a stream, and changes nothing. A stream without tokens
    /// accepts any request. So does an unknown one: the request then fails with [`SeatError::NotFound`].
    ///
    /// # Errors
    /// [`AuthError`] as [`Tokens::check`].
    pub fn authorize(
        &self,
        id: &StreamId,
        required: RequiredToken,
        credential: Option<Credential<'_>>,
    ) -> Result<(), AuthError> {
        let table = self.table.lock();
        let tokens = table.find(&StreamName::Id(id.clone())).and_then(Entry::tokens);
        tokens.map_or(Ok(()), |tokens| tokens.check(required, credential))
    }

    /// Reports an error to the waiting side, or to the next side to connect. The stream holds `reserved`, the memory of the
    /// report, until it is forgotten.
    ///
    /// # Errors
    /// [`SeatError::NotFound`] if the stream is unknown or expired, [`SeatError::AlreadyStarted`] if it has paired, ended
    /// or been reported before.
    pub fn report(
        &self,
        id: &StreamId,
        report: Report,
        reserved: Option<Reservation>,
    ) -> Result<(), SeatError> {
        let report = Arc::new(report);
        let waiter = self.change(|table, changes| {
            let stream = Self::find_reportable(table, id)?;
            let Some((entry, reported)) = table.update(stream, |slot| slot.report(Arc::clone(&report)))
            else {
                return Err(SeatError::NotFound);
            };
            let waiter = reported?;
            entry.set_reported(reserved);
            if waiter.is_some() {
                table.retain(stream, changes);
            } else {
                changes.push(entry, Change::Reported { status: report.status });
            }
            Ok(waiter)
        })?;
        self.counts_decreased.notify_one();
        if let Some(waiter) = waiter {
            refuse(waiter, SeatError::Reported(report));
        }
        Ok(())
    }

    /// Checks whether an error can still be reported, before its body is read.
    ///
    /// # Errors
    /// As [`Rendezvous::report`].
    pub fn check_reportable(&self, id: &StreamId) -> Result<(), SeatError> {
        Self::find_reportable(&self.table.lock(), id).map(drop)
    }

    fn find_reportable(table: &Table<B>, id: &StreamId) -> Result<Number, SeatError> {
        let entry = table.find(&StreamName::Id(id.clone())).ok_or(SeatError::NotFound)?;
        match entry.slot.phase() {
            Phase::Ended(Outcome::Expired { .. }) => Err(SeatError::NotFound),
            Phase::Created | Phase::Waiting(_) => Ok(entry.number),
            Phase::Streaming | Phase::Reported(_) | Phase::Ended(_) => Err(SeatError::AlreadyStarted),
        }
    }

    /// Returns the body bytes that all transfers have passed on.
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes.load(Ordering::Relaxed)
    }

    /// Starts the transfer of a stream. A path is free again once the body was read, before the destination can have its last byte.
    fn start_transfer(
        self: &Arc<Self>,
        stream: Number,
        headers: Arc<StreamHeaders>,
        is_path: bool,
    ) -> (SourceHalf, DestinationHalf) {
        let rendezvous = Arc::clone(self);
        let on_release = is_path.then(|| {
            let rendezvous = Arc::clone(self);
            Box::new(move || rendezvous.change(|table, _| table.release(stream))) as _
        });
        let on_end = Box::new(move |outcome: &Outcome| rendezvous.settle(stream, outcome));
        let observer = Observer { on_release, on_end };
        Transfer::start(headers, self.limits.transfer, Arc::clone(&self.body_bytes), observer)
    }

    fn settle(&self, stream: Number, outcome: &Outcome) {
        self.change(|table, changes| {
            if let Some((_, true)) = table.update(stream, |slot| slot.settle(outcome.clone())) {
                table.retain(stream, changes);
            }
        });
        self.counts_decreased.notify_one();
    }

    /// Changes the table under its lock. Publishes the changes and wakes the subscribers of feeds after the lock is released.
    fn change<T>(&self, change: impl FnOnce(&mut Table<B>, &mut Changes) -> T) -> T {
        let (result, is_earlier, changes) = {
            let mut table = self.table.lock();
            let mut changes = Changes::new(!self.subscribers.is_empty(), table.feed_of_all());
            let before = table.next_deadline();
            let result = change(&mut table, &mut changes);
            let after = table.next_deadline();
            (result, after.is_some_and(|after| before.is_none_or(|before| after < before)), changes)
        };
        if is_earlier {
            self.earlier_deadline.notify_one();
        }
        let (events, wakers) = changes.into_parts();
        self.turns.wake(wakers);
        for event in events {
            for subscriber in &self.subscribers {
                subscriber.publish(&event);
            }
        }
        result
    }
}
