//! The clients of the simulation: each performs the actions of its state machine.

use std::collections::HashMap;
use std::time::Duration;

use super::relay::{HONEST_FROM, Relay};
use super::{Event, Lies, Path, Queue, Request, Sealed};
use crate::destination::{Complete, ReceiverId, Stored};
use crate::digest::Digest;
use crate::link::Id;
use crate::messages::{Head, Refused, SegmentHead};
use crate::receiver::{self, Receiver};
use crate::reply::{GRACE, Reply, WAIT};
use crate::sender::{self, Made, Sender};
use crate::source::{Description, Kind};

const GIVE_UP: Duration = Duration::from_secs(1800);
const PARTS: u32 = 4;
const CHUNK: u64 = 64 * 1024;

/// What a request is for.
#[derive(Clone, Debug, PartialEq)]
enum Use {
    Listen,
    Probe,
    Put { attempt: Id, segment: u64, offset: u64, limit: u64, recipient: String },
    Refuse,
    ByePut,
    Tell,
    Get(u64),
    GetBye,
}

pub(super) struct SenderHost {
    machine: Sender,
    transfer: Id,
    pub(super) size: u64,
    is_pipe: bool,
    replay: u64,
    pub(super) ending: Option<sender::Ending>,
    /// Data that connections took.
    pub(super) sent: u64,
    tick_at: Option<Duration>,
}

pub(super) struct ReceiverHost {
    machine: Receiver,
    recipient: String,
    name: Id,
    run: u32,
    /// On disk: how many bytes from the start of the source; and what of that survives a restart.
    transfer: Option<Id>,
    pub(super) held: u64,
    synced: u64,
    pub(super) stored: Option<Complete>,
    pub(super) ending: Option<receiver::Ending>,
    is_up: bool,
    /// Its clock begins with each run.
    started: Duration,
    next: u64,
    pending: HashMap<u64, Reading>,
    heads: HashMap<u64, SegmentHead>,
    reading: Option<Reading>,
    tick_at: Option<Duration>,
    /// Data that was sent and does not count: cut off, or lost in a restart.
    pub(super) lost: u64,
    pub(super) resumed: u32,
}

#[derive(Clone, Debug)]
struct Reading {
    get: u64,
    put: u64,
    segment: u64,
    offset: u64,
    data: u64,
    sealed: u64,
    /// How much of it comes out.
    authentic: u64,
    done: u64,
}

pub(super) struct World {
    pub(super) queue: Queue,
    random: fastrand::Rng,
    relay: Relay,
    pub(super) sender: SenderHost,
    pub(super) receivers: Vec<ReceiverHost>,
    requests: HashMap<u64, (usize, Use)>,
    next_request: u64,
    rate: u64,
    pub(super) events: u64,
}

/// The sender's place among the hosts; receivers follow.
const SENDER: usize = 0;

fn digest() -> Digest {
    [42; 32].into()
}

fn description(size: Option<u64>) -> Description {
    Description { kind: Kind::File, name: "file".into(), size, mtime: None, mode: None }
}

impl World {
    pub(super) fn new(seed: u64, lies: Lies, receivers: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let size = match random.u8(0..10) {
            0 => 0,
            1..=6 => random.u64(0..5_000_000),
            _ => random.u64(0..300_000_000),
        };
        let is_pipe = random.bool();
        let transfer = Id::random();
        let largest = if is_pipe { 8 << 20 } else { u64::MAX };
        let sender = SenderHost {
            machine: Sender::new(transfer.clone(), largest, GIVE_UP, seed),
            transfer,
            size,
            is_pipe,
            replay: 64 << 20,
            ending: None,
            sent: 0,
            tick_at: None,
        };
        let mut queue = Queue::new();
        let receivers = (0..receivers).map(|host| {
            queue.at(Duration::from_millis(random.u64(0..20_000)), Event::Start(host + 1));
            ReceiverHost::new(seed + host as u64)
        });
        let receivers = receivers.collect();
        let rate = 1 << random.u32(16..27);
        let relay = Relay::new(lies);
        let requests = HashMap::new();
        Self { queue, random, relay, sender, receivers, requests, next_request: 1, rate, events: 0 }
    }

    /// Runs until all have ended, or this virtual time is over.
    pub(super) fn run(&mut self, horizon: Duration) {
        self.act_sender();
        while let Some(event) = self.queue.pop() {
            self.events += 1;
            if self.queue.now > horizon || self.all_ended() {
                return;
            }
            self.step(event);
        }
    }

    pub(super) fn all_ended(&self) -> bool {
        self.sender.ending.is_some() && self.receivers.iter().all(|host| host.ending.is_some())
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Arrive(request) => {
                // A client that has closed it in the meantime is gone.
                if self.requests.contains_key(&request.id) {
                    self.relay.arrive(&mut self.queue, &mut self.random, request);
                }
            }
            Event::WaitOver(id) => self.relay.wait_over(&mut self.queue, id),
            Event::GiveUp(id) => self.give_up(id),
            Event::Answer(id, code) => self.answer(id, code),
            Event::Body { get, put, sealed, whole, damaged } => self.body(get, put, sealed, whole, damaged),
            Event::Part { host, get, left } => self.part(host, get, left),
            Event::GhostGone(path, is_put) => self.relay.ghost_gone(&path, is_put),
            Event::Made { put } => self.made(put),
            Event::Tick(SENDER) => {
                self.sender.tick_at = None;
                self.tell_sender(sender::Input::Tick);
            }
            Event::Tick(host) => {
                self.receiver(host).tick_at = None;
                if self.receiver(host).is_up {
                    self.tell_receiver(host, receiver::Input::Tick);
                }
            }
            Event::Start(host) => self.start(host),
        }
    }

    fn receiver(&mut self, host: usize) -> &mut ReceiverHost {
        &mut self.receivers[host - 1]
    }

    fn request(&mut self, host: usize, use_: Use, path: Path, wait: Duration, body: Option<Sealed>) {
        let id = self.next_request;
        self.next_request += 1;
        self.requests.insert(id, (host, use_));
        let request = Request { id, path, wait, body };
        self.relay.send(&mut self.queue, &mut self.random, request);
    }

    fn close(&mut self, host: usize, which: impl Fn(&Use) -> bool) {
        let ids = self.requests.iter().filter(|(_, (owner, use_))| *owner == host && which(use_));
        let mut ids: Vec<u64> = ids.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        for id in ids {
            self.requests.remove(&id);
            self.relay.close(&mut self.queue, &mut self.random, id);
            // The other side of a transfer notices.
            if let Some(put) = self.relay.pairs.remove(&id) {
                self.queue.after(Duration::from_millis(20), Event::Answer(put, Some(502)));
            }
        }
    }

    // The sender.

    fn tell_sender(&mut self, input: sender::Input) {
        self.sender.machine.handle(self.queue.now, input);
        self.act_sender();
    }

    fn act_sender(&mut self) {
        while let Some(action) = self.sender.machine.action() {
            self.act_for_sender(action);
        }
        let at = self.sender.machine.deadline().max(self.queue.now + Duration::from_millis(1));
        if self.sender.ending.is_none() && self.sender.tick_at.is_none_or(|tick| at < tick) {
            self.sender.tick_at = Some(at);
            self.queue.at(at, Event::Tick(SENDER));
        }
    }

    fn act_for_sender(&mut self, action: sender::Action) {
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

    fn head(
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
        Head::Segment(SegmentHead { transfer, attempt, segment, offset, description, end, error })
    }

    fn made(&mut self, put: u64) {
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

    // Receivers.

    fn start(&mut self, host: usize) {
        let seed = self.random.u64(..);
        let now = self.queue.now;
        let receiver = self.receiver(host);
        receiver.started = now;
        let resumed = receiver.transfer.clone();
        let resumed = resumed.map(|transfer| (transfer, receiver.synced, receiver.stored.clone()));
        if resumed.is_some() {
            receiver.run += 1;
            receiver.resumed += 1;
            receiver.lost += receiver.held - receiver.synced;
            receiver.held = receiver.synced;
        } else {
            receiver.name = Id::random();
        }
        receiver.recipient = format!("age1 of run {} of {}", receiver.run, receiver.name);
        receiver.machine = Receiver::new(receiver::Start {
            id: ReceiverId { name: receiver.name.clone(), run: receiver.run },
            recipient: receiver.recipient.clone(),
            give_up: GIVE_UP,
            passes_on: false,
            resumed,
            seed,
        });
        receiver.is_up = true;
        // Its clock does not begin at 0.
        self.tell_receiver(host, receiver::Input::Tick);
    }

    fn stop(&mut self, host: usize) {
        self.close(host, |_| true);
        let pause = Duration::from_millis(self.random.u64(100..20_000));
        let receiver = self.receiver(host);
        receiver.is_up = false;
        receiver.drop_attempt();
        self.queue.after(pause, Event::Start(host));
    }

    fn tell_receiver(&mut self, host: usize, input: receiver::Input) {
        let now = self.queue.now;
        let started = self.receiver(host).started;
        self.receiver(host).machine.handle(now - started, input);
        while let Some(action) = self.receiver(host).machine.action() {
            self.act_for_receiver(host, action);
            if !self.receiver(host).is_up {
                return;
            }
        }
        let receiver = self.receiver(host);
        let at = (started + receiver.machine.deadline()).max(now + Duration::from_millis(1));
        if receiver.ending.is_none() && receiver.tick_at.is_none_or(|tick| at < tick) {
            receiver.tick_at = Some(at);
            self.queue.at(at, Event::Tick(host));
        }
    }

    fn act_for_receiver(&mut self, host: usize, action: receiver::Action) {
        use receiver::{Action, Input};
        match action {
            Action::Tell(message) => {
                let restarts =
                    self.queue.now < HONEST_FROM && self.random.u8(0..100) < self.relay.lies.restart;
                self.request(host, Use::Tell, Path::Control, WAIT, Some(Sealed::Control(message)));
                if restarts {
                    self.stop(host);
                }
            }
            Action::Get { attempt, segment } => {
                self.request(host, Use::Get(segment), Path::Segment(attempt, segment), WAIT, None);
            }
            Action::Take { segment, begin } => {
                let receiver = self.receiver(host);
                if let Some(begin) = begin {
                    assert_eq!(begin.restart, receiver.transfer.is_some());
                    receiver.transfer = Some(begin.transfer);
                    receiver.lost += receiver.held;
                    (receiver.held, receiver.synced) = (0, 0);
                }
                let reading = receiver.reading.as_ref().expect("a segment is taken that opened");
                assert_eq!(reading.segment, segment);
                assert_eq!(
                    reading.offset, receiver.held,
                    "a byte is taken that does not continue what is held"
                );
                let get = reading.get;
                self.next_part(host, get, PARTS);
            }
            Action::Close => {
                self.close(host, |use_| matches!(use_, Use::Get(_)));
                self.receiver(host).drop_attempt();
                let now = self.queue.now;
                let receiver = self.receiver(host);
                receiver.machine.handle(now - receiver.started, Input::Closed);
            }
            Action::Finish(complete) => {
                let size = self.sender.size;
                let receiver = self.receiver(host);
                let now_held = receiver.held;
                let input = if now_held == complete.bytes && now_held == size {
                    receiver.stored = Some(complete);
                    receiver.synced = now_held;
                    Input::Stored(Stored::Disk)
                } else {
                    Input::Mismatch { why: "size".into() }
                };
                self.tell_receiver(host, input);
            }
            Action::GetBye { attempt } => self.request(host, Use::GetBye, Path::Bye(attempt), WAIT, None),
            Action::Confirmed | Action::Event(_) => {}
            Action::End(ending) => {
                self.receiver(host).ending = Some(ending);
                self.close(host, |_| true);
            }
        }
    }

    fn next_part(&mut self, host: usize, get: u64, left: u32) {
        let sealed = self.receiver(host).reading.as_ref().map_or(0, |reading| reading.sealed);
        let pause = Duration::from_micros(sealed * 1_000_000 / u64::from(PARTS) / self.rate);
        self.queue.after(pause, Event::Part { host, get, left });
    }

    /// A part of a segment has come.
    fn part(&mut self, host: usize, get: u64, left: u32) {
        let Some(reading) = self.receiver(host).reading.clone().filter(|reading| reading.get == get) else {
            return;
        };
        let is_open = reading.put == 0 || self.requests.contains_key(&reading.put);
        let come = if is_open {
            reading.data * u64::from(PARTS - left + 1) / u64::from(PARTS)
        } else {
            reading.done
        };
        let bytes = come.min(reading.authentic).saturating_sub(reading.done);
        if let Some(now_reading) = &mut self.receiver(host).reading {
            now_reading.done += bytes;
        }
        if reading.put != 0 && is_open {
            let part = reading.data / u64::from(PARTS);
            self.sender.sent += if left == 1 { reading.data - part * u64::from(PARTS - 1) } else { part };
            if let Some((_, Use::Put { attempt, segment, .. })) = self.requests.get(&reading.put).cloned() {
                let bytes = come;
                self.tell_sender(sender::Input::Taken { attempt, segment, bytes });
            }
            self.receiver(host).lost +=
                (come - reading.data * u64::from(PARTS - left) / u64::from(PARTS)) - bytes.min(come);
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
        let code = if whole { 200 } else { 502 };
        self.queue.after(Duration::from_millis(10), Event::Answer(reading.put, Some(code)));
        self.tell_receiver(host, receiver::Input::Ended { segment: reading.segment, whole });
        self.open_next(host);
    }

    fn open_next(&mut self, host: usize) {
        let receiver = self.receiver(host);
        if receiver.reading.is_none()
            && let Some(reading) = receiver.pending.remove(&receiver.next)
        {
            self.open(host, reading);
        }
    }

    fn open(&mut self, host: usize, reading: Reading) {
        let head = self.receiver(host).heads.remove(&reading.get).expect("a head for each pending segment");
        let segment = reading.segment;
        self.receiver(host).reading = Some(reading);
        self.tell_receiver(host, receiver::Input::Opened { segment, head });
    }

    // Answers.

    fn give_up(&mut self, id: u64) {
        let is_segment = matches!(self.requests.get(&id), Some((_, Use::Put { .. })));
        let is_flowing = self.relay.pairs.contains_key(&id);
        if self.requests.contains_key(&id) && !is_segment && !is_flowing {
            self.relay.close(&mut self.queue, &mut self.random, id);
            self.answer(id, None);
        }
    }

    fn answer(&mut self, id: u64, code: Option<u16>) {
        let Some((host, use_)) = self.requests.remove(&id) else { return };
        self.relay.close(&mut self.queue, &mut self.random, id);
        let reply = code.map_or(Reply::Lost { why: format!("no answer within {GRACE:?}") }, Reply::status);
        match use_ {
            Use::Listen => self.tell_sender(sender::Input::Listened(reply)),
            Use::Probe => self.tell_sender(sender::Input::Probed(reply)),
            Use::Put { attempt, segment, .. } => {
                self.tell_sender(sender::Input::Put { attempt, segment, reply })
            }
            Use::Refuse => self.tell_sender(sender::Input::RefusalPut(reply)),
            Use::ByePut => self.tell_sender(sender::Input::ByePut(reply)),
            Use::Tell => self.tell_receiver(host, receiver::Input::Told(reply)),
            Use::Get(segment) => self.tell_receiver(host, receiver::Input::Got { segment, reply }),
            Use::GetBye => self.tell_receiver(host, receiver::Input::ByeGot { opened: false, reply }),
        }
    }

    /// A GET brings something.
    fn body(&mut self, get: u64, put: u64, sealed: Sealed, whole: bool, damaged: bool) {
        let code = if whole { 200 } else { 502 };
        let Some((host, use_)) = self.requests.get(&get).cloned() else {
            self.relay.pairs.remove(&get);
            return self.queue.after(Duration::from_millis(10), Event::Answer(put, Some(502)));
        };
        let opens = whole && !damaged;
        match (use_, sealed) {
            (Use::Get(segment), Sealed::Segment { recipient, head: Head::Segment(head), data, sealed })
                if recipient == self.receiver(host).recipient =>
            {
                let cut = if opens { data } else { self.random.u64(0..=data) / CHUNK * CHUNK };
                let authentic = if opens { data } else { cut.min(data.saturating_sub(1)) };
                let offset = head.offset;
                let authentic = if data == 0 && !opens {
                    return self.unreadable(host, get, put, segment);
                } else {
                    authentic
                };
                let reading = Reading { get, put, segment, offset, data, sealed, authentic, done: 0 };
                let receiver = self.receiver(host);
                receiver.heads.insert(get, head);
                receiver.pending.insert(segment, reading);
                self.open_next(host);
            }
            (Use::Get(segment), _) => self.unreadable(host, get, put, segment),
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

    fn unreadable(&mut self, host: usize, get: u64, put: u64, segment: u64) {
        self.finish_get(get, put, 200);
        self.tell_receiver(host, receiver::Input::Got { segment, reply: Reply::status(200) });
    }

    fn finish_get(&mut self, get: u64, put: u64, code: u16) {
        self.requests.remove(&get);
        self.relay.pairs.remove(&get);
        self.queue.after(Duration::from_millis(10), Event::Answer(put, Some(code)));
    }
}

impl ReceiverHost {
    fn new(seed: u64) -> Self {
        let name = Id::random();
        let start = receiver::Start {
            id: ReceiverId { name: name.clone(), run: 0 },
            recipient: String::new(),
            give_up: GIVE_UP,
            passes_on: false,
            resumed: None,
            seed,
        };
        Self {
            machine: Receiver::new(start),
            recipient: String::new(),
            name,
            run: 0,
            transfer: None,
            held: 0,
            synced: 0,
            stored: None,
            ending: None,
            is_up: false,
            started: Duration::ZERO,
            next: 0,
            pending: HashMap::new(),
            heads: HashMap::new(),
            reading: None,
            tick_at: None,
            lost: 0,
            resumed: 0,
        }
    }

    fn drop_attempt(&mut self) {
        self.next = 0;
        self.pending.clear();
        self.heads.clear();
        self.reading = None;
    }
}
