//! The laws of the waits: a side that prefers to wait for some seconds gets 503 when they have passed, and only then.

use super::Facts;
use crate::client::View;

impl Facts {
    /// A side that waits alone for a second gets 503, and no 100 before it.
    pub(super) fn wait_in_vain_without_503(&self) -> Option<String> {
        if !self.is_steady() || self.may_have_expired() {
            return None;
        }
        // A proxy sends a 100 of its own, at once.
        let has_interims = |view: &View| view.interims > 0 && self.scenario.party(view.side).proxy.is_none();
        let is_wrong = |view: &&View| !view.has_waited_in_vain() || has_interims(view);
        let view = self.in_vain.iter().find(is_wrong)?;
        Some(format!("the {} has waited for a second, alone: {view:?}", view.side))
    }

    /// A side whose wait has ended is not paired, so the other side gets nothing.
    pub(super) fn gives_up_and_meets(&self) -> Option<String> {
        if !self.has_given_up() {
            return None;
        }
        let met = self.planned().find(|view| view.status() == Some(200))?;
        Some(format!("one side has waited in vain, and the {} gets 200", met.side))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::client::{Answer, Ending, View};
    use crate::laws::examples::{broken, good};
    use crate::laws::{Facts, Law};
    use crate::plan::{Proxy, Side};

    fn gives_up(view: &mut View) {
        view.answer = Some(Answer { status: 503, name: "PeerNotConnectedError".into() });
        (view.ending, view.bytes) = (Ending::Whole, 0);
    }

    #[test]
    fn a_wait_that_does_not_end_as_promised_is_seen() {
        let through = |proxy: Option<Proxy>, change: fn(&mut View)| {
            broken(good(), |facts| {
                facts.scenario.source.proxy = proxy;
                let mut view = View::new(Side::Source);
                gives_up(&mut view);
                change(&mut view);
                facts.scenario.source.expects = Some("100-continue");
                facts.in_vain.push(view);
            })
        };
        let in_vain = |change| through(None, change);
        assert_eq!(in_vain(|_| {}), []);
        assert_eq!(through(Some(Proxy::Nginx), |view| view.interims = 1), []);
        assert_eq!(in_vain(|view| view.interims = 1), [Law::Waits]);
        assert_eq!(in_vain(|view| view.answer.as_mut().unwrap().status = 504), [Law::Waits]);
        assert_eq!(in_vain(|view| view.ending = Ending::Cut("reset".into())), [Law::OneAnswer, Law::Waits]);
    }

    #[test]
    fn the_end_of_a_wait_that_came_too_early_or_behind_the_pairing_is_seen() {
        let alone = |facts: &mut Facts| {
            gives_up(facts.source.as_mut().unwrap());
            facts.scenario.source.wait = Some(1);
            facts.destination = None;
            facts.took = Duration::from_millis(1100);
            facts.sight = crate::place::Sight::Free;
        };
        assert_eq!(broken(good(), alone), []);
        let early = broken(good(), |facts| {
            alone(facts);
            facts.took = Duration::from_millis(900);
        });
        assert_eq!(early, [Law::AnswersAreRight]);
        let behind = broken(good(), |facts| {
            let destination = facts.destination.clone();
            alone(facts);
            facts.destination = destination;
        });
        assert_eq!(behind, [Law::Waits]);
    }
}
