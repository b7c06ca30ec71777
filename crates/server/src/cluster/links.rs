//! The links: one connection to each other node, for as long as both processes run.
//!
//! Each node connects to each other one. So a node is known by its link when the directory is lost or out of its reach, what it publishes is told
//! at once, and one that nobody can reach notices it.
//!
//! *Concurrency.* One future for all links that this node has opened; each that it has accepted is a task of the server.
//!
//! *Bounds.* Two connections for each other node. A node that cannot be reached is tried again every second: one that can is not to be
//! taken for silent.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use rendezvous_net::socket::Socket;
use rendezvous_protocol::Tag;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::membership::{Membership, Node, Purpose};
use super::peers::{Peer, Peers};

/// The time from one attempt to the next.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a new node tries to reach the others before it serves clients.
const SETTLING: Duration = Duration::from_secs(2);
/// A node that no other one has reached for so long says so in the log.
const UNREACHED: Duration = Duration::from_secs(5);

/// The links of a node.
#[derive(Debug)]
pub(crate) struct Links {
    /// Set once this node has tried to reach all nodes that it read first.
    settled: CancellationToken,
    /// How many links other nodes have with this one.
    accepted: watch::Sender<usize>,
}

impl Default for Links {
    fn default() -> Self {
        Self { settled: CancellationToken::new(), accepted: watch::Sender::new(0) }
    }
}

impl Links {
    /// Waits until a new node has links to the others, so that they know its ids whatever becomes of the directory. At most 2 seconds.
    pub(crate) async fn settled(&self) {
        // A node that is not reached by then is tried again.
        let _ = timeout(SETTLING, self.settled.cancelled()).await;
    }

    /// Holds a link that another node has opened, until it ends.
    pub(crate) async fn accept(&self, membership: &dyn Membership, peer: &Peer, socket: &Socket) {
        self.accepted.send_modify(|count| *count += 1);
        hold(membership, peer, socket).await;
        self.accepted.send_modify(|count| *count -= 1);
    }

    /// Keeps a link to each member. Never returns.
    pub(crate) async fn keep(&self, peers: &Peers, membership: &dyn Membership) {
        tokio::join!(self.keep_all(peers, membership), self.warn_if_unreached(membership));
    }

    async fn keep_all(&self, peers: &Peers, membership: &dyn Membership) {
        membership.read_again().await;
        let first = membership.others();
        let sockets = join_all(first.iter().map(|node| dial(peers.peer(node.clone())))).await;
        self.settled.cancel();
        let mut linked: HashSet<Tag> = first.iter().map(|node| node.tag).collect();
        let links = first.into_iter().zip(sockets);
        let mut links: FuturesUnordered<_> =
            links.map(|(node, socket)| keep_one(peers, membership, node, socket)).collect();
        loop {
            let generation = membership.generation();
            for node in membership.others() {
                if linked.insert(node.tag) {
                    links.push(keep_one(peers, membership, node, None));
                }
            }
            tokio::select! {
                Some(tag) = links.next(), if !links.is_empty() => {
                    linked.remove(&tag);
                }
                () = membership.changed(generation) => {}
            }
        }
    }

    /// Tells the operator if other nodes are there, and none of them has a link to this one.
    async fn warn_if_unreached(&self, membership: &dyn Membership) {
        let mut accepted = self.accepted.subscribe();
        loop {
            let generation = membership.generation();
            let is_alone = membership.others().is_empty();
            let reached = accepted.wait_for(|count| *count > 0);
            if !is_alone && timeout(UNREACHED, reached).await.is_err() && !membership.others().is_empty() {
                let Node { address, .. } = membership.own();
                warn!(
                    %address,
                    "no other node has reached this one at this address for {UNREACHED:?}: it must be one of this machine that they reach \
                     (--cluster-advertise), and no firewall may be between"
                );
            }
            membership.changed(generation).await;
        }
    }
}

/// Keeps a link to a node for as long as that is a member, and returns its tag. `socket` is the first connection, if there is one.
async fn keep_one(peers: &Peers, membership: &dyn Membership, node: Node, socket: Option<Socket>) -> Tag {
    let (tag, mut socket) = (node.tag, socket);
    let peer = peers.peer(node);
    while membership.others().iter().any(|other| other.tag == tag) {
        let began = Instant::now();
        if socket.is_none() {
            socket = dial(Arc::clone(&peer)).await;
        }
        if let Some(socket) = socket.take() {
            hold(membership, &peer, &socket).await;
        }
        // A link that has lasted is opened again at once: that tells whether its process has ended.
        sleep_until(began + PAUSE).await;
    }
    tag
}

/// Opens a link. `None` if the node cannot be reached, which the log says.
async fn dial(peer: Arc<Peer>) -> Option<Socket> {
    peer.dial(Purpose::Link).await.ok()
}

async fn hold(membership: &dyn Membership, peer: &Peer, socket: &Socket) {
    if let Err(error) = membership.converse(peer.tag, socket, &|| peer.note_heard()).await {
        debug!(node = %peer.tag, %error, "the link with a node has ended");
    }
}
