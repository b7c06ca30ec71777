//! Seats: how a side connects, waits, and is paired with the other side.
//!
//! *Invariant.* No side is paired that has disconnected as far as the kernel knows. The task of a side notices a
//! disconnection a moment later than the kernel. So when a side connects, the [`Presence`] of the waiting side is
//! checked, and before a pairing that of the connecting side too.
//!
//! *Concurrency.* Both checks and the pairing happen under one lock of the table. The results are sent to the two sides
//! after it is released.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use rendezvous_protocol::{Side, StreamKind, StreamName};
use tokio::sync::oneshot;

use super::admission::AdmissionState;
use super::changes::Changes;
use super::entry::Number;
use super::table::Table;
use super::waiting::{
    Presence, WaitLimit, WaitResult, WaitingDestination, WaitingSide, WaitingSource, has_left, is_dropped,
};
use super::{NewStream, Pairing, Rendezvous};
use crate::clients::Permit;
use crate::outcome::{SeatError, TooMany};
use crate::slot::Waiter;
use crate::token::AuthError;
use crate::transfer::{Offer, SourceHalf};

/// A side's request for a seat.
pub struct SeatRequest<'a, C> {
    /// The stream.
    pub name: &'a StreamName,
    /// The connection of the side.
    pub presence: Arc<dyn Presence>,
    /// How long the side is willing to wait, in seconds, at least 1. `None`, or a longer time: until the stream expires.
    pub wait: Option<u64>,
    /// How long the side has waited elsewhere, which counts in both its wait and the ttl of a path that it makes. Default: not at all.
    pub waited: Duration,
    /// Whether the client of the side may create a stream. The first side of a path does.
    pub creation: Result<(), AuthError>,
    /// Counts a created stream. Called only for the first side of a path, with the table locked.
    pub permit: C,
}

/// A seat that this side holds. Dropping it while it waits frees it. `M` is the value that the side receives when it is paired.
pub struct Seat<M, B: Send + 'static> {
    stream: Number,
    rendezvous: Arc<Rendezvous<B>>,
    /// `None` if the table has removed this side because it has left. The task of the side is about to notice.
    result: Option<oneshot::Receiver<WaitResult<M>>>,
}

impl<M, B: Send + 'static> Seat<M, B> {
    /// Waits until the sides are paired. The future is one reference, so a waiting side takes no memory for it. It never
    /// completes for a side that has left.
    ///
    /// # Errors
    /// Why the wait ended without a pairing: [`SeatError::Expired`], [`SeatError::PeerNotConnected`], [`SeatError::Reported`] or
    /// [`SeatError::ShuttingDown`].
    pub fn paired(&mut self) -> impl Future<Output = WaitResult<M>> {
        poll_fn(|cx| {
            let Some(result) = &mut self.result else { return Poll::Pending };
            if let Ok(result) = ready!(Pin::new(result).poll(cx)) {
                return Poll::Ready(result);
            }
            self.result = None;
            Poll::Pending
        })
    }
}

impl<M, B: Send + 'static> Drop for Seat<M, B> {
    fn drop(&mut self) {
        // A closed channel distinguishes this side from another one that has taken the seat in the meantime.
        if let Some(result) = &mut self.result {
            result.close();
        }
        self.rendezvous.leave(self.stream);
    }
}

impl<B: Send + 'static> Rendezvous<B> {
    /// Connects a source: takes its seat, and pairs it if the destination waits.
    ///
    /// # Errors
    /// [`SeatError::NotFound`], [`SeatError::AlreadyConnected`], [`SeatError::Reported`], [`SeatError::ShuttingDown`], or
    /// for the declared length of the body [`SeatError::LengthMismatch`] and [`SeatError::TooLong`]. For the first side of a
    /// path also [`SeatError::TooManyStreams`], [`SeatError::MayNotCreate`] and [`SeatError::TooMany`]. The offer is dropped.
    pub fn seat_source(
        self: &Arc<Self>,
        request: SeatRequest<'_, impl FnOnce() -> Result<Option<Permit>, TooMany>>,
        offer: Box<Offer<B>>,
    ) -> Result<Seat<SourceHalf, B>, SeatError> {
        let (sender, receiver) = oneshot::channel();
        let (limit, presence) = (request.limit(), Arc::clone(&request.presence));
        let source = WaitingSource { offer, limit, result: sender, presence };
        self.seat(request, Waiter::Source(source), receiver)
    }

    /// Connects a destination: takes its seat, and pairs it if the source waits.
    ///
    /// # Errors
    /// As [`Rendezvous::seat_source`], except for those of a body.
    pub fn seat_destination(
        self: &Arc<Self>,
        request: SeatRequest<'_, impl FnOnce() -> Result<Option<Permit>, TooMany>>,
    ) -> Result<Seat<Pairing<B>, B>, SeatError> {
        let (sender, receiver) = oneshot::channel();
        let (limit, presence) = (request.limit(), Arc::clone(&request.presence));
        let destination = WaitingDestination { limit, result: sender, presence };
        self.seat(request, Waiter::Destination(destination), receiver)
    }

    fn seat<M>(
        self: &Arc<Self>,
        request: SeatRequest<'_, impl FnOnce() -> Result<Option<Permit>, TooMany>>,
        arriving: WaitingSide<B>,
        receiver: oneshot::Receiver<WaitResult<M>>,
    ) -> Result<Seat<M, B>, SeatError> {
        let (side, is_path) = (arriving.side(), request.name.kind() == StreamKind::Path);
        let (stream, pair) = self.change(|table, changes| {
            if table.admission == AdmissionState::Closed {
                return Err(SeatError::ShuttingDown);
            }
            let stream = self.find_or_create(table, request, &arriving, changes)?;
            let Some(entry) = table.entry(stream) else { return Err(SeatError::NotFound) };
            let (slot, headers) = (&entry.slot, Arc::clone(&entry.headers));
            // A taken seat and a report come first: they are the same for a body of any length.
            if slot.is_free(side) {
                arriving.check_length(&headers, self.limits.transfer)?;
            }
            if slot.waiter().is_some_and(|waiter| waiter.side() != side) && has_left(arriving.as_ref()) {
                // It takes no seat, so it is never paired. Its task is about to notice the disconnection.
                return Ok((stream, None));
            }
            let Some((_, seated)) = table.update(stream, |slot| arriving.take_seat(slot)) else {
                return Err(SeatError::NotFound);
            };
            match seated {
                Ok(None) => {
                    table.begin_wait(stream, changes);
                    Ok((stream, None))
                }
                Ok(Some((source, destination))) => {
                    let source_may_have_left =
                        side == Side::Destination && source.presence.source_may_have_left();
                    let (source_half, half) = self.start_transfer(stream, headers, is_path);
                    table.pair(stream, half.transfer(), changes);
                    let pairing = Pairing { half, offer: source.offer, source_may_have_left };
                    Ok((stream, Some(((source.result, source_half), (destination.result, pairing)))))
                }
                Err(refusal) => {
                    // The delivery of a report ends the stream. Other refusals change nothing.
                    table.retain(stream, changes);
                    Err(refusal)
                }
            }
        })?;
        if let Some(((source, half), (destination, pairing))) = pair {
            // If a side leaves at this moment, its half is dropped with the channel, which fails the transfer.
            let _ = source.send(Ok(half));
            let _ = destination.send(Ok(pairing));
        }
        Ok(Seat { stream, rendezvous: Arc::clone(self), result: Some(receiver) })
    }

    /// Finds the stream of a request, or creates it for the first side of a path. A waiting side that has left does not count.
    fn find_or_create(
        &self,
        table: &mut Table<B>,
        request: SeatRequest<'_, impl FnOnce() -> Result<Option<Permit>, TooMany>>,
        arriving: &WaitingSide<B>,
        changes: &mut Changes,
    ) -> Result<Number, SeatError> {
        let name = request.name;
        if let Some(stream) = table.find(name).map(|entry| entry.number) {
            table.vacate_if(stream, has_left, changes);
        }
        match (table.find(name), name) {
            (Some(entry), _) if entry.has_ended() => Err(SeatError::NotFound),
            (Some(entry), _) => Ok(entry.number),
            (None, StreamName::Id(_)) => Err(SeatError::NotFound),
            (None, StreamName::Path(_)) => {
                request.creation?;
                arriving.check_length(&self.no_headers, self.limits.transfer)?;
                let headers = Arc::clone(&self.no_headers);
                let ttl = (!request.waited.is_zero()).then(|| self.limits.ttl.saturating_sub(request.waited));
                let new = NewStream { ttl, ..NewStream::default() };
                table.create(name.clone(), headers, new, request.permit, changes)
            }
        }
    }

    /// Frees the seat of the waiting side, if its [`Seat`] is being dropped.
    fn leave(&self, stream: Number) {
        let left = self.change(|table, changes| table.vacate_if(stream, is_dropped, changes));
        if left.is_some() {
            self.counts_decreased.notify_one();
        }
    }
}

impl<C> SeatRequest<'_, C> {
    fn limit(&self) -> Option<WaitLimit> {
        let left = |wait: u64| wait.saturating_sub(self.waited.as_secs()).max(1);
        self.wait.map(left).and_then(WaitLimit::from_now)
    }
}
