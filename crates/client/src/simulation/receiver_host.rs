//! A receiver's host: performs the actions of its state machine, and restarts.

use std::collections::HashMap;
use std::time::Duration;

use super::flow::{PARTS, Reading};
use super::relay::tells;
use super::sender_host::digest;
use super::world::{GIVE_UP, Use, World};
use super::{Event, Path, Sealed};
use crate::destination::{Complete, ReceiverId, Stored};
use crate::link::Id;
use crate::messages::{Body, Control, SegmentHead};
use crate::receiver::{self, Begin, Receiver};
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
    /// Whether the disk holds other bytes than were written.
    pub(super) is_rotten: bool,
    pub(super) mismatches: u32,
    /// Whether it ever stored or passed on the whole.
    pub(super) had_all: bool,
    /// Segments that opened and were made for another place.
    pub(super) misplaced: u32,
    /// When a person stopped it, and when it ended.
    pub(super) stopped_at: Option<Duration>,
    pub(super) ended_at: Option<Duration>,
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
            is_rotten: false,
            mismatches: 0,
            had_all: false,
            misplaced: 0,
            stopped_at: None,
            ended_at: None,
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
        let (seed, rots) = (self.random.u64(..), self.random.u8(0..100) < self.setup.rot);
        let (now, passes_on) = (self.queue.now, self.setup.passes_on);
        let receiver = self.receiver(host);
        receiver.started = now;
        let resumed = receiver.transfer.clone();
        let resumed = resumed.map(|transfer| (transfer, receiver.synced, receiver.stored.clone()));
        if resumed.is_some() {
            receiver.run += 1;
            receiver.resumed += 1;
            receiver.lost += receiver.held - receiver.synced;
            receiver.held = receiver.synced;
            receiver.is_rotten |= rots && receiver.stored.is_none() && receiver.held > 0;
        } else {
            receiver.name = Id::random();
        }
        receiver.recipient = format!("age1 of run {} of {}", receiver.run, receiver.name);
        receiver.machine = Receiver::new(receiver::Start {
            id: ReceiverId { name: receiver.name.clone(), run: receiver.run },
            recipient: receiver.recipient.clone(),
            give_up: GIVE_UP,
            passes_on,
            resumed,
            seed,
        });
        receiver.is_up = true;
        // Its clock does not begin at 0.
        self.tell_receiver(host, receiver::Input::Tick);
    }

    /// A receiver vanishes. After a while it is run again; one that passes its bytes on knows nothing then.
    pub(super) fn crash(&mut self, host: usize) {
        self.close(host, |_| true);
        let pause = Duration::from_millis(self.random.u64(100..20_000));
        let passes_on = self.setup.passes_on;
        let receiver = self.receiver(host);
        receiver.is_up = false;
        receiver.tick_at = None;
        receiver.drop_attempt();
        if passes_on {
            receiver.lost += receiver.held;
            (receiver.held, receiver.transfer, receiver.stored) = (0, None, None);
        }
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
            self.queue.at(at, Event::Tick { host, at });
        }
    }

    fn act_for_receiver(&mut self, host: usize, action: receiver::Action) {
        use receiver::{Action, Input};
        match action {
            Action::Tell(message) => self.tell_control(host, message),
            Action::Get { attempt, segment } => {
                let path = Path::Segment(attempt.clone(), segment);
                self.request(host, Use::Get { attempt, segment }, path, WAIT, None);
            }
            Action::Take { segment, begin } => self.take(host, segment, begin),
            Action::Close => {
                self.close(host, |use_| matches!(use_, Use::Get { .. }));
                self.receiver(host).drop_attempt();
                let now = self.queue.now;
                let receiver = self.receiver(host);
                receiver.machine.handle(now.saturating_sub(receiver.started), Input::Closed);
            }
            Action::Finish(complete) => self.finish(host, complete),
            Action::GetBye { attempt } => self.request(host, Use::GetBye, Path::Bye(attempt), WAIT, None),
            Action::Confirmed | Action::Event(_) => {}
            Action::End(ending) => {
                self.receiver(host).ended_at = Some(self.queue.now);
                self.receiver(host).ending = Some(ending);
                self.close(host, |_| true);
            }
        }
    }

    /// A receiver sends a control message. It may vanish before it knows what became of it.
    fn tell_control(&mut self, host: usize, mut message: Control) {
        let receiver = self.receiver(host);
        match &message.body {
            Body::Ask(ask) => assert!(
                ask.offset == receiver.held || ask.offset == 0 && receiver.is_rotten,
                "{} is asked for, {} bytes are held",
                ask.offset,
                receiver.held
            ),
            Body::Done(_) => assert!(receiver.stored.is_some(), "a receipt for what is not stored"),
            Body::Failed(_) => {}
        }
        if self.is_forger(host) {
            self.forge(&mut message);
        }
        let restarts = tells(&self.queue, &mut self.random, self.setup.lies.restart);
        self.request(host, Use::Tell, Path::Control, WAIT, Some(Sealed::Control(message)));
        if restarts {
            self.crash(host);
        }
    }

    pub(super) fn is_forger(&self, host: usize) -> bool {
        self.setup.forges && host == self.setup.receivers
    }

    /// Makes a receipt one for something else.
    fn forge(&mut self, message: &mut Control) {
        if let Body::Done(done) = &mut message.body {
            match self.random.u8(0..3) {
                0 => done.sha256 = [13; 32].into(),
                1 => done.bytes += 1,
                _ => done.transfer = Id::random(),
            }
        }
    }

    /// Data is taken: it must be what was asked for, and continue what is held.
    fn take(&mut self, host: usize, segment: u64, begin: Option<Begin>) {
        let receiver = self.receiver(host);
        if let Some(begin) = begin {
            assert_eq!(begin.restart, receiver.transfer.is_some());
            receiver.transfer = Some(begin.transfer);
            receiver.lost += receiver.held;
            receiver.is_rotten = false;
            (receiver.held, receiver.synced) = (0, 0);
        }
        let reading = receiver.reading.as_ref().expect("a segment is taken that opened");
        assert_eq!(reading.segment, segment);
        assert!(reading.is_in_place, "a segment is taken that was made for another place");
        assert_eq!(
            Some(&reading.transfer),
            receiver.transfer.as_ref(),
            "a byte of another transfer is taken"
        );
        assert_eq!(reading.offset, receiver.held, "a byte is taken that does not continue what is held");
        let get = reading.get;
        self.next_part(host, get, PARTS);
    }

    /// The destination compares size and digest, and stores.
    fn finish(&mut self, host: usize, complete: Complete) {
        let (size, passes_on) = (self.sender.size(), self.setup.passes_on);
        let receiver = self.receiver(host);
        let is_right = receiver.held == size && !receiver.is_rotten;
        let input = if is_right && complete == (Complete { bytes: size, sha256: digest() }) {
            receiver.stored = Some(complete);
            receiver.synced = receiver.held;
            receiver.had_all = true;
            receiver::Input::Stored(if passes_on { Stored::Handed } else { Stored::Disk })
        } else {
            receiver.mismatches += 1;
            receiver::Input::Mismatch { why: "the digest".into() }
        };
        self.tell_receiver(host, input);
    }
}
