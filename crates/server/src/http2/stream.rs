//! One HTTP/2 stream: a request, its response, and the end of both.
//!
//! ```text
//!   request ─► handler ─► response head ─► body ─► last frame in the kernel ─► acknowledged: delivered
//!      │          │             │            │                │
//!      └──────────┴─────────────┴────────────┴────────────────┴── reset, or the connection ends: not delivered
//! ```
//!
//! [`super::response`] sends the response, [`super::download`] the body of a stream to its destination.
//!
//! *Invariant.* Every wait ends when the client resets the HTTP/2 stream or the connection ends, so that no side waits for one
//! that has left.
//!
//! *Concurrency.* One future for each request, all polled by the task of the connection.
//!
//! *Bounds.* A waiting side holds the future of [`carry_out`]. State needed only before or after waiting is boxed.

use std::future::{Future, pending, poll_fn, ready};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, COOKIE, EXPECT};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Version};
use rendezvous_codec::head::{HeadError, MAX_HEAD_FIELDS, expects_continue};
use rendezvous_core::outcome::SeatError;
use rendezvous_core::transfer::{SourceHalf, Transfer};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::traffic::Traffic;
use super::upload::{Upload, Uploads};
use crate::api::head::RequestHead;
use crate::api::refusal::Refusal;
use crate::api::response::{Later, Response};
use crate::api::{Action, App, Attempt, JsonRoute, RequestContext, json_body, refuse, route, transfer};
use crate::connection::Connection;
use crate::request_body::{Pairing, RequestBody};

/// Why a side may not wait although its seat is free. If all requests of a connection waited, none could be the other side.
const NO_PLACE_TO_WAIT: &str = "All other requests that this connection may have are waiting: open another connection for this one (--max-streams-per-connection)";
/// Why a source may not wait any longer.
const MEMORY_EXHAUSTED: &str = "The server's memory for HTTP/2 uploads that wait is exhausted (--max-http2-body-bytes): try again later, or over HTTP/1.1";

/// The state of the connection after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionState {
    /// It can take further requests.
    Reusable,
    /// The client still sends a body that is not read any more, and may ignore the reset of its HTTP/2 stream.
    ClientStillSending,
}

impl ConnectionState {
    /// How long the connection may be idle from now on.
    pub(super) fn idle_limit(self, keep_alive: Duration) -> Duration {
        match self {
            Self::Reusable => keep_alive,
            // The end of the connection stops the client, if no other request uses it.
            Self::ClientStillSending => Duration::ZERO,
        }
    }
}

/// The head of an HTTP/2 request.
struct Head {
    parts: Parts,
    /// The declared length of the body in bytes, or 0 if there is none.
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

/// What all requests of a connection share.
pub(super) struct Session<'a> {
    pub(super) connection: &'a Connection,
    pub(super) app: &'a App,
    pub(super) traffic: Arc<Traffic>,
    pub(super) uploads: Uploads,
    /// One permit for each side that may wait.
    pub(super) places_to_wait: Semaphore,
}

/// A request that is being served.
pub(super) struct Exchange<'a> {
    pub(super) session: &'a Session<'a>,
    pub(super) respond: SendResponse<Bytes>,
    pub(super) upload: Upload,
    pub(super) context: RequestContext,
    pub(super) is_head: bool,
    pub(super) has_body: bool,
    /// The client waits for a `100 Continue`.
    expects_continue: bool,
    body_length: Option<u64>,
    /// `None` without a cluster.
    kept: Option<Box<ClusterRequest>>,
    attempt: Attempt,
}

/// What a node of a cluster keeps of a request until its end.
struct ClusterRequest {
    /// Needed again if another node turns out to have the stream.
    head: Head,
    _counted: Option<TaskTrackerToken>,
}

/// Serves `request`. A `refusal` is its response.
pub(super) fn serve<'a>(
    session: &'a Session<'a>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    refusal: Option<&Refusal>,
) -> impl Future<Output = ConnectionState> + use<'a> {
    let Session { connection, app, uploads, .. } = session;
    let (parts, body) = request.into_parts();
    let has_body = !body.is_end_stream();
    let upload = uploads.add(body);
    let head = Head::new(parts, has_body);
    let refusal = refusal.cloned().or_else(|| {
        (count_fields(&head.parts.headers) > MAX_HEAD_FIELDS).then(|| HeadError::TooManyFields.into())
    });
    let attempt = Attempt::first();
    let (context, action) = if let Some(refusal) = refusal {
        refuse(app, connection.info, head.version(), refusal)
    } else {
        let body = || RequestBody::Stream(upload.clone().boxed());
        route(app, connection.info, &head, body, &connection.wire, attempt)
    };
    let exchange = Exchange {
        session,
        respond,
        upload,
        context,
        is_head: head.parts.method == Method::HEAD,
        has_body,
        expects_continue: expects_continue(head.values(EXPECT.as_str())),
        body_length: head.body_length,
        kept: app.cluster.is_some().then(|| Box::new(ClusterRequest { head, _counted: action.count(app) })),
        attempt,
    };
    carry_out(exchange, action)
}

/// Performs the action. Only the waits of the two sides are not boxed.
async fn carry_out(mut exchange: Exchange<'_>, action: Action) -> ConnectionState {
    match action {
        Action::Source(mut seat) => {
            let Some(paired) = exchange.wait(seat.paired(), Duration::ZERO).await else {
                return ConnectionState::Reusable;
            };
            // Frees the seat of a side that is refused, before its response.
            drop(seat);
            if is_moved(&paired) {
                return exchange.route_again().await;
            }
            Box::pin(exchange.send_outcome(paired)).await
        }
        Action::Destination(mut seat) => {
            let Some(paired) = exchange.wait(seat.paired(), Duration::ZERO).await else {
                return ConnectionState::Reusable;
            };
            drop(seat);
            if is_moved(&paired) {
                return exchange.route_again().await;
            }
            Box::pin(exchange.send_download(paired)).await
        }
        Action::Respond(response) => Box::pin(exchange.respond(*response)).await,
        Action::Generate(response) => Box::pin(exchange.generate(response)).await,
        Action::Reconsider(known) => {
            known.await;
            exchange.route_again().await
        }
        Action::PassSource(passed) => Box::pin(exchange.pass_source(*passed)).await,
        Action::PassDestination(side) => Box::pin(exchange.pass_destination(side)).await,
        Action::Wait(response) => Box::pin(exchange.wait_for_response(response)).await,
        Action::ReadJson(route) => Box::pin(exchange.read_json(route)).await,
    }
}

impl Exchange<'_> {
    /// Waits until the sides are paired. If the connection has no place to wait, that may take as long as `pairing`. `None` if the client has reset the HTTP/2 stream, or the connection has ended: the drop of the exchange
    /// resets the HTTP/2 stream.
    pub(super) async fn wait<M, E>(
        &mut self,
        paired: impl Future<Output = Result<M, E>>,
        pairing: Duration,
    ) -> Option<Result<M, Refusal>>
    where
        Refusal: From<E>,
    {
        let mut paired = pin!(paired);
        if let Some(paired) = paired.as_mut().now_or_never() {
            return Some(paired.map_err(Refusal::from));
        }
        let Ok(_place) = self.session.places_to_wait.try_acquire() else {
            return Box::pin(self.pair_within(pairing, paired)).await;
        };
        tokio::select! {
            biased;
            paired = paired => Some(paired.map_err(Refusal::from)),
            () = wait_for_reset(|cx| self.respond.poll_reset(cx)) => None,
            () = self.upload.exhausted() => Some(Err(Refusal::Busy(MEMORY_EXHAUSTED))),
        }
    }

    /// Waits as [`Exchange::wait`] does, at most for this time.
    async fn pair_within<M, E>(
        &mut self,
        time: Duration,
        paired: impl Future<Output = Result<M, E>>,
    ) -> Option<Result<M, Refusal>>
    where
        Refusal: From<E>,
    {
        tokio::select! {
            biased;
            paired = timeout(time, paired) => {
                Some(paired.map_or(Err(Refusal::Busy(NO_PLACE_TO_WAIT)), |paired| paired.map_err(Refusal::from)))
            }
            () = wait_for_reset(|cx| self.respond.poll_reset(cx)) => None,
        }
    }

    /// Routes the request again: another node may have its stream. [`route()`] limits the tries.
    pub(super) fn route_again<'b>(mut self) -> BoxFuture<'b, ConnectionState>
    where
        Self: 'b,
    {
        self.context.record.cancel();
        self.attempt = self.attempt.next();
        let Some(kept) = &self.kept else { return ready(ConnectionState::Reusable).boxed() };
        let (app, connection) = (self.session.app, self.session.connection);
        let upload = self.upload.clone();
        let body = || RequestBody::Stream(upload.boxed());
        let (context, action) = route(app, connection.info, &kept.head, body, &connection.wire, self.attempt);
        self.context = context;
        carry_out(self, action).boxed()
    }

    /// Sends a source the outcome of its transfer.
    async fn send_outcome(mut self, paired: Result<SourceHalf, Refusal>) -> ConnectionState {
        let response = match paired {
            Ok(half) => {
                self.send_continue();
                let Exchange { respond, upload, context, .. } = &mut self;
                let transfer = Arc::clone(half.transfer());
                tokio::select! {
                    biased;
                    response = transfer::source_response(half, &mut context.record) => response,
                    () = abandoned(respond, upload, &transfer) => return ConnectionState::Reusable,
                }
            }
            Err(refusal) => self.refuse(refusal),
        };
        self.respond(response).await
    }

    /// Sends a destination the body of its stream.
    async fn send_download(mut self, paired: Result<Pairing, Refusal>) -> ConnectionState {
        let response = match paired {
            Ok(pairing) => {
                let Exchange { respond, context, .. } = &mut self;
                tokio::select! {
                    biased;
                    // The departure is `pending`: if the destination leaves, the other branch drops this one.
                    response = transfer::destination_response(pairing, pending(), &mut context.record) => response,
                    () = wait_for_reset(|cx| respond.poll_reset(cx)) => None,
                }
            }
            Err(refusal) => Some(self.refuse(refusal)),
        };
        match response {
            Some(response) => self.respond(response).await,
            None => ConnectionState::Reusable,
        }
    }

    /// Waits for a response that depends on other clients, as long as this one stays.
    async fn wait_for_response(
        mut self,
        response: BoxFuture<'static, Result<Later, Refusal>>,
    ) -> ConnectionState {
        let Ok(place) = self.session.places_to_wait.try_acquire() else {
            return self.respond_busy().await;
        };
        let response = tokio::select! {
            biased;
            response = response => response,
            () = wait_for_reset(|cx| self.respond.poll_reset(cx)) => return ConnectionState::Reusable,
        };
        drop(place);
        match self.context.response_after_wait(self.session.app, response) {
            Later::Response(response) => self.respond(response).await,
            Later::Generated(response) => self.generate(Box::new(response)).await,
        }
    }

    /// Refuses a request that would be one too many to wait.
    pub(super) async fn respond_busy(mut self) -> ConnectionState {
        let refused = self.refuse(Refusal::Busy(NO_PLACE_TO_WAIT));
        self.respond(refused).await
    }

    async fn read_json(mut self, route: JsonRoute) -> ConnectionState {
        self.send_continue();
        let mut body = RequestBody::Stream(self.upload.clone().boxed());
        let Exchange { session: Session { app, .. }, respond, context, body_length, .. } = &mut self;
        let read = tokio::select! {
            biased;
            read = json_body::read(&mut body, *body_length, app.request_timeout, &app.metadata_memory) => read,
            () = wait_for_reset(|cx| respond.poll_reset(cx)) => return ConnectionState::Reusable,
        };
        let response = context.json_response(app, route, read).await;
        self.respond(response).await
    }

    /// Sends a `100 Continue` if the client waits for one, before its body is read.
    pub(super) fn send_continue(&mut self) {
        if std::mem::take(&mut self.expects_continue) {
            let mut interim = http::Response::new(());
            *interim.status_mut() = StatusCode::CONTINUE;
            // Fails only if the HTTP/2 stream has been reset.
            let _ = self.respond.send_informational(interim);
        }
    }

    pub(super) fn refuse(&mut self, refusal: Refusal) -> Response {
        self.context.refuse(self.session.app, refusal)
    }
}

/// Whether a side that waited here should wait at another node now.
fn is_moved<M>(paired: &Result<M, Refusal>) -> bool {
    matches!(paired, Err(Refusal::Seat(SeatError::Moved)))
}

/// Waits until a paired source has left inside its body. If it leaves after its whole body has arrived, the transfer goes on, because the
/// destination can still get all of it. Its path is then free. A body that broke the protocol is told apart from a source that has left.
pub(super) async fn abandoned(respond: &mut SendResponse<Bytes>, upload: &Upload, transfer: &Transfer) {
    wait_for_reset(|cx| respond.poll_reset(cx)).await;
    match upload.end() {
        Some(Ok(())) => {
            transfer.release();
            pending::<()>().await;
        }
        Some(Err(fault)) => transfer.fail_source(fault),
        None => {}
    }
}

/// Returns the number of fields of a head. A client may split its cookies over several, which count as one (RFC 9113, section 8.2.3).
fn count_fields(headers: &HeaderMap) -> usize {
    let cookies = headers.get_all(COOKIE).iter().count();
    headers.len() - cookies.saturating_sub(1)
}

/// Waits until the client has reset the HTTP/2 stream, or the connection has ended.
pub(super) async fn wait_for_reset(
    poll_reset: impl FnMut(&mut Context<'_>) -> Poll<Result<Reason, h2::Error>>,
) {
    // An error means that the connection has ended.
    let _ = poll_fn(poll_reset).await;
}
