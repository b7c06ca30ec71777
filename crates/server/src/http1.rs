//! HTTP/1: one connection, a request at a time.
//!
//! ```text
//!           ┌──────────────────── kept ◄─────────────────────────────┐
//!           ▼                                                        │
//!   idle ──► head ──► route ─┬─► response ───────────────────────────┤
//!    │         │             ├─► JSON body ──► response ─────────────┤
//!    │         │             ├─► source waits ──► outcome ───────────┤
//!    │         │             └─► destination waits ──► download ─────┘
//!    │         └─ refused ──► response ──► closed                │
//!    └─ closed by the client, or idle for too long               └─ cut: reset
//! ```
//!
//! *Size.* What waits here is a connection between two requests, a source, or a destination. All else is boxed, in [`Exchange::carry_out`]:
//! a side that waits reserves no space for what comes before or after.
//!
//! *Order.* A response is with the kernel before the next head is read, so pipelined requests are answered in order.

mod download;
mod response;

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Version};
use rendezvous_codec::head::{self, Head, HeadError};
use rendezvous_core::transfer::SourceBody;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::connection::{Connection, Shared};
use crate::api::json_body::{self, BodyError, JsonBody};
use crate::api::refusal::Refusal;
use crate::api::response::{Body, Response, ResponseHead};
use crate::api::{Action, RequestContext, refuse, route, transfer};
use crate::metrics::Protocol;
use crate::request_body::{RequestBody, SocketBody};

/// How long a client that still sends is listened to after its final response (contract, section 8).
const LINGER: Duration = Duration::from_secs(2);

/// How the connection has ended for this driver.
pub(super) enum Ended {
    Closed,
    /// It is HTTP/2 from here; nothing of it is lost.
    Http2,
}

/// What comes next on a connection.
enum Next {
    Head(Bytes),
    Refused(Refusal),
    Http2,
    /// The client has closed the connection, or has been idle for too long.
    End,
}

/// What becomes of the connection behind a response.
enum ConnectionOutcome {
    /// It is kept for the next request.
    Kept,
    /// The response was its last, or its client has left while it waited.
    Closed,
    /// Its message was cut, or cannot be written: nothing more is owed to it.
    Dropped,
}

impl ConnectionOutcome {
    /// Behind a response that was written.
    fn behind(response: &ResponseHead) -> Self {
        if response.closes { Self::Closed } else { Self::Kept }
    }
}

/// Serves the connection until it has ended. `refusal`, if any, is the response to its first request, whatever that is.
pub(super) async fn serve(connection: &Connection, shared: &Shared, refusal: Option<&Refusal>) -> Ended {
    let mut is_first = true;
    loop {
        let exchange = match next(connection, shared, is_first, refusal).await {
            Next::Head(head) => Exchange::begin(connection, shared, &head),
            Next::Refused(refusal) => Exchange::refused(connection, shared, refusal),
            Next::Http2 => return Ended::Http2,
            Next::End => {
                Box::pin(close(connection)).await;
                return Ended::Closed;
            }
        };
        is_first = false;
        match exchange.carry_out().await {
            ConnectionOutcome::Kept => {}
            ConnectionOutcome::Closed => {
                Box::pin(close(connection)).await;
                return Ended::Closed;
            }
            ConnectionOutcome::Dropped => return Ended::Closed,
        }
    }
}

/// Waits for the next head. A connection that waits for one ends when the server drains, but a head that has begun is answered.
async fn next(connection: &Connection, shared: &Shared, is_first: bool, refusal: Option<&Refusal>) -> Next {
    let (wire, socket, app) = (&connection.wire, connection.socket(), &shared.app);
    let patience = if is_first { app.request_timeout } else { app.keep_alive };
    let beginning = poll_fn(|cx| wire.input().lock().poll_beginning(socket, cx));
    let begins = tokio::select! {
        biased;
        begins = timeout(patience, beginning) => matches!(begins, Ok(Ok(true))),
        // A fresh connection is still to say what it wants.
        () = shared.draining.cancelled(), if !is_first => false,
    };
    if !begins {
        return Next::End;
    }
    let deadline = Instant::now() + app.request_timeout;
    let head = async {
        if is_first {
            match poll_fn(|cx| wire.input().lock().poll_preface(socket, cx)).await {
                // Also for a connection that is refused, so that the refusal is sent as HTTP/2.
                Ok(true) => return Next::Http2,
                Ok(false) => {}
                Err(_) => return Next::End,
            }
            if let Some(refusal) = refusal {
                return Next::Refused(refusal.clone());
            }
        }
        match poll_fn(|cx| wire.input().lock().poll_head(socket, cx)).await {
            Ok(Ok(head)) => Next::Head(head),
            Ok(Err(error)) => Next::Refused(error.into()),
            Err(_) => Next::End,
        }
    };
    let timed_out = |_| Next::Refused(HeadError::TimedOut(app.request_timeout).into());
    timeout_at(deadline, head).await.unwrap_or_else(timed_out)
}

/// Ends a connection well. A client that may still send is listened to for a while, so that it can read its response.
async fn close(connection: &Connection) {
    let socket = connection.socket();
    let may_still_send = {
        let input = connection.wire.input().lock();
        !input.is_between_requests() || input.has_read_ahead()
    };
    if may_still_send || socket.unread() > 0 {
        socket.linger(LINGER).await;
    } else if !socket.is_plain() {
        // TLS owes its client a word before the end (RFC 8446, section 6.1), and FIN alone is none. A client that takes nothing does
        // not get it.
        let _ = timeout(LINGER, socket.shutdown_write()).await;
    }
}

/// What is kept of a request's head.
#[derive(Debug)]
struct Request {
    method: Method,
    version: Version,
    /// The client wants the connection closed behind the response.
    closes: bool,
    expects_continue: bool,
    /// The length of its body in bytes, where it is declared.
    length: Option<u64>,
}

impl Request {
    /// Of a head that was refused.
    fn refused() -> Self {
        Self {
            method: Method::GET,
            version: Version::HTTP_11,
            closes: true,
            expects_continue: false,
            length: None,
        }
    }

    fn of(head: &Head<'_>) -> Self {
        Self {
            method: head.method.clone(),
            version: head.version,
            closes: head.closes,
            expects_continue: head.expects_continue,
            length: head.framing.length(),
        }
    }

    /// Whether the body of a request that is answered without it is little, and arrives by itself: then the connection is kept, and goes
    /// on behind it.
    fn has_little_body(&self) -> bool {
        self.method != Method::PUT
            && !self.expects_continue
            && self.length.is_some_and(|length| length > 0 && length <= json_body::MAX_BODY_BYTES)
    }
}

/// One request, and what is to be done for it.
struct Exchange<'a> {
    connection: &'a Connection,
    shared: &'a Shared,
    request: Request,
    context: RequestContext,
    action: Action,
}

impl<'a> Exchange<'a> {
    fn begin(connection: &'a Connection, shared: &'a Shared, head: &[u8]) -> Self {
        connection.open.taken_by(Protocol::Http1);
        let wire = &connection.wire;
        let parsed = head::parse(head, |head| {
            wire.input().lock().begin_body(head.framing, head.version == Version::HTTP_11);
            let body = || RequestBody::Socket(SocketBody::new(Arc::clone(wire), head.expects_continue));
            let (context, action) = route(&shared.app, connection.info, head, body, wire);
            Self { connection, shared, request: Request::of(head), context, action }
        });
        parsed.unwrap_or_else(|error| Self::refused(connection, shared, error))
    }

    fn refused(connection: &'a Connection, shared: &'a Shared, refusal: impl Into<Refusal>) -> Self {
        connection.open.taken_by(Protocol::Http1);
        // Whatever follows is not read: the client may still send.
        connection.wire.input().lock().give_up();
        let request = Request::refused();
        let (context, action) = refuse(&shared.app, connection.info, request.version, refusal);
        Self { connection, shared, request, context, action }
    }

    /// Waits where a side has to, and does all else in a box.
    async fn carry_out(self) -> ConnectionOutcome {
        let Self { connection, shared, request, mut context, action } = self;
        let responder = Responder { connection, shared, request };
        match action {
            Action::Source(mut seat) => {
                let met = tokio::select! {
                    biased;
                    met = seat.met() => met,
                    () = connection.wire.source_left() => return ConnectionOutcome::Closed,
                };
                Box::pin(async {
                    let response = match met {
                        Ok(half) => transfer::source_response(half, &mut context.record).await,
                        Err(refusal) => context.refuse(&shared.app, refusal),
                    };
                    responder.respond(context, response).await
                })
                .await
            }
            Action::Destination(mut seat) => {
                let met = tokio::select! {
                    biased;
                    met = seat.met() => met,
                    () = connection.wire.destination_left() => return ConnectionOutcome::Closed,
                };
                Box::pin(async {
                    let response = match met {
                        Ok(meeting) => {
                            let wire = Arc::clone(&connection.wire);
                            let departure = async move { wire.destination_left().await };
                            transfer::destination_response(meeting, departure, &mut context.record).await
                        }
                        Err(refusal) => Some(context.refuse(&shared.app, refusal)),
                    };
                    match response {
                        Some(response) => responder.respond(context, response).await,
                        None => ConnectionOutcome::Dropped,
                    }
                })
                .await
            }
            Action::Respond(response) => Box::pin(responder.respond(context, *response)).await,
            Action::ReadJson(route) => {
                Box::pin(async {
                    let read = responder.read_json().await;
                    let response = context.json_response(&shared.app, route, read);
                    responder.respond(context, response).await
                })
                .await
            }
        }
    }
}

/// Sends the response to a request.
struct Responder<'a> {
    connection: &'a Connection,
    shared: &'a Shared,
    request: Request,
}

impl Responder<'_> {
    async fn respond(&self, mut context: RequestContext, mut response: Response) -> ConnectionOutcome {
        context.finish(&mut response);
        drop(context);
        let Response { mut head, body } = response;
        head.closes |= self.must_close() || self.request.closes || self.shared.draining.is_cancelled();
        let outcome = match body {
            Body::Bytes(body) => self.write(&head, &body).await,
            Body::Listing { first, rest } => self.write_listing(&head, first, *rest).await,
            Body::Download(download) => self.deliver(&head, *download).await,
        };
        match outcome {
            ConnectionOutcome::Kept => self.discard_body().await,
            ConnectionOutcome::Closed | ConnectionOutcome::Dropped => outcome,
        }
    }

    /// Whether the input is of no more use: more of the body is still to come than is waited for, or bytes have come behind an upload.
    /// Those may be too many of the upload, or a request that somebody has hidden there, and nobody can tell.
    fn must_close(&self) -> bool {
        let mut input = self.connection.wire.input().lock();
        let is_at_end =
            input.is_between_requests() || input.is_body_untouched() && self.request.has_little_body();
        let is_upload = self.request.method == Method::PUT && self.request.length != Some(0);
        !is_at_end || is_upload && input.is_followed(self.connection.socket())
    }

    async fn read_json(&self) -> Result<JsonBody, BodyError> {
        let app = &self.shared.app;
        let mut body = RequestBody::Socket(self.body());
        json_body::read(&mut body, self.request.length, app.request_timeout, &app.metadata_memory).await
    }

    /// Reads a small body that nobody has needed, so that the connection can go on behind it. Where it does not come, the connection ends.
    async fn discard_body(&self) -> ConnectionOutcome {
        let is_between_requests = || self.connection.wire.input().lock().is_between_requests();
        if !is_between_requests() {
            let mut body = RequestBody::Socket(self.body());
            let reading = async { while let Some(Ok(_)) = poll_fn(|cx| body.poll_data(cx)).await {} };
            if timeout(self.shared.app.request_timeout, reading).await.is_err() {
                debug!("the rest of a small body has not come in time");
            }
        }
        if is_between_requests() { ConnectionOutcome::Kept } else { ConnectionOutcome::Closed }
    }

    fn body(&self) -> SocketBody {
        SocketBody::small(Arc::clone(&self.connection.wire), self.request.expects_continue)
    }
}
