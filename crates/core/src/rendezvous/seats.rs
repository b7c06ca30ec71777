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
use super::{Pairing, Rendezvous};
use crate::events::Change;
use crate::header_set::StreamHeaders;
use crate::outcome::{LengthMismatch, SeatError, UploadLength};
use crate::slot::{self, Waiter};
use crate::transfer::{self, Offer, SourceHalf};

/// The connection of a side, as far as the table needs it.
pub trait Presence: Send + Sync {
    /// Returns whether the kernel knows that this side has left. Called with the table locked, so it must not block.
    fn has_left(&self, side: Side) -> bool;

    /// Returns whether a source may have left without the kernel knowing: it has closed its sending side after its whole
    /// body, or its FIN may be stuck behind unread bytes. Called with the table locked, so it must not block.
    fn source_may_have_left(&self) -> bool;
}

/// Sent to a waiting side: its part of the pairing, or why it no longer waits.
type WaitResult<M> = Result<M, SeatError>;

pub(super) struct WaitingSource<B> {
    offer: Box<Offer<B>>,
    result: oneshot::Sender<WaitResult<SourceHalf>>,
    presence: Arc<dyn Presence>,
}

pub(super) struct WaitingDestination<B> {
    result: oneshot::Sender<WaitResult<Pairing<B>>>,
    presence: Arc<dyn Presence>,
}

type Pair<B> = (WaitingSource<B>, WaitingDestination<B>);
pub(super) type Slot<B> = slot::Slot<WaitingSource<B>, WaitingDestination<B>>;
pub(super) type WaitingSide<B> = Waiter<WaitingSource<B>, WaitingDestination<B>>;
pub(super) type WaitingSideRef<'a, B> = Waiter<&'a WaitingSource<B>, &'a WaitingDestination<B>>;

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

/// Ends the wait of a side with an error. The error is lost if the side has left.
pub(super) fn refuse<B>(waiter: WaitingSide<B>, refusal: SeatError) {
    match waiter {
        Waiter::Source(source) => drop(source.result.send(Err(refusal))),
        Waiter::Destination(destination) => drop(destination.result.send(Err(refusal))),
    }
}

/// Returns whether the kernel knows that this side has left. Its task may not have noticed yet.
fn has_left<B>(waiting: WaitingSideRef<'_, B>) -> bool {
    match waiting {
        Waiter::Source(source) => source.presence.has_left(Side::Source),
        Waiter::Destination(destination) => destination.presence.has_left(Side::Destination),
    }
}

/// Returns whether the [`Seat`] of this side is being dropped.
fn is_dropped<B>(waiting: WaitingSideRef<'_, B>) -> bool {
    match waiting {
        Waiter::Source(source) => source.result.is_closed(),
        Waiter::Destination(destination) => destination.result.is_closed(),
    }
}

impl<B> WaitingSide<B> {
    /// Checks the declared length of a source's body against the promised length and the limit.
    fn check_length(&self, headers: &StreamHeaders, limits: transfer::Limits) -> Result<(), SeatError> {
        let Self::Source(WaitingSource { offer, .. }) = self else { return Ok(()) };
        let Some(declared) = offer.length else { return Ok(()) };
        if let Some(promised) = headers.promised_length().filter(|promised| *promised != declared) {
            return Err(LengthMismatch { promised, upload: UploadLength::Exactly(declared) }.into());
        }
        match limits.max_bytes() {
            Some(limit) if declared > limit => Err(SeatError::TooLong { limit }),
            _ => Ok(()),
        }
    }

    fn take_seat(self, slot: &mut Slot<B>) -> Result<Option<Pair<B>>, SeatError> {
        match self {
            Self::Source(source) => slot.seat_source(source),
            Self::Destination(destination) => slot.seat_destination(destination),
        }
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
            arriving.check_length(&entry.headers, self.limits.transfer)?;
            // The entry's copy of the id, so that the id parsed from the request can be freed while the side waits.
            let (id, headers) = (entry.id.clone(), Arc::clone(&entry.headers));
            table.vacate_if(&id, has_left, changes);
            let waiting = table.entry(&id).and_then(|entry| entry.slot.waiter());
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
