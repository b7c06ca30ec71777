//! Both state machines against a relay that lies, in virtual time.
//!
//! Ciphertext is symbolic: a [`Sealed`] opens for whom it was made, and the relay can lose, delay, repeat, cut, damage and exchange it, but not
//! make it. Data is symbolic too: a byte is its offset in the source, so a destination sees at once if it is given another.
//!
//! `RENDEZVOUS_SEEDS` sets how many seeds each test tries.

mod flow;
mod laws;
mod queue;
mod receiver_host;
mod relay;
mod sender_host;
mod world;

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
