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

use std::collections::VecDeque;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::destination::{Complete, Stored};
use crate::link::Id;
use crate::receive::Refusal;
use crate::reply::{FIRST_WAIT, Reply, Verdict, WAIT};
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
            Input::Unreadable => self.pause_listening(IGNORED_PAUSE),
            Input::Listened(reply) => self.listened(&reply),
            Input::Probed(reply) => self.probed(&reply),
            Input::Made(made) => self.made(made),
            Input::Taken { attempt, segment, bytes } => self.taken(&attempt, segment, bytes),
            Input::Put { attempt, segment, reply } => self.put_ended(&attempt, segment, &reply),
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
        let mut deadline = self.progress_at.saturating_add(self.give_up);
        let mut earlier = |at: Option<Duration>| deadline = deadline.min(at.unwrap_or(deadline));
        if let Listening::Pausing { until } = self.listening {
            earlier(Some(until));
        }
        match &self.phase {
            Phase::Linking { since, probe_at } => {
                earlier(*probe_at);
                earlier(Some(*since + PROBE_AT_MOST));
            }
            Phase::Open => earlier(self.attempt.as_ref().and_then(|attempt| attempt.deadline(self.now))),
            Phase::Confirming { until, bye, .. } => {
                earlier(Some(*until));
                earlier(bye.retry_at);
            }
            Phase::Refusing { until, .. } => earlier(Some(*until)),
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
            Phase::Linking { since, probe_at } => {
                if *since + PROBE_AT_MOST <= self.now && matches!(self.listening, Listening::Out { .. }) {
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
            Phase::Refusing { until, interrupted, .. } => {
                let ending = if *interrupted { Ending::Interrupted } else { Ending::Source };
                if *until <= self.now {
                    self.end(ending);
                }
            }
            Phase::Ended => {}
        }
        if self.progress_at.saturating_add(self.give_up) <= self.now {
            self.give_up();
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
                if let Verdict::Later { why } = verdict {
                    self.cut(why);
                }
                self.control_backoff.after_failure(reply.retry_after())
            }
        };
        if let Phase::Linking { since, .. } = &mut self.phase {
            *since = self.now + pause;
        }
        self.pause_listening(pause);
    }

    fn pause_listening(&mut self, pause: Duration) {
        self.listening = Listening::Pausing { until: self.now + pause };
    }

    fn cut(&mut self, why: String) {
        self.last_failure.clone_from(&why);
        self.actions.push_back(Action::Event(SendEvent::Cut { why }));
    }
}
