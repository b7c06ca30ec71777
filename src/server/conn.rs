//! One HTTP/1 connection: hyper serves it, and this task sees to how it ends.
//!
//! ```text
//!   hyper ends ──► was it a destination? ── no ──► half-close, discard what still comes, close
//!                        └─ yes ─► body whole? ── no ──► close, or RST: the message stays incomplete
//!                                      └─ yes ─► half-close, wait for the acknowledgement: delivered
//! ```
//!
//! hyper never shuts the socket down ([`Io::poll_shutdown`] does nothing): it can not know when the last byte
//! has arrived.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::fast::{self, Next};
use super::http2;
use crate::http::peer::{Caller, Entrance, Peer};
use crate::http::{App, answer_spelled};
use crate::metrics::Lane;
use crate::outcome::{Fault, Refusal};
use crate::relay::DestinationHalf;
use crate::socket::Socket;
use crate::splice::Pipes;
use crate::wire::Wire;
use crate::wire::chunked::BadChunk;

/// How long a client that still sends is listened to after its final answer (contract, section 8).
const LINGER: Duration = Duration::from_secs(2);

/// A connection that was accepted.
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) caller: Caller,
    pub(super) entrance: Entrance,
}

/// Serves the connection until it has ended. `refusal`, if any, is the answer to its first request and its
/// last. Without `pipes` there is no fast lane.
pub(super) fn serve(
    accepted: Accepted,
    app: Arc<App>,
    draining: CancellationToken,
    pipes: Option<Arc<Pipes>>,
    refusal: Option<Refusal>,
) -> impl Future<Output = ()> + Send {
    let Accepted { stream, caller, entrance } = accepted;
    let wire = Wire::new(Socket::new(stream, app.peer_timeout), app.request_timeout);
    let peer = Arc::new(Peer::new(wire, entrance, caller));
    serve_peer(peer, app, draining, pipes, refusal)
}

/// As [`serve`], over TLS.
pub(super) async fn serve_tls(
    accepted: Accepted,
    acceptor: TlsAcceptor,
    app: Arc<App>,
    draining: CancellationToken,
    pipes: Option<Arc<Pipes>>,
    refusal: Option<Refusal>,
) {
    let Accepted { stream, caller, entrance } = accepted;
    let shaking = async {
        if speaks_tls(&stream).await? {
            Ok((Box::pin(Socket::secure(stream, app.peer_timeout, &acceptor)).await?, refusal))
        } else {
            let message = "This port speaks HTTPS: use https:// in place of http://";
            Ok::<_, io::Error>((
                Socket::new(stream, app.peer_timeout),
                Some(Refusal::BadRequest(message.into())),
            ))
        }
    };
    let (socket, refusal) = match timeout(app.request_timeout, shaking).await {
        Ok(Ok(shaken)) => shaken,
        Ok(Err(error)) => return debug!(%error, "no handshake"),
        Err(_) => return debug!("no handshake in time"),
    };
    let wire = Wire::new(socket, app.request_timeout);
    serve_peer(Arc::new(Peer::new(wire, entrance, caller)), app, draining, pipes, refusal).await;
}

/// Whether the client begins as TLS does, with a handshake record (RFC 8446, section 5.1).
async fn speaks_tls(stream: &TcpStream) -> io::Result<bool> {
    const HANDSHAKE: u8 = 22;
    let mut first = [0];
    stream.peek(&mut first).await?;
    Ok(first == [HANDSHAKE])
}

fn serve_peer(
    peer: Arc<Peer>,
    app: Arc<App>,
    draining: CancellationToken,
    pipes: Option<Arc<Pipes>>,
    refusal: Option<Refusal>,
) -> impl Future<Output = ()> + Send {
    if let Some(refusal) = refusal {
        peer.wire().inbound().lock().refuse_first(refusal);
    }
    // A connection that waits is this future: what it holds from here on is what a waiting side costs.
    async move {
        let next = match pipes {
            // The fast lane as long as it goes.
            Some(pipes) => {
                let mut is_fresh = true;
                loop {
                    match fast::serve(&peer, &app, &pipes, &draining, is_fresh).await {
                        Next::Request => is_fresh = false,
                        next => break next,
                    }
                }
            }
            None => fast::peek(&peer, None).await.err().unwrap_or(Next::Hyper),
        };
        // Boxed: a waiting side in the fast lane does not reserve space for them.
        let whole = match next {
            Next::Request | Next::Hyper => {
                peer.taken_by(Lane::Hyper);
                Box::pin(serve_http(&peer, &app, &draining)).await
            }
            Next::Http2 => {
                peer.taken_by(Lane::Http2);
                return Box::pin(http2::serve(&peer, &app, &draining)).await;
            }
            Next::Closed { whole } => whole,
            Next::Gone => false,
        };
        match peer.take_half() {
            Some(half) => Box::pin(end_destination(&peer, &app, half, whole)).await,
            None => end(&peer, whole).await,
        }
    }
}

/// True where the last message was written to its end.
async fn serve_http(peer: &Arc<Peer>, app: &Arc<App>, draining: &CancellationToken) -> bool {
    let service = service_fn(|request: Request<Incoming>| {
        let request = request.map(|body| body.map_err(|error| fault(&error)).boxed_unsync());
        answer_spelled(Arc::clone(app), Arc::clone(peer), request)
    });
    let io = Io { peer: Arc::clone(peer), patience: app.request_timeout, stalled: None };
    let mut connection = pin!(
        http1::Builder::new()
            // A client that has said all it has to say may still listen.
            .half_close(true)
            .preserve_header_case(true)
            .header_read_timeout(None)
            .serve_connection(TokioIo::new(io), service)
    );
    let mut cut = pin!(peer.cut());
    let mut drains = false;
    loop {
        tokio::select! {
            biased;
            ended = &mut connection => {
                if let Err(error) = &ended {
                    debug!(%error, "connection ended early");
                }
                return ended.is_ok();
            }
            () = &mut cut => return false,
            () = draining.cancelled(), if !drains => {
                drains = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// hyper tells a body that breaks HTTP from a connection that breaks by the kind of the I/O error beneath.
fn fault(error: &hyper::Error) -> Fault {
    let beneath = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<io::Error>());
    match beneath {
        Some(cause) if matches!(cause.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => {
            Fault::SourceBroke(BadChunk { after: 0 }.to_string())
        }
        _ => Fault::SourceDisconnected,
    }
}

/// The one place where a transfer over HTTP/1 can end well.
async fn end_destination(peer: &Peer, app: &App, half: DestinationHalf, whole: bool) {
    let socket = peer.socket();
    let transfer = half.transfer();
    let body = transfer.whole_body().filter(|_| whole && transfer.fault().is_none());
    let Some(body) = body else {
        drop(half);
        if matches!(
            peer.receiving().and_then(|transfer| transfer.fault()),
            Some(Fault::Stalled { .. } | Fault::TooSlow { .. } | Fault::ShutDown)
        ) {
            // Nobody may read what is left: the kernel is not to hold it.
            socket.arm_reset();
        }
        return;
    };
    socket.disarm_reset();
    let written = Instant::now();
    let delivered = tokio::select! {
        biased;
        delivered = socket.deliver(|| transfer.touch()) => delivered,
        () = peer.cut() => false,
    };
    if delivered {
        app.metrics.delivered(written.elapsed());
        half.delivered(body);
        linger(peer).await;
    } else {
        drop(half);
        socket.arm_reset();
    }
}

/// Ends a connection that has nothing to deliver.
async fn end(peer: &Peer, whole: bool) {
    linger(peer).await;
    if whole && !peer.socket().is_plain() {
        // TLS owes its client a word before the end (RFC 8446, section 6.1), and FIN alone is none. A client that takes
        // nothing does not get it.
        let _ = Box::pin(timeout(LINGER, peer.socket().shutdown_write())).await;
    }
}

/// Lets a client that may still send read its answer. Any other can be closed at once.
async fn linger(peer: &Peer) {
    if peer.may_still_send() {
        // In a box, as all that is not needed while a side waits.
        Box::pin(peer.socket().linger(LINGER)).await;
    }
}

/// The connection as hyper sees it: input through the gate, output as it is, and no shutdown.
struct Io {
    peer: Arc<Peer>,
    /// How long a client may take none of an answer.
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = self.peer.wire();
        wire.inbound().lock().poll_read(wire.socket(), cx, buffer)
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.peer.socket().poll_write(cx, buffers) {
            Poll::Ready(written) => {
                self.stalled = None;
                if let Some(transfer) = self.peer.receiving() {
                    transfer.touch();
                }
                Poll::Ready(written)
            }
            // A stream's patience is the idle limit, which its transfer watches.
            Poll::Pending if let Some(transfer) = self.peer.receiving() => {
                transfer.awaits_destination();
                Poll::Pending
            }
            Poll::Pending => {
                let patience = self.patience;
                let timer =
                    self.stalled.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + patience)));
                ready!(timer.as_mut().poll(cx));
                // The kernel is not to hold the rest of the answer for it.
                self.peer.socket().arm_reset();
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// hyper flushes only when all that it has to write was written here.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.peer.socket().poll_flush(cx))?;
        self.peer.wire().inbound().lock().flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
