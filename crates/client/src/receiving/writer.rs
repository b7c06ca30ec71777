//! The thread that owns the destination.

use std::sync::mpsc::Receiver;

use super::{Event, Held};
use crate::destination::{Complete, Destination, DestinationError, ReceiverId};
use crate::digest::Hasher;
use crate::receiver::Begin;

/// What the writer does, in this order.
#[derive(Debug)]
pub(super) enum Work {
    Begin(Begin),
    Data(Vec<u8>),
    Ended { segment: u64, whole: bool },
    Close,
    Finish(Complete),
    Confirmed,
    Abandon,
}

pub(super) struct Writer {
    destination: Box<dyn Destination>,
    receiver: ReceiverId,
    held: Held,
    events: tokio::sync::mpsc::Sender<Event>,
    /// Whether the destination failed: then nothing is written any more.
    has_failed: bool,
}

impl Writer {
    pub(super) fn new(
        destination: Box<dyn Destination>,
        receiver: ReceiverId,
        held: Held,
        events: tokio::sync::mpsc::Sender<Event>,
    ) -> Self {
        Self { destination, receiver, held, events, has_failed: false }
    }

    pub(super) fn run(mut self, work: &Receiver<Work>) {
        while let Ok(work) = work.recv() {
            let event = self.work(work);
            if self.events.blocking_send(event).is_err() {
                return;
            }
        }
    }

    fn work(&mut self, work: Work) -> Event {
        match work {
            Work::Begin(begin) => {
                let result = self.begin(&begin);
                self.event_of(result.map(|()| 0))
            }
            Work::Data(bytes) => {
                let result = self.write(&bytes);
                self.event_of(result)
            }
            Work::Ended { segment, whole } => Event::Ended { segment, whole: whole && !self.has_failed },
            Work::Close => Event::Closed,
            Work::Finish(complete) => self.finish(&complete),
            Work::Confirmed => Event::Over(self.destination.confirmed().err()),
            Work::Abandon => {
                self.destination.abandon();
                Event::Over(None)
            }
        }
    }

    fn event_of(&mut self, wrote: Result<u64, DestinationError>) -> Event {
        match wrote {
            Ok(bytes) => Event::Wrote(bytes),
            Err(error) => {
                self.has_failed = true;
                Event::Failed(error)
            }
        }
    }

    fn begin(&mut self, begin: &Begin) -> Result<(), DestinationError> {
        if begin.restart {
            self.destination.restart()?;
        }
        self.held = Held::default();
        self.destination.begin(&begin.transfer, &self.receiver, &begin.description)
    }

    /// Returns how many bytes were written: none after a failure.
    fn write(&mut self, bytes: &[u8]) -> Result<u64, DestinationError> {
        if self.has_failed {
            return Ok(0);
        }
        self.destination.write(bytes)?;
        self.held.hasher.update(bytes);
        let length = u64::try_from(bytes.len()).unwrap_or(0);
        self.held.bytes += length;
        Ok(length)
    }

    fn finish(&mut self, complete: &Complete) -> Event {
        if self.held.bytes != complete.bytes {
            return Event::Mismatch(format!(
                "{} bytes arrived, {} were sent",
                self.held.bytes, complete.bytes
            ));
        }
        if self.held.hasher.digest() != complete.sha256 {
            return Event::Mismatch("the SHA-256 of what arrived is not that of what was sent".into());
        }
        self.held.hasher = Hasher::default();
        match self.destination.finish(complete.bytes, &complete.sha256) {
            Ok(stored) => Event::Stored { stored, at: self.destination.stored_at().map(Into::into) },
            Err(error) => Event::Failed(error),
        }
    }
}
