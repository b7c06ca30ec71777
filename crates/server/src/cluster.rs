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
mod liveness;
pub(crate) mod membership;
pub(crate) mod peers;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rendezvous_core::outcome::SeatError;
use rendezvous_protocol::{PathName, StreamName, Tag};
use tokio_util::sync::CancellationToken;

use self::membership::{Found, Lookup, Membership};
use self::peers::{Peer, Peers};
use crate::api::refusal::Refusal;
use crate::hop::HopError;
use crate::request_body::Rendezvous;

/// This node's part in a cluster.
pub(crate) struct Cluster {
    /// What is known about the nodes.
    pub membership: Arc<dyn Membership>,
    /// The connections to other nodes.
    pub peers: Peers,
    /// Bytes of bodies that have passed through this node to or from another one.
    pub body_bytes: Arc<AtomicU64>,
}

/// Where a stream is.
pub(crate) enum Place {
    /// At this node.
    Here,
    /// At another node, for paths by the list with this number.
    There(Arc<Peer>, u64),
}

impl Cluster {
    /// Without connections yet. A node whose kernel acknowledges nothing for `peer_timeout` is treated as a client is.
    pub(crate) fn new(membership: Arc<dyn Membership>, peer_timeout: Duration) -> Self {
        let peers = Peers::new(Arc::clone(&membership), peer_timeout);
        Self { membership, peers, body_bytes: Arc::default() }
    }

    /// Keeps this node a member until `leave`, and then lets it leave. Hands sides that wait at paths over to the nodes that own them.
    pub(crate) async fn run(&self, rendezvous: &Rendezvous, leave: CancellationToken) {
        tokio::select! {
            () = self.membership.run(leave) => {}
            () = self.hand_over(rendezvous) => {}
            () = liveness::watch(&self.peers) => {}
        }
    }

    async fn hand_over(&self, rendezvous: &Rendezvous) {
        loop {
            let list = self.membership.list();
            rendezvous.release_paths(|path| self.owns(path));
            self.membership.changed(list).await;
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
