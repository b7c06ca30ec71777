//! One HTTP/2 stream: a request, its answer, and the end of both.
//!
//! ```text
//!   request ─► handler ─► response head ─► body ─► last frame with the kernel ─► acknowledged: delivered
//!      │          │             │            │                │
//!      └──────────┴─────────────┴────────────┴────────────────┴── reset, or the connection ends: not delivered
//! ```
//!
//! *Invariant.* Every wait in here ends when the client resets the stream or the connection ends, so that no side is kept
//! waiting for one that has left.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::OptionFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, DATE, EXPECT};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Collected, Either};
use tokio::time::{Instant, timeout};

use super::traffic::{ResponseWatch, Traffic};
use super::upload::{Upload, Uploads};
use crate::http::message::date;
use crate::http::peer::Peer;
use crate::http::reply::Reply;
use crate::http::{App, answer, refuse};
use crate::outcome::Refusal;
use crate::relay::{BodyStream, Piece, Relay, WholeBody};
use crate::wire::head::{MAX_HEAD_FIELDS, expects_continue, too_many_fields};

/// How long an upload is discarded after its final response. Some clients read no response before they have sent all.
const LINGER: Duration = Duration::from_secs(2);

/// Bytes of a body up to which pieces that are there are sent together: a frame of the size that every receiver takes.
const GATHERED: usize = 16 * 1024;

/// The connection behind a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionState {
    /// As good as before.
    Reusable,
    /// Its client goes on sending a body that nobody takes, and may not know it.
    ClientStillSending,
}

/// Answers `request`. With a `refusal`, that is the answer.
///
/// A waiting side is this future; what is needed only before or after that is boxed.
pub(super) fn serve<'a>(
    app: &'a App,
    connection: &Peer,
    traffic: &'a Arc<Traffic>,
    uploads: &Uploads,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    refusal: Option<&'a Refusal>,
) -> impl Future<Output = ConnectionState> + use<'a> {
    let is_head = request.method() == Method::HEAD;
    let has_body = !request.body().is_end_stream();
    let mut expects = expects_continue(request.headers().get_all(EXPECT).iter().map(HeaderValue::as_bytes));
    if expects && request.method() != Method::PUT && refusal.is_none() {
        expects = false;
        go_on(&mut respond);
    }
    let peer = Arc::new(connection.stream(expects));
    let length = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let (head, body) = request.into_parts();
    let upload = uploads.add(body, length);
    let request = Box::new(Request::from_parts(head, upload.clone().boxed_unsync()));
    async move {
        // An answer that is not sent resets the stream.
        let Some(reply) = answered(app, &peer, request, &upload, &mut respond, expects, refusal).await else {
            return ConnectionState::Reusable;
        };
        let upload = Some(upload).filter(|_| has_body);
        Box::pin(send(app, &peer, traffic, respond, is_head, upload, reply)).await
    }
}

/// The answer; `None` where the client has gone.
async fn answered(
    app: &App,
    peer: &Arc<Peer>,
    request: Box<Request<BodyStream>>,
    upload: &Upload,
    respond: &mut SendResponse<Bytes>,
    mut expects: bool,
    refusal: Option<&Refusal>,
) -> Option<Reply> {
    if let Some(refusal) = refusal {
        return Some(refuse(app, peer, request.version(), refusal));
    }
    if fields(request.headers()) > MAX_HEAD_FIELDS {
        return Some(refuse(app, peer, request.version(), &too_many_fields()));
    }
    let mut answering = pin!(answer(app, peer, request));
    let mut body_wanted = OptionFuture::from(expects.then(|| Box::pin(peer.body_wanted())));
    let mut has_left = false;
    loop {
        tokio::select! {
            biased;
            reply = &mut answering => return reply.ok(),
            () = wait_for_reset(|cx| respond.poll_reset(cx)), if !has_left => {
                // A source of a pair that leaves behind its whole body spoils nothing: the destination still gets that.
                has_left = peer.feeds() && upload.has_arrived();
                if !has_left {
                    return None;
                }
            }
            _ = &mut body_wanted, if expects => {
                expects = false;
                go_on(respond);
            }
        }
    }
}

/// How many fields a head has. A client may split its cookies, which count as one (RFC 9113, section 8.2.3).
fn fields(headers: &HeaderMap) -> usize {
    let crumbs = headers.get_all(COOKIE).iter().count();
    headers.len() - crumbs.saturating_sub(1)
}

fn go_on(respond: &mut SendResponse<Bytes>) {
    let mut interim = Response::new(());
    *interim.status_mut() = StatusCode::CONTINUE;
    // On a stream that has been reset there is nobody to send it to.
    let _ = respond.send_informational(interim);
}

/// Waits until the client has reset the stream, or the connection has ended.
async fn wait_for_reset(poll_reset: impl FnMut(&mut Context<'_>) -> Poll<Result<Reason, h2::Error>>) {
    // Either way it is gone.
    let _ = poll_fn(poll_reset).await;
}

/// Sends the answer, and sees the stream to its end. With an `upload`, the client may still be sending that.
async fn send(
    app: &App,
    peer: &Peer,
    traffic: &Arc<Traffic>,
    mut respond: SendResponse<Bytes>,
    is_head: bool,
    upload: Option<Upload>,
    reply: Reply,
) -> ConnectionState {
    let mut watch = traffic.watch(respond.stream_id().as_u32());
    let (mut parts, body) = reply.into_parts();
    parts.version = Version::HTTP_2;
    // It means nothing here, and is forbidden (RFC 9113, section 8.2.2).
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
            let body = if is_head { Bytes::new() } else { body };
            match (write_small(app, &mut respond, parts, body).await, upload) {
                (Some(send), Some(upload)) => linger(send, upload).await,
                _ => ConnectionState::Reusable,
            }
        }
        Either::Right(relay) => {
            if let Some(length) = relay.length() {
                declare(&mut parts, length);
            }
            let Ok(mut send) = respond.send_response(Response::from_parts(parts, ()), false) else {
                return ConnectionState::Reusable;
            };
            let delivered = tokio::select! {
                biased;
                delivered = deliver(app, peer, &mut watch, &mut send, relay) => delivered,
                () = peer.cut() => None,
            };
            match (peer.take_half(), delivered) {
                (Some(half), Some(body)) => half.delivered(body),
                // A half that is dropped says that the destination has gone, if nothing has been said before.
                _ => send.send_reset(Reason::INTERNAL_ERROR),
            }
            ConnectionState::Reusable
        }
    }
}

/// Takes for a while what a client still sends that has its answer, and then asks it to stop (RFC 9113, section 8.1).
async fn linger(mut send: SendStream<Bytes>, mut upload: Upload) -> ConnectionState {
    if timeout(LINGER, upload.discard()).await.is_ok() {
        return ConnectionState::Reusable;
    }
    send.send_reset(Reason::NO_ERROR);
    ConnectionState::ClientStillSending
}

fn declare(parts: &mut Parts, length: u64) {
    parts.headers.entry(CONTENT_LENGTH).or_insert(length.into());
}

/// Writes an answer whose body is there. `None` where the client has gone.
async fn write_small(
    app: &App,
    respond: &mut SendResponse<Bytes>,
    parts: Parts,
    body: Bytes,
) -> Option<SendStream<Bytes>> {
    let mut send = respond.send_response(Response::from_parts(parts, ()), body.is_empty()).ok()?;
    if !body.is_empty() {
        match timeout(app.request_timeout, send_all(&mut send, body, true, || {})).await {
            Ok(taken) => taken?,
            Err(_) => send.send_reset(Reason::CANCEL),
        }
    }
    Some(send)
}

/// Sends a stream to the destination. Returns the body's proof where the destination's kernel has acknowledged all of it.
async fn deliver(
    app: &App,
    peer: &Peer,
    watch: &mut ResponseWatch,
    send: &mut SendStream<Bytes>,
    mut relay: Relay,
) -> Option<WholeBody> {
    let transfer = peer.receiving()?;
    loop {
        let next = tokio::select! {
            biased;
            next = gather(&mut relay) => next,
            () = wait_for_reset(|cx| send.poll_reset(cx)) => return None,
        };
        let next = next?;
        // The end goes with the bytes that complete a known length: a client that counts them may leave at once.
        let is_last = matches!(next, Piece::Last(_));
        transfer.awaits_destination();
        send_all(send, next.into_data(), is_last, || transfer.touch()).await?;
        if is_last {
            break;
        }
    }
    let written = Instant::now();
    if !acknowledged(app, peer, watch, || transfer.touch()).await {
        return None;
    }
    app.metrics.delivered(written.elapsed());
    transfer.whole_body()
}

/// The next piece, and with it what is there already behind it, while that is little: each frame costs its receiver work, however
/// small it is. `None` where the transfer has failed.
async fn gather(relay: &mut Relay) -> Option<Piece> {
    let mut next = relay.next().await.ok()?;
    let mut gathered = BytesMut::new();
    loop {
        match next {
            Piece::Last(data) if gathered.is_empty() => return Some(Piece::Last(data)),
            Piece::Last(data) => {
                gathered.extend_from_slice(&data);
                return Some(Piece::Last(gathered.freeze()));
            }
            Piece::Data(data) if gathered.is_empty() && data.len() >= GATHERED => {
                return Some(Piece::Data(data));
            }
            Piece::Data(data) => gathered.extend_from_slice(&data),
        }
        let behind = if gathered.len() < GATHERED { relay.next().now_or_never() } else { None };
        // A fault is seen again when nothing stands before it any more.
        let Some(Ok(behind)) = behind else { return Some(Piece::Data(gathered.freeze())) };
        next = behind;
    }
}

/// Waits until the client's kernel has acknowledged the last frame. False where the client reset the stream before, or the
/// connection ended and nothing more was acknowledged for as long as a client may be silent.
async fn acknowledged(app: &App, peer: &Peer, watch: &mut ResponseWatch, acknowledged: impl Fn()) -> bool {
    let Some(sent) = watch.in_kernel().await else { return false };
    tokio::select! {
        biased;
        delivered = peer.socket().delivered_to(sent, acknowledged) => delivered,
        // Whatever the client had received when it reset the stream has been acknowledged by now.
        () = watch.given_up(app.peer_timeout) => peer.socket().is_acknowledged(sent),
    }
}

/// Sends `data` as the client takes it, and reports each piece to `taken`. `None` where the stream or the connection is no
/// more.
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
