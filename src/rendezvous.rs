//! The table of slots: where the sides of a stream find each other.
//!
//! [`Rendezvous`] is shared by all connections. One lock guards the table; it is held for map operations
//! and a look at a connection only, never across an await, and nothing is told to anybody while it is held. Waiting sides hold a
//! [`Seat`]: dropping it frees the seat. One task, [`Rendezvous::keep_time`], expires what waited too long
//! and forgets what ended.
//!
//! A side's own task notices that the side has left only a moment after the kernel. So a side that comes looks at the connection of
//! the side that waits, and before a pairing at its own: no side is paired of which the kernel knows that it has left.
//!
//! Bounds: at most `max_streams` streams that have not ended, and as many that have.

#[cfg(all(test, shuttle))]
mod interleavings;

use std::collections::{BTreeMap, HashMap};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tracing::{Span, debug, debug_span};

use crate::budget::Reservation;
use crate::clients::Place;
use crate::config::Size;
use crate::header_set::StreamHeaders;
use crate::id::StreamId;
use crate::metrics::{Census, Metrics};
use crate::outcome::{Fault, Outcome, Report, SeatError, Side, TooMany};
use crate::relay::{self, DestinationHalf, Offer, SourceHalf, Transfer};
use crate::slot::{self, Phase, Waiter};
use crate::token::{AuthError, Credential, Needed, Tokens};
use crate::wire::Wire;

/// The limits of a rendezvous.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long a stream waits for both sides, and how long it stays visible after its end.
    pub ttl: Duration,
    /// The limits of each transfer.
    pub transfer: relay::Limits,
    /// Streams at a time that have not ended.
    pub max_streams: usize,
}

/// The table of all streams.
pub struct Rendezvous {
    limits: Limits,
    metrics: Arc<Metrics>,
    table: Mutex<Table>,
    /// What most streams are made with: no header sets.
    bare: Arc<StreamHeaders>,
    /// Something has got a deadline while there was none.
    deadline_set: Notify,
    /// A stream has ended, or a side has left: what a drain waits for.
    abandoned: Notify,
}

/// What a destination finds when the sides have paired.
pub struct Meeting {
    /// Its hold on the transfer.
    pub half: DestinationHalf,
    /// What the source brought.
    pub offer: Box<Offer>,
    /// The source may have left while it waited.
    pub is_source_in_doubt: bool,
}

/// Told to a waiting side: whom it met, or why it waits no longer.
type Verdict<M> = Result<M, SeatError>;

/// The connection that a side comes by.
pub trait Presence: Send + Sync {
    /// Whether the kernel knows already that this side has left. Asked with the table locked, so it must not wait.
    fn has_left(&self, side: Side) -> bool;

    /// Whether the source may have left, as far as the kernel knows. Asked as [`Presence::has_left`].
    fn source_may_have_left(&self) -> bool;
}

impl Presence for Wire {
    fn has_left(&self, side: Side) -> bool {
        match side {
            Side::Source => self.source_has_left(),
            Side::Destination => self.destination_has_left(),
        }
    }

    fn source_may_have_left(&self) -> bool {
        self.source_may_have_left()
    }
}

struct WaitingSource {
    offer: Box<Offer>,
    tell: oneshot::Sender<Verdict<SourceHalf>>,
    presence: Arc<dyn Presence>,
}

struct WaitingDestination {
    tell: oneshot::Sender<Verdict<Meeting>>,
    presence: Arc<dyn Presence>,
}

type Slot = slot::Slot<WaitingSource, WaitingDestination>;
type Party = Waiter<WaitingSource, WaitingDestination>;
type PartyRef<'a> = Waiter<&'a WaitingSource, &'a WaitingDestination>;

/// Orders streams by deadline, and those of one deadline by age.
type Deadline = (Instant, u64);

#[derive(Default)]
struct Table {
    /// In boxes, so that the table grows by moving little, and has little room to spare.
    entries: HashMap<StreamId, Box<Entry>>,
    created: u64,
    expiring: BTreeMap<Deadline, StreamId>,
    retained: BTreeMap<Deadline, StreamId>,
    census: Census,
    doors: Doors,
}

/// Who may still come in.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Doors {
    /// Everybody.
    #[default]
    Open,
    /// Sides of the streams that there are.
    Draining,
    /// Nobody.
    Closed,
}

/// The streams of a census that are in this phase.
fn counted<'a>(census: &'a mut Census, phase: Phase<'_>) -> &'a mut usize {
    match phase {
        Phase::Created => &mut census.created,
        Phase::Waiting(Side::Source) => &mut census.source_waits,
        Phase::Waiting(Side::Destination) => &mut census.destination_waits,
        Phase::Streaming => &mut census.streaming,
        Phase::Reported(_) | Phase::Ended(_) => &mut census.ended,
    }
}

/// Does something to a slot, and counts it where it stands then.
fn follow<T>(census: &mut Census, slot: &mut Slot, change: impl FnOnce(&mut Slot) -> T) -> T {
    *counted(census, slot.phase()) -= 1;
    let changed = change(slot);
    *counted(census, slot.phase()) += 1;
    changed
}

/// Frees the seat of the side that waits, if that `is_absent`.
fn dismiss(
    census: &mut Census,
    slot: &mut Slot,
    is_absent: impl FnOnce(PartyRef<'_>) -> bool,
) -> Option<Party> {
    let waiter = slot.waiter()?;
    let side = waiter.side();
    if is_absent(waiter) { follow(census, slot, |slot| slot.leave(side)) } else { None }
}

/// The kernel knows that this side has left; its task may not have noticed yet.
fn has_left(party: PartyRef<'_>) -> bool {
    match party {
        Waiter::Source(source) => source.presence.has_left(Side::Source),
        Waiter::Destination(destination) => destination.presence.has_left(Side::Destination),
    }
}

/// The [`Seat`] of this side is being dropped.
fn has_given_up(party: PartyRef<'_>) -> bool {
    match party {
        Waiter::Source(source) => source.tell.is_closed(),
        Waiter::Destination(destination) => destination.tell.is_closed(),
    }
}

impl Party {
    fn sit(self, slot: &mut Slot) -> Result<Option<(WaitingSource, WaitingDestination)>, SeatError> {
        match self {
            Self::Source(source) => slot.seat_source(source),
            Self::Destination(destination) => slot.seat_destination(destination),
        }
    }
}

struct Entry {
    /// For whoever waits: what was parsed of the request can go then.
    id: StreamId,
    slot: Slot,
    number: u64,
    headers: Arc<StreamHeaders>,
    created_at: SystemTime,
    deactivated_at: Option<SystemTime>,
    deadline: Option<Instant>,
    /// Among the streams of who made it, until it has ended.
    place: Option<Place>,
    transfer: Option<Arc<Transfer>>,
    bytes: u64,
    /// In a box, because most streams have nothing of it.
    more: Option<Box<More>>,
}

/// What few streams have.
struct More {
    /// Those of its sides, where each is to have its own.
    tokens: Option<Tokens>,
    /// What happens to it is told in here, where somebody wants to know, until it has ended.
    span: Span,
    /// The memory of its header sets, and of an error that was reported.
    reserved: Vec<Reservation>,
}

/// What a stream is made with.
#[derive(Debug, Default)]
pub struct NewStream {
    /// The header sets.
    pub headers: StreamHeaders,
    /// Those of its sides, where each is to have its own.
    pub tokens: Option<Tokens>,
    /// The memory of the header sets, until the stream is forgotten.
    pub reserved: Option<Reservation>,
}

/// What can be seen of a stream.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its id.
    pub id: StreamId,
    /// When it was made.
    pub created_at: SystemTime,
    /// When it ended, or an error was reported.
    pub deactivated_at: Option<SystemTime>,
    /// Where it stands.
    pub state: SnapshotState,
    /// The header sets it was made with.
    pub headers: Arc<StreamHeaders>,
    /// Body bytes passed on so far.
    pub bytes_transferred: u64,
    number: u64,
}

/// Where a stream stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotState {
    /// Nobody waits.
    Created,
    /// This side waits for the other.
    Waiting(Side),
    /// Both are there.
    Streaming,
    /// It is over, or an error was reported that nobody has been told yet.
    Ended(Outcome),
}

impl Rendezvous {
    /// An empty table, whose streams are counted in `metrics`.
    #[must_use]
    pub fn new(limits: Limits, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            limits,
            metrics,
            table: Mutex::default(),
            bare: Arc::default(),
            deadline_set: Notify::new(),
            abandoned: Notify::new(),
        })
    }

    /// Makes a stream that waits for both sides. `place` is called only if there is room for the stream, so a refusal uses up nothing
    /// of its maker's quotas. The stream keeps the place until it has ended.
    ///
    /// # Errors
    /// [`SeatError::TooManyStreams`] at `max_streams`, [`SeatError::ShuttingDown`] after [`Rendezvous::drain`], and those of `place`.
    pub fn create(
        &self,
        new: NewStream,
        place: impl FnOnce() -> Result<Option<Place>, TooMany>,
    ) -> Result<StreamId, SeatError> {
        let NewStream { headers, tokens, reserved } = new;
        let id = StreamId::mint();
        let span = debug_span!(target: "access", "stream", id = %id.short());
        let headers = if headers.memory() == 0 { Arc::clone(&self.bare) } else { Arc::new(headers) };
        let mut table = self.table.lock();
        if table.doors != Doors::Open {
            return Err(SeatError::ShuttingDown);
        }
        if table.expiring.len() + table.census.streaming >= self.limits.max_streams {
            return Err(SeatError::TooManyStreams);
        }
        let place = place()?;
        table.created += 1;
        let number = table.created;
        let deadline = Instant::now() + self.limits.ttl;
        let entry = Entry {
            id: id.clone(),
            slot: Slot::default(),
            number,
            headers,
            created_at: SystemTime::now(),
            deactivated_at: None,
            deadline: Some(deadline),
            place,
            transfer: None,
            bytes: 0,
            more: More::of(tokens, &span, reserved),
        };
        table.entries.insert(id.clone(), Box::new(entry));
        table.expiring.insert((deadline, number), id.clone());
        table.census.created += 1;
        drop(table);
        self.deadline_set.notify_one();
        debug!(target: "access", parent: &span, "created");
        Ok(id)
    }

    /// Whether a client that gives this may do what needs such a token of this stream. Asked before all else, and no seat
    /// is touched. An unknown stream has no tokens: that it is unknown is told by what is asked next.
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
        let tokens = table.entries.get(id).and_then(|entry| entry.more.as_ref()?.tokens.as_ref());
        tokens.map_or(Ok(()), |tokens| tokens.check(needed, given))
    }

    /// Takes the source's seat. `offer` must be as long as promised, if its length is declared.
    ///
    /// # Errors
    /// The refusal, and the offer is dropped.
    pub fn seat_source(
        self: &Arc<Self>,
        id: &StreamId,
        offer: Box<Offer>,
        presence: Arc<dyn Presence>,
    ) -> Result<Seat<SourceHalf>, SeatError> {
        let (tell, verdict) = oneshot::channel();
        self.seat(id, Waiter::Source(WaitingSource { offer, tell, presence }), verdict)
    }

    /// Takes the destination's seat.
    ///
    /// # Errors
    /// The refusal.
    pub fn seat_destination(
        self: &Arc<Self>,
        id: &StreamId,
        presence: Arc<dyn Presence>,
    ) -> Result<Seat<Meeting>, SeatError> {
        let (tell, verdict) = oneshot::channel();
        self.seat(id, Waiter::Destination(WaitingDestination { tell, presence }), verdict)
    }

    fn seat<M>(
        self: &Arc<Self>,
        id: &StreamId,
        newcomer: Party,
        verdict: oneshot::Receiver<Verdict<M>>,
    ) -> Result<Seat<M>, SeatError> {
        let side = newcomer.side();
        let (id, span, left, pair) = {
            let mut guard = self.table.lock();
            let table = &mut *guard;
            if table.doors == Doors::Closed {
                return Err(SeatError::ShuttingDown);
            }
            let entry = table.entries.get_mut(id).ok_or(SeatError::NotFound)?;
            let left = dismiss(&mut table.census, &mut entry.slot, has_left);
            let meets = entry.slot.waiter().is_some_and(|waiter| waiter.side() != side);
            if meets && has_left(newcomer.as_ref()) {
                // It takes no seat, so it is never paired; its own task is about to notice.
                return Ok(Seat {
                    id: entry.id.clone(),
                    rendezvous: Arc::clone(self),
                    verdict: Some(verdict),
                });
            }
            let pair = match follow(&mut table.census, &mut entry.slot, |slot| newcomer.sit(slot)) {
                Ok(None) => None,
                Ok(Some(pair)) => {
                    let is_source_in_doubt =
                        side == Side::Destination && pair.0.presence.source_may_have_left();
                    let halves = self.start_transfer(&entry.id, Arc::clone(&entry.headers));
                    entry.transfer = Some(Arc::clone(halves.1.transfer()));
                    if let Some(deadline) = entry.deadline.take() {
                        let left = deadline.saturating_duration_since(halves.1.transfer().started());
                        self.metrics.paired(self.limits.ttl.saturating_sub(left));
                        table.expiring.remove(&(deadline, entry.number));
                    }
                    Some((pair, halves, is_source_in_doubt))
                }
                Err(refusal) => {
                    if matches!(refusal, SeatError::Reported(_)) {
                        self.retain(table, id);
                    }
                    return Err(refusal);
                }
            };
            (entry.id.clone(), entry.span(), left, pair)
        };
        if let Some(left) = left {
            self.missed(&span, left.side());
        }
        match pair {
            None => debug!(target: "access", parent: &span, "{side} waits"),
            Some(((source, destination), (source_half, half), is_source_in_doubt)) => {
                debug!(target: "access", parent: &span, "streaming");
                // A side that left in this very moment drops its half unread, which fails the transfer.
                let _ = source.tell.send(Ok(source_half));
                let _ = destination.tell.send(Ok(Meeting { half, offer: source.offer, is_source_in_doubt }));
            }
        }
        Ok(Seat { id, rendezvous: Arc::clone(self), verdict: Some(verdict) })
    }

    fn start_transfer(
        self: &Arc<Self>,
        id: &StreamId,
        headers: Arc<StreamHeaders>,
    ) -> (SourceHalf, DestinationHalf) {
        let (rendezvous, id) = (Arc::clone(self), id.clone());
        let on_end = Box::new(move |outcome: &Outcome| rendezvous.settle(&id, outcome));
        Transfer::start(headers, self.limits.transfer, on_end)
    }

    fn settle(&self, id: &StreamId, outcome: &Outcome) {
        let (span, bytes) = {
            let mut guard = self.table.lock();
            let table = &mut *guard;
            let Some(entry) = table.entries.get_mut(id) else { return };
            if !follow(&mut table.census, &mut entry.slot, |slot| slot.settle(outcome.clone())) {
                return;
            }
            let transfer = entry.transfer.take();
            let (bytes, duration) = transfer
                .map_or_else(Default::default, |transfer| (transfer.bytes(), transfer.started().elapsed()));
            entry.bytes = bytes;
            // With the table locked, so that no byte is seen twice, or not at all.
            self.metrics.transferred(duration, bytes);
            (self.retain(table, id), bytes)
        };
        self.deadline_set.notify_one();
        self.abandoned.notify_one();
        debug!(target: "access", parent: &span, bytes, "{outcome}");
    }

    /// The stream has ended: it waits to be forgotten. Its end is to be told in its span.
    fn retain(&self, table: &mut Table, id: &StreamId) -> Span {
        let Some(entry) = table.entries.get_mut(id) else { return Span::none() };
        let span = entry.span();
        if let Some(more) = &mut entry.more {
            more.span = Span::none();
        }
        if let Phase::Ended(outcome) = entry.slot.phase() {
            self.metrics.ended(outcome);
        }
        entry.deactivated_at.get_or_insert_with(SystemTime::now);
        entry.place = None;
        if let Some(deadline) = entry.deadline.take() {
            table.expiring.remove(&(deadline, entry.number));
        }
        let deadline = Instant::now() + self.limits.ttl;
        entry.deadline = Some(deadline);
        table.retained.insert((deadline, entry.number), id.clone());
        if table.retained.len() > self.limits.max_streams
            && let Some((_, oldest)) = table.retained.pop_first()
        {
            table.forget(&oldest);
        }
        span
    }

    /// Reports an error, for the side that waits or the first that comes. Its memory is `reserved` until the stream is forgotten.
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
        let (span, waiter) = {
            let mut guard = self.table.lock();
            let table = &mut *guard;
            let entry = table.entries.get_mut(id).ok_or(SeatError::NotFound)?;
            let was_expired = matches!(entry.slot.phase(), Phase::Ended(Outcome::Expired { .. }));
            let waiter =
                match follow(&mut table.census, &mut entry.slot, |slot| slot.report(Arc::clone(&report))) {
                    Ok(waiter) => waiter,
                    Err(_) if was_expired => return Err(SeatError::NotFound),
                    Err(refusal) => return Err(refusal),
                };
            match &mut entry.more {
                Some(more) => more.reserved.extend(reserved),
                none => *none = More::of(None, &Span::none(), reserved),
            }
            let span = if waiter.is_some() {
                self.retain(table, id)
            } else {
                entry.deactivated_at = Some(SystemTime::now());
                entry.span()
            };
            (span, waiter)
        };
        self.abandoned.notify_one();
        debug!(target: "access", parent: &span, "error {} reported by a client", report.status);
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
        let table = self.table.lock();
        match table.entries.get(id).map(|entry| entry.slot.phase()) {
            None | Some(Phase::Ended(Outcome::Expired { .. })) => Err(SeatError::NotFound),
            Some(Phase::Created | Phase::Waiting(_)) => Ok(()),
            Some(_) => Err(SeatError::AlreadyStarted),
        }
    }

    /// How many bytes a stream's body may have at most, where that is limited.
    #[must_use]
    pub fn max_stream_bytes(&self) -> Option<u64> {
        self.limits.transfer.stream.max_bytes.map(Size::get)
    }

    /// The body length promised to the stream's destination, in bytes.
    ///
    /// # Errors
    /// [`SeatError::NotFound`] also for a stream that has ended.
    pub fn promised_length(&self, id: &StreamId) -> Result<Option<u64>, SeatError> {
        let table = self.table.lock();
        let entry = table.entries.get(id).ok_or(SeatError::NotFound)?;
        if matches!(entry.slot.phase(), Phase::Ended(_)) {
            return Err(SeatError::NotFound);
        }
        Ok(entry.headers.promised_length())
    }

    /// What can be seen of one stream, also after its end while it is retained.
    #[must_use]
    pub fn snapshot(&self, id: &StreamId) -> Option<Snapshot> {
        let table = self.table.lock();
        table.entries.get(id).map(|entry| entry.snapshot(id))
    }

    /// What can be seen of all streams, oldest first.
    #[must_use]
    pub fn snapshots(&self) -> Vec<Snapshot> {
        let mut all: Vec<_> = {
            let table = self.table.lock();
            table.entries.iter().map(|(id, entry)| entry.snapshot(id)).collect()
        };
        all.sort_unstable_by_key(|snapshot| snapshot.number);
        all
    }

    /// How many streams are where, and the body bytes that all that ever were have passed on.
    #[must_use]
    pub fn tally(&self) -> (Census, u64) {
        let table = self.table.lock();
        let running = table.entries.values().filter_map(|entry| entry.transfer.as_ref());
        let body_bytes = self.metrics.body_bytes() + running.map(|transfer| transfer.bytes()).sum::<u64>();
        (table.census, body_bytes)
    }

    /// Expires and forgets streams when their time has come. Never ends by itself.
    pub async fn keep_time(&self) {
        loop {
            let next = self.table.lock().next_deadline();
            match next {
                None => self.deadline_set.notified().await,
                Some(deadline) => {
                    // A deadline that is set meanwhile is never earlier: all waits are one ttl long.
                    tokio::time::sleep_until(deadline).await;
                    self.pass_deadlines(Instant::now());
                }
            }
        }
    }

    fn pass_deadlines(&self, now: Instant) {
        let mut expired = Vec::new();
        {
            let mut guard = self.table.lock();
            let table = &mut *guard;
            while let Some(id) = pop_due(&mut table.expiring, now) {
                let Some(entry) = table.entries.get_mut(&id) else { continue };
                entry.deadline = None;
                let waiter = follow(&mut table.census, &mut entry.slot, Slot::expire);
                if let Phase::Ended(outcome) = entry.slot.phase() {
                    let outcome = outcome.clone();
                    expired.push((self.retain(table, &id), outcome, waiter));
                }
            }
            while let Some(id) = pop_due(&mut table.retained, now) {
                table.forget(&id);
            }
        }
        self.abandoned.notify_one();
        for (span, outcome, waiter) in expired {
            debug!(target: "access", parent: &span, "{outcome}");
            if let Some(waiter) = waiter {
                refuse(waiter, SeatError::Expired);
            }
        }
    }

    /// No new streams from now on. Those that there are may still be joined, wait and run.
    pub fn drain(&self) {
        self.table.lock().doors = Doors::Draining;
    }

    /// Whether [`Rendezvous::drain`] or [`Rendezvous::close`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.table.lock().doors != Doors::Open
    }

    /// How many streams are where.
    #[must_use]
    pub fn census(&self) -> Census {
        self.table.lock().census
    }

    /// Waits until the streams are so few, or where, as `is_enough` wants them. It is asked when streams end and when
    /// sides leave, by one caller at a time.
    pub async fn until(&self, is_enough: impl Fn(Census) -> bool) {
        while !is_enough(self.census()) {
            self.abandoned.notified().await;
        }
    }

    /// No new sides either from now on; sides that wait are told so. Transfers go on.
    pub fn close(&self) {
        let waiters: Vec<Party> = {
            let mut guard = self.table.lock();
            let table = &mut *guard;
            table.doors = Doors::Closed;
            let leave = |slot: &mut Slot| slot.leave(Side::Source).or_else(|| slot.leave(Side::Destination));
            let slots = table.entries.values_mut().map(|entry| &mut entry.slot);
            slots.filter_map(|slot| follow(&mut table.census, slot, leave)).collect()
        };
        for waiter in waiters {
            refuse(waiter, SeatError::ShuttingDown);
        }
    }

    /// Ends every transfer that still runs. Returns how many there were.
    pub fn cut(&self) -> usize {
        let transfers: Vec<_> =
            self.table.lock().entries.values().filter_map(|entry| entry.transfer.clone()).collect();
        for transfer in &transfers {
            transfer.fail(Fault::ShutDown);
        }
        transfers.len()
    }

    /// Frees the seat of the side that waits, if nobody listens there for what comes of it any more.
    fn leave(&self, id: &StreamId) {
        let left = {
            let mut guard = self.table.lock();
            let table = &mut *guard;
            let Some(entry) = table.entries.get_mut(id) else { return };
            let left = dismiss(&mut table.census, &mut entry.slot, has_given_up);
            left.map(|left| (entry.span(), left))
        };
        if let Some((span, left)) = left {
            self.missed(&span, left.side());
        }
    }

    /// Says that a side has left, which waits no more.
    fn missed(&self, span: &Span, side: Side) {
        self.abandoned.notify_one();
        debug!(target: "access", parent: span, "{side} left while it waited");
    }
}

impl Table {
    fn forget(&mut self, id: &StreamId) {
        if let Some(entry) = self.entries.remove(id) {
            *counted(&mut self.census, entry.slot.phase()) -= 1;
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let first = |queue: &BTreeMap<Deadline, StreamId>| queue.first_key_value().map(|(&(at, _), _)| at);
        first(&self.expiring).into_iter().chain(first(&self.retained)).min()
    }
}

fn pop_due(queue: &mut BTreeMap<Deadline, StreamId>, now: Instant) -> Option<StreamId> {
    let due = queue.first_entry().filter(|entry| entry.key().0 <= now)?;
    Some(due.remove())
}

/// Tells a waiter that it waits no longer. One that has left does not hear it.
fn refuse(waiter: Party, refusal: SeatError) {
    match waiter {
        Waiter::Source(source) => drop(source.tell.send(Err(refusal))),
        Waiter::Destination(destination) => drop(destination.tell.send(Err(refusal))),
    }
}

impl Entry {
    fn span(&self) -> Span {
        self.more.as_ref().map_or_else(Span::none, |more| more.span.clone())
    }

    fn snapshot(&self, id: &StreamId) -> Snapshot {
        let state = match self.slot.phase() {
            Phase::Created => SnapshotState::Created,
            Phase::Waiting(side) => SnapshotState::Waiting(side),
            Phase::Streaming => SnapshotState::Streaming,
            Phase::Reported(report) => SnapshotState::Ended(Outcome::Reported(Arc::clone(report))),
            Phase::Ended(outcome) => SnapshotState::Ended(outcome.clone()),
        };
        Snapshot {
            id: id.clone(),
            created_at: self.created_at,
            deactivated_at: self.deactivated_at,
            state,
            headers: Arc::clone(&self.headers),
            bytes_transferred: self.transfer.as_ref().map_or(self.bytes, |transfer| transfer.bytes()),
            number: self.number,
        }
    }
}

impl More {
    fn of(tokens: Option<Tokens>, span: &Span, reserved: Option<Reservation>) -> Option<Box<Self>> {
        let is_rare = tokens.is_some() || !span.is_none() || reserved.is_some();
        is_rare.then(|| Box::new(Self { tokens, span: span.clone(), reserved: Vec::from_iter(reserved) }))
    }
}

impl Snapshot {
    /// Whether a GET or PUT might still get something other than 404.
    #[must_use]
    pub fn is_connectable(&self) -> bool {
        !matches!(self.state, SnapshotState::Ended(_))
    }
}

/// A seat that was taken. Dropping it while it waits frees it.
pub struct Seat<M> {
    id: StreamId,
    rendezvous: Arc<Rendezvous>,
    /// `None` once the other side has seen that this one has left: its own task is about to notice.
    verdict: Option<oneshot::Receiver<Verdict<M>>>,
}

impl<M> Seat<M> {
    /// Waits for the other side. It costs a waiting side no memory but the reference.
    ///
    /// # Errors
    /// Why there is nothing to wait for any more.
    pub fn met(&mut self) -> impl Future<Output = Verdict<M>> {
        poll_fn(|cx| {
            let Some(verdict) = &mut self.verdict else { return Poll::Pending };
            if let Ok(verdict) = ready!(Pin::new(verdict).poll(cx)) {
                return Poll::Ready(verdict);
            }
            self.verdict = None;
            Poll::Pending
        })
    }
}

impl<M> Drop for Seat<M> {
    fn drop(&mut self) {
        // This tells the side that waits here from another one that has taken the seat meanwhile.
        if let Some(verdict) = &mut self.verdict {
            verdict.close();
        }
        self.rendezvous.leave(&self.id);
    }
}
