//! How bodies flow from a PUT to a GET, in parts, and what opens.

use std::time::Duration;

use super::world::{Use, World};
use super::{Event, Sealed};
use crate::link::Id;
use crate::messages::Head;
use crate::reply::Reply;
use crate::{receiver, sender};

/// A segment comes in so many parts.
pub(super) const PARTS: u32 = 4;

/// What age authenticates at a time.
const CHUNK: u64 = 64 * 1024;

/// A segment that a receiver reads.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) get: u64,
    pub(super) put: u64,
    pub(super) segment: u64,
    pub(super) transfer: Id,
    pub(super) offset: u64,
    pub(super) data: u64,
    pub(super) sealed: u64,
    /// Whether it was made for the place where it is read.
    pub(super) is_in_place: bool,
    /// How much of it comes out.
    pub(super) authentic: u64,
    pub(super) done: u64,
}

impl World {
    pub(super) fn next_part(&mut self, host: usize, get: u64, left: u32) {
        let sealed = self.receiver(host).reading.as_ref().map_or(0, |reading| reading.sealed);
        let pause = Duration::from_micros(sealed * 1_000_000 / u64::from(PARTS) / self.rate);
        self.queue.after(pause, Event::Part { host, get, left });
    }

    /// A part of a segment has come.
    pub(super) fn part(&mut self, host: usize, get: u64, left: u32) {
        let Some(reading) = self.receiver(host).reading.clone().filter(|reading| reading.get == get) else {
            return;
        };
        let is_open = reading.put == 0 || self.requests.contains_key(&reading.put);
        let until = |parts: u32| reading.data * u64::from(parts) / u64::from(PARTS);
        let (before, come) = (until(PARTS - left), until(PARTS - left + 1));
        let come = if is_open { come } else { reading.done };
        let bytes = come.min(reading.authentic).saturating_sub(reading.done);
        if let Some(current) = &mut self.receiver(host).reading {
            current.done += bytes;
        }
        if reading.put != 0 && is_open {
            self.sender.sent += come - before;
            if let Some((_, Use::Put { attempt, segment, .. })) = self.requests.get(&reading.put).cloned() {
                self.tell_sender(sender::Input::Taken { attempt, segment, bytes: come });
            }
            self.receiver(host).lost += come - before - bytes;
        }
        if bytes > 0 {
            self.receiver(host).held += bytes;
            self.tell_receiver(host, receiver::Input::Wrote { bytes });
            if self.random.u8(0..4) == 0 {
                self.receiver(host).synced = self.receiver(host).held;
            }
        }
        let is_over = left == 1 || !is_open || come > reading.authentic;
        if self.receiver(host).reading.as_ref().is_none_or(|reading| reading.get != get) {
            return;
        }
        if !is_over {
            return self.next_part(host, get, left - 1);
        }
        let whole = is_open && reading.authentic >= reading.data && left == 1;
        self.relay.pairs.remove(&get);
        self.requests.remove(&get);
        let receiver = self.receiver(host);
        receiver.reading = None;
        receiver.next += 1;
        let status = if whole { 200 } else { 502 };
        self.queue.after(Duration::from_millis(10), Event::Answer(reading.put, Some(status)));
        self.tell_receiver(host, receiver::Input::Ended { segment: reading.segment, whole });
        self.open_next(host);
    }

    pub(super) fn open_next(&mut self, host: usize) {
        let receiver = self.receiver(host);
        if receiver.reading.is_none()
            && let Some(reading) = receiver.pending.remove(&receiver.next)
        {
            self.open(host, reading);
        }
    }

    pub(super) fn open(&mut self, host: usize, reading: Reading) {
        let head = self.receiver(host).heads.remove(&reading.get).expect("a head for each pending segment");
        let segment = reading.segment;
        self.receiver(host).reading = Some(reading);
        self.tell_receiver(host, receiver::Input::Opened { segment, head });
    }

    /// A GET brings something.
    pub(super) fn body(&mut self, get: u64, put: u64, sealed: Sealed, whole: bool, damaged: bool) {
        let code = if whole { 200 } else { 502 };
        let Some((host, use_)) = self.requests.get(&get).cloned() else {
            self.relay.pairs.remove(&get);
            return self.queue.after(Duration::from_millis(10), Event::Answer(put, Some(502)));
        };
        let opens = whole && !damaged;
        match (use_, sealed) {
            (
                Use::Get { attempt, segment },
                Sealed::Segment { recipient, head: Head::Segment(head), data, sealed },
            ) if recipient == self.receiver(host).recipient && (opens || data > 0) => {
                let authentic =
                    if opens { data } else { (self.random.u64(0..=data) / CHUNK * CHUNK).min(data - 1) };
                let (transfer, offset) = (head.transfer.clone(), head.offset);
                let is_in_place = head.attempt == attempt && head.segment == segment;
                let reading = Reading {
                    get,
                    put,
                    segment,
                    transfer,
                    offset,
                    data,
                    sealed,
                    is_in_place,
                    authentic,
                    done: 0,
                };
                let receiver = self.receiver(host);
                receiver.misplaced += u32::from(!is_in_place);
                receiver.heads.insert(get, *head);
                receiver.pending.insert(segment, reading);
                self.open_next(host);
            }
            (Use::Get { segment, .. }, _) => self.unreadable(host, get, put, segment),
            (Use::GetBye, Sealed::Segment { recipient, head: Head::Bye, .. }) if opens => {
                let opened = recipient == self.receiver(host).recipient;
                self.finish_get(get, put, code);
                self.tell_receiver(host, receiver::Input::ByeGot { opened, reply: Reply::status(200) });
            }
            (Use::GetBye, _) => {
                self.finish_get(get, put, code);
                self.tell_receiver(
                    host,
                    receiver::Input::ByeGot { opened: false, reply: Reply::status(200) },
                );
            }
            (Use::Listen, Sealed::Control(message)) if opens => {
                self.finish_get(get, put, code);
                self.tell_sender(sender::Input::Heard(message));
            }
            (Use::Listen, _) => {
                self.finish_get(get, put, code);
                self.tell_sender(sender::Input::Unreadable);
            }
            (other, _) => panic!("{other:?} brings no body"),
        }
    }

    pub(super) fn unreadable(&mut self, host: usize, get: u64, put: u64, segment: u64) {
        self.finish_get(get, put, 200);
        self.tell_receiver(host, receiver::Input::Got { segment, reply: Reply::status(200) });
    }

    pub(super) fn finish_get(&mut self, get: u64, put: u64, code: u16) {
        self.requests.remove(&get);
        self.relay.pairs.remove(&get);
        self.queue.after(Duration::from_millis(10), Event::Answer(put, Some(code)));
    }
}
