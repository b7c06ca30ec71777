//! The laws of the body: the destination receives the source's bytes, sees whether they are all, and the source gets 200 only for a whole
//! delivery.

use super::Facts;
use crate::plan::{Address, Fault, Manner, Side};

impl Facts {
    pub(super) fn foreign_bytes(&self) -> Option<String> {
        let destination = self.destination.as_ref()?;
        if self.may_meet_intruder() {
            return None;
        }
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

    /// Whether the destination may have met the intruder: the planned side has waited for its ttl, and the intruder has made the path anew.
    fn may_meet_intruder(&self) -> bool {
        let is_path = self.scenario.address == Address::Path;
        is_path && matches!(self.scenario.fault, Fault::Intruder(..)) && self.may_have_expired()
    }

    pub(super) fn cut_looks_whole(&self) -> Option<String> {
        let destination = self.destination.as_ref().filter(|view| view.is_whole(200))?;
        if destination.bytes != self.scenario.size {
            return Some(format!("{} of {} bytes look whole", destination.bytes, self.scenario.size));
        }
        let sent = self.source.as_ref().is_some_and(|view| view.sent_whole);
        (!sent).then(|| "the upload has no end, and the download has".to_owned())
    }

    pub(super) fn whole_looks_cut(&self) -> Option<String> {
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
        let stays = destination.is_some() && !self.destination_left();
        (self.is_finished() && stays && !self.has_whole_body())
            .then(|| "it is FINISHED, and the destination sees a cut".to_owned())
    }

    pub(super) fn undelivered_200(&self) -> Option<String> {
        self.source.as_ref().filter(|view| view.status() == Some(200))?;
        let Some(destination) = &self.destination else {
            return Some("200 without a destination".to_owned());
        };
        if self.has_whole_body() {
            return None;
        }
        if !self.destination_left() {
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
}

#[cfg(test)]
mod tests {
    use crate::client::{Answer, Ending};
    use crate::laws::examples::{SIZE, broken, cut, deaf, good, in_state, status};
    use crate::laws::{Facts, Law};
    use crate::place::Sight;
    use crate::plan::{Act, Fault, Manner, Moment, Proxy, Step};

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
    fn a_cut_that_looks_whole_is_seen() {
        let short = broken(cut(), |facts| facts.destination.as_mut().unwrap().ending = Ending::Whole);
        assert_eq!(short, [Law::NoCutLooksWhole]);
        let without_an_end = broken(cut(), |facts| {
            let destination = facts.destination.as_mut().unwrap();
            (destination.ending, destination.bytes) = (Ending::Whole, SIZE);
            status(facts).bytes_transferred = SIZE;
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
            facts.sight = in_state("FINISHED", SIZE);
        });
        assert_eq!(by_both, [Law::NoWholeLooksCut]);
        let to_the_source = broken(good(), |facts| {
            facts.source.as_mut().unwrap().answer =
                Some(Answer { status: 502, name: "StreamDestinationError".into() });
            status(facts).state = "DST_DISCONNECTED".into();
        });
        assert_eq!(to_the_source, [Law::NoWholeLooksCut, Law::AnswersAreRight, Law::StatusAgrees]);
    }

    #[test]
    fn a_200_for_what_can_not_have_arrived_is_seen() {
        let told_200 = |facts: &mut Facts| {
            facts.source.as_mut().unwrap().answer = Some(Answer { status: 200, name: String::new() });
            facts.sight = in_state("FINISHED", SIZE);
        };
        assert_eq!(broken(deaf(), told_200), [Law::OnlyDelivered200]);
        let with_room = broken(deaf(), |facts| {
            told_200(facts);
            facts.destination.as_mut().unwrap().room = Some(SIZE);
        });
        assert_eq!(with_room, []);
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
    fn a_proxy_may_drop_what_it_has_taken_for_a_destination_that_half_closes() {
        let half_closed = |proxy: Option<Proxy>| {
            broken(good(), move |facts| {
                let step = Step { moment: Moment::Body(SIZE - 1), act: Act::HalfClose };
                facts.scenario.fault = Fault::Acts { source: Vec::new(), destination: vec![step] };
                facts.scenario.destination.proxy = proxy;
                let destination = facts.destination.as_mut().unwrap();
                destination.ending = Ending::Cut("reset".into());
                destination.bytes -= 1;
            })
        };
        assert_eq!(half_closed(Some(Proxy::Nginx)), []);
        assert_eq!(half_closed(None), [Law::NoWholeLooksCut, Law::OnlyDelivered200]);
    }

    #[test]
    fn a_server_that_was_stopped_owes_no_answer_but_tells_no_lies() {
        let stopped = |facts: &mut Facts| {
            facts.circumstances.has_ended = true;
            facts.sight = Sight::Unknown;
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
