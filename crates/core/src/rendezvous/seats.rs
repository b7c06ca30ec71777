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

use rendezvous_protocol::{Side, StreamId};
use tokio::sync::oneshot;

use super::admission::AdmissionState;
use super::waiting::{
    Presence, Slot, WaitResult, WaitingDestination, WaitingSide, WaitingSource, has_left, is_dropped,
};
use super::{Pairing, Rendezvous};
use crate::events::Change;
use crate::outcome::SeatError;
use crate::slot::Waiter;
use crate::transfer::{Offer, SourceHalf};

/// A seat that this side holds. Dropping it while it waits frees it. `M` is the value that the side receives when it is paired.
pub struct Seat<M, B: Send + 'static> {
    id: StreamId,
    rendezvous: Arc<Rendezvous<B>>,
    /// `None` if the table has removed this side because it has left. The task of the side is about to notice.
    result: Option<oneshot::Receiver<WaitResult<M>>>,
}

impl<M, B: Send + 'static> Seat<M, B> {
    /// Waits until the sides are paired. The future is one reference, so a waiting side takes no memory for it. It never
    /// completes for a side that has left.
    ///
    /// # Errors
    /// Why the wait ended without a pairing: [`SeatError::Expired`], [`SeatError::Reported`] or
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
        self.rendezvous.leave(&self.id);
    }
}

impl<B: Send + 'static> Rendezvous<B> {
    /// Connects a source: takes its seat, and pairs it if the destination waits.
    ///
    /// # Errors
    /// [`SeatError::NotFound`], [`SeatError::AlreadyConnected`], [`SeatError::Reported`], [`SeatError::ShuttingDown`], or
    /// for the declared length of the body [`SeatError::LengthMismatch`] and [`SeatError::TooLong`]. The offer is dropped.
    pub fn seat_source(
        self: &Arc<Self>,
        id: &StreamId,
        offer: Box<Offer<B>>,
        presence: Arc<dyn Presence>,
    ) -> Result<Seat<SourceHalf, B>, SeatError> {
        let (sender, receiver) = oneshot::channel();
        self.seat(id, Waiter::Source(WaitingSource { offer, result: sender, presence }), receiver)
    }

    /// Connects a destination: takes its seat, and pairs it if the source waits.
    ///
    /// # Errors
    /// [`SeatError::NotFound`], [`SeatError::AlreadyConnected`], [`SeatError::Reported`] or [`SeatError::ShuttingDown`].
    pub fn seat_destination(
        self: &Arc<Self>,
        id: &StreamId,
        presence: Arc<dyn Presence>,
    ) -> Result<Seat<Pairing<B>, B>, SeatError> {
        let (sender, receiver) = oneshot::channel();
        self.seat(id, Waiter::Destination(WaitingDestination { result: sender, presence }), receiver)
    }

    fn seat<M>(
        self: &Arc<Self>,
        id: &StreamId,
        arriving: WaitingSide<B>,
        receiver: oneshot::Receiver<WaitResult<M>>,
    ) -> Result<Seat<M, B>, SeatError> {
        let side = arriving.side();
        let (id, pair) = self.change(|table, changes| {
            if table.admission == AdmissionState::Closed {
                return Err(SeatError::ShuttingDown);
            }
            let entry = table.entry(id).ok_or(SeatError::NotFound)?;
            if entry.has_ended() {
                return Err(SeatError::NotFound);
            }
            // The entry's copy of the id, so that the id parsed from the request can be freed while the side waits.
            let (id, headers) = (entry.id.clone(), Arc::clone(&entry.headers));
            table.vacate_if(&id, has_left, changes);
            let slot = table.entry(&id).map(|entry| &entry.slot);
            // A taken seat and a report come first: they are the same for a body of any length.
            if slot.is_some_and(|slot| slot.is_free(side)) {
                arriving.check_length(&headers, self.limits.transfer)?;
            }
            let waiting = slot.and_then(Slot::waiter);
            if waiting.is_some_and(|waiter| waiter.side() != side) && has_left(arriving.as_ref()) {
                // It takes no seat, so it is never paired. Its task is about to notice the disconnection.
                return Ok((id, None));
            }
            let Some((entry, seated)) = table.update(&id, |slot| arriving.take_seat(slot)) else {
                return Err(SeatError::NotFound);
            };
            match seated {
                Ok(None) => {
                    changes.push(entry, Change::Waiting(side));
                    Ok((id, None))
                }
                Ok(Some((source, destination))) => {
                    let source_may_have_left =
                        side == Side::Destination && source.presence.source_may_have_left();
                    let (source_half, half) = self.start_transfer(&id, headers);
                    table.pair(&id, half.transfer(), changes);
                    let pairing = Pairing { half, offer: source.offer, source_may_have_left };
                    Ok((id, Some(((source.result, source_half), (destination.result, pairing)))))
                }
                Err(refusal) => {
                    // The delivery of a report ends the stream. Other refusals change nothing.
                    table.retain(&id, changes);
                    Err(refusal)
                }
            }
        })?;
        if let Some(((source, half), (destination, pairing))) = pair {
            // If a side leaves at this moment, its half is dropped with the channel, which fails the transfer.
            let _ = source.send(Ok(half));
            let _ = destination.send(Ok(pairing));
        }
        Ok(Seat { id, rendezvous: Arc::clone(self), result: Some(receiver) })
    }

    /// Frees the seat of the waiting side, if its [`Seat`] is being dropped.
    fn leave(&self, id: &StreamId) {
        let left = self.change(|table, changes| table.vacate_if(id, is_dropped, changes));
        if left.is_some() {
            self.counts_decreased.notify_one();
        }
    }
}
