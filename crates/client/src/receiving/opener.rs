//! The thread that decrypts.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender};

use bytes::{Buf, Bytes};

use super::writer::Work;
use super::{Command, Event};
use crate::messages::Head;
use crate::seal::{Data, Identity};

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
        let whole = loop {
            match data.next() {
                Ok(Some(bytes)) => self.plain.send(Work::Data(bytes))?,
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        Ok(self.plain.send(Work::Ended { segment, whole })?)
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::link::Id;
    use crate::messages::SegmentHead;
    use crate::seal;

    const LENGTH: usize = 200_000;

    fn head() -> Head {
        Head::Segment(Box::new(SegmentHead {
            transfer: Id::random(),
            attempt: Id::random(),
            segment: 1,
            offset: 0,
            description: None,
            end: None,
            error: None,
        }))
    }

    /// Opens what has come of a segment. Returns how many bytes go to the writer, and whether they are the whole.
    fn taken(identity: &Identity, sealed: &[u8]) -> Option<(usize, bool)> {
        let (events, _reported) = tokio::sync::mpsc::channel(1);
        let (plain, written) = mpsc::sync_channel(16);
        let (blocks, body) = tokio::sync::mpsc::channel(1);
        blocks.try_send(Bytes::copy_from_slice(sealed)).unwrap();
        drop(blocks);
        let opener = Opener { identity: identity.clone(), events, plain };
        let data = opener.open(1, Body { blocks: body, block: Bytes::new() }).ok().unwrap()?;
        opener.take(1, data).ok().unwrap();
        drop(opener);
        let mut bytes = 0;
        for work in written {
            match work {
                Work::Data(block) => bytes += block.len(),
                Work::Ended { segment: 1, whole } => return Some((bytes, whole)),
                other => panic!("{other:?}"),
            }
        }
        panic!("no end after {bytes} bytes")
    }

    #[test]
    fn of_a_cut_or_damaged_segment_only_authenticated_chunks_are_taken_and_it_is_not_whole() {
        let identity = Identity::generate();
        let head = head();
        let framed = seal::framed(&head);
        let whole = seal::sealed(&identity.recipient(), &head, &vec![7; LENGTH]).unwrap();
        let damaged = |at: usize| {
            let mut sealed = whole.clone();
            sealed[at] ^= 1;
            sealed
        };
        let chunks = |count: usize| count * 65536 - framed.len();
        for (name, sealed, expected) in [
            ("all of it", whole.clone(), Some((LENGTH, true))),
            ("without its last byte", whole[..whole.len() - 1].to_vec(), Some((chunks(3), false))),
            ("half of it", whole[..100_000].to_vec(), Some((chunks(1), false))),
            ("damaged at its end", damaged(whole.len() - 1), Some((chunks(3), false))),
            ("damaged in its second chunk", damaged(100_000), Some((chunks(1), false))),
            ("damaged in its first chunk", damaged(1000), None),
            ("without a whole chunk", whole[..1000].to_vec(), None),
        ] {
            assert_eq!(taken(&identity, &sealed), expected, "{name}");
        }
        assert_eq!(taken(&Identity::generate(), &whole), None, "for somebody else");
    }
}
