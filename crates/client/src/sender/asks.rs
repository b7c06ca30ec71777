//! What a sender does about control messages.

use std::collections::HashMap;
use std::time::Duration;

use super::attempt::Attempt;
use super::{Action, BYE, Bye, Ending, IGNORED_PAUSE, Phase, Sender};
use crate::destination::Complete;
use crate::link::Id;
use crate::messages::{Ask, Body, Control, Done, Failed, Refused};
use crate::receive::Refusal;
use crate::send::SendEvent;

/// So many receivers are remembered; more are ignored. Only who has the link can be one.
pub(super) const MAX_RECEIVERS: usize = 256;

/// Another receiver is refused for so long after the served one asked or took a segment.
const BUSY: Duration = Duration::from_mins(1);

/// The receivers that have asked.
#[derive(Debug, Default)]
pub(super) struct Receivers(HashMap<Id, Known>);

#[derive(Debug)]
struct Known {
    /// The highest number of its messages.
    n: u64,
    /// The key of its last `ask`.
    recipient: Option<String>,
}

impl Receivers {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// Returns whether a message is newer than all of its receiver, and remembers that.
    fn is_new(&mut self, receiver: &Id, n: u64) -> bool {
        if let Some(known) = self.0.get_mut(receiver) {
            let is_new = n > known.n;
            known.n = known.n.max(n);
            return is_new;
        }
        let has_room = self.0.len() < MAX_RECEIVERS;
        if has_room {
            self.0.insert(receiver.clone(), Known { n, recipient: None });
        }
        has_room
    }

    fn set_recipient(&mut self, receiver: &Id, recipient: &str) {
        if let Some(known) = self.0.get_mut(receiver) {
            known.recipient = Some(recipient.to_owned());
        }
    }

    fn recipient(&self, receiver: &Id) -> Option<&String> {
        self.0.get(receiver)?.recipient.as_ref()
    }
}

impl Sender {
    /// A control message opened.
    pub(super) fn heard(&mut self, message: Control) {
        self.control_backoff.succeeded();
        self.unreadable = 0;
        let Control { receiver, n, body } = message;
        if !self.receivers.is_new(&receiver, n) {
            return self.pause_listening(IGNORED_PAUSE);
        }
        self.pause_listening(Duration::ZERO);
        // Who knows the secret can only know it from the link.
        if matches!(self.phase, Phase::Linking { .. }) {
            self.show_link();
        }
        match body {
            Body::Ask(ask) => self.asked(&receiver, ask),
            Body::Done(done) => self.done(&receiver, &done),
            Body::Failed(failed) => self.failed(failed),
        }
    }

    fn asked(&mut self, receiver: &Id, ask: Ask) {
        self.receivers.set_recipient(receiver, &ask.recipient);
        match &mut self.phase {
            Phase::Refusing { refusal, message, told, nudges, .. } => {
                *told = true;
                nudges.clear();
                let (reason, message) = (Refused::ForGood(*refusal), message.clone());
                self.refuse(ask, reason, message);
            }
            Phase::Open => self.serve(receiver, ask),
            // A receiver that asks again will send its receipt again as well.
            Phase::Confirming { .. } | Phase::Linking { .. } | Phase::Ended => {}
        }
    }

    /// Decides whether an `ask` can be served, before the running attempt is touched.
    fn serve(&mut self, receiver: &Id, ask: Ask) {
        if let Some(attempt) = &self.attempt
            && attempt.receiver != *receiver
            && attempt.active_at + BUSY > self.now
        {
            let warning = "another receiver asked with the same link: it has to wait".to_owned();
            self.actions.push_back(Action::Event(SendEvent::Warning(warning)));
            return self.refuse(ask, Refused::Busy, "another receiver is served".into());
        }
        let is_known = ask.transfer.as_ref().is_none_or(|transfer| *transfer == self.transfer);
        let offset = if is_known && ask.offset <= self.sent_to { ask.offset } else { 0 };
        if offset < self.earliest {
            let message = format!("byte {offset} is no longer held, only from {} on", self.earliest);
            return self.refuse(ask, Refused::ForGood(Refusal::Gone), message);
        }
        if self.attempt.is_some() {
            self.actions.push_back(Action::Close { segment: 0 });
        }
        // A receiver whose disk lost what it held begins again, and what it gets then is progress.
        if offset == 0 && ask.transfer.as_ref() == Some(&self.transfer) {
            (self.asked_to, self.delivered_to) = (0, 0);
        }
        if offset > self.asked_to || self.attempt.is_none() && self.asked_to == 0 {
            self.progress_at = self.now;
        }
        self.asked_to = self.asked_to.max(offset);
        let receivers = self.receivers.count();
        self.actions.push_back(Action::Event(SendEvent::Asked { receivers, offset }));
        self.attempt = Some(Attempt::new(ask.attempt, receiver.clone(), ask.recipient, offset, self.now));
    }

    fn refuse(&mut self, ask: Ask, reason: Refused, message: String) {
        self.actions.push_back(Action::Refuse {
            attempt: ask.attempt,
            recipient: ask.recipient,
            reason,
            message,
        });
    }

    /// A receipt is accepted if it is for this transfer, and for all of it.
    fn done(&mut self, receiver: &Id, done: &Done) {
        let complete = Complete { bytes: done.bytes, sha256: done.sha256 };
        if done.transfer != self.transfer || self.complete.as_ref() != Some(&complete) {
            let warning = "a receipt arrived that does not fit what was sent: it is ignored".to_owned();
            return self.actions.push_back(Action::Event(SendEvent::Warning(warning)));
        }
        let Some(recipient) = self.receivers.recipient(receiver).cloned() else { return };
        let bye = Bye { attempt: done.attempt.clone(), recipient, retry_at: Some(self.now) };
        match &mut self.phase {
            Phase::Confirming { bye: offered, .. } => {
                // The same receiver again: it was restarted, or its receipt was repeated.
                if offered.attempt != bye.attempt {
                    *offered = bye;
                }
            }
            Phase::Linking { .. } | Phase::Ended => {}
            Phase::Open | Phase::Refusing { .. } => {
                if self.attempt.take().is_some() {
                    self.actions.push_back(Action::Close { segment: 0 });
                }
                let until = self.now + BYE;
                self.phase = Phase::Confirming { complete, stored: done.stored, until, bye };
            }
        }
    }

    /// Only the receiver that is served can end the transfer.
    fn failed(&mut self, failed: Failed) {
        let is_served = self.attempt.as_ref().is_some_and(|attempt| attempt.id == failed.attempt);
        if is_served && failed.transfer == self.transfer {
            self.end(Ending::Failed { reason: failed.reason, message: failed.message });
        }
    }
}
