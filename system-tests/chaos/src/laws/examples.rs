//! Observations of typical transfers, which the tests of the laws change in one place each.

use std::time::Duration;

use super::{Circumstances, Facts, Law, REPORTED, judge};
use crate::client::{Answer, Ending, View};
use crate::place::{Sight, Status};
use crate::plan::{Act, Address, Fault, Manner, Mix, Moment, Order, Program, Scenario, Side, Stage, Step};

pub(super) const SIZE: u64 = 500_000;

/// A stream that has ended in this state.
pub(super) fn in_state(state: &str, bytes: u64) -> Sight {
    Sight::Status(Status { state: state.into(), active: false, bytes_transferred: bytes })
}

/// The status that was seen last.
pub(super) fn status(facts: &mut Facts) -> &mut Status {
    let Sight::Status(status) = &mut facts.sight else { panic!("no status was seen") };
    status
}

/// The same over a path.
pub(super) fn over_path(mut facts: Facts) -> Facts {
    facts.scenario.address = Address::Path;
    facts.sight = Sight::Free;
    facts
}

/// A whole transfer without a fault.
pub(super) fn good() -> Facts {
    let mut scenario = Scenario::new(&Mix::whole(1), 2);
    scenario.fault = Fault::None;
    scenario.address = Address::Stream { is_promised: false, ttl: None };
    (scenario.source.wait, scenario.destination.wait) = (None, None);
    scenario.size = SIZE;
    scenario.order = Order::First(Side::Source);
    scenario.source.expects = None;
    let view = |side, sent_whole| View {
        side,
        answer: Some(Answer { status: 200, name: String::new() }),
        ending: Ending::Whole,
        bytes: SIZE,
        sent_whole,
        wrong_at: None,
        has_surplus: false,
        room: None,
        interims: 0,
    };
    scenario.source.program = Program::Own;
    scenario.destination.program = Program::Own;
    Facts {
        scenario,
        circumstances: Circumstances { ttl: Duration::from_secs(4), ..Circumstances::default() },
        source: Some(view(Side::Source, true)),
        destination: Some(view(Side::Destination, false)),
        intruder: None,
        in_vain: Vec::new(),
        report: None,
        freed: Vec::new(),
        sight: in_state("FINISHED", SIZE),
        took: Duration::from_millis(20),
    }
}

/// A transfer whose source left inside the body, with the right responses.
pub(super) fn cut() -> Facts {
    let mut facts = good();
    let step = Step { moment: Moment::Body(1000), act: Act::Leave(Manner::Fin) };
    facts.scenario.fault = Fault::Acts { source: vec![step], destination: Vec::new() };
    let source = facts.source.as_mut().unwrap();
    (source.answer, source.ending) = (None, Ending::Left(Manner::Fin));
    (source.bytes, source.sent_whole) = (1000, false);
    let destination = facts.destination.as_mut().unwrap();
    (destination.bytes, destination.ending) = (1000, Ending::Cut("closed".into()));
    facts.sight = in_state("SRC_DISCONNECTED", 1000);
    facts
}

/// A transfer whose destination left inside the body.
pub(super) fn deaf() -> Facts {
    let mut facts = good();
    let step = Step { moment: Moment::Body(0), act: Act::Leave(Manner::Reset) };
    facts.scenario.fault = Fault::Acts { source: Vec::new(), destination: vec![step] };
    let destination = facts.destination.as_mut().unwrap();
    (destination.answer, destination.ending) = (None, Ending::Left(Manner::Reset));
    (destination.bytes, destination.room) = (0, Some(100_000));
    let source = facts.source.as_mut().unwrap();
    source.answer = Some(Answer { status: 502, name: "StreamDestinationError".into() });
    facts.sight = in_state("DST_DISCONNECTED", 1000);
    facts
}

pub(super) fn reported() -> Facts {
    let mut facts = good();
    facts.scenario.fault = Fault::Reported(Stage::Waiting);
    facts.report = Some(200);
    let answer = |status, name: &str| Some(Answer { status, name: name.into() });
    facts.source.as_mut().unwrap().answer = answer(REPORTED, "ChaosError");
    facts.destination.as_mut().unwrap().answer = answer(404, "SessionNotFoundError");
    facts.destination.as_mut().unwrap().bytes = 0;
    facts.sight = in_state("CLIENT_ERROR", 0);
    facts
}

pub(super) fn broken(mut facts: Facts, change: impl FnOnce(&mut Facts)) -> Vec<Law> {
    change(&mut facts);
    judge(&facts).into_iter().map(|breach| breach.law).collect()
}
