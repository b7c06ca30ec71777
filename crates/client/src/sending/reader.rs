//! The thread that owns the source, and the one that hashes.
//!
//! *Invariant.* Each byte is hashed once, and none is left out. A segment behind one that was cut may be wished before the bytes between are read:
//! then they are read first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread;

use bytes::Bytes;

use crate::destination::Complete;
use crate::digest::{Digest, Hasher};
use crate::source::{Source, SourceError};

/// The size of a block.
const BLOCK: usize = 256 * 1024;

/// So many blocks are read ahead.
const AHEAD: usize = 4;

/// What the reader is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Read from here on. Blocks of it carry this epoch.
    Seek { epoch: u64, offset: u64 },
    /// Check that the source has not changed.
    Check,
}

/// What the reader gives.
#[derive(Debug)]
pub(super) enum Block {
    /// The next bytes.
    Data(u64, Bytes),
    /// The end of the source.
    End(u64, Complete),
    /// The source failed.
    Failed(SourceError),
}

/// Starts both threads. They end when the other ends of the channels are dropped.
pub(super) fn start(source: Box<dyn Source>, earliest: Arc<AtomicU64>) -> (Sender<Command>, Receiver<Block>) {
    let (commands, inbox) = mpsc::channel();
    let (blocks, outbox) = mpsc::sync_channel(AHEAD);
    let (to_hash, hashing) = mpsc::sync_channel(AHEAD);
    thread::spawn(move || hash(&hashing));
    let reader = Reader { source, earliest, blocks, to_hash, hashed_to: 0, complete: None };
    thread::spawn(move || reader.run(&inbox));
    (commands, outbox)
}

/// What is hashed, or the request for the digest.
enum Hash {
    Bytes(Bytes),
    Digest(SyncSender<Digest>),
}

fn hash(inbox: &Receiver<Hash>) {
    let mut hasher = Hasher::default();
    while let Ok(message) = inbox.recv() {
        match message {
            Hash::Bytes(bytes) => hasher.update(&bytes),
            // A reader that is gone needs no digest.
            Hash::Digest(reply) => drop(reply.send(hasher.digest())),
        }
    }
}

struct Reader {
    source: Box<dyn Source>,
    earliest: Arc<AtomicU64>,
    blocks: SyncSender<Block>,
    to_hash: SyncSender<Hash>,
    /// Bytes before this are hashed.
    hashed_to: u64,
    complete: Option<Complete>,
}

/// Where the reader is.
#[derive(Clone, Copy)]
struct Place {
    epoch: u64,
    offset: u64,
    /// The first offset that is wished. What is before is only hashed.
    wished: u64,
}

impl Reader {
    fn run(mut self, commands: &Receiver<Command>) {
        let mut buffer = vec![0; BLOCK];
        // Where it reads, until the end.
        let mut place: Option<Place> = None;
        loop {
            let command = if place.is_some() {
                match commands.try_recv() {
                    Ok(command) => Some(command),
                    Err(mpsc::TryRecvError::Empty) => None,
                    Err(mpsc::TryRecvError::Disconnected) => return,
                }
            } else {
                let Ok(command) = commands.recv() else { return };
                Some(command)
            };
            let step = match command {
                Some(Command::Seek { epoch, offset: wished }) => {
                    let offset = wished.min(self.hashed_to);
                    self.source.seek(offset).map(|()| place = Some(Place { epoch, offset, wished }))
                }
                Some(Command::Check) => self.source.check(),
                None => match place {
                    Some(at) => self.read(at, &mut buffer).map(|next| place = next),
                    None => Ok(()),
                },
            };
            self.earliest.store(self.source.earliest(), Ordering::Relaxed);
            if let Err(error) = step {
                // The maker may be gone too.
                drop(self.blocks.send(Block::Failed(error)));
                return;
            }
        }
    }

    /// Reads a block, and returns where the next one is, or `None` at the end.
    fn read(&mut self, place: Place, buffer: &mut [u8]) -> Result<Option<Place>, SourceError> {
        let Place { epoch, offset, wished } = place;
        let length = self.source.read(buffer)?;
        let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else {
            let complete = self.end(offset)?;
            drop(self.blocks.send(Block::End(epoch, complete)));
            return Ok(None);
        };
        let bytes = Bytes::copy_from_slice(bytes);
        let next = offset + u64::try_from(length).unwrap_or(0);
        if next > self.hashed_to {
            let known = usize::try_from(self.hashed_to.saturating_sub(offset)).unwrap_or(length);
            drop(self.to_hash.send(Hash::Bytes(bytes.slice(known.min(length)..))));
            self.hashed_to = next;
        }
        if self.source.description().size.is_some_and(|size| next > size) {
            return Err(SourceError::Changed { what: "the source grew".into() });
        }
        let unwished = usize::try_from(wished.saturating_sub(offset)).unwrap_or(length);
        if unwished < length {
            drop(self.blocks.send(Block::Data(epoch, bytes.slice(unwished..))));
        }
        Ok(Some(Place { offset: next, ..place }))
    }

    fn end(&mut self, offset: u64) -> Result<Complete, SourceError> {
        self.source.check()?;
        let is_short = self.source.description().size.is_some_and(|size| offset < size);
        if is_short || offset < self.hashed_to {
            return Err(SourceError::Changed { what: "the source shrank".into() });
        }
        if let Some(complete) = &self.complete {
            return Ok(complete.clone());
        }
        let (reply, digest) = mpsc::sync_channel(1);
        drop(self.to_hash.send(Hash::Digest(reply)));
        let Ok(sha256) = digest.recv() else {
            return Err(SourceError::Changed { what: "its digest could not be computed".into() });
        };
        let complete = Complete { bytes: offset, sha256 };
        self.complete = Some(complete.clone());
        Ok(complete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_of_all_bytes_also_if_some_were_passed_over() {
        let bytes: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data");
        std::fs::write(&path, &bytes).unwrap();
        let source = crate::source::open(&[path], None, 0).unwrap();
        let (commands, blocks) = start(source, Arc::default());
        let wished = 10_000_001;
        for (epoch, offset) in [(1, 0), (2, 300_000), (3, wished)] {
            commands.send(Command::Seek { epoch, offset }).unwrap();
            // Each is begun, and then given up.
            while !matches!(blocks.recv().unwrap(), Block::Data(begun, _) if begun == epoch) {}
        }
        commands.send(Command::Seek { epoch: 4, offset: wished }).unwrap();
        let mut read = Vec::new();
        let complete = loop {
            match blocks.recv().unwrap() {
                Block::Data(4, block) => read.extend_from_slice(&block),
                Block::End(4, complete) => break complete,
                Block::Failed(error) => panic!("{error}"),
                Block::Data(..) | Block::End(..) => {}
            }
        };
        assert!(read == bytes[usize::try_from(wished).unwrap()..], "{} bytes", read.len());
        let mut hasher = Hasher::default();
        hasher.update(&bytes);
        assert_eq!(complete, Complete { bytes: bytes.len() as u64, sha256: hasher.digest() });
    }
}
