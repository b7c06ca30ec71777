//! The sender's host: performs the actions of its state machine.

use std::time::Duration;

use super::source::{Bursts, Step};
use super::world::{GIVE_UP, SENDER, Use, World};
use super::{Event, Path, Request, Sealed, Setup};
use crate::destination::Complete;
use crate::digest::Digest;
use crate::link::Id;
use crate::messages::{Head, Refused, SegmentHead};
use crate::reply::WAIT;
use crate::send::SendEvent;
use crate::sender::{self, Made, Sender};
use crate::source::{Description, Kind};

pub(super) struct SenderHost {
    machine: Sender,
    transfer: Id,
    source: Bursts,
    is_pipe: bool,
    replay: u64,
    pub(super) ending: Option<sender::Ending>,
    /// Data that connections took.
    pub(super) sent: u64,
    /// How often a receiver asked and was served.
    pub(super) asks: u32,
    /// Bodies that did not pass a limit.
    pub(super) too_long: u32,
    /// When a person stopped it, how much the receivers held then, and when it ended.
    pub(super) stopped_at: Option<Duration>,
    pub(super) held_at_stop: Option<u64>,
    pub(super) ended_at: Option<Duration>,
    pub(super) tick_at: Option<Duration>,
}

impl SenderHost {
    pub(super) fn new(seed: u64, setup: &Setup, random: &mut fastrand::Rng) -> Self {
        let size = match random.u8(0..10) {
            0 => 0,
            1..=6 => random.u64(0..5_000_000),
            _ => random.u64(0..300_000_000),
        };
        let source = if setup.is_silent { Bursts::silent(random) } else { Bursts::at_once(size) };
        let is_pipe = setup.is_silent || random.bool();
        let transfer = Id::random();
        let largest = if is_pipe { 8 << 20 } else { u64::MAX };
        Self {
            machine: Sender::new(transfer.clone(), largest, GIVE_UP, seed),
            transfer,
            source,
            is_pipe,
            replay: 64 << 20,
            ending: None,
            sent: 0,
            asks: 0,
            too_long: 0,
            stopped_at: None,
            held_at_stop: None,
            ended_at: None,
            tick_at: None,
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.source.size
    }

    /// Returns whether the source may be unable to go back to its start.
    pub(super) fn forgets(&self) -> bool {
        self.is_pipe && self.size() > self.replay
    }
}

/// The digest of the source. All else that anybody could hold has another.
pub(super) fn digest() -> Digest {
    [42; 32].into()
}

fn description(size: Option<u64>) -> Description {
    Description { kind: Kind::File, name: "file".into(), size, mtime: None, mode: None }
}

impl World {
    pub(super) fn tell_sender(&mut self, input: sender::Input) {
        self.sender.machine.handle(self.queue.now, input);
        self.act_sender();
    }

    pub(super) fn act_sender(&mut self) {
        while let Some(action) = self.sender.machine.action() {
            self.act_for_sender(action);
        }
        let at = self.sender.machine.deadline().max(self.queue.now + Duration::from_millis(1));
        if self.sender.ending.is_none() && self.sender.tick_at.is_none_or(|tick| at < tick) {
            self.sender.tick_at = Some(at);
            self.queue.at(at, Event::Tick { host: SENDER, at });
        }
    }

    pub(super) fn act_for_sender(&mut self, action: sender::Action) {
        use sender::Action;
        match action {
            Action::Listen { wait } => self.request(SENDER, Use::Listen, Path::Control, wait, None),
            Action::Probe => {
                let id = self.next_request;
                self.next_request += 1;
                self.requests.insert(id, (SENDER, Use::Probe));
                self.queue.after(Duration::from_millis(20), Event::Answer(id, Some(200)));
            }
            Action::Put { attempt, recipient, segment, offset, limit } => {
                let put = self.next_request;
                self.next_request += 1;
                self.requests.insert(put, (SENDER, Use::Put { attempt, segment, offset, limit, recipient }));
                let pause = Duration::from_millis(self.random.u64(1..20));
                self.queue.after(pause, Event::Made { put, since: self.queue.now });
            }
            Action::Close { segment: from } => {
                self.close(SENDER, |use_| matches!(use_, Use::Put { segment, .. } if *segment >= from));
            }
            Action::Refuse { attempt, recipient, reason, message } => {
                let head = self.head(attempt.clone(), 0, 0, None, Some((reason, message)));
                let body = Sealed::Segment { recipient, head, data: 0, sealed: 300 };
                self.request(SENDER, Use::Refuse, Path::Segment(attempt, 0), WAIT, Some(body));
            }
            Action::Bye { attempt, recipient } => {
                let body = Sealed::Segment { recipient, head: Head::Bye, data: 0, sealed: 300 };
                self.request(SENDER, Use::ByePut, Path::Bye(attempt), WAIT, Some(body));
            }
            Action::Nudge { attempt, segment } => {
                let body = Some(Sealed::Nothing);
                let path = Path::Segment(attempt.clone(), segment);
                self.request(SENDER, Use::Nudge { attempt, segment }, path, WAIT, body);
            }
            Action::Event(SendEvent::Asked { .. }) => self.sender.asks += 1,
            Action::Link | Action::Event(_) => {}
            Action::End(ending) => {
                self.sender.ended_at = Some(self.queue.now);
                self.sender.ending = Some(ending);
                self.close(SENDER, |_| true);
            }
        }
    }

    pub(super) fn head(
        &self,
        attempt: Id,
        segment: u64,
        offset: u64,
        end: Option<Complete>,
        error: Option<(Refused, String)>,
    ) -> Head {
        let size = (!self.sender.is_pipe).then(|| self.sender.size());
        let description = (segment == 0 && error.is_none()).then(|| description(size));
        let transfer = self.sender.transfer.clone();
        Head::Segment(Box::new(SegmentHead { transfer, attempt, segment, offset, description, end, error }))
    }

    /// A segment is made, as soon as the source has given enough of it.
    pub(super) fn made(&mut self, put: u64, since: Duration) {
        let Some((_, Use::Put { attempt, segment, offset, limit, recipient })) =
            self.requests.get(&put).cloned()
        else {
            return;
        };
        let now = self.queue.now;
        let (data, is_end) = match self.sender.source.step(now, since, segment == 0, offset, limit) {
            Step::Send { data, is_end } => (data, is_end),
            Step::Wait(at) => return self.queue.at(at, Event::Made { put, since }),
        };
        // A long rest of a file goes out while it is read, so its digest is not known yet.
        let is_end = is_end && (self.sender.is_pipe || data <= 1 << 20);
        let end = is_end.then(|| Complete { bytes: self.sender.size(), sha256: digest() });
        let sealed = data + 400;
        if self.sender.is_pipe {
            let earliest = (offset + data).saturating_sub(self.sender.replay);
            self.sender.machine.handle(now, sender::Input::Earliest(earliest));
        }
        let made = Made { attempt: attempt.clone(), segment, data, sealed, end: end.clone() };
        let mut head = self.head(attempt.clone(), segment, offset, end, None);
        if self.random.u8(0..100) < self.setup.errs {
            self.err(&mut head);
        }
        self.tell_sender(sender::Input::Made(made));
        match self.setup.limit {
            Some(limit) if limit.bytes < sealed => {
                self.sender.too_long += 1;
                let (pause, code) = (Duration::from_millis(30), limit.has_status.then_some(413));
                self.tell_sender(sender::Input::Taken { attempt, segment, bytes: limit.bytes });
                self.queue.after(pause, Event::Answer(put, code));
            }
            _ => {
                let body = Some(Sealed::Segment { recipient, head, data, sealed });
                let request = Request { id: put, path: Path::Segment(attempt, segment), wait: WAIT, body };
                self.relay.send(&mut self.queue, &mut self.random, request);
            }
        }
    }

    /// Makes a segment one of another offset or transfer.
    fn err(&mut self, head: &mut Head) {
        if let Head::Segment(head) = head {
            match self.random.u8(0..3) {
                0 => head.offset += 1,
                1 => head.offset /= 2,
                _ => head.transfer = Id::random(),
            }
        }
    }
}
