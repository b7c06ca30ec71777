//! The sender's host: performs the actions of its state machine.

use std::time::Duration;

use super::world::{SENDER, Use, World};
use super::{Event, Path, Request, Sealed};
use crate::destination::Complete;
use crate::digest::Digest;
use crate::link::Id;
use crate::messages::{Head, Refused, SegmentHead};
use crate::reply::WAIT;
use crate::sender::{self, Made, Sender};
use crate::source::{Description, Kind};

pub(super) struct SenderHost {
    pub(super) machine: Sender,
    pub(super) transfer: Id,
    pub(super) size: u64,
    pub(super) is_pipe: bool,
    pub(super) replay: u64,
    pub(super) ending: Option<sender::Ending>,
    /// Data that connections took.
    pub(super) sent: u64,
    pub(super) tick_at: Option<Duration>,
}

fn digest() -> Digest {
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
            self.queue.at(at, Event::Tick(SENDER));
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
                self.queue.after(Duration::from_millis(self.random.u64(1..20)), Event::Made { put });
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
            // Only a source that fails or a person who stops lead to it.
            Action::Link | Action::Nudge { .. } | Action::Event(_) => {}
            Action::End(ending) => {
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
        let size = (!self.sender.is_pipe).then_some(self.sender.size);
        let description = (segment == 0 && error.is_none()).then(|| description(size));
        let transfer = self.sender.transfer.clone();
        Head::Segment(Box::new(SegmentHead { transfer, attempt, segment, offset, description, end, error }))
    }

    pub(super) fn made(&mut self, put: u64) {
        let Some((_, Use::Put { attempt, segment, offset, limit, recipient })) =
            self.requests.get(&put).cloned()
        else {
            return;
        };
        let size = self.sender.size;
        let data = limit.min(size - offset);
        let is_end = offset + data == size && data <= 1 << 20;
        let end = is_end.then(|| Complete { bytes: size, sha256: digest() });
        let sealed = data + 400;
        if self.sender.is_pipe {
            let earliest = (offset + data).saturating_sub(self.sender.replay);
            self.sender.machine.handle(self.queue.now, sender::Input::Earliest(earliest));
        }
        let made = Made { attempt: attempt.clone(), segment, data, sealed, end: end.clone() };
        let head = self.head(attempt.clone(), segment, offset, end, None);
        let body = Some(Sealed::Segment { recipient, head, data, sealed });
        let request = Request { id: put, path: Path::Segment(attempt, segment), wait: WAIT, body };
        self.relay.send(&mut self.queue, &mut self.random, request);
        self.tell_sender(sender::Input::Made(made));
    }
}
