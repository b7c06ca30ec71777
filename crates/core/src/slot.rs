//! One stream's life: who may sit where, who meets whom, and how it ends.
//!
//! Pure: no I/O, no clock, no lock. The caller says what happens and acts on what comes back. `S` and `D` are
//! what the caller keeps of a waiting source and of a waiting destination.
//!
//! ```text
//!          PUT                        GET
//!  Created ───► SourceWaits ──────────────► Streaming ──────► Ended(Outcome)
//!   │  ▲  └─GET─► DestinationWaits ──PUT──────┘   settle          ▲
//!   │  └─ leave ──┘   │                                           │
//!   │                 └───────── expiry, or a report ────────────►│
//!   └── report, nobody waits ──► Reported ── the next to come ───►│
//! ```
//!
//! Invariants: a stream pairs at most once; a seat has one holder; the first ending stands.

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
    /// An error was reported before anybody came; the first who comes is told.
    Reported(Arc<Report>),
    Ended(Outcome),
}

/// A side that waits, or waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiter<S, D> {
    /// The source.
    Source(S),
    /// The destination.
    Destination(D),
}

/// What can be told of a stream's state without touching it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase<'a> {
    /// Nobody waits.
    Created,
    /// This side waits for the other.
    Waiting(Side),
    /// Both are there.
    Streaming,
    /// An error was reported; nobody has been told yet.
    Reported(&'a Arc<Report>),
    /// It is over.
    Ended(&'a Outcome),
}

impl<S, D> Default for Slot<S, D> {
    fn default() -> Self {
        Self(State::Created)
    }
}

impl<S, D> Slot<S, D> {
    /// Where the stream stands.
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

    /// The side that waits, if one does.
    pub fn waiter(&self) -> Option<Waiter<&S, &D>> {
        match &self.0 {
            State::SourceWaits(source) => Some(Waiter::Source(source)),
            State::DestinationWaits(destination) => Some(Waiter::Destination(destination)),
            State::Created | State::Streaming | State::Reported(_) | State::Ended(_) => None,
        }
    }

    /// A source comes. `Ok(None)`: it waits. `Ok(Some(_))`: here is the pair; the stream is streaming.
    ///
    /// # Errors
    /// The seat is taken, the stream has ended, or an error was reported (this ends the stream).
    pub fn seat_source(&mut self, source: S) -> Result<Option<(S, D)>, SeatError> {
        let (next, seated) = match std::mem::replace(&mut self.0, State::Created) {
            State::Created => (State::SourceWaits(source), Ok(None)),
            State::DestinationWaits(destination) => (State::Streaming, Ok(Some((source, destination)))),
            other => other.refuse(Side::Source),
        };
        self.0 = next;
        seated
    }

    /// A destination comes; the mirror image of [`Slot::seat_source`].
    ///
    /// # Errors
    /// The seat is taken, the stream has ended, or an error was reported (this ends the stream).
    pub fn seat_destination(&mut self, destination: D) -> Result<Option<(S, D)>, SeatError> {
        let (next, seated) = match std::mem::replace(&mut self.0, State::Created) {
            State::Created => (State::DestinationWaits(destination), Ok(None)),
            State::SourceWaits(source) => (State::Streaming, Ok(Some((source, destination)))),
            other => other.refuse(Side::Destination),
        };
        self.0 = next;
        seated
    }

    /// The side that waits leaves, and its seat is free again. `None` where that side does not wait.
    pub fn leave(&mut self, side: Side) -> Option<Waiter<S, D>> {
        match (side, &self.0) {
            (Side::Source, State::SourceWaits(_)) | (Side::Destination, State::DestinationWaits(_)) => {
                self.take_waiter(State::Created)
            }
            _ => None,
        }
    }

    /// A client reports an error. `Ok(Some(_))`: this waiter is to be told, and the stream has ended.
    ///
    /// # Errors
    /// [`SeatError::AlreadyStarted`] where the sides have paired, or the stream has ended or was reported
    /// before.
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

    /// The time to live is over. The waiter, if any, is to be told. A streaming or ended stream stays as it
    /// is.
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

    /// The transfer of the pair has ended. False, and nothing changes, where the stream is not streaming.
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
    /// The same, borrowed.
    pub fn as_ref(&self) -> Waiter<&S, &D> {
        match self {
            Self::Source(source) => Waiter::Source(source),
            Self::Destination(destination) => Waiter::Destination(destination),
        }
    }

    /// Which side it is.
    pub fn side(&self) -> Side {
        match self {
            Self::Source(_) => Side::Source,
            Self::Destination(_) => Side::Destination,
        }
    }
}

impl<S, D> State<S, D> {
    /// No seat here for `side`: the state that stays, and why.
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
