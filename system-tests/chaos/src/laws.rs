//! The laws, and the check of a transfer against them. Pure: from the plan and the observations to the broken laws.
//!
//! - [`facts`]: the plan and the observations
//! - [`delivery`], [`answers`], [`waits`], [`stream`], [`table`]: the laws by subject. Each returns a description of its breach

mod answers;
mod delivery;
#[cfg(test)]
mod examples;
mod facts;
mod stream;
mod table;
mod waits;

use std::fmt;

pub(crate) use self::facts::{Circumstances, Facts};

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
    /// A side that has waited for as long as it preferred gets 503, and nothing was taken from it or given to it.
    Waits,
    /// A seat has one holder, and becomes free when the holder leaves.
    Seats,
    /// The status of a stream agrees with the events. Behind its last transfer, nobody is at a path.
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
    for view in facts.planned() {
        broken(Law::AnswersAreRight, facts.unexplained_answer(view));
    }
    broken(Law::Waits, facts.wait_in_vain_without_503());
    broken(Law::Waits, facts.gives_up_and_meets());
    broken(Law::Seats, facts.unfair_seat());
    broken(Law::StatusAgrees, facts.false_sight());
    broken(Law::AsTheTable, facts.unlike_the_table());
    breaches
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
            Self::Waits => "waits",
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
    use super::examples::{cut, deaf, good, over_path, reported};
    use super::judge;

    #[test]
    fn what_is_right_breaks_no_law() {
        for (name, facts) in [("good", good()), ("cut", cut()), ("deaf", deaf())] {
            assert_eq!(judge(&facts), [], "{name}");
            assert_eq!(judge(&over_path(facts)), [], "{name}, over a path");
        }
        assert_eq!(judge(&reported()), []);
    }
}
