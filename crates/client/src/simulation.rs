//! Both state machines against a relay that lies, in virtual time.
//!
//! Ciphertext is symbolic: a [`Sealed`] opens for whom it was made, and the relay can lose, delay, repeat, cut, damage and exchange it, but not
//! make it. Data is symbolic too: a byte is its offset in the source, so a destination sees at once if it is given another.
//!
//! Besides, worlds have limits on bodies, pipes that fall silent, disks that rot, senders and receivers that err, and people who stop a side.
//!
//! `RENDEZVOUS_SEEDS` sets how many seeds each test tries.

mod flow;
mod laws;
mod queue;
mod receiver_host;
mod relay;
mod sender_host;
mod source;
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

/// What a world is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) lies: Lies,
    pub(super) receivers: usize,
    /// Something between the sender and the relay does not let longer bodies pass.
    pub(super) limit: Option<Limit>,
    /// Whether the source is a pipe that falls silent.
    pub(super) is_silent: bool,
    /// How often a receiver that restarts finds other bytes on its disk than it wrote, in percent.
    pub(super) rot: u8,
    /// Whether receivers pass on what they get.
    pub(super) passes_on: bool,
    /// Whether the last receiver sends receipts for something else.
    pub(super) forges: bool,
    /// How often the sender sends a segment of another offset or transfer than was asked for, in percent.
    pub(super) errs: u8,
    /// The host that a person stops within the first minutes.
    pub(super) stops: Option<usize>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            lies: Lies::default(),
            receivers: 1,
            limit: None,
            is_silent: false,
            rot: 0,
            passes_on: false,
            forges: false,
            errs: 0,
            stops: None,
        }
    }
}

/// A limit on the length of bodies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) bytes: u64,
    /// Whether longer ones get 413. Else the connection breaks.
    pub(super) has_status: bool,
}

/// What travels at a path.
#[derive(Clone, Debug)]
pub(super) enum Sealed {
    /// A body that is no message.
    Nothing,
    Control(Control),
    Segment {
        recipient: String,
        head: Head,
        data: u64,
        sealed: u64,
    },
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
    /// A segment of the sender is made, or looks again whether it can be. `since`: when that began.
    Made { put: u64, since: Duration },
    /// A host looks at its clock.
    Tick { host: usize, at: Duration },
    /// A person stops a host.
    Stop(usize),
    /// A receiver's host starts again.
    Start(usize),
}
