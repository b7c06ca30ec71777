//! The thread that cuts the source into segments and encrypts them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::reader::{self, Block, Command};
use crate::destination::Complete;
use crate::link::Id;
use crate::messages::{Head, SegmentHead};
use crate::seal::{self, Sealer};
use crate::source::{Description, Source, SourceError};

/// The largest segment of a source of unknown size, in bytes.
pub(crate) const BUFFERED: u64 = 8 * 1024 * 1024;

/// A rest of a file up to this is held in memory, so that the digest goes into the same segment.
const WITH_END: u64 = 1024 * 1024;

/// A silent source ends its segment after this.
const SILENT: Duration = Duration::from_secs(1);

/// A segment of a slow source is sent after this, however much it still gives.
const SLOW: Duration = Duration::from_secs(2);

/// A segment without data goes out after this.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A segment to make.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) attempt: Id,
    pub(crate) recipient: String,
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) limit: u64,
    /// Where the message goes. A job whose reader is gone is dropped.
    pub(crate) output: tokio::sync::mpsc::Sender<Bytes>,
    /// Told once the length is known.
    pub(crate) report: oneshot::Sender<Report>,
}

/// What a segment will be.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) data: u64,
    pub(crate) sealed: u64,
    pub(crate) end: Option<Complete>,
}

/// The hold on the threads: they end when it is dropped.
#[derive(Debug)]
pub(crate) struct Maker {
    jobs: Sender<Job>,
}

impl Maker {
    /// Starts the threads. The first failure of the source goes to `failed`.
    pub(crate) fn start(
        source: Box<dyn Source>,
        transfer: Id,
        earliest: Arc<AtomicU64>,
        failed: oneshot::Sender<SourceError>,
    ) -> Self {
        let description = source.description().clone();
        let (jobs, inbox) = mpsc::channel();
        let (commands, blocks) = reader::start(source, earliest);
        let maker = Cutter {
            description,
            transfer,
            commands,
            blocks,
            epoch: 0,
            position: None,
            rest: Bytes::new(),
            end: None,
        };
        thread::spawn(move || maker.run(&inbox, failed));
        Self { jobs }
    }

    /// Makes this segment after all before.
    pub(crate) fn make(&self, job: Job) {
        // After a failure the thread is gone, and the failure was told.
        drop(self.jobs.send(job));
    }
}

struct Cutter {
    description: Description,
    transfer: Id,
    commands: Sender<Command>,
    blocks: Receiver<Block>,
    epoch: u64,
    /// The offset of the next byte that [`Cutter::next`] gives, in this epoch.
    position: Option<u64>,
    rest: Bytes,
    end: Option<Complete>,
}

/// Why a segment is not made.
enum Stop {
    /// The attempt ended.
    Cancelled,
    Failed(SourceError),
}

impl From<SourceError> for Stop {
    fn from(error: SourceError) -> Self {
        Self::Failed(error)
    }
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Self {
        Self::Cancelled
    }
}

impl Cutter {
    fn run(mut self, jobs: &Receiver<Job>, failed: oneshot::Sender<SourceError>) {
        while let Ok(job) = jobs.recv() {
            if job.output.is_closed() {
                continue;
            }
            match self.make(job) {
                Ok(()) | Err(Stop::Cancelled) => {}
                Err(Stop::Failed(error)) => return drop(failed.send(error)),
            }
        }
    }

    fn make(&mut self, job: Job) -> Result<(), Stop> {
        self.go_to(job.offset);
        drop(self.commands.send(Command::Check));
        let rest = self.description.size.map(|size| size.saturating_sub(job.offset));
        match rest {
            Some(rest) if rest.min(job.limit) > WITH_END => self.stream(job, rest),
            _ => self.buffer(job),
        }
    }

    /// Sends a segment of known length while it is read. The end goes into a segment behind it.
    fn stream(&mut self, job: Job, rest: u64) -> Result<(), Stop> {
        let data = rest.min(job.limit);
        let mut message = self.begin(job, data, None)?;
        let mut left = data;
        while left > 0 {
            let Some(block) = self.next(left, None)? else {
                return Err(SourceError::Changed { what: "the source shrank".into() }.into());
            };
            left -= u64::try_from(block.len()).unwrap_or(left);
            message.write(&block)?;
        }
        Ok(message.finish()?)
    }

    /// Sends a segment whose data is collected first.
    fn buffer(&mut self, job: Job) -> Result<(), Stop> {
        let limit = job.limit.min(BUFFERED);
        let started = Instant::now();
        let first = if job.segment == 0 { SILENT } else { KEEP_ALIVE };
        let (mut blocks, mut data) = (Vec::new(), 0);
        let is_known = self.description.size.is_some();
        while data < limit && self.end.is_none() {
            let patience = match (is_known, blocks.is_empty()) {
                (true, _) => None,
                (false, true) => Some(first),
                (false, false) => Some(SILENT.min(SLOW.saturating_sub(started.elapsed()))),
            };
            let Some(block) = self.next(limit - data, patience)? else { break };
            data += u64::try_from(block.len()).unwrap_or(0);
            blocks.push(block);
            if job.output.is_closed() {
                return Err(Stop::Cancelled);
            }
        }
        // The end may be known to be next.
        if self.end.is_none() && self.description.size == Some(job.offset + data) {
            self.next(1, None)?;
        }
        let end = self.end.clone();
        let mut message = self.begin(job, data, end)?;
        for block in blocks {
            message.write(&block)?;
        }
        Ok(message.finish()?)
    }

    /// Reports the length, and starts the message with its head.
    fn begin(
        &mut self,
        job: Job,
        data: u64,
        end: Option<Complete>,
    ) -> Result<Sealer<impl FnMut(Vec<u8>) -> io::Result<()> + use<>>, Stop> {
        let head = Head::Segment(Box::new(SegmentHead {
            transfer: self.transfer.clone(),
            attempt: job.attempt,
            segment: job.segment,
            offset: job.offset,
            description: (job.segment == 0).then(|| self.description.clone()),
            end: end.clone(),
            error: None,
        }));
        let framed = seal::framed(&head);
        let output = job.output;
        let mut message = seal::seal(&job.recipient, move |block: Vec<u8>| {
            output.blocking_send(Bytes::from(block)).map_err(io::Error::other)
        })?;
        let sealed = message.sealed_length(u64::try_from(framed.len()).unwrap_or(0) + data);
        if job.report.send(Report { data, sealed, end }).is_err() {
            return Err(Stop::Cancelled);
        }
        message.write(&framed)?;
        Ok(message)
    }

    /// Continues at this offset.
    fn go_to(&mut self, offset: u64) {
        if self.position != Some(offset) {
            self.epoch += 1;
            self.position = Some(offset);
            self.rest = Bytes::new();
            self.end = None;
            drop(self.commands.send(Command::Seek { epoch: self.epoch, offset }));
        }
    }

    /// Returns the next bytes, at most `limit`, or `None` at the end or after `patience`.
    fn next(&mut self, limit: u64, patience: Option<Duration>) -> Result<Option<Bytes>, Stop> {
        while self.rest.is_empty() && self.end.is_none() {
            let block = match patience {
                Some(patience) => self.blocks.recv_timeout(patience),
                None => self.blocks.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match block {
                Ok(Block::Data(epoch, bytes)) if epoch == self.epoch => self.rest = bytes,
                Ok(Block::End(epoch, complete)) if epoch == self.epoch => self.end = Some(complete),
                Ok(Block::Data(..) | Block::End(..)) => {}
                Ok(Block::Failed(error)) => return Err(Stop::Failed(error)),
                Err(RecvTimeoutError::Timeout) => return Ok(None),
                Err(RecvTimeoutError::Disconnected) => return Err(Stop::Cancelled),
            }
        }
        if self.rest.is_empty() {
            return Ok(None);
        }
        let length = usize::try_from(limit).unwrap_or(usize::MAX).min(self.rest.len());
        let bytes = self.rest.split_to(length);
        self.position = self.position.map(|position| position + u64::try_from(length).unwrap_or(0));
        Ok(Some(bytes))
    }
}
