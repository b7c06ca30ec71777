//! The other nodes, and the authenticated connections to each.
//!
//! *Invariants.* A connection carries one exchange at a time. It returns to the pool of its node only after a clean one, when both directions are
//! between two messages. A connection in use is registered with its node, so that it can be ended when the node falls silent.
//!
//! *Concurrency.* Locks are held for map operations.
//!
//! *Bounds.* [`MAX_IDLE`] unused connections for each node, each for [`IDLE_LIMIT`]. Those that this node has opened, used or not, have a limit in
//! all; those that it has accepted have one at the listener.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use rendezvous_net::socket::{self, Socket};
use rendezvous_protocol::Tag;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use super::membership::{Caller, Membership, Node, Purpose};
use super::transport::Transport;
use crate::hop::HopError;
use crate::wire::Wire;

/// How long connecting to a node may take, with the proofs of both.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections for requests that are opened to one node at the same time. More, from some nodes at once, would take each other's room at the node
/// before they have proved themselves.
const MAX_CONNECTING: usize = 32;
/// Unused connections that are kept for each node. With fewer than run at once, each burst would open most of them anew.
const MAX_IDLE: usize = 1024;
/// How often the log says of one node that it cannot be reached.
const REMINDER: Duration = Duration::from_secs(10);
/// How long a connection is kept unused. Less than the keep-alive timeout of the node that has accepted it.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// All nodes that this one has or had connections with.
pub(crate) struct Peers {
    access: Arc<Access>,
    /// Half of the connections that may be opened is for sides: so many requests may watch.
    watching: Arc<Semaphore>,
    known: Mutex<HashMap<(Tag, OpenedBy), Arc<Peer>>>,
}

/// What every connection with another node needs.
struct Access {
    membership: Arc<dyn Membership>,
    transport: Transport,
    /// The timeout of a peer whose kernel acknowledges nothing, as for clients.
    silence_limit: Duration,
    /// What is left of the connections that may be opened for requests.
    hops: Arc<Semaphore>,
}

/// A connection for requests, open or unused.
struct Line {
    wire: Arc<Wire>,
    /// Held by one that this node has opened.
    _permit: Option<OwnedSemaphorePermit>,
}

/// Who has opened the connections with another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum OpenedBy {
    /// This node.
    Us,
    /// The other one.
    Them,
}

/// One other node, with the connections that one of both has opened: a network may be broken in one direction alone.
pub(crate) struct Peer {
    pub(crate) tag: Tag,
    pub(crate) opened_by: OpenedBy,
    /// `None` if it has opened the connections.
    node: Option<Node>,
    access: Arc<Access>,
    connecting: Semaphore,
    idle: Mutex<Vec<(Arc<Line>, Instant)>>,
    in_use: Mutex<HashMap<u64, Weak<Use>>>,
    last_use: AtomicU64,
    /// It was heard since this was taken last.
    is_heard: AtomicBool,
    /// It was not heard for so long that nothing new is begun with it.
    is_silent: AtomicBool,
    /// When the log said last that it cannot be reached.
    warned: Mutex<Option<Instant>>,
}

/// A connection with a node that carries an exchange. Dropping it ends its registration.
pub(crate) struct Use {
    line: Arc<Line>,
    peer: Arc<Peer>,
    number: u64,
    /// The sides of the stream have paired.
    is_paired: AtomicBool,
    /// It carries a request. One that another node has opened is registered also while that does not use it.
    has_request: AtomicBool,
}

impl Peers {
    pub(crate) fn new(
        membership: Arc<dyn Membership>,
        transport: Transport,
        silence_limit: Duration,
        max_hops: usize,
    ) -> Self {
        let hops = Arc::new(Semaphore::new(max_hops.min(Semaphore::MAX_PERMITS)));
        let access = Arc::new(Access { membership, transport, silence_limit, hops });
        let watching = Arc::new(Semaphore::new(max_hops.div_ceil(2).min(Semaphore::MAX_PERMITS)));
        Self { access, watching, known: Mutex::default() }
    }

    /// Returns a place for a request that takes no seat and may last: a long poll, or events.
    ///
    /// # Errors
    /// [`HopError::NoRoom`]
    pub(crate) fn place_to_watch(&self) -> Result<OwnedSemaphorePermit, HopError> {
        Arc::clone(&self.watching).try_acquire_owned().map_err(|_| HopError::NoRoom)
    }

    /// Takes a connection that another node has opened, once both have proved themselves.
    ///
    /// # Errors
    /// It is not a node, or has not proved it in time.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<(Socket, Arc<Peer>, Purpose)> {
        let Access { membership, transport, silence_limit, .. } = &*self.access;
        let socket = transport.accept(stream, *silence_limit).await?;
        let Caller { tag, purpose } = membership.require_proof(&socket).await?;
        Ok((socket, self.find(tag, OpenedBy::Them, None), purpose))
    }

    /// Returns a member of the cluster, with the connections that this node opens.
    pub(crate) fn peer(&self, node: Node) -> Arc<Peer> {
        self.find(node.tag, OpenedBy::Us, Some(node))
    }

    /// Connects to a node, and proves both nodes to each other. If there is no room, the connection that was unused for longest makes some.
    ///
    /// # Errors
    /// [`HopError::OwnerUnreachable`], also if it is silent, or [`HopError::NoRoom`] if this node or machine can have no more connections.
    pub(crate) async fn connect(&self, peer: &Arc<Peer>) -> Result<Arc<Use>, HopError> {
        if peer.is_silent.load(Ordering::Relaxed) {
            return Err(HopError::OwnerUnreachable);
        }
        let permit = loop {
            match Arc::clone(&self.access.hops).try_acquire_owned() {
                Ok(permit) => break permit,
                Err(_) if self.close_longest_idle() => {}
                Err(_) => return Err(HopError::NoRoom),
            }
        };
        // The semaphore is never closed.
        let Ok(Ok(_turn)) = timeout(CONNECT_TIMEOUT, peer.connecting.acquire()).await else {
            return Err(HopError::OwnerUnreachable);
        };
        let socket = peer.dial(Purpose::Hop).await?;
        Ok(peer.take_up(Arc::new(Line { wire: Wire::new(socket), _permit: Some(permit) })))
    }

    /// Closes a connection that is not used. Returns false if there is none.
    fn close_longest_idle(&self) -> bool {
        let known = self.known.lock();
        let since = |peer: &Peer| peer.idle.lock().first().map(|(_, since)| *since);
        let longest =
            known.values().filter_map(|peer| Some((since(peer)?, peer))).min_by_key(|(since, _)| *since);
        longest.is_some_and(|(_, peer)| peer.idle.lock().drain(..1).count() > 0)
    }

    /// Ends a connection that another node has opened and that carries no request. Returns false if there is none.
    pub(crate) fn end_unused(&self) -> bool {
        let peers: Vec<_> = self.known.lock().values().cloned().collect();
        peers.iter().filter(|peer| peer.opened_by == OpenedBy::Them).any(|peer| peer.end_unused())
    }

    /// Returns the nodes with which requests run.
    pub(crate) fn in_use(&self) -> Vec<Arc<Peer>> {
        self.known.lock().values().filter(|peer| peer.is_in_use()).cloned().collect()
    }

    /// Returns the number of requests that run with other nodes.
    pub(crate) fn hops(&self) -> usize {
        let peers: Vec<_> = self.known.lock().values().cloned().collect();
        peers.iter().map(|peer| peer.requests()).sum()
    }

    /// Closes connections that have not been used for long.
    pub(crate) fn close_idle(&self) {
        for peer in self.known.lock().values() {
            peer.idle.lock().retain(|(_, since)| since.elapsed() < IDLE_LIMIT);
        }
    }

    /// Returns the number of nodes that have fallen silent while requests ran with them.
    pub(crate) fn silent(&self) -> usize {
        let known = self.known.lock();
        let silent = known.values().filter(|peer| peer.is_silent.load(Ordering::Relaxed));
        silent.map(|peer| peer.tag).collect::<HashSet<_>>().len()
    }

    fn find(&self, tag: Tag, opened_by: OpenedBy, node: Option<Node>) -> Arc<Peer> {
        let mut known = self.known.lock();
        if let Some(peer) = known.get(&(tag, opened_by)) {
            return Arc::clone(peer);
        }
        // Processes come and go, and each has another tag.
        known.retain(|_, peer| Arc::strong_count(peer) > 1 || !peer.idle.lock().is_empty());
        let peer = Arc::new(Peer {
            tag,
            opened_by,
            node,
            access: Arc::clone(&self.access),
            connecting: Semaphore::new(MAX_CONNECTING),
            idle: Mutex::default(),
            in_use: Mutex::default(),
            last_use: AtomicU64::new(0),
            is_heard: AtomicBool::new(false),
            is_silent: AtomicBool::new(false),
            warned: Mutex::default(),
        });
        known.insert((tag, opened_by), Arc::clone(&peer));
        peer
    }
}

impl Peer {
    /// Takes an unused connection that is still open. `None` if there is none, or the node is silent.
    pub(crate) fn take_idle(self: &Arc<Self>) -> Option<Arc<Use>> {
        while !self.is_silent.load(Ordering::Relaxed) {
            let (line, since) = self.idle.lock().pop()?;
            // Nothing may have arrived between two exchanges.
            if since.elapsed() < IDLE_LIMIT && line.wire.socket().is_quiet() {
                return Some(self.take_up(line));
            }
        }
        None
    }

    /// Opens a connection for this purpose, and proves both nodes to each other.
    ///
    /// # Errors
    /// As [`Peers::connect`].
    pub(crate) async fn dial(&self, purpose: Purpose) -> Result<Socket, HopError> {
        let node = self.node.as_ref().ok_or(HopError::OwnerUnreachable)?;
        let connecting = async {
            let stream = TcpStream::connect(node.address.to_string()).await?;
            socket::set_nodelay(&stream)?;
            socket::keep_urgent_data_inline(&stream)?;
            socket::set_peer_timeout(&stream, self.access.silence_limit)?;
            let socket = self.access.transport.connect(stream, self.access.silence_limit).await?;
            self.access.membership.prove_to(node, purpose, &socket).await?;
            Ok(socket)
        };
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(socket)) => {
                self.note_heard();
                Ok(socket)
            }
            Ok(Err(error)) if io::Error::kind(&error) == io::ErrorKind::AddrNotAvailable => {
                Err(HopError::NoRoom)
            }
            Ok(Err(error)) => {
                if error.kind() == io::ErrorKind::ConnectionRefused {
                    self.access.membership.refused(self.tag);
                }
                self.warn(node, &error);
                Err(HopError::OwnerUnreachable)
            }
            Err(_) => {
                self.warn(node, &format_args!("it does not answer within {CONNECT_TIMEOUT:?}"));
                Err(HopError::OwnerUnreachable)
            }
        }
    }

    /// Logs that the node cannot be reached, at most once in [`REMINDER`]: every request for its streams finds that out. The end of one that has drained
    /// is no warning.
    fn warn(&self, node: &Node, error: &dyn fmt::Display) {
        if self.access.membership.is_leaving(self.tag) {
            return debug!(node = %self.tag, address = %node.address, %error, "the node has ended");
        }
        let mut warned = self.warned.lock();
        if warned.is_none_or(|warned| warned.elapsed() >= REMINDER) {
            *warned = Some(Instant::now());
            warn!(node = %self.tag, address = %node.address, %error, "cannot connect to the node");
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

    /// Registers a connection of the node, which is used from now on.
    pub(crate) fn register(self: &Arc<Self>, wire: Arc<Wire>) -> Arc<Use> {
        self.take_up(Arc::new(Line { wire, _permit: None }))
    }

    fn take_up(self: &Arc<Self>, line: Arc<Line>) -> Arc<Use> {
        let number = self.last_use.fetch_add(1, Ordering::Relaxed);
        let used = Arc::new(Use {
            line,
            peer: Arc::clone(self),
            number,
            is_paired: AtomicBool::new(false),
            has_request: AtomicBool::new(true),
        });
        self.in_use.lock().insert(number, Arc::downgrade(&used));
        used
    }

    /// Returns whether requests run with it.
    pub(crate) fn is_in_use(&self) -> bool {
        self.requests() > 0
    }

    /// Returns how many requests run with it.
    fn requests(&self) -> usize {
        self.uses().iter().filter(|used| used.has_request.load(Ordering::Relaxed)).count()
    }

    /// Returns the connections in use. They are released without the lock, which the drop of the last reference takes.
    fn uses(&self) -> Vec<Arc<Use>> {
        let in_use = self.in_use.lock();
        let uses = in_use.values().filter_map(Weak::upgrade).collect();
        drop(in_use);
        uses
    }

    fn keep(&self, line: Arc<Line>) {
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE {
            idle.push((line, Instant::now()));
        }
    }

    /// Ends a connection that carries no request, once.
    fn end_unused(&self) -> bool {
        let uses = self.uses();
        let unused = uses.iter().find(|used| !used.has_request.swap(true, Ordering::Relaxed));
        unused.inspect(|used| used.line.wire.socket().disconnect()).is_some()
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
            used.line.wire.socket().disconnect();
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
        &self.line.wire
    }

    /// Records whether the sides of the stream have paired, so that more is lost with the connection.
    pub(crate) fn set_paired(&self, is_paired: bool) {
        self.is_paired.store(is_paired, Ordering::Relaxed);
    }

    /// Records that the connection carries a request.
    pub(crate) fn begin_request(&self) {
        self.has_request.store(true, Ordering::Relaxed);
    }

    /// Records that the connection carries no request, until the next.
    pub(crate) fn end_request(&self) {
        self.has_request.store(false, Ordering::Relaxed);
        self.set_paired(false);
    }

    /// Keeps the connection for a later exchange, if both directions are between two messages.
    pub(crate) fn keep(&self) {
        let is_clean = {
            let input = self.wire().input().lock();
            input.is_between_requests() && !input.has_read_ahead()
        };
        if is_clean {
            self.peer.keep(Arc::clone(&self.line));
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.peer.in_use.lock().remove(&self.number);
    }
}
