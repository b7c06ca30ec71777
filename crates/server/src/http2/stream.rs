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

use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, COOKIE, DATE, EXPECT};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use rendezvous_codec::head::{HeadError, MAX_HEAD_FIELDS, expects_continue};
use rendezvous_core::outcome::SeatError;
use rendezvous_core::transfer::{Piece, Transfer, WholeBody};
use rendezvous_net::socket::Socket;
use tokio::time::{Instant, timeout};

use super::traffic::{ResponseWatch, Traffic};
use super::upload::{Upload, Uploads};
use crate::api::head::RequestHead;
use crate::api::listing::Listing;
use crate::api::message::date;
use crate::api::refusal::Refusal;
use crate::api::response::{Body, Download, Response, ResponseHead};
use crate::api::{Action, App, RequestContext, json_body, refuse, route, transfer};
use crate::connection::Connection;
use crate::request_body::{Relay, RequestBody};

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

/// The head of an HTTP/2 request.
struct Head {
    parts: Parts,
    /// The length of its body in bytes, where it is declared, or there is none.
    body_length: Option<u64>,
}

impl Head {
    fn new(parts: Parts, has_body: bool) -> Self {
        let declared =
            || parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let body_length = if has_body { declared() } else { Some(0) };
        Self { parts, body_length }
    }
}

impl RequestHead for Head {
    fn method(&self) -> &Method {
        &self.parts.method
    }

    fn path(&self) -> &str {
        self.parts.uri.path()
    }

    fn query(&self) -> Option<&str> {
        self.parts.uri.query()
    }

    fn target_authority(&self) -> Option<&Authority> {
        self.parts.uri.authority()
    }

    fn version(&self) -> Version {
        self.parts.version
    }

    fn body_length(&self) -> Option<u64> {
        self.body_length
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        self.parts.headers.get_all(name).iter().map(HeaderValue::as_bytes)
    }
}

/// A request under way.
struct Exchange<'a> {
    connection: &'a Connection,
    app: &'a App,
    traffic: &'a Arc<Traffic>,
    respond: SendResponse<Bytes>,
    upload: Upload,
    context: RequestContext,
    is_head: bool,
    has_body: bool,
    /// The client waits for a `100 Continue`.
    expects: bool,
    body_length: Option<u64>,
}

/// Serves `request`. With a `refusal`, that is its response.
///
/// A side that waits is this future; what is needed only before or after that is boxed.
pub(super) fn serve<'a>(
    connection: &'a Connection,
    app: &'a App,
    traffic: &'a Arc<Traffic>,
    uploads: &Uploads,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    refusal: Option<&Refusal>,
) -> impl Future<Output = ConnectionState> + use<'a> {
    let (parts, body) = request.into_parts();
    let has_body = !body.is_end_stream();
    let upload = uploads.add(body);
    let head = Head::new(parts, has_body);
    let refusal = refusal
        .cloned()
        .or_else(|| (fields(&head.parts.headers) > MAX_HEAD_FIELDS).then(|| HeadError::TooManyFields.into()));
    let (context, action) = if let Some(refusal) = refusal {
        refuse(app, connection.info, head.version(), refusal)
    } else {
        let body = || RequestBody::Stream(upload.clone().boxed());
        route(app, connection.info, &head, body, &connection.wire)
    };
    let exchange = Exchange {
        connection,
        app,
        traffic,
        respond,
        upload,
        context,
        is_head: head.parts.method == Method::HEAD,
        has_body,
        expects: expects_continue(head.values(EXPECT.as_str())),
        body_length: head.body_length,
    };
    carry_out(exchange, action)
}

/// Waits where a side has to, and does all else in a box.
async fn carry_out(mut exchange: Exchange<'_>, action: Action) -> ConnectionState {
    match action {
        Action::Source(mut seat) => {
            let met = tokio::select! {
                biased;
                met = seat.met() => met,
                // A response that is not sent resets the stream.
                () = exchange.reset() => return ConnectionState::Reusable,
            };
            Box::pin(async {
                let response = match met {
                    Ok(half) => {
                        exchange.go_on();
                        let Exchange { respond, upload, context, .. } = &mut exchange;
                        tokio::select! {
                            biased;
                            response = transfer::source_response(half, &mut context.record) => response,
                            () = abandoned(respond, upload) => return ConnectionState::Reusable,
                        }
                    }
                    Err(refusal) => exchange.refuse(refusal),
                };
                exchange.respond(response).await
            })
            .await
        }
        Action::Destination(mut seat) => {
            let met = tokio::select! {
                biased;
                met = seat.met() => met,
                () = exchange.reset() => return ConnectionState::Reusable,
            };
            Box::pin(async {
                let response = match met {
                    Ok(meeting) => {
                        let Exchange { respond, context, .. } = &mut exchange;
                        tokio::select! {
                            biased;
                            // A destination that leaves takes this with it.
                            response = transfer::destination_response(meeting, pending(), &mut context.record) => response,
                            () = wait_for_reset(|cx| respond.poll_reset(cx)) => None,
                        }
                    }
                    Err(refusal) => Some(exchange.refuse(refusal)),
                };
                match response {
                    Some(response) => exchange.respond(response).await,
                    None => ConnectionState::Reusable,
                }
            })
            .await
        }
        Action::Respond(response) => Box::pin(exchange.respond(*response)).await,
        Action::ReadJson(route) => Box::pin(async {
            exchange.go_on();
            let mut body = RequestBody::Stream(exchange.upload.clone().boxed());
            let Exchange { app, respond, context, body_length, .. } = &mut exchange;
            let read = tokio::select! {
                biased;
                read = json_body::read(&mut body, *body_length, app.request_timeout, &app.metadata_memory) => read,
                () = wait_for_reset(|cx| respond.poll_reset(cx)) => return ConnectionState::Reusable,
            };
            let response = context.json_response(app, route, read);
            exchange.respond(response).await
        })
        .await,
    }
}

/// Waits until a source of a pair has left inside its body. One that leaves behind its whole body spoils nothing: the destination still
/// gets that.
async fn abandoned(respond: &mut SendResponse<Bytes>, upload: &Upload) {
    wait_for_reset(|cx| respond.poll_reset(cx)).await;
    if upload.has_arrived() {
        pending::<()>().await;
    }
}

impl Exchange<'_> {
    /// Waits until the client has reset the stream, or the connection has ended.
    async fn reset(&mut self) {
        wait_for_reset(|cx| self.respond.poll_reset(cx)).await;
    }

    /// The body is about to be read: a client that waits for that is told.
    fn go_on(&mut self) {
        if std::mem::take(&mut self.expects) {
            let mut interim = http::Response::new(());
            *interim.status_mut() = StatusCode::CONTINUE;
            // On a stream that has been reset there is nobody to send it to.
            let _ = self.respond.send_informational(interim);
        }
    }

    fn refuse(&mut self, error: SeatError) -> Response {
        self.context.refuse(self.app, error)
    }

    /// Sends the response, and sees the stream to its end.
    async fn respond(self, mut response: Response) -> ConnectionState {
        let Self { connection, app, traffic, mut respond, upload, mut context, is_head, has_body, .. } = self;
        context.finish(&mut response);
        drop(context);
        let mut watch = traffic.watch(respond.stream_id().as_u32());
        if let Ok(date) = HeaderValue::try_from(date()) {
            response.head.headers.insert(DATE, date);
        }
        let Response { head: ResponseHead { status, headers, .. }, body } = response;
        let mut head = http::Response::new(());
        (*head.status_mut(), *head.headers_mut()) = (status, headers);
        match body {
            Body::Bytes(body) => {
                // As in HTTP/1.
                if status != StatusCode::NO_CONTENT && !(is_head && body.is_empty()) {
                    declare(&mut head, body.len() as u64);
                }
                let body = if is_head { Bytes::new() } else { body };
                match write_small(app, &mut respond, head, body).await {
                    Some(send) if has_body => linger(send, upload).await,
                    _ => ConnectionState::Reusable,
                }
            }
            Body::Listing { first, rest } => {
                let first = (!is_head).then_some(first);
                match write_listing(app, &mut respond, head, first, *rest).await {
                    Some(send) if has_body => linger(send, upload).await,
                    _ => ConnectionState::Reusable,
                }
            }
            Body::Download(download) => {
                let Download { half, relay } = *download;
                if let Some(length) = relay.length() {
                    declare(&mut head, length);
                }
                let Ok(mut send) = respond.send_response(head, false) else {
                    return ConnectionState::Reusable;
                };
                let transfer = Arc::clone(half.transfer());
                let delivered = tokio::select! {
                    biased;
                    delivered = deliver(connection, app, &mut watch, &mut send, relay, &transfer) => delivered,
                    () = cut(&transfer) => None,
                };
                match delivered {
                    Some(body) => half.delivered(body),
                    // A half that is dropped says that the destination has gone, if nothing has been said before.
                    None => send.send_reset(Reason::INTERNAL_ERROR),
                }
                ConnectionState::Reusable
            }
        }
    }
}

/// Waits until the transfer has failed elsewhere, or stands still. Whether the client has vanished, the connection's task sees.
async fn cut(transfer: &Transfer) {
    tokio::select! {
        _ = transfer.failed() => {}
        // What other streams of the connection move says nothing of this one.
        fault = transfer.stalled(|| 0) => transfer.fail(fault),
    }
}

/// How many fields a head has. A client may split its cookies, which count as one (RFC 9113, section 8.2.3).
fn fields(headers: &HeaderMap) -> usize {
    let crumbs = headers.get_all(COOKIE).iter().count();
    headers.len() - crumbs.saturating_sub(1)
}

/// Waits until the client has reset the stream, or the connection has ended.
async fn wait_for_reset(poll_reset: impl FnMut(&mut Context<'_>) -> Poll<Result<Reason, h2::Error>>) {
    // Either way it is gone.
    let _ = poll_fn(poll_reset).await;
}

/// Takes for a while what a client still sends that has its answer, and then asks it to stop (RFC 9113, section 8.1).
async fn linger(mut send: SendStream<Bytes>, mut upload: Upload) -> ConnectionState {
    if timeout(LINGER, upload.discard()).await.is_ok() {
        return ConnectionState::Reusable;
    }
    send.send_reset(Reason::NO_ERROR);
    ConnectionState::ClientStillSending
}

fn declare(head: &mut http::Response<()>, length: u64) {
    head.headers_mut().entry(CONTENT_LENGTH).or_insert(length.into());
}

/// Writes an answer whose body is there. `None` where the client has gone.
async fn write_small(
    app: &App,
    respond: &mut SendResponse<Bytes>,
    head: http::Response<()>,
    body: Bytes,
) -> Option<SendStream<Bytes>> {
    let mut send = respond.send_response(head, body.is_empty()).ok()?;
    if !body.is_empty() {
        match timeout(app.request_timeout, send_all(&mut send, body, true, || {})).await {
            Ok(taken) => taken?,
            Err(_) => send.send_reset(Reason::CANCEL),
        }
    }
    Some(send)
}

/// Writes a list, or its head alone without a `first` part. `None` where the client has gone.
async fn write_listing(
    app: &App,
    respond: &mut SendResponse<Bytes>,
    head: http::Response<()>,
    first: Option<Bytes>,
    mut rest: Listing,
) -> Option<SendStream<Bytes>> {
    let mut send = respond.send_response(head, first.is_none()).ok()?;
    let mut next = first.map(Ok);
    while let Some(part) = next.take() {
        let is_last = rest.is_finished();
        let sent = match part {
            Ok(part) => timeout(app.request_timeout, send_all(&mut send, part, is_last, || {})).await,
            Err(_) => {
                send.send_reset(Reason::INTERNAL_ERROR);
                break;
            }
        };
        match sent {
            Ok(taken) => taken?,
            Err(_) => {
                send.send_reset(Reason::CANCEL);
                break;
            }
        }
        if !is_last {
            next = Some(rest.next_part());
        }
    }
    Some(send)
}

/// Sends a stream to the destination. Returns the body's proof where the destination's kernel has acknowledged all of it.
async fn deliver(
    connection: &Connection,
    app: &App,
    watch: &mut ResponseWatch,
    send: &mut SendStream<Bytes>,
    mut relay: Relay,
    transfer: &Transfer,
) -> Option<WholeBody> {
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
    if !acknowledged(app, connection.socket(), watch, || transfer.touch()).await {
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
async fn acknowledged(
    app: &App,
    socket: &Socket,
    watch: &mut ResponseWatch,
    acknowledged: impl Fn(),
) -> bool {
    let Some(sent) = watch.in_kernel().await else { return false };
    tokio::select! {
        biased;
        delivered = socket.delivered_to(sent, acknowledged) => delivered,
        // Whatever the client had received when it reset the stream has been acknowledged by now.
        () = watch.given_up(app.peer_timeout) => socket.is_acknowledged(sent),
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
