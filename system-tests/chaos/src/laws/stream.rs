//! The laws of the stream or path: its seats have one holder each, a report ends a stream before it streams, and what a third client sees
//! agrees with the events.

use super::{Facts, REPORTED};
use crate::client::{Ending, View};
use crate::place::Sight;
use crate::plan::{Address, Fault, Side, Stage};

impl Facts {
    pub(super) fn unfair_seat(&self) -> Option<String> {
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
            Fault::Intruder(..) => self.unfair_intrusion(),
            Fault::Reported(Stage::Streaming(_)) => self
                .report
                .filter(|status| *status != 409)
                .map(|status| format!("a late report is answered {status}")),
            Fault::Reported(stage) => self.unfair_report(*stage),
            _ => None,
        }
    }

    fn unfair_intrusion(&self) -> Option<String> {
        let intruder = self.intruder.as_ref()?;
        // Unless the source waits for it, the transfer may be over by then. A path is free again once the server has read the whole body,
        // and the next one waits in vain.
        let is_over = match self.scenario.address {
            Address::Stream { .. } => {
                intruder.status() == Some(404) && self.status().is_none_or(|status| !status.active)
            }
            Address::Path => {
                intruder.has_waited_in_vain() && self.source.as_ref().is_some_and(|view| view.sent_whole)
            }
        };
        let may_be_over = self.scenario.awaits_intruder_at().is_none();
        let is_right = intruder.status() == Some(429) || may_be_over && is_over;
        (!is_right).then(|| format!("a second client gets {:?}", intruder.answer))
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

    pub(super) fn false_sight(&self) -> Option<String> {
        let status = match &self.sight {
            Sight::Status(status) => status,
            Sight::Free => return None,
            Sight::Taken => return Some("all have gone, and the path is taken".to_owned()),
            Sight::Unknown => {
                let is_forgotten = self.may_be_forgotten() || self.circumstances.has_ended;
                return (!is_forgotten).then(|| "there is none".to_owned());
            }
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

#[cfg(test)]
mod tests {
    use crate::client::{Answer, Ending, View};
    use crate::laws::examples::{SIZE, broken, cut, good, over_path, reported};
    use crate::laws::{Facts, Law};
    use crate::place::{Sight, Status};
    use crate::plan::{Fault, Side, Stage};

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
    fn a_second_client_at_a_path_gets_429_or_waits_in_vain_behind_a_whole_body() {
        let seen = |facts: Facts, offset: u64, status: u16, name: &str| {
            let answer = Some(Answer { status, name: name.into() });
            broken(over_path(facts), |facts| {
                facts.scenario.fault = Fault::Intruder(Side::Source, Stage::Streaming(offset));
                let view = View { answer, ending: Ending::Whole, ..View::new(Side::Source) };
                facts.intruder = Some(view);
            })
        };
        let last = SIZE - 1;
        assert_eq!(seen(good(), 5, 429, "AlreadyConnectedError"), []);
        assert_eq!(seen(good(), last, 503, "PeerNotConnectedError"), []);
        assert_eq!(seen(good(), 5, 503, "PeerNotConnectedError"), [Law::Seats], "the transfer was running");
        assert_eq!(seen(good(), last, 404, "SessionNotFoundError"), [Law::Seats]);
        assert_eq!(seen(good(), last, 200, ""), [Law::Seats]);
        let mut sending = good();
        sending.source.as_mut().unwrap().sent_whole = false;
        assert!(seen(sending, last, 503, "PeerNotConnectedError").contains(&Law::Seats));
    }

    #[test]
    fn a_status_that_says_something_else_is_seen() {
        for (state, active, bytes) in
            [("DST_DISCONNECTED", false, 1000), ("FINISHED", false, 1000), ("STREAMING", true, 1000)]
        {
            let laws = broken(cut(), |facts| {
                facts.sight = Sight::Status(Status { state: state.into(), active, bytes_transferred: bytes });
            });
            assert!(laws.contains(&Law::StatusAgrees), "{state} {active} {bytes}: {laws:?}");
        }
        assert_eq!(broken(good(), |facts| facts.sight = Sight::Unknown), [Law::StatusAgrees]);
        assert_eq!(broken(over_path(cut()), |facts| facts.sight = Sight::Taken), [Law::StatusAgrees]);
    }
}
