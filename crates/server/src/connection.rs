//! A connection that was accepted: from its TLS handshake to the driver of the version of HTTP that it speaks.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use rendezvous_core::clients::Permit;
use rendezvous_net::socket::Socket;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::http1::{self, Ended};
use super::http2;
use crate::api::App;
use crate::api::connection::{ConnectionInfo, Entrance};
use crate::api::refusal::Refusal;
use crate::metrics::OpenConnection;
use crate::wire::Wire;

/// Who is at the other end of a connection.
pub(super) struct Caller {
    /// A client's address, or a proxy's.
    pub(super) address: IpAddr,
    /// It is a trusted proxy, that speaks for others.
    pub(super) is_proxy: bool,
    /// What it has as long as it is connected.
    pub(super) holds: Option<Hold>,
    /// It is counted among those that are open.
    pub(super) open: OpenConnection,
}

/// What a connection holds to its end.
#[expect(dead_code, reason = "held, not read")]
pub(super) enum Hold {
    /// A place among the connections of its client.
    Place(Permit),
    /// A place among those that are told that there is none for them.
    Told(OwnedSemaphorePermit),
}

/// A connection that was accepted.
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) caller: Caller,
    pub(super) entrance: Entrance,
}

/// What the connections of a server share.
pub(super) struct Shared {
    pub(super) app: App,
    /// Set when the server drains: each connection is closed behind its response.
    pub(super) draining: CancellationToken,
}

/// A connection that speaks HTTP.
pub(super) struct Connection {
    pub(super) wire: Arc<Wire>,
    pub(super) info: ConnectionInfo,
    pub(super) open: OpenConnection,
    _holds: Option<Hold>,
}

impl Connection {
    fn new(socket: Socket, caller: Caller, entrance: Entrance) -> Self {
        let Caller { address, is_proxy, holds, open } = caller;
        let info = ConnectionInfo { entrance, address, is_proxy };
        Self { wire: Wire::new(socket), info, open, _holds: holds }
    }

    pub(super) fn socket(&self) -> &Socket {
        self.wire.socket()
    }
}

/// Serves the connection until it has ended. `refusal`, if any, is the response to its first request and its
/// last.
pub(super) fn serve(
    accepted: Accepted,
    shared: Arc<Shared>,
    refusal: Option<Refusal>,
) -> impl Future<Output = ()> + Send {
    let Accepted { stream, caller, entrance } = accepted;
    let socket = Socket::new(stream, shared.app.peer_timeout);
    serve_http(Connection::new(socket, caller, entrance), shared, refusal.map(Box::new))
}

/// As [`serve`], over TLS.
pub(super) async fn serve_tls(
    accepted: Accepted,
    acceptor: TlsAcceptor,
    shared: Arc<Shared>,
    refusal: Option<Refusal>,
) {
    let Accepted { stream, caller, entrance } = accepted;
    let silence = shared.app.peer_timeout;
    let shaking = async {
        if speaks_tls(&stream).await? {
            Ok((Box::pin(Socket::secure(stream, silence, &acceptor)).await?, refusal))
        } else {
            let message = "This port speaks HTTPS: use https:// in place of http://";
            Ok::<_, io::Error>((Socket::new(stream, silence), Some(Refusal::BadRequest(message))))
        }
    };
    let (socket, refusal) = match timeout(shared.app.request_timeout, shaking).await {
        Ok(Ok(shaken)) => shaken,
        Ok(Err(error)) => return debug!(%error, "no handshake"),
        Err(_) => return debug!("no handshake in time"),
    };
    serve_http(Connection::new(socket, caller, entrance), shared, refusal.map(Box::new)).await;
}

/// Whether the client begins as TLS does, with a handshake record (RFC 8446, section 5.1).
async fn speaks_tls(stream: &TcpStream) -> io::Result<bool> {
    const HANDSHAKE: u8 = 22;
    let mut first = [0];
    stream.peek(&mut first).await?;
    Ok(first == [HANDSHAKE])
}

/// A connection that waits is this future: what it holds is what a waiting side costs.
async fn serve_http(connection: Connection, shared: Arc<Shared>, refusal: Option<Box<Refusal>>) {
    match http1::serve(&connection, &shared, refusal.as_deref()).await {
        Ended::Closed => {}
        Ended::Http2 => Box::pin(http2::serve(&connection, &shared, refusal.as_deref())).await,
    }
}
