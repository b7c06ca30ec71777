//! The state machine of one stream: which side waits, when the sides pair, and how the stream ends.
//!
//! `S` and `D` are the caller's data for a waiting source and a waiting destination.
//!
//! ```text
//!          PUT                        GET
//!  Created ───► SourceWaits ──────────────► Streaming ──────► Ended(Outcome)
//!   │  ▲  └─GET─► DestinationWaits ──PUT──────┘   settle          ▲
//!   │  └─ leave ──┘   │                                           │
//!   │                 └───────── expiry, or a report ────────────►│
//!   └────────── report ──► Reported ── next side, or expiry ─────►│
//! ```
//!
//! Without a side, `Created` expires too.
//!
//! *Invariants.* A stream pairs at most once. A seat has one holder. The first outcome stands.
//!
//! *Concurrency.* Pure: no I/O, no clock, no lock. The caller calls a method for each event and acts on the result.

use std::sync::Arc;

use rendezvous_protocol::Side;

use crate::outcome::{Outcome, Report, SeatError};

/// The state of one stream.
#[derive(Debug)]
pub struct Slot<S, D>(State<S, D>);

#[derive(Debug)]
enum State<S, D> {
    Created,
    SourceWaits(S),
    DestinationWaits(D),
    Streaming,
    /// An error was reported before a side connected. The next side to connect receives it.
    Reported(Arc<Report>),
    Ended(Outcome),
}

/// A waiting side, with the caller's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiter<S, D> {
    /// The source.
    Source(S),
    /// The destination.
    Destination(D),
}

/// The state of a stream, without the caller's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase<'a> {
    /// Neither side is connected.
    Created,
    /// This side waits for the other.
    Waiting(Side),
    /// Both sides are connected.
    Streaming,
    /// An error was reported that no side has received yet.
    Reported(&'a Arc<Report>),
    /// The stream has ended.
    Ended(&'a Outcome),
}

impl<S, D> Default for Slot<S, D> {
    fn default() -> Self {
        Self(State::Created)
    }
}

impl<S, D> Slot<S, D> {
    /// Returns the state of the stream.
    pub fn phase(&self) -> Phase<'_> {
        match &self.0 {
            State::Created => Phase::Created,
            State::SourceWaits(_) => Phase::Waiting(Side::Source),
            State::DestinationWaits(_) => Phase::Waiting(Side::Destination),
            State::Streaming => Phase::Streaming,
            State::Reported(report) => Phase::Reported(report),
            State::Ended(outcome) => Phase::Ended(outcome),
        }
    }

    /// Returns whether this side could take its seat.
    pub(crate) fn is_free(&self, side: Side) -> bool {
        match self.phase() {
            Phase::Created => true,
            Phase::Waiting(waiting) => waiting != side,
            Phase::Streaming | Phase::Reported(_) | Phase::Ended(_) => false,
        }
    }

    /// Returns the waiting side, if any.
    pub(crate) fn waiter(&self) -> Option<Waiter<&S, &D>> {
        match &self.0 {
            State::SourceWaits(source) => Some(Waiter::Source(source)),
            State::DestinationWaits(destination) => Some(Waiter::Destination(destination)),
            State::Created | State::Streaming | State::Reported(_) | State::Ended(_) => None,
        }
    }

    /// Gives the source's seat to `source`. Returns `None` if it has to wait, or the pair if the stream is now streaming.
    ///
    /// # Errors
    /// [`SeatError::AlreadyConnected`] if the seat is taken, [`SeatError::NotFound`] if the stream has ended,
    /// [`SeatError::Reported`] if an error was reported; the report is then delivered, which ends the stream.
    pub fn seat_source(&mut self, source: S) -> Result<Option<(S, D)>, SeatError> {
        let (next, seated) = match std::mem::replace(&mut self.0, State::Created) {
            State::Created => (State::SourceWaits(source), Ok(None)),
            State::DestinationWaits(destination) => (State::Streaming, Ok(Some((source, destination)))),
            other => other.refuse(Side::Source),
        };
        self.0 = next;
        seated
    }

    /// Gives the destination's seat to `destination`, as [`Slot::seat_source`] does for a source.
    ///
    /// # Errors
    /// As [`Slot::seat_source`].
    pub fn seat_destination(&mut self, destination: D) -> Result<Option<(S, D)>, SeatError> {
        let (next, seated) = match std::mem::replace(&mut self.0, State::Created) {
            State::Created => (State::DestinationWaits(destination), Ok(None)),
            State::SourceWaits(source) => (State::Streaming, Ok(Some((source, destination)))),
            other => other.refuse(Side::Destination),
        };
        self.0 = next;
        seated
    }

    /// Frees the seat of `side` and returns its data. `None` if that side is not waiting.
    pub fn leave(&mut self, side: Side) -> Option<Waiter<S, D>> {
        match (side, &self.0) {
            (Side::Source, State::SourceWaits(_)) | (Side::Destination, State::DestinationWaits(_)) => {
                self.take_waiter(State::Created)
            }
            _ => None,
        }
    }

    /// Records an error that a client reports. Returns the waiting side, if any: the caller must send it the report, and
    /// the stream has ended. Without a waiting side, the next one to connect receives the report.
    ///
    /// # Errors
    /// [`SeatError::AlreadyStarted`] if the sides have paired, the stream has ended, or an error was reported before.
    pub fn report(&mut self, report: Arc<Report>) -> Result<Option<Waiter<S, D>>, SeatError> {
        match &self.0 {
            State::Created => {
                self.0 = State::Reported(report);
                Ok(None)
            }
            State::SourceWaits(_) | State::DestinationWaits(_) => {
                Ok(self.take_waiter(State::Ended(Outcome::Reported(report))))
            }
            State::Streaming | State::Reported(_) | State::Ended(_) => Err(SeatError::AlreadyStarted),
        }
    }

    /// Ends the stream at its deadline, unless it is streaming or has ended. Returns the waiting side, if any: the caller
    /// must send it the expiry or the report.
    pub fn expire(&mut self) -> Option<Waiter<S, D>> {
        let outcome = match &self.0 {
            State::Created => Outcome::Expired { present: None },
            State::SourceWaits(_) => Outcome::Expired { present: Some(Side::Source) },
            State::DestinationWaits(_) => Outcome::Expired { present: Some(Side::Destination) },
            State::Reported(report) => Outcome::Reported(Arc::clone(report)),
            State::Streaming | State::Ended(_) => return None,
        };
        self.take_waiter(State::Ended(outcome))
    }

    /// Ends a streaming stream with the outcome of its transfer. Returns false, and changes nothing, if the stream is not
    /// streaming.
    pub fn settle(&mut self, outcome: Outcome) -> bool {
        let streaming = matches!(self.0, State::Streaming);
        if streaming {
            self.0 = State::Ended(outcome);
        }
        streaming
    }

    fn take_waiter(&mut self, next: State<S, D>) -> Option<Waiter<S, D>> {
        match std::mem::replace(&mut self.0, next) {
            State::SourceWaits(source) => Some(Waiter::Source(source)),
            State::DestinationWaits(destination) => Some(Waiter::Destination(destination)),
            _ => None,
        }
    }
}

impl<S, D> Waiter<S, D> {
    /// Returns the waiting side with borrowed data.
    pub fn as_ref(&self) -> Waiter<&S, &D> {
        match self {
            Self::Source(source) => Waiter::Source(source),
            Self::Destination(destination) => Waiter::Destination(destination),
        }
    }

    /// Returns which side waits.
    pub fn side(&self) -> Side {
        match self {
            Self::Source(_) => Side::Source,
            Self::Destination(_) => Side::Destination,
        }
    }
}

impl<S, D> State<S, D> {
    /// Refuses a seat to `side`. Returns the next state and the reason.
    fn refuse<T>(self, side: Side) -> (Self, Result<T, SeatError>) {
        match self {
            Self::Reported(report) => {
                (Self::Ended(Outcome::Reported(Arc::clone(&report))), Err(SeatError::Reported(report)))
            }
            Self::Ended(_) => (self, Err(SeatError::NotFound)),
            taken => (taken, Err(SeatError::AlreadyConnected(side))),
        }
    }
}
