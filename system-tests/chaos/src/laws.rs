//! The laws, and the check of a transfer against them. Pure: from the plan and the observations to the broken laws.

use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use testkit::matrix::{Answered, Cell, Error, Event, Received};

use crate::client::{Ending, View};
use crate::plan::{Act, Fault, Manner, Program, Scenario, Side, Stage};

/// The status that a report asks for.
pub(crate) const REPORTED: u16 = 418;

/// What must hold for every transfer and server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Law {
    /// Every byte that a destination receives is the source's byte at this offset.
    OnlyTheSourcesBytes,
    /// A cut body does not look whole.
    NoCutLooksWhole,
    /// A whole body does not look cut, and an undisturbed transfer succeeds.
    NoWholeLooksCut,
    /// A source gets 200 only if every byte was received.
    OnlyDelivered200,
    /// Each side gets exactly one final response, or a visible cut.
    OneAnswer,
    /// The events explain each response.
    AnswersAreRight,
    /// A seat has one holder, and becomes free when the holder leaves.
    Seats,
    /// The status of a stream agrees with the events.
    StatusAgrees,
    /// A transfer that is played as the table describes has the outcome of the table.
    AsTheTable,
    /// The server gives back all resources.
    NothingLeft,
    /// The server ends on a signal and only then, and it does not panic.
    ServerLives,
}

/// A breach of a law.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Breach {
    /// The law.
    pub(crate) law: Law,
    /// The details.
    pub(crate) how: String,
}

/// The status of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Status {
    /// The state.
    pub(crate) state: String,
    /// It has not ended.
    pub(crate) active: bool,
    /// The body bytes that were passed on.
    pub(crate) bytes_transferred: u64,
}

/// The trouble of the server during the transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Circumstances {
    /// It was stopped or killed.
    pub(crate) has_ended: bool,
    /// It had no room for all clients.
    pub(crate) is_crowded: bool,
    /// The ttl.
    pub(crate) ttl: Duration,
    /// The idle limit, if it is short.
    pub(crate) idle: Option<Duration>,
}

/// All observations of a transfer.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// The plan.
    pub(crate) scenario: Scenario,
    /// The trouble of the server.
    pub(crate) circumstances: Circumstances,
    /// The view of the source, unless the plan has none.
    pub(crate) source: Option<View>,
    /// The view of the destination, unless the plan has none.
    pub(crate) destination: Option<View>,
    /// The view of the client that tried to take a seat.
    pub(crate) intruder: Option<View>,
    /// The response to the report.
    pub(crate) report: Option<u16>,
    /// For each side that left while it waited: whether its seat became free soon.
    pub(crate) freed: Vec<bool>,
    /// The last status.
    pub(crate) status: Option<Status>,
    /// From the creation of the stream to the last status.
    pub(crate) took: Duration,
}

/// The laws that these observations break.
#[must_use]
pub(crate) fn judge(facts: &Facts) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut broken = |law, how: Option<String>| breaches.extend(how.map(|how| Breach { law, how }));
    broken(Law::OnlyTheSourcesBytes, facts.foreign_bytes());
    broken(Law::NoCutLooksWhole, facts.cut_looks_whole());
    broken(Law::NoWholeLooksCut, facts.whole_looks_cut());
    broken(Law::OnlyDelivered200, facts.undelivered_200());
    for view in facts.views() {
        broken(Law::OneAnswer, facts.more_or_less_than_one_answer(view));
        broken(Law::AnswersAreRight, facts.unasked_interim(view));
    }
    for view in facts.source.iter().chain(&facts.destination) {
        broken(Law::AnswersAreRight, facts.unexplained_answer(view));
    }
    broken(Law::Seats, facts.unfair_seat());
    broken(Law::StatusAgrees, facts.false_status());
    broken(Law::AsTheTable, facts.unlike_the_table());
    breaches
}

impl Facts {
    fn views(&self) -> impl Iterator<Item = &View> {
        self.source.iter().chain(&self.destination).chain(&self.intruder)
    }

    fn view(&self, side: Side) -> Option<&View> {
        match side {
            Side::Source => self.source.as_ref(),
            Side::Destination => self.destination.as_ref(),
        }
    }

    /// Whether the server had no trouble.
    fn is_steady(&self) -> bool {
        !self.circumstances.has_ended && !self.circumstances.is_crowded
    }

    /// Whether the ttl may have passed.
    fn may_have_expired(&self) -> bool {
        self.took >= self.circumstances.ttl
    }

    /// Whether the idle limit may have passed, because the machine was busy.
    fn may_have_stalled(&self) -> bool {
        self.circumstances.idle.is_some_and(|idle| self.took >= idle)
    }

    /// Whether this side leaves, behaves as if it had left, or never connects.
    fn disturbs(&self, side: Side) -> bool {
        match &self.scenario.fault {
            Fault::Acts { .. } => self.scenario.steps(side).iter().any(|step| match step.act {
                Act::Leave(_) | Act::Break | Act::StopReading => true,
                // A source may half-close after its body, but a proxy takes that for its departure.
                Act::HalfClose => {
                    let is_proxied = self.scenario.source.proxy.is_some();
                    side == Side::Destination || is_proxied || !self.scenario.is_sent_at(step.moment)
                }
                Act::Stall(time) | Act::Withhold(time) => {
                    self.circumstances.idle.is_some_and(|idle| time >= idle / 2)
                }
                Act::Await(_) | Act::AwaitPair => false,
            }),
            Fault::Abandoned { .. } => self.scenario.first() == side,
            Fault::Absent(absent) => *absent == side,
            Fault::Forgotten => true,
            Fault::Reported(stage) => !matches!(stage, Stage::Streaming(_)),
            Fault::None | Fault::Replaced(_) | Fault::Intruder(..) => false,
        }
    }

    /// Whether nothing has kept the body from arriving.
    fn must_be_delivered(&self) -> bool {
        let disturbed = self.disturbs(Side::Source) || self.disturbs(Side::Destination);
        self.is_steady() && !disturbed && !self.may_have_expired() && !self.may_have_stalled()
    }

    fn is_finished(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.state == "FINISHED")
    }

    fn has_whole_body(&self) -> bool {
        self.destination.as_ref().is_some_and(|view| view.is_whole(200) && view.bytes == self.scenario.size)
    }

    fn foreign_bytes(&self) -> Option<String> {
        let destination = self.destination.as_ref()?;
        if let Some(wrong) = destination.wrong_at {
            return Some(format!("byte {wrong} at the destination is not the source's"));
        }
        let is_of_nobody = match self.scenario.fault {
            // The server or its kernel has noticed the departure.
            Fault::Abandoned { manner, .. } => self.freed == [true] || manner == Manner::Reset,
            _ => false,
        };
        (is_of_nobody && self.scenario.first() == Side::Source && destination.bytes > 0)
            .then(|| format!("{} bytes are of a source that had left", destination.bytes))
    }

    fn cut_looks_whole(&self) -> Option<String> {
        let destination = self.destination.as_ref().filter(|view| view.is_whole(200))?;
        if destination.bytes != self.scenario.size {
            return Some(format!("{} of {} bytes look whole", destination.bytes, self.scenario.size));
        }
        let sent = self.source.as_ref().is_some_and(|view| view.sent_whole);
        (!sent).then(|| "the upload has no end, and the download has".to_owned())
    }

    fn whole_looks_cut(&self) -> Option<String> {
        let destination = self.destination.as_ref();
        if self.must_be_delivered() {
            if !self.has_whole_body() {
                return Some("nothing is in its way, and the destination has not got it".to_owned());
            }
            if !self.source.as_ref().is_some_and(|view| view.is_whole(200)) {
                return Some(
                    "the destination has received the body, and the source does not get 200".to_owned(),
                );
            }
        }
        let stays = destination.is_some_and(|view| !view.left());
        (self.is_finished() && stays && !self.has_whole_body())
            .then(|| "it is FINISHED, and the destination sees a cut".to_owned())
    }

    fn undelivered_200(&self) -> Option<String> {
        self.source.as_ref().filter(|view| view.status() == Some(200))?;
        let Some(destination) = &self.destination else {
            return Some("200 without a destination".to_owned());
        };
        if self.has_whole_body() {
            return None;
        }
        if !destination.left() {
            return Some(format!("200 to the source; the destination saw {:?}", destination.ending));
        }
        // Nothing shows what the kernel took after the client had left, but it is at most the room in its buffer.
        let most = destination.bytes.saturating_add(destination.room.unwrap_or(u64::MAX));
        (most < self.scenario.size).then(|| {
            format!(
                "200 to the source; the destination's kernel has {most} of {} bytes at most",
                self.scenario.size
            )
        })
    }

    fn more_or_less_than_one_answer(&self, view: &View) -> Option<String> {
        let side = view.side;
        match &view.ending {
            _ if view.has_surplus => Some(format!("the {side} is sent something behind its last answer")),
            Ending::Hung => Some(format!("the {side} hangs")),
            Ending::Malformed(what) => Some(format!("the {side} is sent what is no HTTP: {what}")),
            Ending::NoAnswer(how) | Ending::Cut(how) if self.is_owed_an_answer(view) => {
                Some(format!("the {side}, which stayed, has no whole answer: {how}"))
            }
            _ => None,
        }
    }

    /// A running server responds to every client that stays. It may only cut a download that has begun.
    fn is_owed_an_answer(&self, view: &View) -> bool {
        // The reset of an HTTP/2 stream may overtake its head, and that of a connection discards unread bytes.
        let mut steps = self.scenario.steps(Side::Destination).iter();
        let has_not_read = steps.any(|step| matches!(step.act, Act::Stall(_) | Act::Withhold(_)))
            && self.disturbs(Side::Destination);
        let may_be_cut =
            view.status() == Some(200) || has_not_read || self.scenario.destination.transport.is_h2();
        let is_download = view.side == Side::Destination && may_be_cut;
        let half_closes = self.scenario.steps(view.side).iter().any(|step| step.act == Act::HalfClose);
        // A body that exceeds its length is an error of its HTTP/2 stream, which the server resets.
        let breaks_h2 = self.scenario.party(view.side).transport.is_h2()
            && self.scenario.steps(view.side).iter().any(|step| step.act == Act::Break);
        // curl stops when it cannot send, and may not read the response.
        let may_not_look =
            self.scenario.party(view.side).program == Program::Curl && view.side == Side::Source;
        self.is_steady() && !is_download && !half_closes && !breaks_h2 && !may_not_look
    }

    /// Some clients fail on an interim response without `Expect`. The server may probe a half-closed client by one.
    fn unasked_interim(&self, view: &View) -> Option<String> {
        let half_closes = self.scenario.steps(view.side).iter().any(|step| step.act == Act::HalfClose);
        let may_come = self.scenario.party(view.side).expects.is_some() || half_closes;
        (view.interims > 0 && !may_come)
            .then(|| format!("the {} is sent {} interim answers unasked", view.side, view.interims))
    }

    fn unexplained_answer(&self, view: &View) -> Option<String> {
        let answer = view.answer.as_ref()?;
        let is_steady = self.is_steady();
        if !is_steady && answer.name.is_empty() && matches!(view.ending, Ending::Cut(_)) {
            // The end of the server has cut the response. Whether that is right is for another law.
            return None;
        }
        let fault = &self.scenario.fault;
        let disturbed = self.disturbs(Side::Source) || self.disturbs(Side::Destination);
        let is_told = matches!(fault, Fault::Reported(Stage::Before | Stage::Waiting));
        let is_source = view.side == Side::Source;
        let is_explained = match (answer.status, answer.name.as_str()) {
            (200, _) => true,
            (400, "BadRequestError") => is_source && self.disturbs(Side::Source),
            (404, "SessionNotFoundError") => is_told || self.may_have_expired() || !is_steady,
            (502, "StreamSourceError" | "StreamDestinationError") => {
                disturbed || self.may_have_stalled() || !is_steady
            }
            (503, "ServerBusyError") => self.circumstances.is_crowded,
            (503, "ShuttingDownError") => self.circumstances.has_ended,
            (504, "SessionTimeoutError") => self.may_have_expired(),
            (REPORTED, "ChaosError") => is_told,
            (status, _) if self.is_of_proxy(view) => {
                let of_request = status == 400 && self.disturbs(view.side);
                let of_server = matches!(status, 502..=504) && (disturbed || !is_steady);
                of_request || of_server
            }
            // 429 among them: each planned side found its seat free.
            _ => false,
        };
        (!is_explained).then(|| format!("the {} gets {} {}", view.side, answer.status, answer.name))
    }

    /// Whether the error is the proxy's own: the server's errors have a name.
    fn is_of_proxy(&self, view: &View) -> bool {
        let is_unnamed_error =
            view.answer.as_ref().is_some_and(|answer| answer.status != 200 && answer.name.is_empty());
        is_unnamed_error && self.scenario.party(view.side).proxy.is_some()
    }

    fn unfair_seat(&self) -> Option<String> {
        if !self.is_steady() {
            return None;
        }
        if self.freed.contains(&false) {
            return Some("the waiting side has left, and its seat is not free".to_owned());
        }
        if self.may_have_expired() {
            return None;
        }
        match &self.scenario.fault {
            Fault::Intruder(..) => {
                let status = self.intruder.as_ref().and_then(View::status);
                // The stream may have ended by then.
                let is_over =
                    self.status.as_ref().is_some_and(|status| !status.active) && status == Some(404);
                (self.intruder.is_some() && status != Some(429) && !is_over)
                    .then(|| format!("a second client gets {status:?}"))
            }
            Fault::Reported(Stage::Streaming(_)) => self
                .report
                .filter(|status| *status != 409)
                .map(|status| format!("a late report is answered {status}")),
            Fault::Reported(stage) => self.unfair_report(*stage),
            _ => None,
        }
    }

    fn unfair_report(&self, stage: Stage) -> Option<String> {
        if self.report != Some(200) {
            return Some(format!("a report is answered {:?}", self.report));
        }
        let status = |side| self.view(side).and_then(View::status);
        let (first, second) = (status(self.scenario.first()), status(self.scenario.first().other()));
        // No side waits on such a stream, so the order is not known.
        let is_either = stage == Stage::Before;
        let is_right = (first, second) == (Some(REPORTED), Some(404))
            || is_either && (second, first) == (Some(REPORTED), Some(404));
        (!is_right).then(|| {
            format!("an error is reported, and the first side gets {first:?}, the second {second:?}")
        })
    }

    fn false_status(&self) -> Option<String> {
        let Some(status) = &self.status else {
            let is_forgotten = self.may_have_expired() || self.circumstances.has_ended;
            return (!is_forgotten).then(|| "there is none".to_owned());
        };
        let state = status.state.as_str();
        if status.active && state != "CREATED" {
            return Some(format!("all have gone, and it is {state}"));
        }
        // If the source half-closed, a proxy may respond by itself although the server has delivered the body.
        let is_told = |view: &&View| view.ending == Ending::Whole && !self.is_of_proxy(view);
        let source = self.source.as_ref().filter(is_told).and_then(View::status);
        if (source == Some(200)) != self.is_finished() && source.is_some() {
            return Some(format!("the state is {state}, and the source gets {source:?}"));
        }
        if self.is_finished() && status.bytes_transferred != self.scenario.size {
            return Some(format!("it is FINISHED after {} bytes", status.bytes_transferred));
        }
        let blamed = match state {
            _ if !self.is_steady() || self.may_have_stalled() => None,
            "SRC_DISCONNECTED" | "SRC_ERROR" => Some(Side::Source),
            "DST_DISCONNECTED" | "DST_ERROR" => Some(Side::Destination),
            _ => None,
        };
        blamed
            .filter(|side| !self.disturbs(*side))
            .map(|side| format!("it is {state}, and the {side} did nothing"))
    }
}

/// Compares transfers that are played as the table describes with its outcomes.
impl Facts {
    /// The cell to compare with. None if a proxy, a server in trouble or a busy machine takes part.
    #[must_use]
    pub(crate) fn cell(&self) -> Option<Cell> {
        let cell = self.scenario.drawn.filter(|drawn| drawn.is_exact)?.cell;
        let is_direct = self.scenario.source.proxy.is_none() && self.scenario.destination.proxy.is_none();
        let has_stalled = self.has_stalled_beside(cell.event);
        let has_paired = !self.status.as_ref()?.state.starts_with("TIMEOUT") || !self.may_have_expired();
        (is_direct && self.is_steady() && !has_stalled && has_paired).then_some(cell)
    }

    /// Whether the idle limit may have passed at another moment than that of the event.
    fn has_stalled_beside(&self, event: Event) -> bool {
        let Some(idle) = self.circumstances.idle else { return false };
        let stalls = self.scenario.steps(Side::Destination).iter().map(|step| match step.act {
            Act::Withhold(time) => time,
            _ => Duration::ZERO,
        });
        let event_takes = match event {
            Event::SourceStalls => idle,
            Event::DestinationStalls => stalls.sum(),
            _ => Duration::ZERO,
        };
        self.took >= event_takes + idle
    }

    fn unlike_the_table(&self) -> Option<String> {
        let cell = self.cell()?;
        let (status, expected) = (self.status.as_ref()?, cell.expected());
        let source = self.source.as_ref().map(|view| (&view.ending, &view.answer));
        if !expected.states.contains(&status.state.as_str()) {
            return Some(format!("it is {}, and not {:?}", status.state, expected.states));
        }
        if !self.is_answered(expected.source) {
            return Some(format!("the source gets {source:?}, and not {:?}", expected.source));
        }
        if !self.is_received(cell, expected.destination) {
            let destination = self.destination.as_ref().map(|view| (&view.ending, &view.answer, view.bytes));
            return Some(format!("the destination gets {destination:?}, and not {:?}", expected.destination));
        }
        let passed_on = cell.passed_on(self.scenario.size)..=self.scenario.size;
        (!passed_on.contains(&status.bytes_transferred))
            .then(|| format!("{} bytes were passed on, and not {passed_on:?}", status.bytes_transferred))
    }

    fn is_answered(&self, expected: Answered) -> bool {
        let Some(view) = &self.source else { return false };
        match expected {
            Answered::Ok => view.is_whole(200),
            Answered::Error(error) => is_error(view, error),
            Answered::ByState if self.is_finished() => view.is_whole(200),
            Answered::ByState => is_error(view, Error::DESTINATION_LEFT),
            Answered::Unseen => true,
        }
    }

    fn is_received(&self, cell: Cell, expected: Received) -> bool {
        let Some(view) = &self.destination else { return false };
        match expected {
            Received::Whole => self.has_whole_body(),
            Received::Error(error) => is_error(view, error),
            // A reset discards unread bytes, and with them the head.
            Received::Cut(_) if cell.event.has_unread_body() => {
                matches!(view.ending, Ending::Cut(_) | Ending::NoAnswer(_))
            }
            Received::Cut(_) => {
                let is_cut = view.status() == Some(200) && matches!(view.ending, Ending::Cut(_));
                is_cut && view.bytes >= cell.passed_on(self.scenario.size)
            }
            Received::Unseen => true,
        }
    }
}

fn is_error(view: &View, error: Error) -> bool {
    view.is_whole(error.status) && view.answer.as_ref().is_some_and(|answer| answer.name == error.name)
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OnlyTheSourcesBytes => "only-the-sources-bytes",
            Self::NoCutLooksWhole => "no-cut-looks-whole",
            Self::NoWholeLooksCut => "no-whole-looks-cut",
            Self::OnlyDelivered200 => "200-only-when-delivered",
            Self::OneAnswer => "one-answer-or-a-cut",
            Self::AnswersAreRight => "answers-are-right",
            Self::Seats => "seats",
            Self::StatusAgrees => "status-agrees",
            Self::AsTheTable => "as-the-table-says",
            Self::NothingLeft => "nothing-left-behind",
            Self::ServerLives => "server-lives",
        })
    }
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.law, self.how)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testkit::matrix::{Framing, Version, When};

    use crate::client::Answer;
    use crate::plan::{Drawn, Mix, Moment, Order, Proxy, Step};

    const SIZE: u64 = 500_000;

    /// A whole transfer without a fault.
    fn good() -> Facts {
        let mut scenario = Scenario::new(&Mix::whole(1), 2);
        scenario.fault = Fault::None;
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
            report: None,
            freed: Vec::new(),
            status: Some(Status { state: "FINISHED".into(), active: false, bytes_transferred: SIZE }),
            took: Duration::from_millis(20),
        }
    }

    /// A transfer whose source left inside the body, with the right responses.
    fn cut() -> Facts {
        let mut facts = good();
        let step = Step { moment: Moment::Body(1000), act: Act::Leave(Manner::Fin) };
        facts.scenario.fault = Fault::Acts { source: vec![step], destination: Vec::new() };
        let source = facts.source.as_mut().unwrap();
        (source.answer, source.ending) = (None, Ending::Left(Manner::Fin));
        (source.bytes, source.sent_whole) = (1000, false);
        let destination = facts.destination.as_mut().unwrap();
        (destination.bytes, destination.ending) = (1000, Ending::Cut("closed".into()));
        facts.status =
            Some(Status { state: "SRC_DISCONNECTED".into(), active: false, bytes_transferred: 1000 });
        facts
    }

    /// A transfer whose destination left inside the body.
    fn deaf() -> Facts {
        let mut facts = good();
        let step = Step { moment: Moment::Body(0), act: Act::Leave(Manner::Reset) };
        facts.scenario.fault = Fault::Acts { source: Vec::new(), destination: vec![step] };
        let destination = facts.destination.as_mut().unwrap();
        (destination.answer, destination.ending) = (None, Ending::Left(Manner::Reset));
        (destination.bytes, destination.room) = (0, Some(100_000));
        let source = facts.source.as_mut().unwrap();
        source.answer = Some(Answer { status: 502, name: "StreamDestinationError".into() });
        facts.status =
            Some(Status { state: "DST_DISCONNECTED".into(), active: false, bytes_transferred: 1000 });
        facts
    }

    fn reported() -> Facts {
        let mut facts = good();
        facts.scenario.fault = Fault::Reported(Stage::Waiting);
        facts.report = Some(200);
        let answer = |status, name: &str| Some(Answer { status, name: name.into() });
        facts.source.as_mut().unwrap().answer = answer(REPORTED, "ChaosError");
        facts.destination.as_mut().unwrap().answer = answer(404, "SessionNotFoundError");
        facts.destination.as_mut().unwrap().bytes = 0;
        facts.status = Some(Status { state: "CLIENT_ERROR".into(), active: false, bytes_transferred: 0 });
        facts
    }

    fn broken(mut facts: Facts, change: impl FnOnce(&mut Facts)) -> Vec<Law> {
        change(&mut facts);
        judge(&facts).into_iter().map(|breach| breach.law).collect()
    }

    #[test]
    fn what_is_right_breaks_no_law() {
        for (name, facts) in [("good", good()), ("cut", cut()), ("deaf", deaf()), ("reported", reported())] {
            assert_eq!(judge(&facts), [], "{name}");
        }
    }

    #[test]
    fn a_foreign_byte_is_seen() {
        assert_eq!(
            broken(good(), |facts| facts.destination.as_mut().unwrap().wrong_at = Some(7)),
            [Law::OnlyTheSourcesBytes]
        );
    }

    #[test]
    fn bytes_of_a_source_that_had_left_are_seen() {
        let seen = |manner, freed: &[bool]| {
            broken(cut(), |facts| {
                facts.scenario.fault = Fault::Abandoned { manner, at_once: freed.is_empty() };
                facts.freed = freed.to_vec();
                facts.source = None;
            })
        };
        assert_eq!(seen(Manner::Reset, &[]), [Law::OnlyTheSourcesBytes]);
        assert_eq!(seen(Manner::Fin, &[true]), [Law::OnlyTheSourcesBytes]);
        assert_eq!(seen(Manner::Fin, &[]), [], "its departure does not show");
    }

    #[test]
    fn an_interim_answer_that_nobody_asked_for_is_seen() {
        let interim = |facts: &mut Facts| facts.source.as_mut().unwrap().interims = 1;
        assert_eq!(broken(good(), interim), [Law::AnswersAreRight]);
        let asked = broken(good(), |facts| {
            interim(facts);
            facts.scenario.source.expects = Some("100-Continue");
        });
        assert_eq!(asked, []);
    }

    #[test]
    fn a_cut_that_looks_whole_is_seen() {
        let short = broken(cut(), |facts| facts.destination.as_mut().unwrap().ending = Ending::Whole);
        assert_eq!(short, [Law::NoCutLooksWhole]);
        let without_an_end = broken(cut(), |facts| {
            let destination = facts.destination.as_mut().unwrap();
            (destination.ending, destination.bytes) = (Ending::Whole, SIZE);
            facts.status.as_mut().unwrap().bytes_transferred = SIZE;
        });
        assert_eq!(without_an_end, [Law::NoCutLooksWhole]);
    }

    #[test]
    fn a_whole_that_looks_cut_is_seen() {
        let cut = Ending::Cut("reset".into());
        let by_both = broken(good(), |facts| {
            facts.destination.as_mut().unwrap().ending = cut.clone();
            facts.source.as_mut().unwrap().answer = None;
            facts.source.as_mut().unwrap().ending = Ending::Left(Manner::Fin);
            facts.status = Some(Status { state: "FINISHED".into(), active: false, bytes_transferred: SIZE });
        });
        assert_eq!(by_both, [Law::NoWholeLooksCut]);
        let to_the_source = broken(good(), |facts| {
            facts.source.as_mut().unwrap().answer =
                Some(Answer { status: 502, name: "StreamDestinationError".into() });
            facts.status.as_mut().unwrap().state = "DST_DISCONNECTED".into();
        });
        assert_eq!(to_the_source, [Law::NoWholeLooksCut, Law::AnswersAreRight, Law::StatusAgrees]);
    }

    #[test]
    fn a_200_for_what_can_not_have_arrived_is_seen() {
        let told_200 = |facts: &mut Facts| {
            facts.source.as_mut().unwrap().answer = Some(Answer { status: 200, name: String::new() });
            facts.status = Some(Status { state: "FINISHED".into(), active: false, bytes_transferred: SIZE });
        };
        assert_eq!(broken(deaf(), told_200), [Law::OnlyDelivered200]);
        let with_room = broken(deaf(), |facts| {
            told_200(facts);
            facts.destination.as_mut().unwrap().room = Some(SIZE);
        });
        assert_eq!(with_room, []);
    }

    #[test]
    fn a_side_without_an_answer_or_with_two_is_seen() {
        for (change, side) in [
            (Ending::Hung, Side::Source),
            (Ending::Malformed("x".into()), Side::Destination),
            (Ending::NoAnswer("closed".into()), Side::Source),
        ] {
            let laws = broken(good(), |facts| {
                let view = if side == Side::Source { &mut facts.source } else { &mut facts.destination };
                view.as_mut().unwrap().ending = change;
            });
            assert!(laws.contains(&Law::OneAnswer), "{laws:?}");
        }
        let surplus = broken(good(), |facts| facts.source.as_mut().unwrap().has_surplus = true);
        assert_eq!(surplus, [Law::OneAnswer]);
    }

    #[test]
    fn an_answer_that_nothing_explains_is_seen() {
        let answered = |status: u16, name: &str| {
            let name = name.to_owned();
            broken(cut(), move |facts| {
                let view = facts.destination.as_mut().unwrap();
                (view.answer, view.ending, view.bytes) = (Some(Answer { status, name }), Ending::Whole, 0);
            })
        };
        assert_eq!(answered(502, "StreamSourceError"), []);
        for (status, name) in [
            (500, "InternalError"),
            (504, "SessionTimeoutError"),
            (503, "ServerBusyError"),
            (429, "AlreadyConnectedError"),
            (404, "SessionNotFoundError"),
            (502, "OtherError"),
        ] {
            assert_eq!(answered(status, name), [Law::AnswersAreRight], "{status}");
        }
    }

    #[test]
    fn what_a_proxy_answers_by_itself_is_explained_by_what_happened() {
        let answered = |facts: Facts, status: u16, proxy: Option<Proxy>| {
            broken(facts, move |facts| {
                facts.scenario.source.proxy = proxy;
                let view = facts.source.as_mut().unwrap();
                (view.answer, view.ending) = (Some(Answer { status, name: String::new() }), Ending::Whole);
            })
        };
        for proxy in Proxy::ALL.map(Some) {
            assert_eq!(answered(cut(), 400, proxy), []);
            assert_eq!(answered(deaf(), 502, proxy), []);
            assert_eq!(answered(deaf(), 400, proxy), [Law::AnswersAreRight], "it was not the source");
            let whole = answered(good(), 502, proxy);
            assert_eq!(whole, [Law::NoWholeLooksCut, Law::AnswersAreRight], "nothing went wrong");
        }
        assert_eq!(answered(deaf(), 502, None), [Law::AnswersAreRight], "the server names its errors");
    }

    /// A transfer whose source closed after its first byte, as the table describes and expects.
    fn of_the_table() -> Facts {
        let mut facts = cut();
        let cell = Cell {
            source: Version::Http11,
            destination: Version::Http11,
            framing: Framing::Length,
            paced: false,
            event: Event::SourceCloses,
            when: When::AfterFirstByte,
        };
        facts.scenario.drawn = Some(Drawn { cell, is_exact: true });
        facts.destination.as_mut().unwrap().bytes = 1;
        facts.status.as_mut().unwrap().bytes_transferred = 1;
        facts
    }

    #[test]
    fn what_ends_unlike_the_table_is_seen() {
        let changes: [fn(&mut Facts); 4] = [
            |facts| facts.status.as_mut().unwrap().state = "SRC_ERROR".into(),
            |facts| facts.status.as_mut().unwrap().bytes_transferred = 0,
            |facts| facts.destination.as_mut().unwrap().bytes = 0,
            |facts| {
                let view = facts.destination.as_mut().unwrap();
                let name = "StreamSourceError".to_owned();
                (view.answer, view.ending) = (Some(Answer { status: 502, name }), Ending::Whole);
            },
        ];
        let elsewhere: [fn(&mut Facts); 4] = [
            |facts| facts.scenario.drawn.as_mut().unwrap().is_exact = false,
            |facts| facts.scenario.source.proxy = Some(Proxy::Nginx),
            |facts| facts.circumstances.is_crowded = true,
            |facts| facts.circumstances.idle = Some(facts.took),
        ];
        assert_eq!(judge(&of_the_table()), []);
        for (number, change) in changes.into_iter().enumerate() {
            assert_eq!(broken(of_the_table(), change), [Law::AsTheTable], "change {number}");
            for (place, elsewhere) in elsewhere.iter().enumerate() {
                let seen = broken(of_the_table(), |facts| {
                    change(facts);
                    elsewhere(facts);
                });
                assert_eq!(seen, [], "change {number} in place {place}");
            }
        }
    }

    #[test]
    fn a_source_that_half_closes_is_owed_delivery_but_not_by_a_proxy() {
        let half_closed = |proxy: Option<Proxy>| {
            broken(cut(), move |facts| {
                let step = Step { moment: Moment::End, act: Act::HalfClose };
                facts.scenario.fault = Fault::Acts { source: vec![step], destination: Vec::new() };
                facts.scenario.source.proxy = proxy;
                facts.source.as_mut().unwrap().ending = Ending::NoAnswer("closed".into());
            })
        };
        assert_eq!(half_closed(Some(Proxy::Nginx)), []);
        assert_eq!(half_closed(None), [Law::NoWholeLooksCut, Law::StatusAgrees]);
    }

    #[test]
    fn an_unfair_seat_is_seen() {
        assert_eq!(broken(good(), |facts| facts.freed = vec![true, false]), [Law::Seats]);
        for (status, laws) in [(429, &[][..]), (200, &[Law::Seats]), (404, &[])] {
            let seen = broken(good(), |facts| {
                facts.scenario.fault = Fault::Intruder(Side::Source, Stage::Waiting);
                let mut intruder = facts.source.clone().unwrap();
                intruder.answer = Some(Answer { status, name: String::new() });
                facts.intruder = Some(intruder);
            });
            assert_eq!(seen, laws, "{status}");
        }
        assert_eq!(broken(reported(), |facts| facts.report = Some(409)), [Law::Seats]);
        let both = broken(reported(), |facts| facts.destination = facts.source.clone());
        assert_eq!(both, [Law::Seats]);
    }

    #[test]
    fn a_status_that_says_something_else_is_seen() {
        for (state, active, bytes) in
            [("DST_DISCONNECTED", false, 1000), ("FINISHED", false, 1000), ("STREAMING", true, 1000)]
        {
            let laws = broken(cut(), |facts| {
                facts.status = Some(Status { state: state.into(), active, bytes_transferred: bytes });
            });
            assert!(laws.contains(&Law::StatusAgrees), "{state} {active} {bytes}: {laws:?}");
        }
        assert_eq!(broken(good(), |facts| facts.status = None), [Law::StatusAgrees]);
    }

    #[test]
    fn a_server_that_was_stopped_owes_no_answer_but_tells_no_lies() {
        let stopped = |facts: &mut Facts| {
            facts.circumstances.has_ended = true;
            facts.status = None;
            facts.source.as_mut().unwrap().answer = None;
            facts.source.as_mut().unwrap().ending = Ending::NoAnswer("reset".into());
        };
        let honest = broken(good(), |facts| {
            stopped(facts);
            facts.destination.as_mut().unwrap().ending = Ending::Cut("reset".into());
        });
        assert_eq!(honest, []);
        let lie = broken(good(), |facts| {
            stopped(facts);
            facts.destination.as_mut().unwrap().bytes -= 1;
        });
        assert_eq!(lie, [Law::NoCutLooksWhole]);
    }
}
