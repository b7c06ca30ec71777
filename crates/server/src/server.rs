//! The server: its listeners, the limits on connections, and graceful shutdown.
//!
//! ```text
//! serving ── stop ──► draining: no new streams; sides of existing streams may still connect, wait and transfer
//!                        └── all streams have ended, or the drain timeout
//!                               ──► closing: no accept; waiting sides get 503, transfers are aborted ──► closed
//! ```
//!
//! *Invariants.* The admin listener accepts until the end, so that a drain can be watched; its connections do not delay the end. While
//! the server drains, each connection is closed after its response.
//!
//! *Concurrency.* Every connection is a task in the `JoinSet` of its audience, clients or operators. Dropping the future of [`Server::run`] drops
//! all of them, with their seats and halves of transfers. Each audience has its own accept loop and share of the descriptors, so that operators
//! are served even when clients have used up theirs.
//!
//! *Bounds.* [`DescriptorShares`] limits the connections of each audience, the refusals in progress and the pipes.

mod bind;

use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rendezvous_core::rendezvous::Census;
use rendezvous_protocol::Tag;
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};

use crate::api::App;
use crate::api::connection::Audience;
use crate::api::errors;
use crate::api::refusal::Refusal;
use crate::certificate::CertificateSummary;
use crate::cluster::Cluster;
use crate::cluster::membership::Purpose;
use crate::config::Config;
use crate::connection::{ConnectionPermit, Peer, Shared};
use crate::descriptors::DescriptorShares;
use crate::handshake::{self, Accepted};
use crate::listener::{Listener, ListenerKind};
use crate::newest::NewestConnections;
use crate::request_body::Rendezvous;
use crate::tls::Certificate;

pub use bind::{Join, NodeConfig};

/// Pause after a failed accept, in which a connection may end and free a descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a drain waits for streams without any side, because they may have been created just before. After that they count as
/// abandoned.
const UNATTENDED_GRACE: Duration = Duration::from_secs(5);
/// How long [`Server::run`] waits after the drain for clients to read their last responses: 3 s, a little more than a lingering close.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// A server whose listeners are bound.
pub struct Server {
    listeners: Vec<Listener>,
    config: Config,
    shared: Arc<Shared>,
    certificate: Option<Arc<Certificate>>,
    reload: Arc<Notify>,
    descriptors: DescriptorShares,
    /// Limits the connections over a limit that get a response before they are closed.
    refusal_permits: Arc<Semaphore>,
}

/// Connections of other nodes that have proved themselves.
#[derive(Default)]
struct NodeConnections {
    /// For requests.
    hops: JoinSet<()>,
    links: JoinSet<()>,
}

impl Server {
    fn app(&self) -> &App {
        &self.shared.app
    }

    /// Returns the address of the listener of this kind, with the port that the system chose if 0 was configured; `None` if there is no such
    /// listener.
    #[must_use]
    pub fn address(&self, kind: ListenerKind) -> Option<SocketAddr> {
        self.listeners.iter().find(|listener| listener.kind == kind).map(|listener| listener.address)
    }

    /// Returns the tag with which the ids of its streams begin.
    #[must_use]
    pub fn tag(&self) -> Tag {
        self.app().rendezvous.tag()
    }

    /// Returns the certificate of the listener that speaks TLS; `None` if there is no such listener.
    #[must_use]
    pub fn certificate(&self) -> Option<CertificateSummary> {
        self.certificate.as_ref().map(|certificate| CertificateSummary::new(certificate.chain()))
    }

    /// Returns a handle that reloads the certificate when it is notified.
    #[must_use]
    pub fn reload(&self) -> Arc<Notify> {
        Arc::clone(&self.reload)
    }

    /// Serves until `stop` resolves, then drains, and returns after at most `drain_timeout` and [`SHUTDOWN_GRACE`]. Dropping the future aborts
    /// all connections at once.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let (mut clients, mut operators) =
            (JoinSet::new(), NewestConnections::new(self.descriptors.operators));
        let mut nodes = NodeConnections::default();
        let rendezvous = Arc::clone(&self.app().rendezvous);
        let cluster = self.app().cluster.clone();
        let mut member = pin!(take_part(cluster.as_deref(), &rendezvous));
        tokio::select! {
            () = &mut member => {}
            () = async {
                settled(cluster.as_deref()).await;
                self.accept_clients(&mut clients).await;
            } => {}
            () = self.accept_nodes(&mut nodes) => {}
            () = self.accept_operators(&mut operators) => {}
            () = rendezvous.run_timers() => {}
            () = self.watch_certificate() => {}
            () = async {
                stop.await;
                self.drain().await;
            } => {}
        }

        self.listeners.retain(|listener| listener.info.audience == Audience::Operators);
        rendezvous.close();
        if let Some(cluster) = &cluster {
            cluster.leaving.cancel();
        }
        let streams = rendezvous.abort_transfers();
        rendezvous.close_feeds();
        if streams > 0 {
            warn!(streams, "aborted the transfers that were still running");
        }
        tokio::select! {
            () = self.accept_operators(&mut operators) => {}
            // After this, the connections that remain are aborted.
            _ = timeout(SHUTDOWN_GRACE, async {
                let left = async {
                    if cluster.is_some() {
                        member.await;
                    }
                };
                tokio::join!(join_all(&mut clients), join_all(&mut nodes.hops), join_all(&mut nodes.links), left)
            }) => {}
        }
        info!("stopped");
    }

    async fn watch_certificate(&self) {
        match &self.certificate {
            Some(certificate) => certificate.watch(&self.reload).await,
            None => pending().await,
        }
    }

    /// Waits until all streams have ended, but not longer than the drain timeout.
    async fn drain(&self) {
        let rendezvous = &self.app().rendezvous;
        rendezvous.drain();
        if let Some(cluster) = &self.app().cluster {
            cluster.membership.drain();
        }
        self.shared.draining.cancel();
        let Census { created, streaming, .. } = rendezvous.census();
        let waiting = rendezvous.census().attended() - streaming;
        info!(created, waiting, streaming, "draining for at most {}", self.config.drain_timeout);
        let emptied = async {
            let all_ended = timeout(UNATTENDED_GRACE, rendezvous.wait_until(|census| census.alive() == 0));
            if all_ended.await.is_err() {
                rendezvous.wait_until(|census| census.attended() == 0).await;
            }
            if let Some(cluster) = &self.app().cluster {
                cluster.sides.close();
                // Completes also if there is another side by then.
                while !cluster.sides.is_empty() {
                    cluster.sides.wait().await;
                }
            }
        };
        // After the timeout, waiting sides get 503 and running transfers are aborted.
        let _ = timeout(self.config.drain_timeout.get(), emptied).await;
    }

    async fn accept_clients(&self, clients: &mut JoinSet<()>) {
        let mut turn = 0;
        loop {
            tokio::select! {
                (listener, accepted) = self.accept(Audience::Clients, &mut turn) => {
                    self.admit(accepted, listener, clients);
                }
                // The panic hook has logged a panic, and the connection's seat and half of a transfer were dropped.
                Some(_) = clients.join_next() => {}
            }
        }
    }

    /// Accepts connections of other nodes. Those for requests have a limit, and take no room from links, by which nodes know each other.
    async fn accept_nodes(&self, nodes: &mut NodeConnections) {
        let (mut turn, mut proving) = (0, NewestConnections::new(self.descriptors.proving));
        let (sender, mut proved) = mpsc::unbounded_channel();
        loop {
            tokio::select! {
                (_, accepted) = self.accept(Audience::Nodes, &mut turn) => {
                    proving.admit(handshake::prove(accepted, Arc::clone(&self.shared), sender.clone())).await;
                }
                Some(()) = proving.join_next() => {}
                Some(node) = proved.recv() => {
                    let shared = Arc::clone(&self.shared);
                    let limits = &self.descriptors;
                    let has_room = nodes.links.len() + nodes.hops.len() < limits.links + limits.connections;
                    let has_room_for_hop = has_room && nodes.hops.len() < limits.connections;
                    // At the limit the connection ends here, and the other node tells its client so.
                    match node.purpose {
                        Purpose::Link if has_room => {
                            nodes.links.spawn(handshake::serve_link(node, shared));
                        }
                        Purpose::Hop if has_room_for_hop || self.end_unused_hop() => {
                            nodes.hops.spawn(handshake::serve_hop(node, shared));
                        }
                        purpose => debug!(?purpose, "this node has too many connections of other nodes"),
                    }
                }
                Some(_) = nodes.hops.join_next() => {}
                Some(_) = nodes.links.join_next() => {}
            }
        }
    }

    fn end_unused_hop(&self) -> bool {
        self.app().cluster.as_ref().is_some_and(|cluster| cluster.peers.end_unused())
    }

    async fn accept_operators(&self, operators: &mut NewestConnections) {
        let mut turn = 0;
        loop {
            tokio::select! {
                (_, accepted) = self.accept(Audience::Operators, &mut turn) => {
                    operators.admit(handshake::serve(accepted, Arc::clone(&self.shared), None)).await;
                }
                Some(()) = operators.join_next() => {}
            }
        }
    }

    /// Accepts the next connection of any listener for this audience. Retries after an error.
    async fn accept(&self, audience: Audience, turn: &mut usize) -> (&Listener, Accepted) {
        loop {
            *turn += 1;
            match poll_fn(|cx| self.poll_accept(audience, *turn, cx)).await {
                (listener, Ok((stream, address))) => {
                    let (address, info) = (address.ip(), listener.info);
                    let is_proxy = self.app().trusted_proxies.contains(address);
                    let open = self.app().metrics.accepted(listener.tls.is_some());
                    let peer = Peer { address, is_proxy, permit: None, open };
                    return (listener, Accepted { stream, peer, listener: info });
                }
                (_, Err(error)) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Each `turn` begins with another listener, so that a flood on one does not starve the others.
    fn poll_accept(
        &self,
        audience: Audience,
        turn: usize,
        cx: &mut Context<'_>,
    ) -> Poll<(&Listener, io::Result<(TcpStream, SocketAddr)>)> {
        let listeners = self.listeners.iter().filter(|listener| listener.info.audience == audience);
        let count = listeners.clone().count();
        for listener in listeners.cycle().skip(turn % count.max(1)).take(count) {
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                return Poll::Ready((listener, accepted));
            }
        }
        Poll::Pending
    }

    /// Serves a connection of a client, answers it with a refusal, or closes it at once.
    fn admit(&self, mut accepted: Accepted, listener: &Listener, clients: &mut JoinSet<()>) {
        let refused = self.descriptors.refused.saturating_sub(self.refusal_permits.available_permits());
        let served = clients.len().saturating_sub(refused);
        let refusal = match self.permit(served, &accepted.peer) {
            Ok(permit) => {
                accepted.peer.permit = permit;
                None
            }
            Err(refusal) => match Arc::clone(&self.refusal_permits).try_acquire_owned() {
                Ok(permit) => {
                    accepted.peer.permit = Some(ConnectionPermit::Refused(permit));
                    Some(refusal)
                }
                Err(_) => return self.app().metrics.refused(errors::refusal_name(&refusal)),
            },
        };
        let shared = Arc::clone(&self.shared);
        match listener.tls.clone() {
            None => clients.spawn(handshake::serve(accepted, shared, refusal)),
            Some(tls) => clients.spawn(handshake::serve_tls(accepted, tls, shared, refusal)),
        };
    }

    /// Returns the permit for one more connection while `served` are open. Connections of a trusted proxy count against no client.
    fn permit(&self, served: usize, peer: &Peer) -> Result<Option<ConnectionPermit>, Refusal> {
        if served >= self.descriptors.connections {
            return Err(Refusal::Busy("The server has reached its limit on connections: try again later"));
        }
        if peer.is_proxy {
            return Ok(None);
        }
        Ok(self.app().clients.connect(peer.address)?.map(ConnectionPermit::Client))
    }
}

/// Keeps this node a member of its cluster, and lets it leave once that is [`leaving`](Cluster::leaving). Without a cluster it never completes.
async fn take_part(cluster: Option<&Cluster>, rendezvous: &Rendezvous) {
    match cluster {
        Some(cluster) => cluster.run(rendezvous).await,
        None => pending().await,
    }
}

/// Waits until a new node of a cluster may serve clients.
async fn settled(cluster: Option<&Cluster>) {
    if let Some(cluster) = cluster {
        cluster.links.settled().await;
    }
}

async fn join_all(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}
