//! An accepted connection, from its TLS handshake to the driver of the version of HTTP that it speaks.
//!
//! *Concurrency.* One task for each connection.
//!
//! *Bounds.* A waiting side holds this future, so the handshake and HTTP/2 are boxed to keep it small.

use std::io;
use std::sync::Arc;

use rendezvous_net::socket::Socket;
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use crate::api::connection::ListenerInfo;
use crate::api::refusal::Refusal;
use crate::cluster;
use crate::cluster::membership::Purpose;
use crate::cluster::peers::CONNECT_TIMEOUT;
use crate::connection::{Connection, Peer, Shared};
use crate::http1::{self, ServeOutcome};
use crate::http2;

/// A connection that was accepted.
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) peer: Peer,
    pub(super) listener: ListenerInfo,
}

/// A connection of another node, after both have proved themselves.
pub(super) struct ProvedNode {
    socket: Socket,
    node: Arc<cluster::peers::Peer>,
    pub(super) purpose: Purpose,
    peer: Peer,
    listener: ListenerInfo,
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

/// Lets another node prove itself, and proves this one to it. Sends the result to `proved`.
pub(super) async fn prove(accepted: Accepted, shared: Arc<Shared>, proved: UnboundedSender<ProvedNode>) {
    let Accepted { stream, peer, listener } = accepted;
    let Some(cluster) = &shared.app.cluster else { return };
    match timeout(CONNECT_TIMEOUT, cluster.peers.accept(stream)).await {
        Ok(Ok((socket, node, purpose))) => {
            // It fails only when the server ends.
            let _ = proved.send(ProvedNode { socket, node, purpose, peer, listener });
        }
        Ok(Err(error)) => {
            debug!(%error, client = %peer.address, "a connection to --cluster-listen is not of a node");
        }
        Err(_) => {
            debug!(client = %peer.address, "a connection to --cluster-listen has not proved itself in time");
        }
    }
}

/// Holds a link that another node has opened.
pub(super) async fn serve_link(proved: ProvedNode, shared: Arc<Shared>) {
    let Some(cluster) = &shared.app.cluster else { return };
    tokio::select! {
        () = cluster.links.accept(&*cluster.membership, &proved.node, &proved.socket) => {}
        () = cluster.leaving.cancelled() => {}
    }
}

/// Serves the requests that another node passes on.
pub(super) async fn serve_hop(proved: ProvedNode, shared: Arc<Shared>) {
    let ProvedNode { socket, node, peer, listener, .. } = proved;
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
