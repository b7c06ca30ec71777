//! A receiver's host: performs the actions of its state machine, and restarts.

use std::collections::HashMap;
use std::time::Duration;

use super::flow::{PARTS, Reading};
use super::relay::HONEST_FROM;
use super::world::{GIVE_UP, Use, World};
use super::{Event, Path, Sealed};
use crate::destination::{Complete, ReceiverId, Stored};
use crate::link::Id;
use crate::messages::SegmentHead;
use crate::receiver::{self, Receiver};
use crate::reply::WAIT;

pub(super) struct ReceiverHost {
    pub(super) machine: Receiver,
    pub(super) recipient: String,
    pub(super) name: Id,
    pub(super) run: u32,
    /// On disk: how many bytes from the start of the source; and what of that survives a restart.
    pub(super) transfer: Option<Id>,
    pub(super) held: u64,
    pub(super) synced: u64,
    pub(super) stored: Option<Complete>,
    pub(super) ending: Option<receiver::Ending>,
    pub(super) is_up: bool,
    /// Its clock begins with each run.
    pub(super) started: Duration,
    pub(super) next: u64,
    pub(super) pending: HashMap<u64, Reading>,
    pub(super) heads: HashMap<u64, SegmentHead>,
    pub(super) reading: Option<Reading>,
    pub(super) tick_at: Option<Duration>,
    /// Data that was sent and does not count: cut off, or lost in a restart.
    pub(super) lost: u64,
    pub(super) resumed: u32,
}

impl ReceiverHost {
    pub(super) fn new(seed: u64) -> Self {
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

    pub(super) fn drop_attempt(&mut self) {
        self.next = 0;
        self.pending.clear();
        self.heads.clear();
        self.reading = None;
    }
}

impl World {
    pub(super) fn start(&mut self, host: usize) {
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

    pub(super) fn stop(&mut self, host: usize) {
        self.close(host, |_| true);
        let pause = Duration::from_millis(self.random.u64(100..20_000));
        let receiver = self.receiver(host);
        receiver.is_up = false;
        receiver.drop_attempt();
        self.queue.after(pause, Event::Start(host));
    }

    pub(super) fn tell_receiver(&mut self, host: usize, input: receiver::Input) {
        let now = self.queue.now;
        let started = self.receiver(host).started;
        self.receiver(host).machine.handle(now.saturating_sub(started), input);
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

    pub(super) fn act_for_receiver(&mut self, host: usize, action: receiver::Action) {
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
                receiver.machine.handle(now.saturating_sub(receiver.started), Input::Closed);
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
}
