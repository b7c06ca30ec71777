//! The sender as a state machine: no I/O and no clock.
//!
//! ```text
//!            the relay holds GET ctl          ask
//! Linking ──────────────────────────► Waiting ───► Serving ◄──┐ ask (another attempt)
//!    │ refused: 401, 403, 404                       │  │  └───┘
//!    ▼                                         done │  │ failed
//!  Ended ◄────── Confirming (bye, at most 10 s) ◄───┘  ▼
//!    ▲                                               Ended
//!    └────── Refusing (the source failed, or stop: the next ask gets an error) ◄── any
//! ```
//!
//! The driver calls [`Sender::handle`] with each [`Input`] and performs the [`Action`]s. It calls it with [`Input::Tick`] at [`Sender::deadline`].
//!
//! *Invariants.* `SendEnding::Stored` is only decided by a `done` of this transfer whose size and digest are those of the whole source. An `ask`
//! that cannot be served changes nothing of the running attempt.
//!
//! *Bounds.* Two segments are in flight at most, and [`asks::MAX_RECEIVERS`] receivers are known.

mod asks;
mod attempt;
mod ending;
mod size;
mod steps;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::destination::{Complete, Stored};
use crate::link::Id;
use crate::receive::Refusal;
use crate::reply::{FIRST_WAIT, NOT_WAITED, Reply, Verdict, WAIT};
use crate::send::SendEvent;

pub(crate) use steps::{Action, Ending, Input, Made};

use asks::Receivers;
use attempt::Attempt;

/// How long the confirmation is offered.
const BYE: Duration = Duration::from_secs(10);

/// How long a sender whose source failed stays, to tell a receiver so: longer than a receiver waits for an attempt that brings nothing.
const REFUSE: Duration = Duration::from_secs(45);

/// How long an interrupted sender stays, to tell a receiver so.
const REFUSE_INTERRUPTED: Duration = Duration::from_secs(5);

/// The link is shown after this time, even if something before the relay does not answer HEAD.
const PROBE_AT_MOST: Duration = Duration::from_secs(2);
const PROBE_EVERY: Duration = Duration::from_millis(50);

/// The pause after a control message that does not open, or is none to obey: who floods the path must not keep the processor busy.
const IGNORED_PAUSE: Duration = Duration::from_millis(100);

/// After so many messages in a row that do not open, people are told. The pause grows with each up to here.
const UNREADABLE: u32 = 10;

#[derive(Debug)]
enum Phase {
    /// The relay has not shown yet that it takes the control request.
    Linking {
        since: Duration,
        probe_at: Option<Duration>,
    },
    /// The link is known; no receiver has asked, or the last attempt is served as `attempt` says.
    Open,
    /// A receipt was accepted.
    Confirming {
        complete: Complete,
        stored: Stored,
        until: Duration,
        bye: Bye,
    },
    /// The next `ask` is refused for good.
    Refusing {
        refusal: Refusal,
        message: String,
        until: Duration,
        interrupted: bool,
        told: bool,
        nudges: Vec<Nudge>,
    },
    Ended,
}

/// Where the confirmation goes, and when it is tried again.
#[derive(Debug)]
struct Bye {
    attempt: Id,
    recipient: String,
    retry_at: Option<Duration>,
}

/// An empty segment that is to be sent. A receiver that waits for a segment sees no cut; one that cannot be opened makes it ask anew, and then it is
/// refused.
#[derive(Debug)]
struct Nudge {
    attempt: Id,
    segment: u64,
    at: Duration,
}

/// The control request.
#[derive(Debug)]
enum Listening {
    /// It is out, since then.
    Out { since: Duration, wait: Duration },
    /// It is made then.
    Pausing { until: Duration },
}

/// The sender.
#[derive(Debug)]
pub(crate) struct Sender {
    transfer: Id,
    give_up: Duration,
    now: Duration,
    phase: Phase,
    listening: Listening,
    control_backoff: Backoff,
    /// Control messages in a row that did not open.
    unreadable: u32,
    receivers: Receivers,
    attempt: Option<Attempt>,
    size: size::SegmentSize,
    segment_backoff: Backoff,
    /// How far segments have gone out.
    sent_to: u64,
    earliest: u64,
    /// Set once the source was read to its end.
    complete: Option<Complete>,
    /// Whether all was delivered once, the end included.
    all_sent: bool,
    /// When a receiver asked for the first time, or asked for or was sent more than before since it began. Only that counts: a relay that repeats or
    /// forges answers must not keep a sender forever.
    progress_at: Duration,
    asked_to: u64,
    delivered_to: u64,
    last_failure: String,
    actions: VecDeque<Action>,
}

impl Sender {
    /// Makes a sender. `largest` limits the data of a segment; `seed` is for the waits before repetitions.
    pub(crate) fn new(transfer: Id, largest: u64, give_up: Duration, seed: u64) -> Self {
        let mut sender = Self {
            transfer,
            give_up,
            now: Duration::ZERO,
            phase: Phase::Linking { since: Duration::ZERO, probe_at: Some(PROBE_EVERY) },
            listening: Listening::Pausing { until: Duration::ZERO },
            control_backoff: Backoff::new(seed),
            unreadable: 0,
            receivers: Receivers::default(),
            attempt: None,
            size: size::SegmentSize::new(largest),
            segment_backoff: Backoff::new(seed.wrapping_add(1)),
            sent_to: 0,
            earliest: 0,
            complete: None,
            all_sent: false,
            progress_at: Duration::ZERO,
            asked_to: 0,
            delivered_to: 0,
            last_failure: "no receiver asked".into(),
            actions: VecDeque::new(),
        };
        sender.run();
        sender
    }

    /// Takes what has happened. `now` never goes back.
    pub(crate) fn handle(&mut self, now: Duration, input: Input) {
        self.now = now;
        if matches!(self.phase, Phase::Ended) {
            return;
        }
        match input {
            Input::Heard(message) => self.heard(message),
            Input::Unreadable => self.unreadable(),
            Input::Listened(reply) => self.listened(&reply),
            Input::Probed(reply) => self.probed(&reply),
            Input::Made(made) => self.made(made),
            Input::Taken { attempt, segment, bytes } => self.taken(&attempt, segment, bytes),
            Input::Put { attempt, segment, reply } => self.put_ended(&attempt, segment, &reply),
            Input::Nudged { attempt, segment, reply } => self.nudged(attempt, segment, &reply),
            Input::RefusalPut(reply) => self.refusal_put(&reply),
            Input::ByePut(reply) => self.bye_put(&reply),
            Input::Earliest(offset) => self.earliest = offset,
            Input::SourceFailed { refusal, message } => self.refuse_all(refusal, message, REFUSE, false),
            Input::Stop => {
                let message = "the sender was interrupted".to_owned();
                self.refuse_all(Refusal::Other, message, REFUSE_INTERRUPTED, true);
            }
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
        let mut deadline = self.gives_up_at().unwrap_or(Duration::MAX);
        let mut earlier = |at: Option<Duration>| deadline = deadline.min(at.unwrap_or(deadline));
        if let Listening::Pausing { until } = self.listening {
            earlier(Some(until));
        }
        match &self.phase {
            Phase::Linking { since, probe_at } => {
                if matches!(self.listening, Listening::Out { .. }) {
                    earlier(*probe_at);
                    earlier(Some(*since + PROBE_AT_MOST));
                }
            }
            Phase::Open => earlier(self.attempt.as_ref().and_then(|attempt| attempt.deadline(self.now))),
            Phase::Confirming { until, bye, .. } => {
                earlier(Some(*until));
                earlier(bye.retry_at);
            }
            Phase::Refusing { until, nudges, .. } => {
                earlier(Some(*until));
                earlier(nudges.iter().map(|nudge| nudge.at).min());
            }
            Phase::Ended => {}
        }
        deadline
    }

    /// Does what is due.
    fn run(&mut self) {
        if let Listening::Pausing { until } = self.listening
            && until <= self.now
        {
            let wait = if self.receivers.is_empty() { FIRST_WAIT } else { WAIT };
            self.listening = Listening::Out { since: self.now, wait };
            self.actions.push_back(Action::Listen { wait });
        }
        match &mut self.phase {
            // Without a control request there is nothing to find.
            Phase::Linking { .. } if matches!(self.listening, Listening::Pausing { .. }) => {}
            Phase::Linking { since, probe_at } => {
                if *since + PROBE_AT_MOST <= self.now {
                    self.show_link();
                } else if probe_at.is_some_and(|at| at <= self.now) {
                    *probe_at = None;
                    self.actions.push_back(Action::Probe);
                }
            }
            Phase::Open => self.run_attempt(),
            Phase::Confirming { until, bye, .. } => {
                if *until <= self.now {
                    self.confirmed();
                } else if bye.retry_at.is_some_and(|at| at <= self.now) {
                    bye.retry_at = None;
                    let (attempt, recipient) = (bye.attempt.clone(), bye.recipient.clone());
                    self.actions.push_back(Action::Bye { attempt, recipient });
                }
            }
            Phase::Refusing { until, interrupted, nudges, .. } => {
                if *until <= self.now {
                    let ending = if *interrupted { Ending::Interrupted } else { Ending::Source };
                    return self.end(ending);
                }
                let due = nudges.extract_if(.., |nudge| nudge.at <= self.now);
                self.actions
                    .extend(due.map(|Nudge { attempt, segment, .. }| Action::Nudge { attempt, segment }));
            }
            Phase::Ended => {}
        }
        if self.gives_up_at().is_some_and(|at| at <= self.now) {
            self.give_up();
        }
    }

    /// Returns when the lack of progress ends it. A receipt that was accepted, or a failure that is told, has a deadline of its own.
    fn gives_up_at(&self) -> Option<Duration> {
        match self.phase {
            Phase::Linking { .. } | Phase::Open => Some(self.progress_at.saturating_add(self.give_up)),
            Phase::Confirming { .. } | Phase::Refusing { .. } | Phase::Ended => None,
        }
    }

    fn show_link(&mut self) {
        self.phase = Phase::Open;
        self.actions.push_back(Action::Link);
    }

    fn probed(&mut self, reply: &Reply) {
        if let Phase::Linking { since, probe_at } = &mut self.phase {
            if reply.verdict() == Verdict::Success {
                self.show_link();
            } else {
                // More and more seldom: 50 ms at first.
                *probe_at = Some(self.now + PROBE_EVERY.max(self.now.saturating_sub(*since) / 4));
            }
        }
    }

    /// The control request ended without a message.
    fn listened(&mut self, reply: &Reply) {
        let (since, wait) = match self.listening {
            Listening::Out { since, wait } => (since, wait),
            Listening::Pausing { .. } => (self.now, WAIT),
        };
        let pause = match reply.verdict() {
            verdict @ (Verdict::Forbidden | Verdict::NoPaths) => {
                return self.end(Ending::Unusable { verdict });
            }
            verdict @ (Verdict::Unauthorized | Verdict::Foreign(_)) if self.receivers.is_empty() => {
                return self.end(Ending::Unusable { verdict });
            }
            // The wait passed, and nobody came: at once again, so that a receiver finds the sender there.
            Verdict::NotPaired if self.now.saturating_sub(since) + Duration::from_secs(1) >= wait => {
                self.control_backoff.succeeded();
                Duration::ZERO
            }
            verdict => {
                match verdict {
                    Verdict::Later { why } => self.cut(why),
                    Verdict::NotPaired => self.cut(NOT_WAITED.into()),
                    _ => {}
                }
                self.control_backoff.after_failure(reply.retry_after())
            }
        };
        if let Phase::Linking { since, probe_at } = &mut self.phase {
            *since = self.now + pause;
            *probe_at = probe_at.map(|_| *since + PROBE_EVERY);
        }
        self.pause_listening(pause);
    }

    /// Something arrived that no receiver sent: somebody without the link, or what answers is no relay.
    fn unreadable(&mut self) {
        self.unreadable = self.unreadable.saturating_add(1);
        if self.unreadable == UNREADABLE {
            let warning = "what arrives is from no receiver: the URL may not be that of a relay, or somebody without the link \
                           writes to its path";
            self.actions.push_back(Action::Event(SendEvent::Warning(warning.into())));
        }
        self.pause_listening(IGNORED_PAUSE * self.unreadable.min(UNREADABLE));
    }

    fn pause_listening(&mut self, pause: Duration) {
        self.listening = Listening::Pausing { until: self.now + pause };
    }

    fn cut(&mut self, why: String) {
        self.last_failure.clone_from(&why);
        self.actions.push_back(Action::Event(SendEvent::Cut { why }));
    }
}
