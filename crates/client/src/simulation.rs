//! Both state machines against a relay that lies, in virtual time.
//!
//! Ciphertext is symbolic: a [`Sealed`] opens for whom it was made, and the relay can lose, delay, repeat, cut, damage and exchange it, but not
//! make it. Data is symbolic too: a byte is its offset in the source, so a destination sees at once if it is given another.
//!
//! `RENDEZVOUS_SEEDS` sets how many seeds each test tries.

mod hosts;
mod laws;
mod relay;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use crate::link::Id;
use crate::messages::{Control, Head};

/// How likely the relay does what, per request, in percent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lies {
    pub(super) lost: u8,
    pub(super) false_status: u8,
    pub(super) replayed: u8,
    pub(super) damaged: u8,
    pub(super) cut: u8,
    pub(super) ghost: u8,
    pub(super) delayed: u8,
    /// How often each receiver restarts, in percent per attempt.
    pub(super) restart: u8,
}

/// What travels at a path.
#[derive(Clone, Debug)]
pub(super) enum Sealed {
    Control(Control),
    Segment { recipient: String, head: Head, data: u64, sealed: u64 },
}

/// A request of a client.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) path: Path,
    pub(super) wait: Duration,
    pub(super) body: Option<Sealed>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Path {
    Control,
    Segment(Id, u64),
    Bye(Id),
}

/// What the relay tells a client.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A request arrives at the relay.
    Arrive(Request),
    /// The wait of a request at the relay is over.
    WaitOver(u64),
    /// A client gives a request up.
    GiveUp(u64),
    /// The answer to a request: `None` if the connection was lost.
    Answer(u64, Option<u16>),
    /// A GET begins to bring this.
    Body { get: u64, put: u64, sealed: Sealed, whole: bool, damaged: bool },
    /// A part of the data of the segment that a receiver reads has come.
    Part { host: usize, get: u64, left: u32 },
    /// A seat that a vanished client held becomes free.
    GhostGone(Path, bool),
    /// A segment of the sender is made.
    Made { put: u64 },
    /// A host looks at its clock.
    Tick(usize),
    /// A receiver's host starts again.
    Start(usize),
}

/// The world: a queue of events.
pub(super) struct Queue {
    pub(super) now: Duration,
    events: BinaryHeap<Reverse<(Duration, u64)>>,
    what: std::collections::HashMap<u64, Event>,
    next: u64,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            now: Duration::ZERO,
            events: BinaryHeap::new(),
            what: std::collections::HashMap::new(),
            next: 0,
        }
    }

    pub(super) fn at(&mut self, at: Duration, event: Event) {
        self.next += 1;
        self.what.insert(self.next, event);
        self.events.push(Reverse((at.max(self.now), self.next)));
    }

    pub(super) fn after(&mut self, pause: Duration, event: Event) {
        self.at(self.now + pause, event);
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        let Reverse((at, key)) = self.events.pop()?;
        self.now = at;
        self.what.remove(&key)
    }
}
