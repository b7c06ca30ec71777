//! The laws of the responses: each side that stays gets exactly one, and the events explain it.

use super::{Facts, REPORTED};
use crate::client::{Ending, View};
use crate::plan::{Act, Address, Fault, Program, Side, Stage};

impl Facts {
    pub(super) fn more_or_less_than_one_answer(&self, view: &View) -> Option<String> {
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
        let may_be_cut = view.status() == Some(200)
            || view.lost_its_beginning()
            || has_not_read
            || self.scenario.destination.transport.is_h2();
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
    pub(super) fn unasked_interim(&self, view: &View) -> Option<String> {
        let half_closes = self.scenario.steps(view.side).iter().any(|step| step.act == Act::HalfClose);
        let may_come = self.scenario.party(view.side).expects.is_some() || half_closes;
        (view.interims > 0 && !may_come)
            .then(|| format!("the {} is sent {} interim answers unasked", view.side, view.interims))
    }

    pub(super) fn unexplained_answer(&self, view: &View) -> Option<String> {
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
            (404, "SessionNotFoundError") => {
                let is_gone = is_told || self.may_have_expired() || !is_steady;
                is_gone && self.scenario.address != Address::Path
            }
            (502, "StreamSourceError" | "StreamDestinationError") => {
                disturbed || self.may_have_stalled() || !is_steady
            }
            (503, "PeerNotConnectedError") => self.may_have_waited(view.side),
            (503, "ServerBusyError") => self.circumstances.is_crowded,
            (503, "ShuttingDownError") => self.circumstances.has_ended,
            (504, "SessionTimeoutError") => self.may_have_expired(),
            (REPORTED, "ChaosError") => is_told,
            (status, _) if self.is_of_proxy(view) => {
                let of_request = status == 400 && self.disturbs(view.side);
                let of_server = matches!(status, 502..=504) && (disturbed || !is_steady);
                of_request || of_server
            }
            // 429 among them: each planned side found its seat free, also in the next round over a path.
            _ => false,
        };
        (!is_explained).then(|| format!("the {} gets {} {}", view.side, answer.status, answer.name))
    }
}

#[cfg(test)]
mod tests {
    use crate::client::{Answer, Ending};
    use crate::laws::examples::{broken, cut, deaf, good};
    use crate::laws::{Facts, Law};
    use crate::plan::{Proxy, Side, Transport};

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
        for (how, laws) in [("cannot decrypt peer's message", &[][..]), ("closed", &[Law::OneAnswer])] {
            let seen = broken(cut(), |facts| {
                facts.scenario.destination.transport = Transport::Tls;
                let view = facts.destination.as_mut().unwrap();
                (view.answer, view.ending, view.bytes) = (None, Ending::NoAnswer(how.into()), 0);
            });
            assert_eq!(seen, laws, "{how}");
        }
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
}
