//! The HTTP/1 driver: serves one connection, one request at a time.
//!
//! ```text
//!           ┌──────────────────── kept ◄─────────────────────────────┐
//!           ▼                                                        │
//!   idle ──► head ──► route ─┬─► response ───────────────────────────┤
//!    │         │             ├─► JSON body ──► response ─────────────┤
//!    │         │             ├─► a change of state ──► response ─────┤
//!    │         │             ├─► source waits ──► outcome ───────────┤
//!    │         │             └─► destination waits ──► download ─────┘
//!    │         └─ refused ──► response ──► closed                │
//!    └─ closed by the client, or idle timeout                    └─ aborted: RST
//! ```
//!
//! *Invariant.* A response is in the kernel before the next head is read, so pipelined requests are answered in order.
//!
//! *Concurrency.* One task for each connection. It watches for the client's departure while a side waits or a transfer runs.
//!
//! *Bounds.* The read-ahead of [`crate::wire::input`]. The future waits between two requests, as a source, and as a destination;
//! [`Exchange::carry_out`] boxes everything else, so that a waiting side does not reserve space for it.

mod download;
mod passing;
mod responder;
mod response;

use std::future::poll_fn;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Version};
use rendezvous_codec::head::{self, Head, HeadError};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::task_tracker::TaskTrackerToken;

use self::responder::Responder;
use super::connection::{Connection, LINGER, Shared};
use crate::api::json_body;
use crate::api::refusal::Refusal;
use crate::api::route::is_upload;
use crate::api::{Action, Attempt, RequestContext, refuse, route};
use crate::metrics::Protocol;
use crate::request_body::{RequestBody, SocketBody};

/// Why [`serve`] has returned.
pub(super) enum ServeOutcome {
    Closed,
    /// The client speaks HTTP/2. Its bytes are still in the read-ahead buffer.
    Http2,
}

/// The next input of a connection.
enum NextRequest {
    Head(Bytes),
    Refused(Refusal),
    Http2,
    /// The client has closed the connection, or it was idle for too long.
    Closed,
}

/// What a node of a cluster keeps of a request until its end.
struct ClusterRequest {
    /// Needed again if another node turns out to have the stream.
    head: Bytes,
    attempt: Attempt,
    _counted: Option<TaskTrackerToken>,
}

/// What a node adds to the head of its client, at most.
const NODE_BYTES: usize = 4096;

/// What happens to the connection after a response.
enum ConnectionOutcome {
    /// It is kept for the next request.
    Kept,
    /// It is closed cleanly: no request can follow the response, or the client left while it waited.
    Closed,
    /// It is dropped: the response was aborted, or could not be written.
    Dropped,
    /// The same request is routed again: another node may have its stream.
    RoutedAgain,
}

impl ConnectionOutcome {
    /// The outcome after a whole response, which may be the last one.
    fn after(closes: bool) -> Self {
        if closes { Self::Closed } else { Self::Kept }
    }
}

/// Serves the connection until it ends. A `refusal` is the response to its first request, after which it is closed.
pub(super) async fn serve(
    connection: &Connection,
    shared: &Shared,
    refusal: Option<&Refusal>,
) -> ServeOutcome {
    let mut is_first = true;
    loop {
        let mut kept = None;
        let exchange = match next_request(connection, shared, is_first, refusal).await {
            NextRequest::Head(head) => {
                connection.begin_request();
                let attempt = Attempt::first();
                let exchange = Exchange::begin(connection, shared, &head, attempt);
                let counted = exchange.action.count(&shared.app);
                kept = shared
                    .app
                    .cluster
                    .is_some()
                    .then(|| Box::new(ClusterRequest { head, attempt, _counted: counted }));
                exchange
            }
            NextRequest::Refused(refusal) => Exchange::refused(connection, shared, refusal),
            NextRequest::Http2 => return ServeOutcome::Http2,
            NextRequest::Closed => {
                Box::pin(close(connection)).await;
                return ServeOutcome::Closed;
            }
        };
        is_first = false;
        let mut outcome = exchange.carry_out().await;
        if let (ConnectionOutcome::RoutedAgain, Some(kept)) = (&outcome, &kept) {
            outcome = Box::pin(route_again(connection, shared, &kept.head, kept.attempt)).await;
        }
        connection.end_request();
        match outcome {
            ConnectionOutcome::Kept => {}
            ConnectionOutcome::Closed => {
                Box::pin(close(connection)).await;
                return ServeOutcome::Closed;
            }
            ConnectionOutcome::Dropped | ConnectionOutcome::RoutedAgain => return ServeOutcome::Closed,
        }
    }
}

/// Carries out the request with this head again, until a node has its stream, or refuses it. [`route()`] limits the tries.
async fn route_again(
    connection: &Connection,
    shared: &Shared,
    head: &[u8],
    mut attempt: Attempt,
) -> ConnectionOutcome {
    loop {
        attempt = attempt.next();
        match Exchange::begin(connection, shared, head, attempt).carry_out().await {
            ConnectionOutcome::RoutedAgain => {}
            outcome => return outcome,
        }
    }
}

/// Waits for the next head. A drain closes a connection that is idle between two requests, but not one whose head has begun to arrive.
async fn next_request(
    connection: &Connection,
    shared: &Shared,
    is_first: bool,
    refusal: Option<&Refusal>,
) -> NextRequest {
    let (wire, socket, app) = (&connection.wire, connection.socket(), &shared.app);
    let idle_limit = if is_first { app.request_timeout } else { app.keep_alive };
    let head_start = poll_fn(|cx| wire.input().lock().poll_head_start(socket, cx));
    let has_begun = tokio::select! {
        biased;
        begun = timeout(idle_limit, head_start) => matches!(begun, Ok(Ok(true))),
        // A new connection may be the missing side of a stream, so it may still send its first request.
        () = shared.draining.cancelled(), if !is_first => false,
    };
    if !has_begun {
        return NextRequest::Closed;
    }
    let deadline = Instant::now() + app.request_timeout;
    let head = async {
        if is_first {
            match poll_fn(|cx| wire.input().lock().poll_preface(socket, cx)).await {
                // Checked before the refusal, so that an HTTP/2 client gets it as HTTP/2.
                Ok(true) => return NextRequest::Http2,
                Ok(false) => {}
                Err(_) => return NextRequest::Closed,
            }
            if let Some(refusal) = refusal {
                return NextRequest::Refused(refusal.clone());
            }
        }
        let limit = app.max_head_bytes + if connection.is_of_node() { NODE_BYTES } else { 0 };
        match poll_fn(|cx| wire.input().lock().poll_head(socket, limit, cx)).await {
            Ok(Ok(head)) => NextRequest::Head(head),
            Ok(Err(error)) => NextRequest::Refused(error.into()),
            Err(_) => NextRequest::Closed,
        }
    };
    let timed_out = |_| NextRequest::Refused(HeadError::TimedOut(app.request_timeout).into());
    timeout_at(deadline, head).await.unwrap_or_else(timed_out)
}

/// Closes a connection cleanly. If the client may still send, this is a lingering close, so that the client can read its response.
async fn close(connection: &Connection) {
    let socket = connection.socket();
    let may_still_send = {
        let input = connection.wire.input().lock();
        !input.is_between_requests() || input.has_read_ahead()
    };
    if may_still_send || socket.unread() > 0 {
        socket.linger(LINGER).await;
    } else if !socket.is_plain() {
        // TLS requires a `close_notify` before FIN (RFC 8446, section 6.1). The limit is for a client that reads nothing.
        let _ = timeout(LINGER, socket.shutdown_write()).await;
    }
}

/// The parts of a request's head that the driver needs after routing.
#[derive(Debug)]
struct Request {
    method: Method,
    /// The body is that of a source, also if it gets no seat.
    is_upload: bool,
    version: Version,
    /// The client wants the connection closed after the response.
    closes: bool,
    expects_continue: bool,
    /// The declared length of the body in bytes.
    length: Option<u64>,
}

impl Request {
    /// Stands for a request whose head was refused.
    fn refused() -> Self {
        Self {
            method: Method::GET,
            is_upload: false,
            version: Version::HTTP_11,
            closes: true,
            expects_continue: false,
            length: None,
        }
    }

    fn of(head: &Head<'_>) -> Self {
        Self {
            method: head.method.clone(),
            is_upload: is_upload(&head.method, head.target.path()),
            version: head.version,
            closes: head.closes,
            expects_continue: head.expects_continue,
            length: head.framing.length(),
        }
    }

    /// Whether the body is small and the client sends it without waiting for a `100 Continue`. Such a body is discarded if the response
    /// does not need it, and the connection is kept.
    fn has_small_body(&self) -> bool {
        !self.is_upload
            && !self.expects_continue
            && self.length.is_some_and(|length| length > 0 && length <= json_body::MAX_BODY_BYTES)
    }
}

/// One request and the action that it was routed to.
struct Exchange<'a> {
    connection: &'a Connection,
    shared: &'a Shared,
    request: Request,
    context: RequestContext,
    action: Action,
}

impl<'a> Exchange<'a> {
    fn begin(connection: &'a Connection, shared: &'a Shared, head: &[u8], attempt: Attempt) -> Self {
        connection.open.set_protocol(Protocol::Http1);
        let wire = &connection.wire;
        let visit = |head: &Head<'_>| {
            wire.input().lock().begin_body(head.framing, head.version == Version::HTTP_11);
            let body = || RequestBody::Socket(SocketBody::new(Arc::clone(wire), head.expects_continue));
            let (context, action) = route(&shared.app, connection.info, head, body, wire, attempt);
            Self { connection, shared, request: Request::of(head), context, action }
        };
        let parsed = if connection.is_of_node() {
            head::parse_passed_on(head, visit)
        } else {
            head::parse(head, visit)
        };
        parsed.unwrap_or_else(|error| Self::refused(connection, shared, error))
    }

    fn refused(connection: &'a Connection, shared: &'a Shared, refusal: impl Into<Refusal>) -> Self {
        connection.open.set_protocol(Protocol::Http1);
        // The input after a refused head cannot be framed.
        connection.wire.input().lock().stop_reading();
        let request = Request::refused();
        let (context, action) = refuse(&shared.app, connection.info, request.version, refusal);
        Self { connection, shared, request, context, action }
    }

    /// Performs the action. Only the waits of the two sides are not boxed.
    async fn carry_out(self) -> ConnectionOutcome {
        let Self { connection, shared, request, context, action } = self;
        let responder = Responder { connection, shared, request };
        match action {
            Action::Source(mut seat) => {
                let paired = tokio::select! {
                    biased;
                    paired = seat.paired() => paired,
                    () = connection.wire.source_left() => return ConnectionOutcome::Closed,
                };
                connection.set_paired(paired.is_ok());
                Box::pin(responder.respond_to_source(context, paired)).await
            }
            Action::Destination(mut seat) => {
                let paired = tokio::select! {
                    biased;
                    paired = seat.paired() => paired,
                    () = connection.wire.destination_left() => return ConnectionOutcome::Closed,
                };
                connection.set_paired(paired.is_ok());
                Box::pin(responder.respond_to_destination(context, paired)).await
            }
            Action::Respond(response) => Box::pin(responder.respond(context, *response)).await,
            Action::Generate(response) => Box::pin(responder.generate(context, response)).await,
            Action::Reconsider(known) => {
                Box::pin(known).await;
                let mut context = context;
                context.record.cancel();
                ConnectionOutcome::RoutedAgain
            }
            Action::PassSource(passed) => Box::pin(responder.pass_source(context, *passed)).await,
            Action::PassDestination(side) => Box::pin(responder.pass_destination(context, side)).await,
            Action::Wait(response) => Box::pin(responder.respond_later(context, response)).await,
            Action::ReadJson(route) => Box::pin(responder.respond_to_json(context, route)).await,
        }
    }
}
