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

use crate::outcome::{Outcome, Refusal, Report, Side};

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
    Reported(Report),
    Ended(Outcome),
}

/// A side that waited and does not any more.
#[derive(Debug, PartialEq, Eq)]
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
    Reported(&'a Report),
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

    /// A source comes. `Ok(None)`: it waits. `Ok(Some(_))`: here is the pair; the stream is streaming.
    ///
    /// # Errors
    /// The seat is taken, the stream has ended, or an error was reported (this ends the stream).
    pub fn seat_source(&mut self, source: S) -> Result<Option<(S, D)>, Refusal> {
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
    pub fn seat_destination(&mut self, destination: D) -> Result<Option<(S, D)>, Refusal> {
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
    /// [`Refusal::AlreadyStarted`] where the sides have paired, or the stream has ended or was reported
    /// before.
    pub fn report(&mut self, report: Report) -> Result<Option<Waiter<S, D>>, Refusal> {
        match &self.0 {
            State::Created => {
                self.0 = State::Reported(report);
                Ok(None)
            }
            State::SourceWaits(_) | State::DestinationWaits(_) => {
                Ok(self.take_waiter(State::Ended(Outcome::Reported(report))))
            }
            State::Streaming | State::Reported(_) | State::Ended(_) => Err(Refusal::AlreadyStarted),
        }
    }

    /// The time to live is over. The waiter, if any, is to be told. A streaming or ended stream stays as it
    /// is.
    pub fn expire(&mut self) -> Option<Waiter<S, D>> {
        let outcome = match &self.0 {
            State::Created => Outcome::Expired { present: None },
            State::SourceWaits(_) => Outcome::Expired { present: Some(Side::Source) },
            State::DestinationWaits(_) => Outcome::Expired { present: Some(Side::Destination) },
            State::Reported(report) => Outcome::Reported(report.clone()),
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

impl<S, D> State<S, D> {
    /// No seat here for `side`: the state that stays, and why.
    fn refuse<T>(self, side: Side) -> (Self, Result<T, Refusal>) {
        match self {
            Self::Reported(report) => {
                (Self::Ended(Outcome::Reported(report.clone())), Err(Refusal::Reported(report)))
            }
            Self::Ended(_) => (self, Err(Refusal::NotFound)),
            taken => (taken, Err(Refusal::AlreadyConnected(side))),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::outcome::Fault;

    #[derive(Debug, Clone)]
    enum Operation {
        Come(Side),
        Leave(Side),
        Report,
        Expire,
        Settle(bool),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let side = prop_oneof![Just(Side::Source), Just(Side::Destination)];
        prop_oneof![
            4 => side.clone().prop_map(Operation::Come),
            2 => side.prop_map(Operation::Leave),
            1 => Just(Operation::Report),
            1 => Just(Operation::Expire),
            1 => any::<bool>().prop_map(Operation::Settle),
        ]
    }

    /// The rules again, told by what has happened instead of by a state machine.
    #[derive(Debug, Default)]
    struct Model {
        source: Option<u32>,
        destination: Option<u32>,
        paired: bool,
        untold: bool,
        ending: Option<Outcome>,
    }

    impl Model {
        fn come(&mut self, side: Side, party: u32) -> Result<Option<(u32, u32)>, Refusal> {
            if std::mem::take(&mut self.untold) {
                self.ending = Some(Outcome::Reported(report()));
                return Err(Refusal::Reported(report()));
            }
            if self.ending.is_some() {
                return Err(Refusal::NotFound);
            }
            let seat = match side {
                Side::Source => &mut self.source,
                Side::Destination => &mut self.destination,
            };
            if seat.is_some() {
                return Err(Refusal::AlreadyConnected(side));
            }
            *seat = Some(party);
            let pair = self.source.zip(self.destination);
            self.paired = pair.is_some();
            Ok(pair)
        }

        fn waiting(&self) -> Option<(Side, u32)> {
            if self.paired || self.ending.is_some() {
                return None;
            }
            let source = self.source.map(|party| (Side::Source, party));
            source.or(self.destination.map(|party| (Side::Destination, party)))
        }

        fn leave(&mut self, side: Side) -> Option<(Side, u32)> {
            let leaver = self.waiting().filter(|(waits, _)| *waits == side)?;
            (self.source, self.destination) = (None, None);
            Some(leaver)
        }

        fn end(&mut self, outcome: Outcome) -> Option<(Side, u32)> {
            let waiter = self.waiting();
            self.ending = Some(outcome);
            waiter
        }
    }

    fn report() -> Report {
        Report { status: 418, name: "N".into(), message: "M".into() }
    }

    fn told(waiter: Option<Waiter<u32, u32>>) -> Option<(Side, u32)> {
        waiter.map(|waiter| match waiter {
            Waiter::Source(party) => (Side::Source, party),
            Waiter::Destination(party) => (Side::Destination, party),
        })
    }

    proptest! {
        #[test]
        fn any_history_obeys_the_rules_of_the_seats(history in prop::collection::vec(operation(), 0..40)) {
            let mut slot = Slot::<u32, u32>::default();
            let mut model = Model::default();
            let mut pairings = 0;
            for (party, operation) in (0u32..).zip(history) {
                match operation {
                    Operation::Come(side) => {
                        let seated = match side {
                            Side::Source => slot.seat_source(party),
                            Side::Destination => slot.seat_destination(party),
                        };
                        pairings += u32::from(matches!(seated, Ok(Some(_))));
                        prop_assert_eq!(seated, model.come(side, party));
                    }
                    Operation::Leave(side) => prop_assert_eq!(told(slot.leave(side)), model.leave(side)),
                    Operation::Report => {
                        let refused = model.paired || model.untold || model.ending.is_some();
                        match slot.report(report()) {
                            Err(refusal) => {
                                prop_assert!(refused);
                                prop_assert_eq!(refusal, Refusal::AlreadyStarted);
                            }
                            Ok(waiter) => {
                                prop_assert!(!refused);
                                if model.waiting().is_none() {
                                    model.untold = true;
                                    prop_assert!(waiter.is_none());
                                } else {
                                    prop_assert_eq!(told(waiter), model.end(Outcome::Reported(report())));
                                }
                            }
                        }
                    }
                    Operation::Expire => {
                        let waiter = told(slot.expire());
                        if model.ending.is_some() || model.paired {
                            prop_assert_eq!(waiter, None);
                        } else if std::mem::take(&mut model.untold) {
                            prop_assert_eq!(waiter, None);
                            model.end(Outcome::Reported(report()));
                        } else {
                            let present = model.waiting().map(|(side, _)| side);
                            prop_assert_eq!(waiter, model.end(Outcome::Expired { present }));
                        }
                    }
                    Operation::Settle(well) => {
                        let outcome =
                            if well { Outcome::Finished } else { Outcome::Failed(Fault::SourceDisconnected) };
                        let first = model.paired && model.ending.is_none();
                        prop_assert_eq!(slot.settle(outcome.clone()), first);
                        if first {
                            model.ending = Some(outcome);
                        }
                    }
                }
                let expected = match (&model.ending, model.untold) {
                    (Some(outcome), _) => Phase::Ended(outcome),
                    (None, true) => Phase::Reported(&Report { ..report() }) ,
                    (None, false) if model.paired => Phase::Streaming,
                    (None, false) => model.waiting().map_or(Phase::Created, |(side, _)| Phase::Waiting(side)),
                };
                match expected {
                    Phase::Reported(_) => prop_assert!(matches!(slot.phase(), Phase::Reported(_))),
                    phase => prop_assert_eq!(slot.phase(), phase),
                }
                prop_assert!(pairings <= 1, "a stream pairs at most once");
            }
        }
    }
}
