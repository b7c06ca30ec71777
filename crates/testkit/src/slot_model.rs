//! A second implementation of the rules of [`Slot`], to compare it with.
//!
//! The model keeps independent facts about a stream, where [`Slot`] is a state machine. The tests of `core` and the fuzz target
//! `slot` run the same operations on both.

use std::sync::Arc;

use rendezvous_core::outcome::{Outcome, Report, SeatError};
use rendezvous_core::slot::{Phase, Slot, Waiter};
use rendezvous_protocol::Side;

/// An operation on a stream.
#[derive(Debug, Clone)]
pub enum Operation {
    /// This side connects.
    Connect(Side),
    /// This side disconnects.
    Leave(Side),
    /// A client reports an error.
    Report,
    /// The ttl passes.
    Expire,
    /// The transfer ends with this outcome.
    Settle(Outcome),
}

/// Runs the operations on a [`Slot`] and on the model, and panics where they differ.
pub fn check(history: impl IntoIterator<Item = Operation>) {
    let (mut slot, mut model, mut pairings) = (Slot::default(), Model::default(), 0);
    for (party, operation) in (0..).zip(history) {
        match operation {
            Operation::Connect(side) => {
                let seated = match side {
                    Side::Source => slot.seat_source(party),
                    Side::Destination => slot.seat_destination(party),
                };
                pairings += u32::from(matches!(seated, Ok(Some(_))));
                assert_eq!(seated, model.connect(side, party));
            }
            Operation::Leave(side) => assert_eq!(side_and_party(slot.leave(side)), model.leave(side)),
            Operation::Report => assert_eq!(slot.report(report()).map(side_and_party), model.report()),
            Operation::Expire => assert_eq!(side_and_party(slot.expire()), model.expire()),
            Operation::Settle(outcome) => assert_eq!(slot.settle(outcome.clone()), model.settle(outcome)),
        }
        assert_eq!(slot.phase(), model.phase());
        assert!(pairings <= 1, "a stream pairs at most once");
    }
}

#[derive(Debug)]
struct Model {
    source: Option<u32>,
    destination: Option<u32>,
    paired: bool,
    /// Whether an error was reported while no side waited.
    report_pending: bool,
    outcome: Option<Outcome>,
    report: Arc<Report>,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            source: None,
            destination: None,
            paired: false,
            report_pending: false,
            outcome: None,
            report: report(),
        }
    }
}

impl Model {
    fn connect(&mut self, side: Side, party: u32) -> Result<Option<(u32, u32)>, SeatError> {
        if std::mem::take(&mut self.report_pending) {
            self.outcome = Some(Outcome::Reported(report()));
            return Err(SeatError::Reported(report()));
        }
        if self.outcome.is_some() {
            return Err(SeatError::NotFound);
        }
        let seat = match side {
            Side::Source => &mut self.source,
            Side::Destination => &mut self.destination,
        };
        if seat.is_some() {
            return Err(SeatError::AlreadyConnected(side));
        }
        *seat = Some(party);
        let pair = self.source.zip(self.destination);
        self.paired = pair.is_some();
        Ok(pair)
    }

    fn leave(&mut self, side: Side) -> Option<(Side, u32)> {
        let waiter = self.waiting().filter(|(waiting, _)| *waiting == side)?;
        (self.source, self.destination) = (None, None);
        Some(waiter)
    }

    fn report(&mut self) -> Result<Option<(Side, u32)>, SeatError> {
        if self.paired || self.report_pending || self.outcome.is_some() {
            return Err(SeatError::AlreadyStarted);
        }
        if self.waiting().is_none() {
            self.report_pending = true;
            return Ok(None);
        }
        Ok(self.end(Outcome::Reported(report())))
    }

    fn expire(&mut self) -> Option<(Side, u32)> {
        if self.outcome.is_some() || self.paired {
            return None;
        }
        if std::mem::take(&mut self.report_pending) {
            return self.end(Outcome::Reported(report()));
        }
        let present = self.waiting().map(|(side, _)| side);
        self.end(Outcome::Expired { present })
    }

    fn settle(&mut self, outcome: Outcome) -> bool {
        let first = self.paired && self.outcome.is_none();
        if first {
            self.outcome = Some(outcome);
        }
        first
    }

    fn waiting(&self) -> Option<(Side, u32)> {
        if self.paired || self.outcome.is_some() {
            return None;
        }
        let source = self.source.map(|party| (Side::Source, party));
        source.or(self.destination.map(|party| (Side::Destination, party)))
    }

    fn end(&mut self, outcome: Outcome) -> Option<(Side, u32)> {
        let waiter = self.waiting();
        self.outcome = Some(outcome);
        waiter
    }

    fn phase(&self) -> Phase<'_> {
        match (&self.outcome, self.waiting()) {
            (Some(outcome), _) => Phase::Ended(outcome),
            _ if self.report_pending => Phase::Reported(&self.report),
            _ if self.paired => Phase::Streaming,
            (_, Some((side, _))) => Phase::Waiting(side),
            (_, None) => Phase::Created,
        }
    }
}

fn report() -> Arc<Report> {
    Arc::new(Report { status: 418, name: "N".into(), message: "M".into() })
}

fn side_and_party(waiter: Option<Waiter<u32, u32>>) -> Option<(Side, u32)> {
    waiter.map(|waiter| match waiter {
        Waiter::Source(party) => (Side::Source, party),
        Waiter::Destination(party) => (Side::Destination, party),
    })
}
