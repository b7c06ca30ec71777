//! Seats: how a side connects, waits, and meets the other.
//!
//! A side's own task notices only a moment after the kernel that the side has left. So a side that connects has the [`Presence`] of the
//! waiting side checked, and before a pairing its own: no side is paired of which the kernel knows that it has left.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Poll, ready};

use rendezvous_protocol::{Side, StreamId};
use tokio::sync::oneshot;

use super::admission::AdmissionState;
use super::{Meeting, Rendezvous};
use crate::events::Change;
use crate::header_set::StreamHeaders;
use crate::outcome::{LengthMismatch, SeatError, UploadLength};
use crate::slot::{self, Waiter};
use crate::transfer::{self, Offer, SourceHalf};

/// The connection of a side.
pub trait Presence: Send + Sync {
    /// Whether the kernel knows already that this side has left. Asked with the table locked, so it must not wait.
    fn has_left(&self, side: Side) -> bool;

    /// Whether the source may have left, as far as the kernel knows. Asked as [`Presence::has_left`].
    fn source_may_have_left(&self) -> bool;
}

/// Sent to a waiting side: whom it met, or why it waits no longer.
type Verdict<M> = Result<M, SeatError>;

pub(super) struct WaitingSource<B> {
    offer: Box<Offer<B>>,
    verdict: oneshot::Sender<Verdict<SourceHalf>>,
    presence: Arc<dyn Presence>,
}

pub(super) struct WaitingDestination<B> {
    verdict: oneshot::Sender<Verdict<Meeting<B>>>,
    presence: Arc<dyn Presence>,
}

pub(super) type Slot<B> = slot::Slot<WaitingSource<B>, WaitingDestination<B>>;
pub(super) type Party<B> = Waiter<WaitingSource<B>, WaitingDestination<B>>;
pub(super) type PartyRef<'a, B> = Waiter<&'a WaitingSource<B>, &'a WaitingDestination<B>>;

/// A seat that was taken. Dropping it while it waits frees it.
pub struct Seat<M, B: Send + 'static> {
    id: StreamId,
    rendezvous: Arc<Rendezvous<B>>,
    /// `None` once the other side has seen that this one has left: its own task is about to notice.
    verdict: Option<oneshot::Receiver<Verdict<M>>>,
}

impl<M, B: Send + 'static> Seat<M, B> {
    /// Waits for the other side. It costs a waiting side no memory but the reference.
    ///
    /// # Errors
    /// Why the wait is over.
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

impl<M, B: Send + 'static> Drop for Seat<M, B> {
    fn drop(&mut self) {
        // This tells the side that waits here from another one that has taken the seat meanwhile.
        if let Some(verdict) = &mut self.verdict {
            verdict.close();
        }
        self.rendezvous.leave(&self.id);
    }
}

/// Ends the wait of a side. One that has left does not notice.
pub(super) fn refuse<B>(waiter: Party<B>, refusal: SeatError) {
    match waiter {
        Waiter::Source(source) => drop(source.verdict.send(Err(refusal))),
        Waiter::Destination(destination) => drop(destination.verdict.send(Err(refusal))),
    }
}

/// The kernel knows that this side has left; its task may not have noticed yet.
fn has_left<B>(party: PartyRef<'_, B>) -> bool {
    match party {
        Waiter::Source(source) => source.presence.has_left(Side::Source),
        Waiter::Destination(destination) => destination.presence.has_left(Side::Destination),
    }
}

/// The [`Seat`] of this side is being dropped.
fn has_given_up<B>(party: PartyRef<'_, B>) -> bool {
    match party {
        Waiter::Source(source) => source.verdict.is_closed(),
        Waiter::Destination(destination) => destination.verdict.is_closed(),
    }
}

impl<B> Party<B> {
    /// Whether the stream can have this side: the body of a source must be as long as promised, and not too long.
    fn check(&self, headers: &StreamHeaders, limits: transfer::Limits) -> Result<(), SeatError> {
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

    fn sit(self, slot: &mut Slot<B>) -> Result<Option<(WaitingSource<B>, WaitingDestination<B>)>, SeatError> {
        match self {
            Self::Source(source) => slot.seat_source(source),
            Self::Destination(destination) => slot.seat_destination(destination),
        }
    }
}

impl<B: Send + 'static> Rendezvous<B> {
    /// Takes the seat of the source.
    ///
    /// # Errors
    /// The refusal, and the offer is dropped.
    pub fn seat_source(
        self: &Arc<Self>,
        id: &StreamId,
        offer: Box<Offer<B>>,
        presence: Arc<dyn Presence>,
    ) -> Result<Seat<SourceHalf, B>, SeatError> {
        let (sender, receiver) = oneshot::channel();
        self.seat(id, Waiter::Source(WaitingSource { offer, verdict: sender, presence }), receiver)
    }

    /// Takes the seat of the destination.
    ///
    /// # Errors
    /// The refusal.
    pub fn seat_destination(
        self: &Arc<Self>,
        id: &StreamId,
        presence: Arc<dyn Presence>,
    ) -> Result<Seat<Meeting<B>, B>, SeatError> {
        let (sender, receiver) = oneshot::channel();
        self.seat(id, Waiter::Destination(WaitingDestination { verdict: sender, presence }), receiver)
    }

    fn seat<M>(
        self: &Arc<Self>,
        id: &StreamId,
        newcomer: Party<B>,
        receiver: oneshot::Receiver<Verdict<M>>,
    ) -> Result<Seat<M, B>, SeatError> {
        let side = newcomer.side();
        let (id, pair) = self.change(|table, changes| {
            if table.admission == AdmissionState::Closed {
                return Err(SeatError::ShuttingDown);
            }
            let entry = table.entry(id).ok_or(SeatError::NotFound)?;
            if entry.has_ended() {
                return Err(SeatError::NotFound);
            }
            newcomer.check(&entry.headers, self.limits.transfer)?;
            // What was parsed of the request can be freed while the side waits.
            let (id, headers) = (entry.id.clone(), Arc::clone(&entry.headers));
            table.dismiss(&id, has_left, changes);
            let waiting = table.entry(&id).and_then(|entry| entry.slot.waiter());
            if waiting.is_some_and(|waiter| waiter.side() != side) && has_left(newcomer.as_ref()) {
                // It takes no seat, so it is never paired; its own task is about to notice.
                return Ok((id, None));
            }
            let Some((entry, seated)) = table.update(&id, |slot| newcomer.sit(slot)) else {
                return Err(SeatError::NotFound);
            };
            match seated {
                Ok(None) => {
                    changes.push(entry, Change::Waiting(side));
                    Ok((id, None))
                }
                Ok(Some((source, destination))) => {
                    let is_source_in_doubt =
                        side == Side::Destination && source.presence.source_may_have_left();
                    let (source_half, half) = self.start_transfer(&id, headers);
                    table.pair(&id, half.transfer(), changes);
                    let meeting = Meeting { half, offer: source.offer, is_source_in_doubt };
                    Ok((id, Some(((source.verdict, source_half), (destination.verdict, meeting)))))
                }
                Err(refusal) => {
                    // A report has reached somebody, which ends the stream.
                    table.retain(&id, changes);
                    Err(refusal)
                }
            }
        })?;
        if let Some(((source, half), (destination, meeting))) = pair {
            // A side that left in this very moment drops its half unread, which fails the transfer.
            let _ = source.send(Ok(half));
            let _ = destination.send(Ok(meeting));
        }
        Ok(Seat { id, rendezvous: Arc::clone(self), verdict: Some(receiver) })
    }

    /// Frees the seat of the side that waits, if its [`Seat`] is being dropped.
    fn leave(&self, id: &StreamId) {
        let left = self.change(|table, changes| table.dismiss(id, has_given_up, changes));
        if left.is_some() {
            self.abandoned.notify_one();
        }
    }
}
