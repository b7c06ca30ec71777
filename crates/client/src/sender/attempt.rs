//! The running attempt: which segments are in flight, and when the next one starts.

use std::collections::VecDeque;
use std::mem;
use std::time::Duration;

use super::size::SMALLEST;
use super::{Action, Ending, Made, Phase, Sender};
use crate::link::Id;
use crate::reply::{Reply, Verdict, WAIT};
use crate::send::SendEvent;

/// So many segments are in flight: one is read by the receiver, the next one waits for it.
const IN_FLIGHT: usize = 2;

/// The next segment starts when the rest of the last needs less than this.
const OVERLAP: Duration = Duration::from_secs(1);

/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// A segment that takes no byte and gets no answer is given up. Longer than the receiver's limit, because the kernel's buffer hides progress.
const STALLED: Duration = Duration::from_secs(30);

/// An attempt that is served.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) id: Id,
    pub(super) receiver: Id,
    recipient: String,
    /// When the receiver asked or took a segment.
    pub(super) active_at: Duration,
    in_flight: VecDeque<Segment>,
    next: u64,
    next_offset: u64,
    /// Whether a segment with the end is in flight or delivered.
    has_end: bool,
    /// Whether the receiver may have the next segment already: all of it was sent once, and the answer was lost.
    next_may_be_held: bool,
    start_at: Duration,
}

/// A segment in flight.
#[derive(Debug)]
struct Segment {
    number: u64,
    offset: u64,
    limit: u64,
    /// As [`Attempt::next_may_be_held`]. It is small for that reason, so its success says nothing about sizes.
    may_be_held: bool,
    /// Known once the driver has made it.
    made: Option<Made>,
    taken: u64,
    /// When it became the first in flight.
    first_since: Duration,
    /// When it was started, or took its last byte.
    moved_at: Duration,
    started: Duration,
    is_delivered: bool,
}

impl Segment {
    /// Returns the offset behind its data.
    fn end_offset(&self) -> u64 {
        self.offset + self.made.as_ref().map_or(0, |made| made.data)
    }

    /// Returns whether the connection took all of it.
    fn is_sent(&self) -> bool {
        self.made.as_ref().is_some_and(|made| self.taken >= made.sealed)
    }

    fn is_last(&self) -> bool {
        self.made.as_ref().is_some_and(|made| made.end.is_some())
    }

    /// Returns whether the rest of it needs less than [`OVERLAP`] at the rate so far.
    fn is_almost_sent(&self, now: Duration) -> bool {
        let Some(made) = &self.made else { return false };
        let rest = made.sealed.saturating_sub(self.taken);
        let millis = now.saturating_sub(self.first_since).as_millis().max(1);
        // rest / (taken / millis) < OVERLAP
        rest == 0 || u128::from(rest) * millis < u128::from(self.taken) * OVERLAP.as_millis()
    }
}

impl Attempt {
    pub(super) fn new(id: Id, receiver: Id, recipient: String, offset: u64, now: Duration) -> Self {
        Self {
            id,
            receiver,
            recipient,
            active_at: now,
            in_flight: VecDeque::new(),
            next: 0,
            next_offset: offset,
            has_end: false,
            next_may_be_held: false,
            start_at: now,
        }
    }

    /// Returns the first segment that is not delivered.
    pub(super) fn undelivered(&self) -> u64 {
        self.in_flight.front().map_or(self.next, |first| first.number)
    }

    /// Returns when the attempt has something to do.
    pub(super) fn deadline(&self, now: Duration) -> Option<Duration> {
        let stalled = self.in_flight.front().map(|first| first.moved_at + STALLED);
        let next = if self.has_end || self.in_flight.len() >= IN_FLIGHT {
            None
        } else if self.in_flight.is_empty() {
            Some(self.start_at)
        } else {
            Some(self.start_at.max(now + LOOK))
        };
        [stalled, next].into_iter().flatten().min()
    }

    fn segment(&mut self, number: u64) -> Option<&mut Segment> {
        self.in_flight.iter_mut().find(|segment| segment.number == number)
    }

    /// Returns whether nobody gets a segment any more that was not paired: a later one was delivered, and a receiver gets that only once this one has
    /// opened. Its answer was lost, and it was sent again.
    fn is_passed(&self, number: u64) -> bool {
        self.in_flight.iter().any(|segment| segment.number > number && segment.is_delivered)
    }

    fn may_start(&self, now: Duration) -> bool {
        let is_free = match self.in_flight.back() {
            None => true,
            Some(last) => self.in_flight.len() < IN_FLIGHT && last.is_almost_sent(now),
        };
        !self.has_end && self.start_at <= now && is_free
    }
}

impl Sender {
    /// Starts segments, and gives up the one that stalls.
    pub(super) fn run_attempt(&mut self) {
        let now = self.now;
        let Some(attempt) = &mut self.attempt else { return };
        if let Some(first) = attempt.in_flight.front()
            && first.moved_at + STALLED <= now
        {
            let (id, segment) = (attempt.id.clone(), first.number);
            self.put_ended(&id, segment, &Reply::Lost { why: "a segment moved no byte".into() });
            return self.run_attempt();
        }
        if !attempt.may_start(now) {
            return;
        }
        // A segment that nobody gets must not keep the next one from starting: that one tells the receiver what it misses. So it has to fit into
        // the buffers of its connection.
        let (segment, offset) = (attempt.next, attempt.next_offset);
        let may_be_held = mem::take(&mut attempt.next_may_be_held);
        let limit = if may_be_held { SMALLEST } else { self.size.get() };
        attempt.next += 1;
        attempt.in_flight.push_back(Segment {
            number: segment,
            offset,
            limit,
            may_be_held,
            made: None,
            taken: 0,
            first_since: now,
            moved_at: now,
            started: now,
            is_delivered: false,
        });
        let (attempt, recipient) = (attempt.id.clone(), attempt.recipient.clone());
        self.actions.push_back(Action::Put { attempt, recipient, segment, offset, limit });
    }

    /// The data of a segment is known, and so the offset of the next one.
    pub(super) fn made(&mut self, made: Made) {
        if let Some(end) = &made.end {
            self.complete = Some(end.clone());
        }
        let now = self.now;
        let Some(attempt) = self.attempt.as_mut().filter(|attempt| attempt.id == made.attempt) else {
            return;
        };
        let is_end = made.end.is_some();
        let Some(segment) = attempt.segment(made.segment) else { return };
        segment.moved_at = now;
        segment.made = Some(made);
        let end_offset = segment.end_offset();
        attempt.next_offset = end_offset;
        attempt.has_end = is_end;
        self.sent_to = self.sent_to.max(end_offset);
    }

    /// The connection took bytes of a segment.
    pub(super) fn taken(&mut self, attempt: &Id, number: u64, bytes: u64) {
        let now = self.now;
        let Some(attempt) = self.attempt.as_mut().filter(|running| running.id == *attempt) else { return };
        let is_first = attempt.in_flight.front().is_some_and(|first| first.number == number);
        let Some(segment) = attempt.segment(number) else { return };
        if bytes > segment.taken {
            segment.taken = bytes;
            segment.moved_at = now;
        }
        if is_first {
            // The tags and the head are a thousandth of it: near enough for people.
            let bytes = (segment.offset + segment.taken).min(segment.end_offset());
            self.actions.push_back(Action::Event(SendEvent::Sent { bytes }));
        }
    }

    /// A segment was delivered, or must be made anew.
    pub(super) fn put_ended(&mut self, attempt: &Id, number: u64, reply: &Reply) {
        let now = self.now;
        if !matches!(self.phase, Phase::Open) {
            return;
        }
        let Some(running) = self.attempt.as_mut().filter(|running| running.id == *attempt) else { return };
        let is_passed = reply.verdict() == Verdict::NotPaired && running.is_passed(number);
        let Some(segment) = running.segment(number) else { return };
        if (reply.verdict() == Verdict::Success || is_passed) && segment.made.is_some() {
            segment.is_delivered = true;
            running.active_at = now;
            self.segment_backoff.succeeded();
            return self.pop_delivered();
        }
        let data = segment.made.as_ref().map_or(segment.limit, |made| made.data);
        let waited = now.saturating_sub(segment.started);
        let has_moved = segment.taken > 0;
        let may_be_held = segment.may_be_held || segment.is_sent() && matches!(reply, Reply::Lost { .. });
        let offset = segment.offset;
        running.in_flight.retain(|segment| segment.number < number);
        running.next = number;
        running.next_offset = offset;
        running.has_end = false;
        running.next_may_be_held = may_be_held;
        self.actions.push_back(Action::Close { segment: number });
        match reply.verdict() {
            Verdict::TooLarge => self.size.too_large(data),
            Verdict::PeerCut => self.size.cut(),
            // An attempt to connect says nothing about sizes.
            Verdict::Later { .. } if matches!(reply, Reply::Lost { .. }) && has_moved => {
                self.size.failed(data);
            }
            _ => {}
        }
        let pause = match reply.verdict() {
            verdict @ (Verdict::Forbidden | Verdict::NoPaths) => {
                return self.end(Ending::Unusable { verdict });
            }
            Verdict::NotPaired if waited + Duration::from_secs(1) >= WAIT => Duration::ZERO,
            // The new size is tried at once.
            Verdict::TooLarge if self.size.get() < data => Duration::ZERO,
            Verdict::Later { why } => {
                self.cut(why);
                self.segment_backoff.after_failure(reply.retry_after())
            }
            _ => self.segment_backoff.after_failure(reply.retry_after()),
        };
        if let Some(running) = &mut self.attempt {
            running.start_at = now + pause;
        }
    }

    /// Takes the delivered segments from the front.
    fn pop_delivered(&mut self) {
        let now = self.now;
        while let Some(running) = &mut self.attempt
            && running.in_flight.front().is_some_and(|first| first.is_delivered)
            && let Some(segment) = running.in_flight.pop_front()
        {
            if let Some(next) = running.in_flight.front_mut() {
                next.first_since = now;
                next.moved_at = now;
            }
            let bytes = segment.end_offset();
            if bytes > self.delivered_to {
                self.delivered_to = bytes;
                self.progress_at = now;
            }
            if bytes - segment.offset == segment.limit && !segment.may_be_held {
                self.size.delivered(now.saturating_sub(segment.first_since));
            }
            self.actions.push_back(Action::Event(SendEvent::Sent { bytes }));
            if segment.is_last() {
                self.all_sent = true;
                self.actions.push_back(Action::Event(SendEvent::AllSent { bytes }));
            }
        }
    }
}
