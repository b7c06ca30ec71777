//! How a sender ends: confirmed, refused, or given up.

use std::time::Duration;

use super::{Action, Ending, Nudge, Phase, Sender};
use crate::link::Id;
use crate::receive::Refusal;
use crate::reply::{Reply, Verdict};

impl Sender {
    /// The source failed, or a person stops: what is known to be asked for is refused, and then it ends.
    pub(super) fn refuse_all(
        &mut self,
        refusal: Refusal,
        message: String,
        within: Duration,
        interrupted: bool,
    ) {
        let ending = if interrupted { Ending::Interrupted } else { Ending::Source };
        match self.phase {
            // The receipt is here: nothing can take it back.
            Phase::Confirming { .. } if interrupted => return self.confirmed(),
            Phase::Refusing { .. } if interrupted => return self.end(ending),
            Phase::Confirming { .. } | Phase::Refusing { .. } => return,
            Phase::Linking { .. } | Phase::Open | Phase::Ended => {}
        }
        let Some(attempt) = self.attempt.take() else {
            return self.end(ending);
        };
        self.actions.push_back(Action::Close { segment: 0 });
        let (first, now) = (attempt.undelivered(), self.now);
        let nudge = |segment| Nudge { attempt: attempt.id.clone(), segment, at: now };
        let nudges = vec![nudge(first), nudge(first + 1)];
        let until = now + within;
        self.phase = Phase::Refusing { refusal, message, until, interrupted, told: false, nudges };
    }

    /// An empty segment that nobody got is sent again: the relay may have held the segment that it replaces for a moment longer.
    pub(super) fn nudged(&mut self, attempt: Id, segment: u64, reply: &Reply) {
        if reply.verdict() == Verdict::Success {
            return;
        }
        let at = self.now + self.pause_before_repetition(reply);
        if let Phase::Refusing { told: false, nudges, .. } = &mut self.phase {
            nudges.push(Nudge { attempt, segment, at });
        }
    }

    pub(super) fn refusal_put(&mut self, reply: &Reply) {
        if let Phase::Refusing { interrupted, told: true, .. } = self.phase
            && reply.verdict() == Verdict::Success
        {
            self.end(if interrupted { Ending::Interrupted } else { Ending::Source });
        }
    }

    pub(super) fn bye_put(&mut self, reply: &Reply) {
        if reply.verdict() == Verdict::Success {
            return self.confirmed();
        }
        let at = self.now + self.pause_before_repetition(reply);
        if let Phase::Confirming { bye, .. } = &mut self.phase {
            bye.retry_at = Some(at);
        }
    }

    fn pause_before_repetition(&mut self, reply: &Reply) -> Duration {
        match reply.verdict() {
            Verdict::NotPaired => Duration::from_millis(250),
            _ => self.segment_backoff.after_failure(reply.retry_after()),
        }
    }

    pub(super) fn confirmed(&mut self) {
        if let Phase::Confirming { complete, stored, .. } = &self.phase {
            let ending = Ending::Received { complete: complete.clone(), stored: *stored };
            self.end(ending);
        }
    }

    /// Nothing moved for as long as the person is willing to wait.
    pub(super) fn give_up(&mut self) {
        let ending = match (&self.complete, self.receivers.is_empty()) {
            (_, true) => Ending::NoPeer,
            (Some(complete), _) if self.all_sent => Ending::Unconfirmed { bytes: complete.bytes },
            _ => Ending::Cut { why: self.last_failure.clone(), bytes: self.sent_to },
        };
        self.end(ending);
    }

    pub(super) fn end(&mut self, ending: Ending) {
        if !matches!(self.phase, Phase::Ended) {
            self.phase = Phase::Ended;
            self.actions.push_back(Action::End(ending));
        }
    }
}
