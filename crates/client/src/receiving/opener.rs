//! The thread that decrypts.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender};

use bytes::{Buf, Bytes};

use super::writer::Work;
use super::{Command, Event};
use crate::messages::Head;
use crate::seal::{Data, Identity};

/// age gives one chunk at a time.
const BLOCK: usize = 64 * 1024;

pub(super) struct Opener {
    pub(super) identity: Identity,
    pub(super) events: tokio::sync::mpsc::Sender<Event>,
    pub(super) plain: SyncSender<Work>,
}

/// The other threads are gone, so this one ends.
struct Over;

impl<T> From<std::sync::mpsc::SendError<T>> for Over {
    fn from(_: std::sync::mpsc::SendError<T>) -> Self {
        Self
    }
}

impl<T> From<tokio::sync::mpsc::error::SendError<T>> for Over {
    fn from(_: tokio::sync::mpsc::error::SendError<T>) -> Self {
        Self
    }
}

impl Opener {
    pub(super) fn run(self, commands: &Receiver<Command>) {
        let mut opened: Option<(u64, Data<Body>)> = None;
        while let Ok(command) = commands.recv() {
            let step = match command {
                Command::Open { segment, body } => {
                    self.open(segment, Body { blocks: body, block: Bytes::new() }).map(|data| {
                        opened = data.map(|data| (segment, data));
                    })
                }
                Command::Take { begin } => match opened.take() {
                    Some((segment, data)) => {
                        let begun = begin.map_or(Ok(()), |begin| self.plain.send(Work::Begin(begin)));
                        begun.map_err(Over::from).and_then(|()| self.take(segment, data))
                    }
                    None => Ok(()),
                },
                Command::Close => {
                    opened = None;
                    self.plain.send(Work::Close).map_err(Over::from)
                }
                Command::Finish(complete) => self.plain.send(Work::Finish(complete)).map_err(Over::from),
                Command::Confirmed => self.plain.send(Work::Confirmed).map_err(Over::from),
                Command::Abandon => self.plain.send(Work::Abandon).map_err(Over::from),
            };
            if step.is_err() {
                return;
            }
        }
    }

    fn open(&self, segment: u64, body: Body) -> Result<Option<Data<Body>>, Over> {
        match self.identity.open(body) {
            Ok((Head::Segment(head), data)) => {
                self.events.blocking_send(Event::Opened { segment, head: *head })?;
                Ok(Some(data))
            }
            Ok((Head::Bye, _)) | Err(_) => {
                self.events.blocking_send(Event::Unopened { segment })?;
                Ok(None)
            }
        }
    }

    /// Passes on what is authenticated, up to the end or the cut.
    fn take(&self, segment: u64, mut data: Data<Body>) -> Result<(), Over> {
        loop {
            let mut block = vec![0; BLOCK];
            match data.read(&mut block) {
                Ok(0) => return Ok(self.plain.send(Work::Ended { segment, whole: true })?),
                Ok(length) => {
                    block.truncate(length);
                    self.plain.send(Work::Data(block))?;
                }
                Err(_) => return Ok(self.plain.send(Work::Ended { segment, whole: false })?),
            }
        }
    }
}

/// The body of a response, as a reader. Its end may be a cut: age tells.
pub(super) struct Body {
    blocks: tokio::sync::mpsc::Receiver<Bytes>,
    block: Bytes,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        let (Some(from), Some(to)) = (available.get(..length), buffer.get_mut(..length)) else {
            return Ok(0);
        };
        to.copy_from_slice(from);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Body {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.block.is_empty() {
            let Some(block) = self.blocks.blocking_recv() else { break };
            self.block = block;
        }
        Ok(&self.block)
    }

    fn consume(&mut self, length: usize) {
        self.block.advance(length.min(self.block.len()));
    }
}
