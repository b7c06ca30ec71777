//! Taking the segments of an attempt.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Action, Begin, Ending, Phase, Receiver, is_fatal};
use crate::destination::Complete;
use crate::link::Id;
use crate::messages::{Refused, SegmentHead};
use crate::receive::ReceiveEvent;
use crate::reply::{Reply, Verdict};
use crate::send::Failure;

/// An attempt that brings nothing for so long is replaced by a new one.
const NOTHING: Duration = Duration::from_secs(30);

/// A receiver that is refused because another is served asks again after this.
const BUSY: Duration = Duration::from_secs(15);

/// So many misfit segments in a row end the transfer.
const MISFITS: u32 = 3;

/// The running attempt.
#[derive(Debug)]
pub(super) struct Taking {
    attempt: Id,
    since: Duration,
    /// When it last brought anything.
    brought_at: Duration,
    /// Whether it brought anything at all.
    has_brought: bool,
    /// The segment that is read, or waited for.
    current: u64,
    /// Its head, once it opened.
    head: Option<SegmentHead>,
    /// The GETs to make: a segment, and when.
    due: VecDeque<(u64, Duration)>,
    /// The GETs that are out: a segment, and since when.
    out: VecDeque<(u64, Duration)>,
}

impl Taking {
    pub(super) fn attempt(&self) -> &Id {
        &self.attempt
    }

    pub(super) fn deadline(&self) -> Duration {
        let due = self.due.iter().map(|(_, at)| *at);
        due.fold(self.brought_at + NOTHING, Duration::min)
    }

    /// A GET ended, or has a body. Returns when it was made.
    fn came_back(&mut self, segment: u64) -> Option<Duration> {
        let index = self.out.iter().position(|(out, _)| *out == segment)?;
        self.out.remove(index).map(|(_, since)| since)
    }
}

impl Receiver {
    /// The sender has the `ask`: its segments are taken.
    pub(super) fn take(&mut self, attempt: Id) {
        let now = self.now;
        self.phase = Phase::Taking(Taking {
            attempt,
            since: now,
            brought_at: now,
            has_brought: false,
            current: 0,
            head: None,
            due: VecDeque::from([(0, now)]),
            out: VecDeque::new(),
        });
    }

    pub(super) fn run_taking(&mut self) {
        let now = self.now;
        let Phase::Taking(taking) = &mut self.phase else { return };
        if taking.brought_at + NOTHING <= now {
            return self.ask_anew("the sender sent nothing for 30 s".into());
        }
        while let Some(index) = taking.due.iter().position(|(_, at)| *at <= now)
            && let Some((segment, _)) = taking.due.remove(index)
        {
            let attempt = taking.attempt.clone();
            taking.out.push_back((segment, now));
            self.actions.push_back(Action::Get { attempt, segment });
        }
    }

    /// Replaces the attempt by a new one.
    fn ask_anew(&mut self, why: String) {
        let Phase::Taking(taking) = &self.phase else { return };
        // At once after an attempt that came to something; else a sender in trouble would be asked in a loop.
        let pause = if taking.has_brought { Duration::ZERO } else { self.backoff.after_failure(None) };
        self.last_failure.clone_from(&why);
        self.actions.push_back(Action::Event(ReceiveEvent::Cut { why }));
        self.actions.push_back(Action::Close);
        self.ask_at(self.now + pause, false);
    }

    /// A segment opened: it is taken if it continues what is held.
    pub(super) fn opened(&mut self, segment: u64, head: SegmentHead) {
        let now = self.now;
        let Phase::Taking(taking) = &mut self.phase else { return };
        if segment != taking.current || taking.head.is_some() {
            return;
        }
        taking.came_back(segment);
        if head.attempt != taking.attempt || head.segment != segment {
            return self.misfit("a segment of another place arrived");
        }
        if let Some((refused, message)) = head.error {
            if segment > 0 {
                return self.misfit("an error in mid-attempt");
            }
            return self.refused(refused, message);
        }
        let is_same = self.transfer.as_ref() == Some(&head.transfer);
        let continues = is_same && head.offset == self.held && !self.restarts;
        let begin = if segment > 0 || continues {
            if !continues {
                return self.misfit("a segment that does not continue what is held arrived");
            }
            None
        } else if head.offset == 0
            && let Some(description) = &head.description
        {
            // The first data of all, or a sender that can only begin again.
            let restart = self.transfer.is_some();
            if restart && self.passes_on && self.held > 0 {
                let why = "the sender had to begin again, but bytes were passed on already".to_owned();
                self.actions.push_back(Action::Close);
                return self.end(Ending::Integrity { why });
            }
            Some(Begin { transfer: head.transfer.clone(), description: description.clone(), restart })
        } else {
            return self.misfit("a segment of another transfer arrived");
        };
        taking.brought_at = now;
        taking.has_brought = true;
        if head.end.is_none() {
            taking.due.push_back((segment + 1, now));
        }
        taking.head = Some(head);
        self.misfits = 0;
        if let Some(begin) = &begin {
            self.transfer = Some(begin.transfer.clone());
            self.held = 0;
            self.is_resumed = false;
            self.restarts = false;
            self.actions.push_back(Action::Event(ReceiveEvent::Description(begin.description.clone())));
        }
        self.actions.push_back(Action::Take { segment, begin });
    }

    fn misfit(&mut self, why: &str) {
        self.misfits += 1;
        if self.misfits >= MISFITS {
            let why = format!("{why}, {MISFITS} times in a row");
            return self.fail(Failure::Integrity, why.clone(), Ending::Integrity { why });
        }
        self.ask_anew(why.to_owned());
    }

    /// The sender refuses this attempt.
    fn refused(&mut self, refused: Refused, message: String) {
        self.actions.push_back(Action::Close);
        match refused {
            Refused::ForGood(reason) => self.end(Ending::Refused { reason, message }),
            Refused::Busy => {
                self.actions.push_back(Action::Event(ReceiveEvent::Busy));
                self.ask_at(self.now + BUSY, false);
            }
        }
    }

    /// Bytes are authenticated and written, perhaps while the attempt is closed.
    pub(super) fn wrote(&mut self, bytes: u64) {
        match &mut self.phase {
            Phase::Taking(taking) => taking.brought_at = self.now,
            Phase::Asking { is_closed: false, .. } => {}
            _ => return,
        }
        self.held += bytes;
        self.progress_at = self.now;
        self.backoff.succeeded();
        self.actions.push_back(Action::Event(ReceiveEvent::Received { bytes: self.held }));
    }

    /// The data of the current segment ended.
    pub(super) fn segment_ended(&mut self, segment: u64, whole: bool) {
        let Phase::Taking(taking) = &mut self.phase else { return };
        if segment != taking.current {
            return;
        }
        let Some(head) = taking.head.take().filter(|_| whole) else {
            return self.ask_anew("the connection was cut".into());
        };
        self.progress_at = self.now;
        taking.brought_at = self.now;
        taking.current += 1;
        if let Some(end) = head.end {
            self.all_taken(end);
        }
    }

    /// The end was there: size and digest are compared.
    fn all_taken(&mut self, end: Complete) {
        let Phase::Taking(taking) = &self.phase else { return };
        let attempt = taking.attempt.clone();
        self.actions.push_back(Action::Close);
        self.actions.push_back(Action::Finish(end.clone()));
        self.phase = Phase::Storing { attempt, complete: end };
    }

    /// A GET ended without anything that opens.
    pub(super) fn got(&mut self, segment: u64, reply: &Reply) {
        let Phase::Taking(taking) = &mut self.phase else { return };
        let sent = taking.came_back(segment).unwrap_or(self.now);
        let verdict = reply.verdict();
        if is_fatal(&verdict) {
            self.actions.push_back(Action::Close);
            return self.end(Ending::Unusable { verdict });
        }
        let (since, is_current) = (taking.since, segment == taking.current);
        // Only the segment that is waited for matters: the next one may be mended meanwhile.
        if is_current {
            match &verdict {
                // Something that was not made for this receiver.
                Verdict::Success => return self.ask_anew("what arrived cannot be decrypted".into()),
                Verdict::PeerCut => return self.ask_anew("the sender's connection was cut".into()),
                // The relay may not know yet that this connection is gone, so its path is not used again.
                Verdict::Later { why } if matches!(reply, Reply::Lost { .. }) => {
                    return self.ask_anew(why.clone());
                }
                _ => {}
            }
        }
        let pause = self.pause_after(reply, since, sent);
        if let Phase::Taking(taking) = &mut self.phase {
            taking.due.push_back((segment, self.now + pause));
        }
    }
}
