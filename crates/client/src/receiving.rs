//! The threads that decrypt, verify and store what is received.
//!
//! ```text
//! connection ──► opener ──► writer      opener: decrypts one segment after the other, once the state machine takes it
//!                                       writer: owns the destination; hashes and writes
//! ```
//!
//! *Invariant.* [`Event::Closed`] comes after everything that an attempt wrote.
//!
//! *Bounds.* A segment that waits holds 1 MiB of ciphertext; between the threads are 16 blocks of 64 KiB.

mod opener;
mod writer;

use std::sync::mpsc::{self, Sender};
use std::thread;

use bytes::Bytes;

use crate::destination::{Complete, Destination, DestinationError, Stored};
use crate::digest::Hasher;
use crate::messages::SegmentHead;
use crate::receiver::Begin;
use crate::seal::Identity;

/// So many blocks of a body wait for the opener.
pub(crate) const BODY: usize = 16;

/// So many blocks of plaintext wait for the writer.
const PLAIN: usize = 16;

/// What the opener is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Open the segment that this body brings.
    Open { segment: u64, body: tokio::sync::mpsc::Receiver<Bytes> },
    /// Take the data of the opened segment.
    Take { begin: Option<Begin> },
    /// Drop what is open, and report when all is written.
    Close,
    /// Compare and store.
    Finish(Complete),
    /// Remove the state.
    Confirmed,
    /// The transfer failed for good.
    Abandon,
}

/// What the threads report.
#[derive(Debug)]
pub(crate) enum Event {
    /// A segment opened: a [`Command::Take`] or [`Command::Close`] must follow.
    Opened { segment: u64, head: SegmentHead },
    /// A segment does not open.
    Unopened { segment: u64 },
    /// So many bytes more are written.
    Wrote(u64),
    /// The data of a segment ended.
    Ended { segment: u64, whole: bool },
    /// The answer to [`Command::Close`].
    Closed,
    /// The data is stored.
    Stored { stored: Stored, at: Option<std::path::PathBuf> },
    /// Size or digest are wrong.
    Mismatch(String),
    /// The destination failed.
    Failed(DestinationError),
    /// The answer to [`Command::Confirmed`] and [`Command::Abandon`].
    Over(Option<DestinationError>),
}

/// What the destination holds at the start.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub(crate) bytes: u64,
    pub(crate) hasher: Hasher,
}

/// Starts both threads. They end when the returned sender is dropped, or nobody takes the events.
pub(crate) fn start(
    destination: Box<dyn Destination>,
    receiver: crate::destination::ReceiverId,
    held: Held,
    identity: Identity,
    events: tokio::sync::mpsc::Sender<Event>,
) -> Sender<Command> {
    let (commands, inbox) = mpsc::channel();
    let (plain, written) = mpsc::sync_channel(PLAIN);
    let writer = writer::Writer::new(destination, receiver, held, events.clone());
    thread::spawn(move || writer.run(&written));
    let opener = opener::Opener { identity, events, plain };
    thread::spawn(move || opener.run(&inbox));
    commands
}
