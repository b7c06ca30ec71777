//! A source and a destination in memory, and both sides of a transfer.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rendezvous_client::destination::{Complete, Destination, DestinationError, ReceiverId, Resumed, Stored};
use rendezvous_client::digest::{Digest, Hasher};
use rendezvous_client::link::{Id, Link};
use rendezvous_client::receive::{ReceiveEnding, ReceiveEvent, ReceiveOptions, receive};
use rendezvous_client::relay::Relay;
use rendezvous_client::send::{SendEnding, SendEvent, SendOptions, send};
use rendezvous_client::source::{Description, Kind, Source, SourceError};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Bytes that compress badly and tell where they are.
pub(crate) fn bytes(length: usize) -> Vec<u8> {
    let mut random = 1_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&random.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn digest_of(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher.digest()
}

/// A source in memory.
pub(crate) struct Memory {
    description: Description,
    bytes: Arc<Vec<u8>>,
    offset: usize,
    /// The source reports that it has changed once this was read.
    pub(crate) changes_at: Option<usize>,
}

impl Memory {
    pub(crate) fn file(bytes: &Arc<Vec<u8>>) -> Self {
        let size = Some(bytes.len() as u64);
        let description =
            Description { kind: Kind::File, name: "file".into(), size, mtime: Some(1), mode: Some(0o640) };
        Self { description, bytes: Arc::clone(bytes), offset: 0, changes_at: None }
    }

    /// Of a size that is not told.
    pub(crate) fn pipe(bytes: &Arc<Vec<u8>>) -> Self {
        let mut source = Self::file(bytes);
        source.description.size = None;
        source
    }
}

impl Source for Memory {
    fn description(&self) -> &Description {
        &self.description
    }

    fn earliest(&self) -> u64 {
        0
    }

    fn seek(&mut self, offset: u64) -> Result<(), SourceError> {
        self.offset = usize::try_from(offset).unwrap();
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let length = buffer.len().min(self.bytes.len() - self.offset);
        buffer[..length].copy_from_slice(&self.bytes[self.offset..self.offset + length]);
        self.offset += length;
        Ok(length)
    }

    fn check(&mut self) -> Result<(), SourceError> {
        match self.changes_at {
            Some(at) if self.offset >= at => Err(SourceError::Changed { what: "file".into() }),
            _ => Ok(()),
        }
    }
}

/// A source whose type is not known.
pub(crate) struct Boxed(pub(crate) Box<dyn Source>);

impl Source for Boxed {
    fn description(&self) -> &Description {
        self.0.description()
    }

    fn earliest(&self) -> u64 {
        self.0.earliest()
    }

    fn seek(&mut self, offset: u64) -> Result<(), SourceError> {
        self.0.seek(offset)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        self.0.read(buffer)
    }

    fn check(&mut self) -> Result<(), SourceError> {
        self.0.check()
    }
}

/// What a destination in memory holds; it outlives a run of the receiver.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) bytes: Vec<u8>,
    pub(crate) description: Option<Description>,
    pub(crate) begun: u32,
    pub(crate) stored: Option<Complete>,
    pub(crate) is_confirmed: bool,
    pub(crate) is_abandoned: bool,
    state: Option<(Id, ReceiverId)>,
}

/// A destination in memory.
pub(crate) struct OnDisk {
    pub(crate) disk: Arc<Mutex<Disk>>,
    pub(crate) stored: Stored,
}

impl OnDisk {
    pub(crate) fn boxed(disk: &Arc<Mutex<Disk>>) -> Box<dyn Destination> {
        Box::new(Self { disk: Arc::clone(disk), stored: Stored::Disk })
    }
}

impl Destination for OnDisk {
    fn resume(&mut self) -> Result<Option<Resumed>, DestinationError> {
        let mut disk = self.disk.lock();
        let Some((transfer, receiver)) = &mut disk.state else { return Ok(None) };
        receiver.run += 1;
        let (transfer, receiver) = (transfer.clone(), receiver.clone());
        let mut hasher = Hasher::default();
        hasher.update(&disk.bytes);
        Ok(Some(Resumed {
            transfer,
            receiver,
            description: disk.description.clone().unwrap(),
            bytes: disk.bytes.len() as u64,
            hasher,
            complete: disk.stored.clone(),
        }))
    }

    fn begin(
        &mut self,
        transfer: &Id,
        receiver: &ReceiverId,
        description: &Description,
    ) -> Result<(), DestinationError> {
        let mut disk = self.disk.lock();
        disk.begun += 1;
        disk.state = Some((transfer.clone(), receiver.clone()));
        disk.description = Some(description.clone());
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DestinationError> {
        self.disk.lock().bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn restart(&mut self) -> Result<(), DestinationError> {
        self.disk.lock().bytes.clear();
        Ok(())
    }

    fn finish(&mut self, bytes: u64, sha256: &Digest) -> Result<Stored, DestinationError> {
        self.disk.lock().stored = Some(Complete { bytes, sha256: *sha256 });
        Ok(self.stored)
    }

    fn confirmed(&mut self) -> Result<(), DestinationError> {
        self.disk.lock().is_confirmed = true;
        Ok(())
    }

    fn abandon(&mut self) {
        self.disk.lock().is_abandoned = true;
    }

    fn stored_at(&self) -> Option<&Path> {
        None
    }
}

/// Longer than the 30 s after which a receiver asks anew (docs/send-and-receive.md), which some cuts need.
const GIVE_UP: Duration = Duration::from_mins(1);

/// A sender that runs.
pub(crate) struct Sending {
    pub(crate) events: mpsc::UnboundedReceiver<SendEvent>,
    pub(crate) stop: CancellationToken,
    running: JoinSet<SendEnding>,
}

impl Sending {
    pub(crate) fn start(source: impl Source + 'static, relay: Relay) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let options = SendOptions { relay, give_up: GIVE_UP };
        let observe = move |event| drop(sender.send(event));
        let running = JoinSet::from_iter([send(Box::new(source), options, stop.clone(), observe)]);
        Self { events, stop, running }
    }

    /// Waits until the link is shown.
    pub(crate) async fn link(&mut self) -> Link {
        match self.events.recv().await {
            Some(SendEvent::Link(link)) => link,
            other => panic!("no link, but {other:?}"),
        }
    }

    pub(crate) async fn ending(mut self) -> SendEnding {
        self.running.join_next().await.unwrap().unwrap()
    }
}

/// A receiver that runs.
pub(crate) struct Receiving {
    pub(crate) events: mpsc::UnboundedReceiver<ReceiveEvent>,
    pub(crate) stop: CancellationToken,
    running: JoinSet<ReceiveEnding>,
}

impl Receiving {
    pub(crate) fn start(link: Link, destination: Box<dyn Destination>) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let options = ReceiveOptions { link, give_up: GIVE_UP };
        let observe = move |event| drop(sender.send(event));
        let running = JoinSet::from_iter([receive(destination, options, stop.clone(), observe)]);
        Self { events, stop, running }
    }

    /// Waits until so many bytes are received.
    pub(crate) async fn until(&mut self, wanted: u64) {
        loop {
            match self.events.recv().await {
                Some(ReceiveEvent::Received { bytes }) if bytes >= wanted => return,
                Some(_) => {}
                None => panic!("ended before {wanted} bytes"),
            }
        }
    }

    pub(crate) async fn ending(mut self) -> ReceiveEnding {
        self.running.join_next().await.unwrap().unwrap()
    }
}
