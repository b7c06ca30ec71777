//! HTTP/2, over TLS or by prior knowledge: one task for a connection and all its streams.
//!
//! The same handlers answer as in HTTP/1. A stream that its client resets takes its handler with it, and so its seat or its half
//! of a transfer; a transfer that fails resets the stream, which is how HTTP/2 shows a cut.
//!
//! *Bounds.* A stream's body waits in its window of 64 KiB, and the connection's window has room for all its streams: a
//! destination that takes nothing stalls its own stream only. Heads, concurrent streams and frames that only keep us
//! busy are limited.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::OptionFuture;
use futures_util::stream::FuturesUnordered;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, EXPECT};
use http::response::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Collected, Either};
use hyper::body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::traffic::Traffic;
use crate::http::message::date;
use crate::http::peer::Peer;
use crate::http::reply::Reply;
use crate::http::{App, answer, refuse};
use crate::outcome::Fault;
use crate::relay::{BodyStream, Relay};
use crate::wire::Wire;
use crate::wire::head::{MAX_HEAD_BYTES, MAX_HEAD_FIELDS, too_many_fields};

/// Streams of a connection at a time. RFC 9113 (section 6.5.2) advises no fewer than 100.
const MAX_STREAMS: u32 = 100;
/// What a client may send of a body that nobody takes, in bytes.
const STREAM_WINDOW: u32 = 64 * 1024 - 1;
/// What a stream may hold of an answer that its client does not take, in bytes.
const SEND_BUFFER: usize = 256 * 1024;
/// After the last word: for the client to read it.
const LINGER: Duration = Duration::from_secs(2);

/// Serves the connection, whose preface is the next to be read, until it has ended.
pub(super) async fn serve(peer: &Arc<Peer>, app: &Arc<App>, draining: &CancellationToken) {
    let traffic = Arc::new(Traffic::default());
    let ahead = peer.wire().inbound().lock().take_ahead();
    let io = Io { wire: Arc::clone(peer.wire()), ahead, traffic: Arc::clone(&traffic) };
    let handshake = h2::server::Builder::new()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(MAX_STREAMS * STREAM_WINDOW)
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .handshake::<_, Bytes>(io);
    // In a box, so that the connection does not carry the room for it to its end.
    let Ok(Ok(mut connection)) = timeout(app.request_timeout, Box::pin(handshake)).await else { return };

    let mut streams = FuturesUnordered::new();
    let mut idle = pin!(sleep(app.request_timeout));
    let mut vanished = pin!(peer.socket().vanished());
    let (mut drains, mut calmed, mut closes) = (false, false, false);
    let ended = loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    streams.push(serve_stream(app, peer, &traffic, request, respond));
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(()),
            },
            Some(()) = streams.next(), if !streams.is_empty() => {
                idle.as_mut().reset(Instant::now() + app.request_timeout);
            }
            () = draining.cancelled(), if !drains => {
                drains = true;
                connection.graceful_shutdown();
            }
            () = traffic.flooded(), if !calmed => {
                calmed = true;
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
            // It takes all its streams with it.
            () = &mut vanished => return peer.socket().arm_reset(),
            () = &mut idle, if streams.is_empty() => {
                if closes {
                    return;
                }
                closes = true;
                connection.graceful_shutdown();
                idle.as_mut().reset(Instant::now() + LINGER);
            }
        }
    };
    // From this they learn that the connection has ended; some may have delivered all the same.
    drop(connection);
    traffic.end();
    while streams.next().await.is_some() {}
    match ended {
        // As above.
        Ok(()) => Box::pin(peer.socket().linger(LINGER)).await,
        Err(error) => debug!(%error, "connection ended early"),
    }
}

/// A side that waits is this future: what it needs only before, or behind that, is in boxes.
fn serve_stream<'a>(
    app: &'a App,
    connection: &Peer,
    traffic: &'a Traffic,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> impl Future<Output = ()> + use<'a> {
    let is_head = request.method() == Method::HEAD;
    let has_body = !request.body().is_end_stream();
    let mut expects = request.headers().get(EXPECT).is_some_and(|value| value.as_bytes() == b"100-continue");
    if expects && request.method() != Method::PUT {
        expects = false;
        go_on(&mut respond);
    }
    let peer = Arc::new(connection.stream(expects));
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let request = Box::new(request.map(|body| Upload { body, left: length }.boxed_unsync()));
    async move {
        // An answer that is not sent resets the stream.
        let Some(reply) = answered(app, &peer, request, &mut respond, expects).await else { return };
        Box::pin(send(app, &peer, traffic, respond, is_head, has_body, reply)).await;
    }
}

/// The answer; `None` where the client has gone.
async fn answered(
    app: &App,
    peer: &Arc<Peer>,
    request: Box<Request<BodyStream>>,
    respond: &mut SendResponse<Bytes>,
    mut expects: bool,
) -> Option<Reply> {
    if request.headers().len() > MAX_HEAD_FIELDS {
        return Some(refuse(app, peer, request.version(), &too_many_fields()));
    }
    let mut answering = pin!(answer(app, peer, request));
    let mut body_wanted = OptionFuture::from(expects.then(|| Box::pin(peer.body_wanted())));
    loop {
        tokio::select! {
            biased;
            reply = &mut answering => return reply.ok(),
            () = left(|cx| respond.poll_reset(cx)) => return None,
            _ = &mut body_wanted, if expects => {
                expects = false;
                go_on(respond);
            }
        }
    }
}

/// Sends the answer, and sees to it that the client can read it.
async fn send(
    app: &App,
    peer: &Peer,
    traffic: &Traffic,
    respond: SendResponse<Bytes>,
    is_head: bool,
    has_body: bool,
    reply: Reply,
) {
    let may_still_send = has_body && !reply.status().is_success();
    let Some(mut send) = write_reply(app, peer, traffic, respond, is_head, reply).await else { return };
    if may_still_send {
        // A stream that is reset behind its answer loses it, with some clients: they are to read it first.
        let _ = timeout(LINGER, left(|cx| send.poll_reset(cx))).await;
    }
}

fn go_on(respond: &mut SendResponse<Bytes>) {
    let mut interim = Response::new(());
    *interim.status_mut() = StatusCode::CONTINUE;
    // On a stream that has been reset there is nobody to tell.
    let _ = respond.send_informational(interim);
}

/// Waits until the client has reset the stream, or the connection has ended.
async fn left(poll_reset: impl FnMut(&mut Context<'_>) -> Poll<Result<Reason, h2::Error>>) {
    // Either way it is gone.
    let _ = poll_fn(poll_reset).await;
}

/// Writes the answer; `None` where the client has gone.
async fn write_reply(
    app: &App,
    peer: &Peer,
    traffic: &Traffic,
    mut respond: SendResponse<Bytes>,
    is_head: bool,
    reply: Reply,
) -> Option<SendStream<Bytes>> {
    let (mut parts, body) = reply.into_parts();
    parts.version = Version::HTTP_2;
    // It says nothing here, and is forbidden (RFC 9113, section 8.2.2).
    parts.headers.remove(CONNECTION);
    if let Ok(date) = HeaderValue::try_from(date()) {
        parts.headers.insert(DATE, date);
    }
    match body {
        Either::Left(body) => {
            let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
            if parts.status != StatusCode::NO_CONTENT {
                declare(&mut parts, body.len() as u64);
            }
            let is_whole = is_head || body.is_empty();
            let mut send = respond.send_response(Response::from_parts(parts, ()), is_whole).ok()?;
            if !is_whole
                && timeout(app.request_timeout, send_all(&mut send, body, true, || {})).await.is_err()
            {
                send.send_reset(Reason::CANCEL);
            }
            Some(send)
        }
        Either::Right(relay) => {
            if let Some(length) = relay.length() {
                declare(&mut parts, length);
            }
            let mut send = respond.send_response(Response::from_parts(parts, ()), false).ok()?;
            let delivered = tokio::select! {
                biased;
                delivered = stream(app, peer, traffic, &mut send, relay) => delivered,
                () = peer.cut() => false,
            };
            match peer.take_half() {
                Some(half) if delivered => half.delivered(),
                // A half that is dropped says that the destination has gone, if nothing has been said before.
                _ => send.send_reset(Reason::INTERNAL_ERROR),
            }
            Some(send)
        }
    }
}

fn declare(parts: &mut Parts, length: u64) {
    parts.headers.entry(CONTENT_LENGTH).or_insert(length.into());
}

/// Sends a stream to the destination. True where its kernel has all of it.
async fn stream(
    app: &App,
    peer: &Peer,
    traffic: &Traffic,
    send: &mut SendStream<Bytes>,
    mut relay: Relay,
) -> bool {
    let Some(transfer) = peer.receiving() else { return false };
    let mut last_frame = None;
    while last_frame.is_none() {
        let next = tokio::select! {
            biased;
            next = relay.next() => next,
            () = left(|cx| send.poll_reset(cx)) => return false,
        };
        let Ok(data) = next else { return false };
        // With the bytes that complete a known length: a client that counts them may leave at once.
        if transfer.is_source_done() {
            last_frame = Some(traffic.watch(send.stream_id()));
        }
        let data = data.unwrap_or_default();
        if send_all(send, data, last_frame.is_some(), || transfer.touch()).await.is_none() {
            return false;
        }
    }
    let Some(Ok(mark)) = OptionFuture::from(last_frame).await else { return false };
    let written = Instant::now();
    let delivered = peer.socket().delivered_to(mark, || transfer.touch()).await;
    if delivered {
        app.metrics.delivered(written.elapsed());
    }
    delivered
}

/// Sends `data` as the client takes it, and tells of each piece. `None` where the stream or the connection is no more.
async fn send_all(
    send: &mut SendStream<Bytes>,
    mut data: Bytes,
    is_last: bool,
    taken: impl Fn(),
) -> Option<()> {
    if data.is_empty() {
        return if is_last { send.send_data(data, true).ok() } else { Some(()) };
    }
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let room = poll_fn(|cx| send.poll_capacity(cx)).await?.ok()?;
        let piece = data.split_to(room.min(data.len()));
        if !piece.is_empty() {
            send.send_data(piece, is_last && data.is_empty()).ok()?;
            taken();
        }
    }
    Some(())
}

/// A request body.
struct Upload {
    body: RecvStream,
    /// Bytes that are still to come, where they were declared. h2 sees to it that it is true.
    left: Option<u64>,
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let data = match ready!(self.body.poll_data(cx)) {
            // Trailers are consumed, not passed on.
            None => return Poll::Ready(None),
            Some(Ok(data)) => data,
            Some(Err(error)) if error.is_library() => {
                return Poll::Ready(Some(Err(Fault::SourceBroke(error.to_string()))));
            }
            Some(Err(_)) => return Poll::Ready(Some(Err(Fault::SourceDisconnected))),
        };
        // What is taken from the window is not more than what is given back.
        let _ = self.body.flow_control().release_capacity(data.len());
        self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let left = if self.is_end_stream() { Some(0) } else { self.left };
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The connection as h2 sees it.
struct Io {
    wire: Arc<Wire>,
    /// What was read before it was known to be HTTP/2.
    ahead: BytesMut,
    traffic: Arc<Traffic>,
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.traffic.is_flooded() {
            return Poll::Pending;
        }
        let given = buffer.filled().len();
        if self.ahead.is_empty() {
            ready!(self.wire.socket().poll_read(cx, buffer))?;
        } else {
            let count = self.ahead.len().min(buffer.remaining());
            buffer.put_slice(self.ahead.get(..count).unwrap_or_default());
            self.ahead.advance(count);
            if self.ahead.is_empty() {
                // Its memory, too.
                self.ahead = BytesMut::new();
            }
        }
        self.traffic.came(buffer.filled().get(given..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.wire.socket().poll_write(cx, buffers))?;
        self.traffic.went(buffers, written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.wire.socket().poll_flush(cx))?;
        self.traffic.flushed(self.wire.socket().sent());
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
