//! An accepted connection, from its TLS handshake to the driver of the version of HTTP that it speaks.
//!
//! *Concurrency.* One task for each connection.
//!
//! *Bounds.* A waiting side holds this future, so the handshake and HTTP/2 are boxed to keep it small.

use std::io;
use std::sync::Arc;

use rendezvous_net::socket::Socket;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use crate::api::connection::ListenerInfo;
use crate::api::refusal::Refusal;
use crate::connection::{Connection, Peer, Shared};
use crate::http1::{self, ServeOutcome};
use crate::http2;

/// A connection that was accepted.
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) peer: Peer,
    pub(super) listener: ListenerInfo,
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

/// Serves the connection of another node, once both have proved themselves.
pub(super) async fn serve_node(accepted: Accepted, shared: Arc<Shared>) {
    let Accepted { mut stream, peer, listener } = accepted;
    let Some(cluster) = &shared.app.cluster else { return };
    let proving = Box::pin(timeout(shared.app.request_timeout, cluster.membership.accept(&mut stream)));
    let node = match proving.await {
        Ok(Ok(tag)) => cluster.peers.accepted(tag),
        Ok(Err(error)) => {
            return debug!(%error, client = %peer.address, "a connection to --cluster-listen is not of a node");
        }
        Err(_) => {
            return debug!(client = %peer.address, "a connection to --cluster-listen has not proved itself in time");
        }
    };
    let socket = Socket::new(stream, shared.app.peer_timeout);
    let mut connection = Connection::new(socket, peer, listener);
    connection.register(&node);
    node.note_heard();
    drop(node);
    http1::serve(&connection, &shared, None).await;
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
