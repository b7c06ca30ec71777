//! The one place where an ending becomes an answer: status, headers and body.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::{Either, Full};
use serde::Serialize;

use super::cors;
use crate::header_set::StreamHeaders;
use crate::outcome::{Fault, Outcome, Refusal, Side, TooMany};
use crate::relay::Relay;

/// The body of an answer: bytes that are there, or a stream.
pub type Body = Either<Full<Bytes>, Relay>;
/// An answer.
pub type Reply = Response<Body>;

/// An extension of a [`Reply`]: the names of this header set are to be spelled as they were given.
#[derive(Debug, Clone)]
pub struct Spelled {
    /// Both header sets of the stream.
    pub headers: Arc<StreamHeaders>,
    /// Whose answer this is.
    pub side: Side,
}

/// When a client may try again that was told so.
const RETRY: Duration = Duration::from_secs(5);

/// An error as the contract shows it: `{"name":"…","message":"…"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    name: String,
    message: String,
}

impl ErrorBody {
    fn new(name: &str, message: &(impl ToString + ?Sized)) -> Self {
        Self { name: name.to_owned(), message: message.to_string() }
    }

    /// What the status object says of an ending; `None` for a good one.
    #[must_use]
    pub fn of_outcome(outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::Finished => None,
            Outcome::Failed(fault) => Some(Self::new(fault_name(fault), fault)),
            Outcome::Expired { .. } => Some(refusal_parts(&Refusal::Expired).1),
            Outcome::Reported(report) => Some(refusal_parts(&Refusal::Reported(report.clone())).1),
        }
    }
}

/// `status` with an empty body.
#[must_use]
pub fn empty(status: StatusCode) -> Reply {
    with_body(status, Bytes::new())
}

/// The answer to the preflight of a page that may use the server.
#[must_use]
pub fn preflight(request: &HeaderMap) -> Reply {
    let mut reply = empty(StatusCode::NO_CONTENT);
    *reply.headers_mut() = cors::preflight(request);
    reply
}

/// `200 OK` with plain text.
#[must_use]
pub fn text(text: &'static str) -> Reply {
    let mut reply = with_body(StatusCode::OK, Bytes::from_static(text.as_bytes()));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    reply
}

/// `200 OK` with text that was made for this answer.
#[must_use]
pub fn made_text(content_type: &'static str, text: String) -> Reply {
    let mut reply = with_body(StatusCode::OK, text.into());
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// `status` with compact JSON.
#[must_use]
pub fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => {
            let mut reply = with_body(status, body.into());
            reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            reply
        }
        // Nothing here has a shape that JSON can not show.
        Err(_) => empty(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// The answer to a request that gets nothing of a stream.
#[must_use]
pub fn refusal(refusal: &Refusal) -> Reply {
    let (status, body) = refusal_parts(refusal);
    let mut reply = json(status, &body);
    match refusal {
        Refusal::Busy(_) | Refusal::ShuttingDown => {
            reply.headers_mut().insert(RETRY_AFTER, RETRY.as_secs().into());
        }
        Refusal::Unauthorized => {
            reply.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        Refusal::TooMany(too_many) => {
            let seconds = match too_many {
                TooMany::Creations { wait, .. } => wait.as_millis().div_ceil(1000),
                TooMany::Connections(_) | TooMany::Streams(_) => RETRY.as_secs().into(),
            };
            reply.headers_mut().insert(RETRY_AFTER, u64::try_from(seconds).unwrap_or(u64::MAX).into());
        }
        // The connection's input is of no more use.
        Refusal::HeadTooLarge(_) | Refusal::RequestTimeout(_) | Refusal::BadRequest(_) => close(&mut reply),
        _ => {}
    }
    if *refusal == Refusal::ShuttingDown {
        close(&mut reply);
    }
    reply
}

/// The answer to the source of a transfer that has ended so.
#[must_use]
pub fn source_fault(fault: &Fault) -> Reply {
    let mut reply = match fault {
        Fault::SourceBroke(_) => json(StatusCode::BAD_REQUEST, &ErrorBody::new("BadRequestError", fault)),
        Fault::SourceDisconnected => {
            let message = "The connection ended before the upload did";
            json(StatusCode::BAD_REQUEST, &ErrorBody::new("BadRequestError", message))
        }
        Fault::LengthMismatch(mismatch) => refusal(&Refusal::LengthMismatch(*mismatch)),
        Fault::TooLong { limit } => refusal(&Refusal::BodyTooLarge { limit: *limit }),
        Fault::ShutDown => refusal(&Refusal::ShuttingDown),
        Fault::DestinationDisconnected | Fault::Stalled { .. } | Fault::TooSlow { .. } => {
            json(StatusCode::BAD_GATEWAY, &ErrorBody::new(fault_name(fault), fault))
        }
    };
    close(&mut reply);
    reply
}

/// The answer to a destination that has got no byte of a transfer that has ended so.
#[must_use]
pub fn destination_fault(fault: &Fault) -> Reply {
    let mut reply = match fault {
        Fault::ShutDown => refusal(&Refusal::ShuttingDown),
        Fault::Stalled { .. } | Fault::TooSlow { .. } | Fault::DestinationDisconnected => {
            json(StatusCode::BAD_GATEWAY, &ErrorBody::new(fault_name(fault), fault))
        }
        // How the source broke is between it and the server.
        Fault::SourceDisconnected
        | Fault::SourceBroke(_)
        | Fault::LengthMismatch(_)
        | Fault::TooLong { .. } => {
            json(StatusCode::BAD_GATEWAY, &ErrorBody::new("StreamSourceError", &Fault::SourceDisconnected))
        }
    };
    close(&mut reply);
    reply
}

/// Says that this is the connection's last answer.
pub fn close(reply: &mut Reply) {
    reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
}

fn with_body(status: StatusCode, body: Bytes) -> Reply {
    let mut reply = Response::new(Either::Left(Full::new(body)));
    *reply.status_mut() = status;
    reply
}

fn fault_name(fault: &Fault) -> &'static str {
    match fault {
        Fault::SourceDisconnected
        | Fault::SourceBroke(_)
        | Fault::LengthMismatch(_)
        | Fault::TooLong { .. }
        | Fault::TooSlow { .. }
        | Fault::Stalled { side: Side::Source, .. } => "StreamSourceError",
        Fault::DestinationDisconnected | Fault::Stalled { side: Side::Destination, .. } => {
            "StreamDestinationError"
        }
        Fault::ShutDown => "ShuttingDownError",
    }
}

fn refusal_parts(refusal: &Refusal) -> (StatusCode, ErrorBody) {
    let (status, name) = match refusal {
        Refusal::Reported(report) => {
            let status = StatusCode::from_u16(report.status).unwrap_or(StatusCode::BAD_REQUEST);
            (status, report.name.as_str())
        }
        Refusal::NotFound => (StatusCode::NOT_FOUND, "SessionNotFoundError"),
        Refusal::BadRoute => (StatusCode::NOT_FOUND, "BadRouteError"),
        Refusal::Unauthorized => (StatusCode::UNAUTHORIZED, "UnauthorizedError"),
        Refusal::Forbidden(_) => (StatusCode::FORBIDDEN, "ForbiddenError"),
        Refusal::AlreadyConnected(_) => (StatusCode::TOO_MANY_REQUESTS, "AlreadyConnectedError"),
        Refusal::AlreadyStarted => (StatusCode::CONFLICT, "StreamStartedError"),
        Refusal::Expired => (StatusCode::GATEWAY_TIMEOUT, "SessionTimeoutError"),
        Refusal::LengthMismatch(_) => (StatusCode::BAD_REQUEST, "LengthMismatchError"),
        Refusal::InvalidBody(_) => (StatusCode::BAD_REQUEST, "InvalidBodyError"),
        Refusal::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "BodyTooLargeError"),
        Refusal::BadRequest(_) => (StatusCode::BAD_REQUEST, "BadRequestError"),
        Refusal::HeadTooLarge(_) => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "BadRequestError"),
        Refusal::RequestTimeout(_) => (StatusCode::REQUEST_TIMEOUT, "BadRequestError"),
        Refusal::Busy(_) => (StatusCode::SERVICE_UNAVAILABLE, "ServerBusyError"),
        Refusal::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "TooManyRequestsError"),
        Refusal::ShuttingDown => (StatusCode::SERVICE_UNAVAILABLE, "ShuttingDownError"),
        Refusal::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
    };
    (status, ErrorBody::new(name, refusal))
}
