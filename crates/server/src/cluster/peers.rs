//! The other nodes, and the authenticated connections to each.
//!
//! *Invariants.* A connection carries one exchange at a time. It returns to the pool of its node only after a clean one, when both directions are
//! between two messages. A connection in use is registered with its node, so that it can be ended when the node falls silent.
//!
//! *Concurrency.* Locks are held for map operations.
//!
//! *Bounds.* [`MAX_IDLE`] unused connections for each node, each for [`IDLE_LIMIT`]. Those in use are as many as the requests that are passed on.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rendezvous_net::socket::{self, Socket};
use rendezvous_protocol::Tag;
use tokio::time::{Instant, timeout};

use super::membership::{Found, Membership, Node};
use crate::hop::HopError;
use crate::wire::Wire;

/// How long connecting to a node may take, with the proofs of both.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Unused connections that are kept for each node.
const MAX_IDLE: usize = 64;
/// How long a connection is kept unused. Less than the keep-alive timeout of the node that has accepted it.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// All nodes that this one has or had connections with.
pub(crate) struct Peers {
    membership: Arc<dyn Membership>,
    /// The timeout of a peer whose kernel acknowledges nothing, as for clients.
    silence_limit: Duration,
    by_tag: Mutex<HashMap<Tag, Arc<Peer>>>,
}

/// One other node.
pub(crate) struct Peer {
    pub(crate) tag: Tag,
    /// `None` if it has only connected to this node yet.
    node: Mutex<Option<Node>>,
    membership: Arc<dyn Membership>,
    silence_limit: Duration,
    idle: Mutex<Vec<(Arc<Wire>, Instant)>>,
    in_use: Mutex<HashMap<u64, Weak<Use>>>,
    last_use: AtomicU64,
    /// It was heard since this was taken last.
    is_heard: AtomicBool,
    /// It was not heard for so long that nothing new is begun with it.
    is_silent: AtomicBool,
}

/// A connection with a node that carries an exchange. Dropping it ends its registration.
pub(crate) struct Use {
    wire: Arc<Wire>,
    peer: Arc<Peer>,
    number: u64,
    /// The sides of the stream have paired.
    is_paired: AtomicBool,
    /// It carries a ping.
    is_ping: AtomicBool,
}

impl Peers {
    pub(crate) fn new(membership: Arc<dyn Membership>, silence_limit: Duration) -> Self {
        Self { membership, silence_limit, by_tag: Mutex::default() }
    }

    /// Returns a member of the cluster.
    pub(crate) fn peer(&self, node: Node) -> Arc<Peer> {
        let peer = self.accepted(node.tag);
        *peer.node.lock() = Some(node);
        peer
    }

    /// Returns the nodes with which requests run.
    pub(crate) fn in_use(&self) -> Vec<Arc<Peer>> {
        self.by_tag.lock().values().filter(|peer| peer.is_in_use()).cloned().collect()
    }

    /// Returns the node that has connected to this one.
    pub(crate) fn accepted(&self, tag: Tag) -> Arc<Peer> {
        let mut by_tag = self.by_tag.lock();
        if let Some(peer) = by_tag.get(&tag) {
            return Arc::clone(peer);
        }
        // Processes come and go, and each has another tag.
        by_tag.retain(|_, peer| Arc::strong_count(peer) > 1 || !peer.idle.lock().is_empty());
        let peer = Arc::new(Peer {
            tag,
            node: Mutex::default(),
            membership: Arc::clone(&self.membership),
            silence_limit: self.silence_limit,
            idle: Mutex::default(),
            in_use: Mutex::default(),
            last_use: AtomicU64::new(0),
            is_heard: AtomicBool::new(false),
            is_silent: AtomicBool::new(false),
        });
        by_tag.insert(tag, Arc::clone(&peer));
        peer
    }
}

impl Peer {
    /// Takes an unused connection that is still open. `None` if there is none.
    pub(crate) fn take_idle(self: &Arc<Self>) -> Option<Arc<Use>> {
        loop {
            let (wire, since) = self.idle.lock().pop()?;
            // Nothing may have arrived between two exchanges.
            let is_open = wire.socket().departure().is_none() && wire.socket().unread() == 0;
            if is_open && since.elapsed() < IDLE_LIMIT {
                return Some(self.register(wire));
            }
        }
    }

    /// Connects to the node, unless it is silent.
    ///
    /// # Errors
    /// As [`Peer::connect_anyway`].
    pub(crate) async fn connect(self: &Arc<Self>) -> Result<Arc<Use>, HopError> {
        if self.is_silent.load(Ordering::Relaxed) {
            return Err(HopError::OwnerUnreachable);
        }
        self.connect_anyway().await
    }

    /// Connects to the node, and proves both nodes to each other.
    ///
    /// # Errors
    /// [`HopError::OwnerUnreachable`], or [`HopError::NoPort`] if this machine has no port left for another connection.
    pub(crate) async fn connect_anyway(self: &Arc<Self>) -> Result<Arc<Use>, HopError> {
        let known = self.node.lock().clone();
        // One that has only connected to this node is looked for in the list.
        let node = known.or_else(|| match self.membership.find(self.tag) {
            Found::Node(node) | Found::Departed(node) => Some(node),
            Found::Here | Found::Unknown => None,
        });
        let node = node.ok_or(HopError::OwnerUnreachable)?;
        let connecting = async {
            let stream = self.membership.connect(&node).await?;
            socket::set_nodelay(&stream)?;
            socket::keep_urgent_data_inline(&stream)?;
            socket::set_peer_timeout(&stream, self.silence_limit)?;
            Ok(stream)
        };
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(stream)) => Ok(self.register(Wire::new(Socket::new(stream, self.silence_limit)))),
            Ok(Err(error)) if io::Error::kind(&error) == io::ErrorKind::AddrNotAvailable => {
                Err(HopError::NoPort)
            }
            Ok(Err(error)) => {
                tracing::warn!(node = %self.tag, address = %node.address, %error, "cannot connect to the node");
                Err(HopError::OwnerUnreachable)
            }
            Err(_) => {
                tracing::warn!(node = %self.tag, address = %node.address, "cannot connect to the node within {CONNECT_TIMEOUT:?}");
                Err(HopError::OwnerUnreachable)
            }
        }
    }

    /// Notes that the node was heard.
    pub(crate) fn note_heard(&self) {
        self.is_heard.store(true, Ordering::Relaxed);
    }

    /// Returns whether the node was heard since the last call.
    pub(crate) fn take_heard(&self) -> bool {
        self.is_heard.swap(false, Ordering::Relaxed)
    }

    /// Registers a connection that is used from now on.
    pub(crate) fn register(self: &Arc<Self>, wire: Arc<Wire>) -> Arc<Use> {
        let number = self.last_use.fetch_add(1, Ordering::Relaxed);
        let used = Arc::new(Use {
            wire,
            peer: Arc::clone(self),
            number,
            is_paired: AtomicBool::new(false),
            is_ping: AtomicBool::new(false),
        });
        self.in_use.lock().insert(number, Arc::downgrade(&used));
        used
    }

    /// Returns whether connections with it are in use, besides those of pings.
    pub(crate) fn is_in_use(&self) -> bool {
        self.uses().iter().any(|used| !used.is_ping.load(Ordering::Relaxed))
    }

    /// Returns the connections in use. They are released without the lock, which the drop of the last reference takes.
    fn uses(&self) -> Vec<Arc<Use>> {
        let in_use = self.in_use.lock();
        let uses = in_use.values().filter_map(Weak::upgrade).collect();
        drop(in_use);
        uses
    }

    fn keep(&self, wire: Arc<Wire>) {
        let mut idle = self.idle.lock();
        idle.retain(|(_, since)| since.elapsed() < IDLE_LIMIT);
        if idle.len() < MAX_IDLE {
            idle.push((wire, Instant::now()));
        }
    }

    /// Begins nothing new with a node that has fallen silent, and lets go what has not paired.
    pub(crate) fn fall_silent(&self) {
        self.is_silent.store(true, Ordering::Relaxed);
        self.idle.lock().clear();
        self.end(|used| !used.is_paired.load(Ordering::Relaxed));
    }

    /// Uses a node again that is heard again.
    pub(crate) fn recover(&self) {
        self.is_silent.store(false, Ordering::Relaxed);
    }

    /// Ends all that runs with a node that counts as lost.
    pub(crate) fn lose(&self) {
        self.fall_silent();
        self.end(|_| true);
    }

    fn end(&self, ends: impl Fn(&Use) -> bool) {
        for used in self.uses().iter().filter(|used| ends(used)) {
            used.wire.socket().disconnect();
        }
    }
}

impl Use {
    /// Notes that the node was heard.
    pub(crate) fn note_heard(&self) {
        self.peer.note_heard();
    }

    /// Returns the connection.
    pub(crate) fn wire(&self) -> &Arc<Wire> {
        &self.wire
    }

    /// Records whether the sides of the stream have paired, so that more is lost with the connection.
    pub(crate) fn set_paired(&self, is_paired: bool) {
        self.is_paired.store(is_paired, Ordering::Relaxed);
    }

    /// Records that the connection carries a ping.
    pub(crate) fn set_ping(&self) {
        self.is_ping.store(true, Ordering::Relaxed);
    }

    /// Keeps the connection for a later exchange, if both directions are between two messages.
    pub(crate) fn keep(&self) {
        let is_clean =
            self.wire.input().lock().is_between_requests() && self.wire.socket().departure().is_none();
        if is_clean {
            self.peer.keep(Arc::clone(&self.wire));
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.peer.in_use.lock().remove(&self.number);
    }
}
