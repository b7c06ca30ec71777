//! The receiver as a state machine: no I/O and no clock.
//!
//! ```text
//!           ask delivered            the end, all bytes held          stored
//! Asking ─────────────────► Taking ───────────────────────► Storing ────────► Confirming ──► Ended
//!   ▲ ▲                       │ │                               │               (bye, or 120 s)
//!   │ └─ cut, misfit, silent ─┘ │ busy: 15 s                    │ the destination failed
//!   └───────────────────────────┘                               ▼
//!                                                            Failing (10 s) ──► Ended
//! ```
//!
//! The driver calls [`Receiver::handle`] with each [`Input`] and performs the [`Action`]s. It calls it with [`Input::Tick`] at
//! [`Receiver::deadline`].
//!
//! *Invariants.* Data is only taken from a segment that opened and that continues what is held: its transfer, attempt, number and offset fit. A
//! `done` is only sent after the destination has stored what was verified.
//!
//! *Bounds.* Two GETs of segments are out at most.

mod confirm;
mod steps;
mod take;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::destination::{Complete, ReceiverId};
use crate::link::Id;
use crate::messages::{Ask, Body, Control};
use crate::receive::ReceiveEvent;
use crate::reply::{NOT_WAITED, Reply, Verdict, WAITED};
use crate::send::Failure;

#[cfg(test)]
pub(crate) use confirm::CONFIRM;
pub(crate) use steps::{Action, Begin, Ending, Input};

use confirm::Confirming;
use take::Taking;

/// How long 401 means that the sender is about to come, and how often that is looked at.
const ABOUT_TO_COME: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(250);

/// Messages of a run are numbered from its number times this.
const MESSAGES_PER_RUN: u64 = 1 << 32;

#[derive(Debug)]
enum Phase {
    /// An `ask` is to be sent at `at`, or is on its way. Not before the last attempt is closed: until then bytes may still be written.
    Asking {
        ask: Option<Control>,
        attempt: Id,
        at: Option<Duration>,
        since: Duration,
        is_closed: bool,
    },
    Taking(Taking),
    /// The destination makes it final.
    Storing {
        attempt: Id,
        complete: Complete,
    },
    Confirming(Confirming),
    /// The sender is told that it failed.
    Failing {
        message: Control,
        at: Option<Duration>,
        until: Duration,
        ending: Option<Ending>,
    },
    Ended,
}

/// The receiver.
#[derive(Debug)]
pub(crate) struct Receiver {
    id: ReceiverId,
    messages: u64,
    recipient: String,
    give_up: Duration,
    now: Duration,
    phase: Phase,
    transfer: Option<Id>,
    held: u64,
    /// Whether the held bytes include some of an earlier run: then a wrong digest may be the disk's fault.
    is_resumed: bool,
    /// Whether bytes cannot be taken back.
    passes_on: bool,
    /// Whether what is on disk is wrong, and the next segment 0 begins again.
    restarts: bool,
    /// Misfit segments in a row.
    misfits: u32,
    backoff: Backoff,
    progress_at: Duration,
    last_failure: String,
    /// When the last control message was sent.
    told_at: Duration,
    actions: VecDeque<Action>,
}

/// What a receiver starts with.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) id: ReceiverId,
    pub(crate) recipient: String,
    pub(crate) give_up: Duration,
    /// Whether bytes are passed on, and so cannot be taken back.
    pub(crate) passes_on: bool,
    /// What an earlier run has left: the transfer, the bytes held, and the receipt if all was stored.
    pub(crate) resumed: Option<(Id, u64, Option<Complete>)>,
    pub(crate) seed: u64,
}

impl Receiver {
    pub(crate) fn new(start: Start) -> Self {
        let mut receiver = Self {
            id: start.id,
            messages: 0,
            recipient: start.recipient,
            give_up: start.give_up,
            now: Duration::ZERO,
            phase: Phase::Ended,
            transfer: None,
            held: 0,
            is_resumed: false,
            passes_on: start.passes_on,
            restarts: false,
            misfits: 0,
            backoff: Backoff::new(start.seed),
            progress_at: Duration::ZERO,
            last_failure: "no sender answered".into(),
            told_at: Duration::ZERO,
            actions: VecDeque::new(),
        };
        let mut receipt = None;
        if let Some((transfer, held, complete)) = start.resumed {
            receiver.transfer = Some(transfer);
            receiver.held = complete.as_ref().map_or(held, |complete| complete.bytes);
            receiver.is_resumed = true;
            receipt = complete;
        }
        receiver.ask_at(Duration::ZERO, true);
        if let Some(complete) = receipt {
            // The sender needs the key of this run before it can confirm, so an `ask` goes before the receipt.
            receiver.confirm_after_ask(complete);
        }
        receiver.run();
        receiver
    }

    /// Takes what has happened. `now` never goes back.
    pub(crate) fn handle(&mut self, now: Duration, input: Input) {
        self.now = now;
        if matches!(self.phase, Phase::Ended) {
            return;
        }
        match input {
            Input::Told(reply) => self.told(&reply),
            Input::Opened { segment, head } => self.opened(segment, head),
            Input::Wrote { bytes } => self.wrote(bytes),
            Input::Closed => {
                if let Phase::Asking { is_closed, .. } = &mut self.phase {
                    *is_closed = true;
                }
            }
            Input::Ended { segment, whole } => self.segment_ended(segment, whole),
            Input::Got { segment, reply } => self.got(segment, &reply),
            Input::Stored(stored) => self.stored(stored),
            Input::Mismatch { why } => self.mismatch(why),
            Input::DestinationFailed { reason, message } => {
                self.fail(reason, message, Ending::Destination);
            }
            Input::ByeGot { opened, reply } => self.bye_got(opened, &reply),
            Input::Stop => self.stop(),
            Input::Tick => {}
        }
        self.run();
    }

    /// Returns the next thing to do.
    pub(crate) fn action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Returns when [`Input::Tick`] is due.
    pub(crate) fn deadline(&self) -> Duration {
        let give_up = self.progress_at.saturating_add(self.give_up);
        let at = match &self.phase {
            Phase::Asking { at, is_closed, .. } => at.filter(|_| *is_closed),
            Phase::Taking(taking) => Some(taking.deadline()),
            Phase::Confirming(confirming) => return confirming.deadline(),
            Phase::Failing { at, until, .. } => return at.unwrap_or(*until).min(*until),
            Phase::Storing { .. } | Phase::Ended => None,
        };
        at.unwrap_or(give_up).min(give_up)
    }

    /// Does what is due.
    fn run(&mut self) {
        let now = self.now;
        let mut gives_up = false;
        match &mut self.phase {
            Phase::Asking { at, is_closed, .. } => {
                gives_up = true;
                if *is_closed && at.is_some_and(|at| at <= now) {
                    *at = None;
                    self.send_ask();
                }
            }
            Phase::Taking(_) => {
                gives_up = true;
                self.run_taking();
            }
            Phase::Confirming(_) => self.run_confirming(),
            Phase::Failing { message, at, until, ending } => {
                if *until <= now {
                    if let Some(ending) = ending.take() {
                        self.end(ending);
                    }
                } else if at.is_some_and(|at| at <= now) {
                    *at = None;
                    let message = message.clone();
                    self.tell(message);
                }
            }
            Phase::Storing { .. } | Phase::Ended => {}
        }
        if gives_up && self.progress_at.saturating_add(self.give_up) <= now {
            let ending = if self.transfer.is_none() {
                Ending::NoPeer
            } else {
                Ending::Cut { why: self.last_failure.clone(), bytes: self.held }
            };
            self.actions.push_back(Action::Close);
            self.end(ending);
        }
    }

    /// Numbers a message.
    fn message(&mut self, body: Body) -> Control {
        self.messages += 1;
        let n = u64::from(self.id.run) * MESSAGES_PER_RUN + self.messages;
        Control { receiver: self.id.name.clone(), n, body }
    }

    fn tell(&mut self, message: Control) {
        self.told_at = self.now;
        self.actions.push_back(Action::Tell(message));
    }

    /// Begins a new attempt, at this time.
    fn ask_at(&mut self, at: Duration, is_closed: bool) {
        self.phase = Phase::Asking { ask: None, attempt: Id::random(), at: Some(at), since: at, is_closed };
    }

    fn send_ask(&mut self) {
        let Phase::Asking { ask, attempt, .. } = &self.phase else { return };
        let (ask, attempt) = (ask.clone(), attempt.clone());
        // A repeated PUT carries the same message: a sender that has it already ignores the second.
        let message = ask.unwrap_or_else(|| {
            let (offset, recipient, transfer) = (self.held, self.recipient.clone(), self.transfer.clone());
            self.message(Body::Ask(Ask { attempt, offset, recipient, transfer }))
        });
        if let Phase::Asking { ask, .. } = &mut self.phase {
            *ask = Some(message.clone());
        }
        self.tell(message);
    }

    /// The PUT of a control message ended.
    fn told(&mut self, reply: &Reply) {
        let verdict = reply.verdict();
        match &mut self.phase {
            Phase::Asking { attempt, at, since, .. } => {
                if verdict == Verdict::Success {
                    let attempt = attempt.clone();
                    return self.take(attempt);
                }
                // Something that was never a relay does not become one; later it may be a proxy in trouble.
                let is_foreign = matches!(verdict, Verdict::Foreign(_)) && self.transfer.is_none();
                if is_foreign || is_fatal(&verdict) {
                    return self.end(Ending::Unusable { verdict });
                }
                let since = *since;
                *at = Some(self.now);
                let pause = self.pause_after(reply, since, self.told_at);
                if let Phase::Asking { at, .. } = &mut self.phase {
                    *at = Some(self.now + pause);
                }
            }
            Phase::Confirming(_) => self.told_done(reply),
            Phase::Failing { at, until, .. } => {
                if verdict == Verdict::Success || is_fatal(&verdict) {
                    *until = self.now;
                } else {
                    *at = Some(self.now + LOOK);
                }
            }
            Phase::Taking(_) | Phase::Storing { .. } | Phase::Ended => {}
        }
    }

    /// Returns how long to wait before a request of the time `sent` is repeated, whose peer may be about to come since `since`.
    fn pause_after(&mut self, reply: &Reply, since: Duration, sent: Duration) -> Duration {
        let why = match reply.verdict() {
            Verdict::Unauthorized if since + ABOUT_TO_COME > self.now => return LOOK,
            // The relay has waited already.
            Verdict::NotPaired if sent + WAITED <= self.now => return LOOK,
            Verdict::NotPaired => Some(NOT_WAITED.to_owned()),
            Verdict::Later { why } => Some(why),
            _ => None,
        };
        if let Some(why) = why {
            self.last_failure.clone_from(&why);
            self.actions.push_back(Action::Event(ReceiveEvent::Cut { why }));
        }
        self.backoff.after_failure(reply.retry_after())
    }

    fn stop(&mut self) {
        match &self.phase {
            Phase::Confirming(confirming) => {
                let ending = confirming.ending(false);
                self.end(ending);
            }
            // Data that is passed on cannot be continued by another run, so the sender need not wait for one.
            Phase::Taking(_) if self.passes_on => {
                self.fail(Failure::Other, "the receiver was interrupted".into(), Ending::Interrupted);
            }
            _ => {
                self.actions.push_back(Action::Close);
                self.end(Ending::Interrupted);
            }
        }
    }

    fn end(&mut self, ending: Ending) {
        if !matches!(self.phase, Phase::Ended) {
            self.phase = Phase::Ended;
            self.actions.push_back(Action::End(ending));
        }
    }
}

/// Returns whether repeating a request with this answer is of no use.
fn is_fatal(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Forbidden | Verdict::NoPaths)
}
