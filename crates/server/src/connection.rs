//! A connection that speaks HTTP, and what all connections share.
//!
//! *Invariant.* Dropping a connection releases its [`ConnectionPermit`] and its count in the metric of open connections.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rendezvous_core::clients::Permit;
use rendezvous_net::socket::Socket;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::api::App;
use crate::api::connection::{ConnectionInfo, ListenerInfo};
use crate::cluster;
use crate::cluster::peers::Use;
use crate::metrics::OpenConnection;
use crate::wire::Wire;

/// How long a connection goes on reading after its last response, so that a client that still sends can read that response (docs/api.md,
/// section 8). Some clients read no response before they have sent everything.
pub(super) const LINGER: Duration = Duration::from_secs(2);

/// The peer of a connection, and the limits that the connection counts against.
pub(super) struct Peer {
    /// The address of a client or a proxy.
    pub(super) address: IpAddr,
    /// Whether it is a trusted proxy, which forwards the requests of clients.
    pub(super) is_proxy: bool,
    /// `None` if no limit per client applies, as for a trusted proxy and on the admin listener.
    pub(super) permit: Option<ConnectionPermit>,
    /// Counts the connection in the metric of open connections.
    pub(super) open: OpenConnection,
}

/// The limit that a connection counts against until it ends.
#[expect(dead_code, reason = "only its drop matters")]
pub(super) enum ConnectionPermit {
    /// One of the connections of its client.
    Client(Permit),
    /// One of the connections over a limit that get a response before they are closed.
    Refused(OwnedSemaphorePermit),
}

/// State that all connections of a server share.
pub(super) struct Shared {
    pub(super) app: App,
    /// Set when the server drains: each connection is then closed after its response.
    pub(super) draining: CancellationToken,
}

/// A connection that speaks HTTP.
pub(super) struct Connection {
    pub(super) wire: Arc<Wire>,
    pub(super) info: ConnectionInfo,
    pub(super) open: OpenConnection,
    _permit: Option<ConnectionPermit>,
    /// The node at the other end. `None` for clients.
    node: Option<Arc<Use>>,
}

impl Connection {
    pub(super) fn new(socket: Socket, peer: Peer, listener: ListenerInfo) -> Self {
        let Peer { address, is_proxy, permit, open } = peer;
        let info = ConnectionInfo { listener, address, is_proxy, is_tls: !socket.is_plain() };
        Self { wire: Wire::new(socket), info, open, _permit: permit, node: None }
    }

    /// Registers the connection with the node that has made it.
    pub(super) fn register(&mut self, node: &Arc<cluster::peers::Peer>) {
        self.node = Some(node.register(Arc::clone(&self.wire)));
        self.end_request();
    }

    /// Returns whether another node is at the other end.
    pub(super) fn is_of_node(&self) -> bool {
        self.node.is_some()
    }

    /// Records that the connection carries a request.
    pub(super) fn begin_request(&self) {
        if let Some(node) = &self.node {
            node.begin_request();
        }
    }

    /// Records that the connection carries no request, until the next.
    pub(super) fn end_request(&self) {
        if let Some(node) = &self.node {
            node.end_request();
        }
    }

    /// Records whether the sides of the stream that this connection is used for have paired.
    pub(super) fn set_paired(&self, is_paired: bool) {
        if let Some(node) = &self.node {
            node.set_paired(is_paired);
        }
    }

    pub(super) fn socket(&self) -> &Socket {
        self.wire.socket()
    }
}
