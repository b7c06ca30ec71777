//! Waiting sides: what the table holds of a side until it is paired or refused.

use std::sync::Arc;
use std::time::Duration;

use rendezvous_protocol::Side;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Pairing;
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
pub(super) type WaitResult<M> = Result<M, SeatError>;

/// How long a side is willing to wait (`Prefer: wait=…`).
#[derive(Debug, Clone, Copy)]
pub(super) struct WaitLimit {
    /// What the side has asked for, in seconds.
    pub(super) seconds: u64,
    /// When that has passed.
    pub(super) end: Instant,
}

impl WaitLimit {
    /// The limit of a side that connects now. `None` if it is far beyond the life of any stream.
    pub(super) fn from_now(seconds: u64) -> Option<Self> {
        let end = Instant::now().checked_add(Duration::from_secs(seconds))?;
        Some(Self { seconds, end })
    }
}

pub(super) struct WaitingSource<B> {
    pub(super) offer: Box<Offer<B>>,
    pub(super) limit: Option<WaitLimit>,
    pub(super) result: oneshot::Sender<WaitResult<SourceHalf>>,
    pub(super) presence: Arc<dyn Presence>,
}

pub(super) struct WaitingDestination<B> {
    pub(super) limit: Option<WaitLimit>,
    pub(super) result: oneshot::Sender<WaitResult<Pairing<B>>>,
    pub(super) presence: Arc<dyn Presence>,
}

pub(super) type Pair<B> = (WaitingSource<B>, WaitingDestination<B>);
pub(super) type Slot<B> = slot::Slot<WaitingSource<B>, WaitingDestination<B>>;
pub(super) type WaitingSide<B> = Waiter<WaitingSource<B>, WaitingDestination<B>>;
pub(super) type WaitingSideRef<'a, B> = Waiter<&'a WaitingSource<B>, &'a WaitingDestination<B>>;

/// Ends the wait of a side with an error. The error is lost if the side has left.
pub(super) fn refuse<B>(waiter: WaitingSide<B>, refusal: SeatError) {
    match waiter {
        Waiter::Source(source) => drop(source.result.send(Err(refusal))),
        Waiter::Destination(destination) => drop(destination.result.send(Err(refusal))),
    }
}

/// Returns whether the kernel knows that this side has left. Its task may not have noticed yet.
pub(super) fn has_left<B>(waiting: WaitingSideRef<'_, B>) -> bool {
    match waiting {
        Waiter::Source(source) => source.presence.has_left(Side::Source),
        Waiter::Destination(destination) => destination.presence.has_left(Side::Destination),
    }
}

/// Returns whether the [`Seat`](super::Seat) of this side is being dropped.
pub(super) fn is_dropped<B>(waiting: WaitingSideRef<'_, B>) -> bool {
    match waiting {
        Waiter::Source(source) => source.result.is_closed(),
        Waiter::Destination(destination) => destination.result.is_closed(),
    }
}

impl<B> WaitingSideRef<'_, B> {
    /// How long this side is willing to wait.
    pub(super) fn limit(&self) -> Option<WaitLimit> {
        match self {
            Self::Source(source) => source.limit,
            Self::Destination(destination) => destination.limit,
        }
    }
}

impl<B> WaitingSide<B> {
    /// Checks the declared length of a source's body against the promised length and the limit.
    pub(super) fn check_length(
        &self,
        headers: &StreamHeaders,
        limits: transfer::Limits,
    ) -> Result<(), SeatError> {
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

    pub(super) fn take_seat(self, slot: &mut Slot<B>) -> Result<Option<Pair<B>>, SeatError> {
        match self {
            Self::Source(source) => slot.seat_source(source),
            Self::Destination(destination) => slot.seat_destination(destination),
        }
    }
}
