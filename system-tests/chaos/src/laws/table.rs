//! The law of the table: a transfer that is played as the table of transfers (`testkit::matrix`) describes has its outcome.

use std::time::Duration;

use testkit::matrix::{Answered, Cell, Error, Event, Received};

use super::Facts;
use crate::client::{Ending, View};
use crate::place::{Sight, Status};
use crate::plan::{Act, Side};

impl Facts {
    /// The cell to compare with. None if a proxy, a server in trouble or a busy machine takes part.
    #[must_use]
    pub(crate) fn cell(&self) -> Option<Cell> {
        let cell = self.scenario.drawn.filter(|drawn| drawn.is_exact)?.cell;
        let is_direct = self.scenario.source.proxy.is_none() && self.scenario.destination.proxy.is_none();
        let has_stalled = self.has_stalled_beside(cell.event);
        let is_on_time = match &self.sight {
            Sight::Status(status) => !status.state.starts_with("TIMEOUT") || !self.may_have_expired(),
            Sight::Free | Sight::Taken => !self.may_have_expired(),
            Sight::Unknown => false,
        };
        let has_paired = is_on_time && !self.has_given_up();
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

    pub(super) fn unlike_the_table(&self) -> Option<String> {
        let cell = self.cell()?;
        let expected = cell.expected();
        let source = self.source.as_ref().map(|view| (&view.ending, &view.answer));
        if let Some(Status { state, .. }) = self.status()
            && !expected.states.contains(&state.as_str())
        {
            return Some(format!("it is {state}, and not {:?}", expected.states));
        }
        if !self.is_answered(expected.source) {
            return Some(format!("the source gets {source:?}, and not {:?}", expected.source));
        }
        if !self.is_received(cell, expected.destination) {
            let destination = self.destination.as_ref().map(|view| (&view.ending, &view.answer, view.bytes));
            return Some(format!("the destination gets {destination:?}, and not {:?}", expected.destination));
        }
        let passed_on = cell.passed_on(self.scenario.size)..=self.scenario.size;
        let bytes = self.status()?.bytes_transferred;
        (!passed_on.contains(&bytes)).then(|| format!("{bytes} bytes were passed on, and not {passed_on:?}"))
    }

    fn is_answered(&self, expected: Answered) -> bool {
        let Some(view) = &self.source else { return false };
        match expected {
            Answered::Ok => view.is_whole(200),
            Answered::Error(error) => is_error(view, error),
            Answered::ByState if self.status().is_none() => {
                view.is_whole(200) || is_error(view, Error::DESTINATION_LEFT)
            }
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
            Received::Cut(_) if cell.event.has_unread_body() || view.lost_its_beginning() => {
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

#[cfg(test)]
mod tests {
    use testkit::matrix::{Cell, Event, Framing, Version, When};

    use crate::client::{Answer, Ending};
    use crate::laws::examples::{broken, cut, over_path, status};
    use crate::laws::{Facts, Law, judge};
    use crate::plan::{Drawn, Proxy};

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
        status(&mut facts).bytes_transferred = 1;
        facts
    }

    #[test]
    fn what_ends_unlike_the_table_is_seen() {
        let changes: [fn(&mut Facts); 4] = [
            |facts| status(facts).state = "SRC_ERROR".into(),
            |facts| status(facts).bytes_transferred = 0,
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
        for (number, change) in changes.iter().enumerate() {
            assert_eq!(broken(of_the_table(), change), [Law::AsTheTable], "change {number}");
            for (place, elsewhere) in elsewhere.iter().enumerate() {
                let seen = broken(of_the_table(), |facts| {
                    change(facts);
                    elsewhere(facts);
                });
                assert_eq!(seen, [], "change {number} in place {place}");
            }
        }
        for change in &changes[2..] {
            assert_eq!(broken(over_path(of_the_table()), change), [Law::AsTheTable], "a path has no status");
        }
    }
}
