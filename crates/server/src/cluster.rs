//! This node's part in a cluster: which node has a stream, and the connections to it.
//!
//! [`membership`] is what is known about the other nodes. `peers` has the connections to them. What passes over them is in [`crate::hop`].
//!
//! *Invariants.* A stream is served by the process that its id names, and by no other one. So a wrong answer of the directory causes an error, and
//! never a second pairing. That a stream does not exist is said only after a read of the directory that began after the request.
//!
//! *Concurrency.* All requests share it. No lock is held across an await.
//!
//! *Bounds.* Those of `peers`.

pub(crate) mod joined;
mod links;
mod liveness;
pub(crate) mod membership;
pub(crate) mod peers;
pub(crate) mod transport;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rendezvous_core::outcome::SeatError;
use rendezvous_core::transfer::{DestinationHalf, SourceHalf, Transfer};
use rendezvous_protocol::{PathName, StreamName, Tag};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::links::Links;
use self::membership::{Found, Lookup, Membership};
use self::peers::{Peer, Peers};
use self::transport::Transport;
use crate::api::refusal::Refusal;
use crate::hop::HopError;
use crate::hop::others::Others;
use crate::metrics::ClusterGauges;
use crate::request_body::Rendezvous;

/// This node's part in a cluster.
pub(crate) struct Cluster {
    /// What is known about the nodes.
    pub membership: Arc<dyn Membership>,
    /// The connections to other nodes.
    pub peers: Peers,
    /// The links with other nodes.
    pub links: Links,
    /// The events of the other nodes.
    pub others: Others,
    /// Sides that wait or transfer through this node, whichever node has their streams.
    pub sides: TaskTracker,
    /// Set when the drain has ended.
    pub leaving: CancellationToken,
    /// Bytes of bodies that have passed through this node to or from another one.
    pub body_bytes: Arc<AtomicU64>,
    /// The idle limit of destinations here.
    idle_limit: Duration,
}

/// Where a stream is.
pub(crate) enum Place {
    /// At this node.
    Here,
    /// At another node, for paths by the list with this number.
    There(Arc<Peer>, u64),
}

impl Cluster {
    /// Without connections yet; at most `max_hops` are opened. A node whose kernel acknowledges nothing for `peer_timeout` is treated as a client is.
    pub(crate) fn new(
        membership: Arc<dyn Membership>,
        transport: Transport,
        peer_timeout: Duration,
        idle_limit: Duration,
        max_hops: usize,
    ) -> Self {
        let peers = Peers::new(Arc::clone(&membership), transport, peer_timeout, max_hops);
        Self {
            membership,
            peers,
            links: Links::default(),
            others: Others::default(),
            sides: TaskTracker::new(),
            leaving: CancellationToken::new(),
            body_bytes: Arc::default(),
            idle_limit,
        }
    }

    /// Keeps this node a member until it is leaving, and then lets it leave. Hands sides that wait at paths over to the nodes that own them.
    pub(crate) async fn run(&self, rendezvous: &Rendezvous) {
        tokio::select! {
            () = self.membership.run(self.leaving.clone()) => {}
            () = self.follow(rendezvous) => {}
            () = self.links.keep(&self.peers, &*self.membership) => {}
            () = liveness::watch(&self.peers) => {}
        }
    }

    /// Starts the part of a transfer that passes through this node.
    pub(crate) fn pass_through(&self) -> (SourceHalf, DestinationHalf) {
        Transfer::pass_through(Arc::clone(&self.body_bytes), self.idle_limit)
    }

    /// Returns the values that are read at each `GET /metrics`.
    pub(crate) fn gauges(&self) -> ClusterGauges {
        ClusterGauges {
            health: self.membership.health(),
            silent_nodes: self.peers.silent(),
            hops: self.peers.hops(),
            body_bytes: self.body_bytes.load(Ordering::Relaxed),
        }
    }

    /// Follows the list of nodes: which tag new ids have, and which paths are no longer here.
    async fn follow(&self, rendezvous: &Rendezvous) {
        loop {
            let generation = self.membership.generation();
            rendezvous.mint(self.membership.own().tag);
            rendezvous.release_paths(|path| self.owns(path));
            self.membership.changed(generation).await;
        }
    }

    /// Returns the node that has a stream, as far as it is known.
    pub(crate) fn tag_of(&self, name: &StreamName) -> Option<Tag> {
        match name {
            StreamName::Id(id) => id.tag(),
            StreamName::Path(path) => self.membership.owner(path).map(|owner| owner.tag),
        }
    }

    /// Returns whether this node has the stream, as far as it knows. No other node has an id without a tag.
    pub(crate) fn is_here(&self, name: &StreamName) -> bool {
        match name {
            StreamName::Id(id) => id.tag().is_none_or(|tag| self.is_own(tag)),
            StreamName::Path(path) => self.owns(path),
        }
    }

    /// Returns whether this node owns a path by the current list. If all nodes drain, every node keeps its own.
    pub(crate) fn owns(&self, path: &PathName) -> bool {
        self.membership.owner(path).is_none_or(|owner| self.is_own(owner.tag))
    }

    fn is_own(&self, tag: Tag) -> bool {
        matches!(self.membership.find(tag), Found::Here)
    }

    /// Finds the node that has a stream.
    ///
    /// # Errors
    /// [`SeatError::NotFound`] if there is no such node, or a [`HopError`] if it is not known or cannot be reached.
    pub(crate) async fn locate(&self, name: &StreamName) -> Result<Place, Refusal> {
        let (tag, list) = match name {
            StreamName::Id(id) => (id.tag().ok_or(SeatError::NotFound)?, 0),
            StreamName::Path(path) => match self.membership.owner(path) {
                Some(owner) => (owner.tag, owner.list),
                None => return Ok(Place::Here),
            },
        };
        let node = match self.membership.find(tag) {
            Found::Here => return Ok(Place::Here),
            Found::Node(node) | Found::Departed(node) => node,
            Found::Unknown => match self.membership.look_up(tag).await {
                Lookup::Node(node) => node,
                Lookup::Absent => return Err(SeatError::NotFound.into()),
                Lookup::NotKnown => return Err(HopError::DirectoryUnavailable.into()),
            },
        };
        Ok(Place::There(self.peers.peer(node), list))
    }
}
