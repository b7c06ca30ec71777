//! The world of the simulation: clients, the relay between them, and what happens next.

use std::collections::HashMap;
use std::time::Duration;

use super::queue::Queue;
use super::receiver_host::ReceiverHost;
use super::relay::Relay;
use super::sender_host::SenderHost;
use super::{Event, Path, Request, Sealed, Setup};
use crate::link::Id;
use crate::reply::{GRACE, Reply};
use crate::{receiver, sender};

/// Both sides give up after this time without progress.
pub(super) const GIVE_UP: Duration = Duration::from_mins(30);

/// What a request is for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Use {
    Listen,
    Probe,
    Put { attempt: Id, segment: u64, offset: u64, limit: u64, recipient: String },
    Refuse,
    Nudge { attempt: Id, segment: u64 },
    ByePut,
    Tell,
    Get { attempt: Id, segment: u64 },
    GetBye,
}

pub(super) struct World {
    pub(super) setup: Setup,
    pub(super) queue: Queue,
    pub(super) random: fastrand::Rng,
    pub(super) relay: Relay,
    pub(super) sender: SenderHost,
    pub(super) receivers: Vec<ReceiverHost>,
    pub(super) requests: HashMap<u64, (usize, Use)>,
    pub(super) next_request: u64,
    pub(super) rate: u64,
    pub(super) events: u64,
}

/// The sender's place among the hosts; receivers follow.
pub(super) const SENDER: usize = 0;

impl World {
    pub(super) fn new(seed: u64, setup: Setup) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let sender = SenderHost::new(seed, &setup, &mut random);
        let mut queue = Queue::new();
        let receivers = (1..=setup.receivers).map(|host| {
            queue.at(Duration::from_millis(random.u64(0..20_000)), Event::Start(host));
            ReceiverHost::new(seed + host as u64)
        });
        let receivers = receivers.collect();
        if let Some(host) = setup.stops {
            let longest = if random.bool() { 30_000 } else { 300_000 };
            queue.at(Duration::from_millis(random.u64(0..longest)), Event::Stop(host));
        }
        let rate = 1 << random.u32(16..27);
        let relay = Relay::new(setup.lies);
        let requests = HashMap::new();
        Self { setup, queue, random, relay, sender, receivers, requests, next_request: 1, rate, events: 0 }
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

    pub(super) fn step(&mut self, event: Event) {
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
            Event::Made { put, since } => self.made(put, since),
            Event::Tick { host, at } => self.tick(host, at),
            Event::Stop(host) => self.stop(host),
            Event::Start(host) => self.start(host),
        }
    }

    /// A host looks at its clock, unless it has thought of an earlier time since.
    fn tick(&mut self, host: usize, at: Duration) {
        if host == SENDER {
            if self.sender.tick_at == Some(at) {
                self.sender.tick_at = None;
                self.tell_sender(sender::Input::Tick);
            }
        } else if self.receiver(host).tick_at == Some(at) {
            self.receiver(host).tick_at = None;
            if self.receiver(host).is_up {
                self.tell_receiver(host, receiver::Input::Tick);
            }
        }
    }

    /// A person stops a host, and runs a receiver again if that is of use.
    fn stop(&mut self, host: usize) {
        if host == SENDER {
            if self.sender.ending.is_none() {
                self.sender.stopped_at = Some(self.queue.now);
                self.sender.held_at_stop = self.receivers.iter().map(|receiver| receiver.held).max();
                self.tell_sender(sender::Input::Stop);
            }
        } else if self.receiver(host).ending.is_none() {
            self.receiver(host).stopped_at = Some(self.queue.now);
            if self.receiver(host).is_up {
                self.tell_receiver(host, receiver::Input::Stop);
            }
            if !self.setup.passes_on && self.receiver(host).ending.take().is_some() {
                self.crash(host);
            }
        }
    }

    pub(super) fn receiver(&mut self, host: usize) -> &mut ReceiverHost {
        &mut self.receivers[host - 1]
    }

    pub(super) fn request(
        &mut self,
        host: usize,
        use_: Use,
        path: Path,
        wait: Duration,
        body: Option<Sealed>,
    ) {
        let id = self.next_request;
        self.next_request += 1;
        self.requests.insert(id, (host, use_));
        let request = Request { id, path, wait, body };
        self.relay.send(&mut self.queue, &mut self.random, request);
    }

    pub(super) fn close(&mut self, host: usize, which: impl Fn(&Use) -> bool) {
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

    pub(super) fn give_up(&mut self, id: u64) {
        let is_segment = matches!(self.requests.get(&id), Some((_, Use::Put { .. })));
        let is_flowing = self.relay.pairs.contains_key(&id);
        if self.requests.contains_key(&id) && !is_segment && !is_flowing {
            self.relay.close(&mut self.queue, &mut self.random, id);
            self.answer(id, None);
        }
    }

    pub(super) fn answer(&mut self, id: u64, code: Option<u16>) {
        let Some((host, use_)) = self.requests.remove(&id) else { return };
        self.relay.close(&mut self.queue, &mut self.random, id);
        let reply = code.map_or(Reply::Lost { why: format!("no answer within {GRACE:?}") }, Reply::status);
        match use_ {
            Use::Listen => self.tell_sender(sender::Input::Listened(reply)),
            Use::Probe => self.tell_sender(sender::Input::Probed(reply)),
            Use::Put { attempt, segment, .. } => {
                self.tell_sender(sender::Input::Put { attempt, segment, reply });
            }
            Use::Nudge { attempt, segment } => {
                self.tell_sender(sender::Input::Nudged { attempt, segment, reply });
            }
            Use::Refuse => self.tell_sender(sender::Input::RefusalPut(reply)),
            Use::ByePut => self.tell_sender(sender::Input::ByePut(reply)),
            Use::Tell => self.tell_receiver(host, receiver::Input::Told(reply)),
            Use::Get { segment, .. } => self.tell_receiver(host, receiver::Input::Got { segment, reply }),
            Use::GetBye => self.tell_receiver(host, receiver::Input::ByeGot { opened: false, reply }),
        }
    }
}
