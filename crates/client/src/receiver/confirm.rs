//! The receipt, its confirmation, and how a failure is told.

use std::time::Duration;

use super::{Action, Ending, LOOK, Phase, Receiver, is_fatal};
use crate::destination::{Complete, Stored};
use crate::link::Id;
use crate::messages::{Ask, Body, Done, Failed};
use crate::receive::ReceiveEvent;
use crate::reply::{Reply, Verdict};
use crate::send::Failure;

/// A receipt is repeated for so long. A sender that was stopped for a minute has time to take it.
pub(crate) const CONFIRM: Duration = Duration::from_mins(2);

/// A failure is told for so long.
const FAIL: Duration = Duration::from_secs(10);

/// A receipt on its way.
#[derive(Debug)]
pub(super) struct Confirming {
    attempt: Id,
    complete: Complete,
    stored: Stored,
    since: Duration,
    until: Duration,
    next: Next,
}

/// What is done next about a receipt.
#[derive(Debug)]
enum Next {
    /// An `ask` goes first, so that the sender has the key of this run.
    Ask(Option<Duration>),
    /// The receipt is sent at this time, or is on its way.
    Done(Option<Duration>),
    /// The confirmation is fetched.
    Bye,
}

impl Confirming {
    pub(super) fn deadline(&self) -> Duration {
        match self.next {
            Next::Ask(Some(at)) | Next::Done(Some(at)) => at.min(self.until),
            Next::Ask(None) | Next::Done(None) | Next::Bye => self.until,
        }
    }

    pub(super) fn ending(&self, confirmed: bool) -> Ending {
        Ending::Stored { complete: self.complete.clone(), stored: self.stored, confirmed }
    }
}

impl Receiver {
    /// An earlier run has stored all: only the receipt is to be confirmed.
    pub(super) fn confirm_after_ask(&mut self, complete: Complete) {
        let Phase::Asking { attempt, .. } = &self.phase else { return };
        let attempt = attempt.clone();
        self.begin_confirming(attempt, complete, Stored::Disk, Next::Ask(Some(self.now)));
    }

    /// The destination has stored the data.
    pub(super) fn stored(&mut self, stored: Stored) {
        let Phase::Storing { attempt, complete } = &self.phase else { return };
        let (attempt, complete) = (attempt.clone(), complete.clone());
        let (bytes, sha256) = (complete.bytes, complete.sha256);
        self.actions.push_back(Action::Event(ReceiveEvent::Verified { bytes, sha256 }));
        self.begin_confirming(attempt, complete, stored, Next::Done(Some(self.now)));
    }

    fn begin_confirming(&mut self, attempt: Id, complete: Complete, stored: Stored, next: Next) {
        let (since, until) = (self.now, self.now + CONFIRM);
        self.phase = Phase::Confirming(Confirming { attempt, complete, stored, since, until, next });
    }

    pub(super) fn run_confirming(&mut self) {
        let now = self.now;
        let Phase::Confirming(confirming) = &mut self.phase else { return };
        if confirming.until <= now {
            let ending = confirming.ending(false);
            return self.end(ending);
        }
        let (attempt, stored) = (confirming.attempt.clone(), confirming.stored);
        let Complete { bytes, sha256 } = confirming.complete;
        let Some(transfer) = self.transfer.clone() else { return };
        let body = match &mut confirming.next {
            Next::Ask(at) if at.is_some_and(|at| at <= now) => {
                *at = None;
                let recipient = self.recipient.clone();
                Body::Ask(Ask { attempt, offset: bytes, recipient, transfer: Some(transfer) })
            }
            Next::Done(at) if at.is_some_and(|at| at <= now) => {
                *at = None;
                Body::Done(Done { attempt, transfer, bytes, sha256, stored })
            }
            Next::Ask(_) | Next::Done(_) | Next::Bye => return,
        };
        let message = self.message(body);
        self.tell(message);
    }

    /// The PUT of the receipt, or of the `ask` before it, ended.
    pub(super) fn told_done(&mut self, reply: &Reply) {
        let Phase::Confirming(confirming) = &self.phase else { return };
        let (since, attempt) = (confirming.since, confirming.attempt.clone());
        let verdict = reply.verdict();
        let pause = if verdict == Verdict::Success {
            None
        } else {
            Some(self.pause_after(reply, since, self.told_at))
        };
        let now = self.now;
        let Phase::Confirming(confirming) = &mut self.phase else { return };
        match (&mut confirming.next, pause) {
            _ if is_fatal(&verdict) => confirming.until = now,
            (Next::Ask(_), None) => confirming.next = Next::Done(Some(now)),
            (Next::Done(_), None) => {
                confirming.next = Next::Bye;
                self.actions.push_back(Action::GetBye { attempt });
            }
            (Next::Ask(at) | Next::Done(at), Some(pause)) => *at = Some(now + pause),
            (Next::Bye, _) => {}
        }
    }

    /// The GET of the confirmation ended.
    pub(super) fn bye_got(&mut self, opened: bool, reply: &Reply) {
        let Phase::Confirming(confirming) = &mut self.phase else { return };
        if opened {
            let ending = confirming.ending(true);
            self.actions.push_back(Action::Confirmed);
            return self.end(ending);
        }
        // The receipt goes out again, in case that it was lost.
        let pause = if reply.verdict() == Verdict::NotPaired { Duration::ZERO } else { LOOK };
        confirming.next = Next::Done(Some(self.now + pause));
    }

    /// What is held is not what the sender has sent.
    pub(super) fn mismatch(&mut self, why: String) {
        let Phase::Storing { attempt, .. } = &self.phase else { return };
        let attempt = attempt.clone();
        if self.is_resumed && !self.passes_on {
            // What an earlier run wrote may not have reached the disk. Once more from the start, without it.
            self.is_resumed = false;
            self.restarts = true;
            self.held = 0;
            let warning = format!("{why}: it is received once again");
            self.actions.push_back(Action::Event(ReceiveEvent::Warning(warning)));
            return self.ask_at(self.now, true);
        }
        self.fail_attempt(Some(attempt), Failure::Integrity, why.clone(), Ending::Integrity { why });
    }

    /// Ends the transfer for good, and tells the sender if it knows this attempt.
    pub(super) fn fail(&mut self, reason: Failure, message: String, ending: Ending) {
        let attempt = match &self.phase {
            Phase::Taking(taking) => Some(taking.attempt().clone()),
            Phase::Storing { attempt, .. } => Some(attempt.clone()),
            _ => None,
        };
        self.fail_attempt(attempt, reason, message, ending);
    }

    fn fail_attempt(&mut self, attempt: Option<Id>, reason: Failure, message: String, ending: Ending) {
        self.actions.push_back(Action::Close);
        let (Some(attempt), Some(transfer)) = (attempt, self.transfer.clone()) else {
            return self.end(ending);
        };
        let message = self.message(Body::Failed(Failed { attempt, transfer, reason, message }));
        let (at, until) = (Some(self.now), self.now + FAIL);
        self.phase = Phase::Failing { message, at, until, ending: Some(ending) };
    }
}
