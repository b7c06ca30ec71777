//! An accepted connection, from its TLS handshake to the driver of the version of HTTP that it speaks.
//!
//! *Invariant.* Dropping a connection releases its [`ConnectionPermit`] and its count in the metric of open connections.
//!
//! *Concurrency.* One task for each connection.
//!
//! *Bounds.* A waiting side holds this future, so the handshake and HTTP/2 are boxed to keep it small.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rendezvous_core::clients::Permit;
use rendezvous_net::socket::Socket;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::api::App;
use crate::api::connection::{ConnectionInfo, ListenerInfo};
use crate::api::refusal::Refusal;
use crate::http1::{self, ServeOutcome};
use crate::http2;
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

/// A connection that was accepted.
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) peer: Peer,
    pub(super) listener: ListenerInfo,
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
}

impl Connection {
    fn new(socket: Socket, peer: Peer, listener: ListenerInfo) -> Self {
        let Peer { address, is_proxy, permit, open } = peer;
        let info = ConnectionInfo { listener, address, is_proxy, is_tls: !socket.is_plain() };
        Self { wire: Wire::new(socket), info, open, _permit: permit }
    }

    pub(super) fn socket(&self) -> &Socket {
        self.wire.socket()
    }
}

/// Serves a connection without TLS until it ends. A `refusal` is the response to its first request, after which it is closed.
pub(super) fn serve(
    accepted: Accepted,
    shared: Arc<Shared>,
    refusal: Option<Refusal>,
) -> impl Future<Output = ()> + Send {
    let Accepted { stream, peer, listener } = accepted;
    let socket = Socket::new(stream, shared.app.peer_timeout);
    serve_http(Connection::new(socket, peer, listener), shared, refusal.map(Box::new))
}

/// Like [`serve`], over TLS. A client that does not speak TLS gets 400 in plain HTTP.
pub(super) async fn serve_tls(
    accepted: Accepted,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
    refusal: Option<Refusal>,
) {
    let Accepted { stream, peer, listener } = accepted;
    let peer_timeout = shared.app.peer_timeout;
    let handshake = async {
        if speaks_tls(&stream).await? {
            Ok((Box::pin(Socket::secure(stream, peer_timeout, &acceptor)).await?, refusal))
        } else {
            let message = "This port speaks HTTPS: use https:// in place of http://";
            Ok::<_, io::Error>((Socket::new(stream, peer_timeout), Some(Refusal::BadRequest(message))))
        }
    };
    let (socket, refusal) = match timeout(shared.app.request_timeout, handshake).await {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => return debug!(%error, "TLS handshake failed"),
        Err(_) => return debug!("TLS handshake timed out"),
    };
    serve_http(Connection::new(socket, peer, listener), shared, refusal.map(Box::new)).await;
}

/// Whether the client's first byte is that of a TLS handshake record (RFC 8446, section 5.1).
async fn speaks_tls(stream: &TcpStream) -> io::Result<bool> {
    const HANDSHAKE: u8 = 22;
    let mut first = [0];
    stream.peek(&mut first).await?;
    Ok(first == [HANDSHAKE])
}

/// Runs the driver of the HTTP version that the client speaks.
async fn serve_http(connection: Connection, shared: Arc<Shared>, refusal: Option<Box<Refusal>>) {
    match http1::serve(&connection, &shared, refusal.as_deref()).await {
        ServeOutcome::Closed => {}
        ServeOutcome::Http2 => Box::pin(http2::serve(&connection, &shared, refusal.as_deref())).await,
    }
}
