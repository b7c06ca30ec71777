//! Bodies that the server generates in parts while the client reads them.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::events::{Events, PartError};
use super::listing::Listing;
use super::record::Record;
use crate::hop::exchange::{Hop, PassedBody};
use crate::hop::gather::GatheredList;

/// A body that is generated in parts, with the line of its request in the access log, which is logged when it is dropped.
pub(crate) struct Generated {
    parts: Parts,
    record: Option<Record>,
}

enum Parts {
    Listing(Listing),
    Events(Events),
    /// From the node that has the stream.
    Hop(PassedBody),
    /// The lists of all nodes.
    Gathered(Box<GatheredList>),
}

impl Generated {
    /// The list of all streams.
    pub(crate) fn listing(listing: Listing) -> Self {
        Self { parts: Parts::Listing(listing), record: None }
    }

    /// Events.
    pub(crate) fn events(events: Events) -> Self {
        Self { parts: Parts::Events(events), record: None }
    }

    /// The lists of all nodes of a cluster.
    pub(crate) fn gathered(list: GatheredList) -> Self {
        Self { parts: Parts::Gathered(Box::new(list)), record: None }
    }

    /// A body that another node generates.
    pub(crate) fn hop(hop: Hop, place: OwnedSemaphorePermit) -> Self {
        Self { parts: Parts::Hop(PassedBody::new(hop, Some(place))), record: None }
    }

    /// Delays the line in the access log until the body is dropped.
    pub(crate) fn log_with(&mut self, record: Record) {
        self.record = Some(record);
    }

    /// Waits for the next part.
    ///
    /// # Errors
    /// The body cannot be completed.
    pub(crate) async fn next_part(&mut self) -> Result<Bytes, PartError> {
        match &mut self.parts {
            Parts::Listing(listing) => Ok(listing.next_part().await?),
            Parts::Events(events) => events.next_part().await,
            Parts::Hop(body) => body.next_part().await,
            Parts::Gathered(list) => list.next_part().await,
        }
    }

    /// Whether the last part was returned.
    pub(crate) fn is_finished(&self) -> bool {
        match &self.parts {
            Parts::Listing(listing) => listing.is_finished(),
            Parts::Events(events) => events.is_finished(),
            Parts::Hop(body) => body.is_finished(),
            Parts::Gathered(list) => list.is_finished(),
        }
    }

    /// Whether its parts depend on what happens while the client reads. Such a body waits for a client that reads slowly, and the kernel holds
    /// little of it.
    pub(crate) fn is_live(&self) -> bool {
        matches!(self.parts, Parts::Events(_) | Parts::Hop(_))
    }

    /// How long the client may read nothing of the last part, if `usual` is the limit for other responses.
    pub(crate) fn read_timeout(&self, usual: Duration) -> Option<Duration> {
        match &self.parts {
            Parts::Listing(_) | Parts::Gathered(_) => Some(usual),
            Parts::Events(events) => events.holds_memory().then_some(usual),
            // The node that generates it limits what is held.
            Parts::Hop(_) => None,
        }
    }

    /// Records that a part of `bytes` bytes was sent.
    pub(crate) fn sent(&mut self, bytes: usize, is_last: bool) {
        if let Some(record) = &mut self.record {
            record.add_bytes(bytes as u64);
            if is_last {
                record.set_answered();
            }
        }
    }
}
