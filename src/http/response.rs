//! A response, and the one place where an ending becomes one: status, headers and body.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde::Serialize;

use super::cors;
use super::head::RequestHead;
use crate::budget::{Budget, Reservation, allocated};
use crate::header_set::Spellings;
use crate::outcome::{Fault, Outcome, Refusal, Side, TooMany};
use crate::relay::{DestinationHalf, Relay};

/// A response.
pub struct Response {
    /// What comes before its body.
    pub head: ResponseHead,
    /// Its body.
    pub body: Body,
}

/// The head of a response.
#[derive(Debug, Default)]
pub struct ResponseHead {
    /// Its status.
    pub status: StatusCode,
    /// Its fields, but for those that frame it or belong to the connection, and `Date`.
    pub headers: HeaderMap,
    /// How the stream's maker spelled the names of some fields.
    pub spellings: Option<Spellings>,
    /// An HTTP/1 connection is closed behind it.
    pub closes: bool,
}

/// The body of a response.
pub enum Body {
    /// Bytes that are there.
    Bytes(Bytes),
    /// The body of a stream, to be delivered.
    Download(Box<Download>),
}

/// What a destination is still to receive.
pub struct Download {
    /// Its hold on the transfer.
    pub half: DestinationHalf,
    /// The body.
    pub relay: Relay,
}

/// When a client may try again that was told so.
const RETRY: Duration = Duration::from_secs(5);
/// Bytes of an answer that are not reserved: a connection takes as much anyway.
const SMALL_JSON: usize = 4 * 1024;

/// The status and the `name` of every error that is the server's own; what a client reports has its own.
macro_rules! error_kinds {
    ($($kind:ident = $status:ident $name:literal,)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        enum ErrorKind {
            $($kind,)*
        }

        impl ErrorKind {
            fn parts(self) -> (StatusCode, &'static str) {
                match self {
                    $(Self::$kind => (StatusCode::$status, $name),)*
                }
            }
        }

        /// The status and the name of each.
        #[cfg(test)]
        pub(super) const ERRORS: &[(StatusCode, &str)] = &[$((StatusCode::$status, $name),)*];
    };
}

// One that nothing leads to is dead code; the documents name these and no others.
error_kinds! {
    InvalidBody = BAD_REQUEST "InvalidBodyError",
    LengthMismatch = BAD_REQUEST "LengthMismatchError",
    BadRequest = BAD_REQUEST "BadRequestError",
    Unauthorized = UNAUTHORIZED "UnauthorizedError",
    Forbidden = FORBIDDEN "ForbiddenError",
    NotFound = NOT_FOUND "SessionNotFoundError",
    BadRoute = NOT_FOUND "BadRouteError",
    RequestTimeout = REQUEST_TIMEOUT "BadRequestError",
    AlreadyStarted = CONFLICT "StreamStartedError",
    BodyTooLarge = PAYLOAD_TOO_LARGE "BodyTooLargeError",
    AlreadyConnected = TOO_MANY_REQUESTS "AlreadyConnectedError",
    TooMany = TOO_MANY_REQUESTS "TooManyRequestsError",
    HeadTooLarge = REQUEST_HEADER_FIELDS_TOO_LARGE "BadRequestError",
    Internal = INTERNAL_SERVER_ERROR "InternalError",
    SourceFailed = BAD_GATEWAY "StreamSourceError",
    DestinationFailed = BAD_GATEWAY "StreamDestinationError",
    Busy = SERVICE_UNAVAILABLE "ServerBusyError",
    ShuttingDown = SERVICE_UNAVAILABLE "ShuttingDownError",
    Expired = GATEWAY_TIMEOUT "SessionTimeoutError",
}

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
            Outcome::Failed(fault) => Some(Self::new(fault_kind(fault).parts().1, fault)),
            Outcome::Expired { .. } => Some(refusal_parts(&Refusal::Expired).1),
            Outcome::Reported(report) => Some(refusal_parts(&Refusal::Reported(Arc::clone(report))).1),
        }
    }
}

/// `status` with an empty body.
#[must_use]
pub fn empty(status: StatusCode) -> Response {
    with_body(status, Bytes::new())
}

/// The response to the preflight of a page that may use the server.
#[must_use]
pub fn preflight(request: &impl RequestHead) -> Response {
    let mut response = empty(StatusCode::NO_CONTENT);
    response.head.headers = cors::preflight(request);
    response
}

/// `200 OK` with plain text.
#[must_use]
pub fn text(text: &'static str) -> Response {
    let mut response = with_body(StatusCode::OK, Bytes::from_static(text.as_bytes()));
    response.head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// `200 OK` with JSON that is written already.
#[must_use]
pub fn written_json(json: &'static str) -> Response {
    let mut response = with_body(StatusCode::OK, Bytes::from_static(json.as_bytes()));
    response.head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// `200 OK` with text that was made for this answer.
#[must_use]
pub fn made_text(content_type: &'static str, text: String) -> Response {
    let mut response = with_body(StatusCode::OK, text.into());
    response.head.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// `status` with compact JSON.
#[must_use]
pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => json_body(status, body.into()),
        // Nothing here has a shape that JSON can not show.
        Err(_) => empty(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// `200 OK` with compact JSON that may be large. Its memory is reserved in `budget` until the answer has been written; to know how
/// much before there is any, the JSON is measured first.
///
/// # Errors
/// [`Refusal::Busy`]
pub fn large_json(value: &impl Serialize, budget: &Arc<Budget>) -> Result<Response, Refusal> {
    let mut length = Length(0);
    serde_json::to_writer(&mut length, value).map_err(|_| Refusal::Internal)?;
    let reserved = if length.0 > SMALL_JSON { allocated(length.0) } else { 0 };
    let reserved = budget.reserve_alone(reserved).map_err(|_| {
        Refusal::Busy(
            "The server sends as many large answers as it may (--max-metadata-bytes): try again later",
        )
    })?;
    let mut text = Vec::with_capacity(length.0);
    serde_json::to_writer(&mut text, value).map_err(|_| Refusal::Internal)?;
    Ok(json_body(StatusCode::OK, Bytes::from_owner(Held { text, _reserved: reserved })))
}

/// Counts what is written.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A body with the reservation of its memory.
struct Held {
    text: Vec<u8>,
    _reserved: Reservation,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

fn json_body(status: StatusCode, body: Bytes) -> Response {
    let mut response = with_body(status, body);
    response.head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The name of an error that is the server's own, or `reported` for one that a client has named.
#[must_use]
pub fn refusal_name(refusal: &Refusal) -> &'static str {
    refusal_kind(refusal).map_or("reported", |kind| kind.parts().1)
}

/// The answer to a request that gets nothing of a stream.
#[must_use]
pub fn refusal(refusal: &Refusal) -> Response {
    let (status, body) = refusal_parts(refusal);
    let mut response = json(status, &body);
    match refusal {
        Refusal::Busy(_) | Refusal::ShuttingDown => {
            response.head.headers.insert(RETRY_AFTER, RETRY.as_secs().into());
        }
        Refusal::Unauthorized => {
            response.head.headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // It depends on request fields that are in no `Vary`.
        Refusal::Forbidden(_) => {
            response.head.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        Refusal::TooMany(too_many) => {
            let seconds = match too_many {
                TooMany::Creations { wait, .. } => wait.as_millis().div_ceil(1000),
                TooMany::Connections(_) | TooMany::Streams(_) => RETRY.as_secs().into(),
            };
            response.head.headers.insert(RETRY_AFTER, u64::try_from(seconds).unwrap_or(u64::MAX).into());
        }
        _ => {}
    }
    // The connection's input is of no more use, or its server.
    response.head.closes = matches!(
        refusal,
        Refusal::HeadTooLarge(_)
            | Refusal::RequestTimeout(_)
            | Refusal::BadRequest(_)
            | Refusal::ShuttingDown
    );
    response
}

/// The answer to the source of a transfer that has ended so.
#[must_use]
pub fn source_fault(fault: &Fault) -> Response {
    let mut response = match fault {
        Fault::SourceBroke(_) => error(ErrorKind::BadRequest, fault),
        Fault::SourceDisconnected => {
            error(ErrorKind::BadRequest, "The connection ended before the upload did")
        }
        Fault::LengthMismatch(mismatch) => refusal(&Refusal::LengthMismatch(*mismatch)),
        Fault::TooLong { limit } => refusal(&Refusal::BodyTooLarge { limit: *limit }),
        Fault::ShutDown => refusal(&Refusal::ShuttingDown),
        Fault::DestinationDisconnected | Fault::Stalled { .. } | Fault::TooSlow { .. } => {
            error(fault_kind(fault), fault)
        }
    };
    response.head.closes = true;
    response
}

/// The answer to a destination that has got no byte of a transfer that has ended so.
#[must_use]
pub fn destination_fault(fault: &Fault) -> Response {
    let mut response = match fault {
        Fault::ShutDown => refusal(&Refusal::ShuttingDown),
        Fault::Stalled { .. } | Fault::TooSlow { .. } | Fault::DestinationDisconnected => {
            error(fault_kind(fault), fault)
        }
        // How the source broke is between it and the server.
        Fault::SourceDisconnected
        | Fault::SourceBroke(_)
        | Fault::LengthMismatch(_)
        | Fault::TooLong { .. } => error(ErrorKind::SourceFailed, &Fault::SourceDisconnected),
    };
    response.head.closes = true;
    response
}

fn with_body(status: StatusCode, body: Bytes) -> Response {
    Response { head: ResponseHead { status, ..ResponseHead::default() }, body: Body::Bytes(body) }
}

fn error(kind: ErrorKind, message: &(impl ToString + ?Sized)) -> Response {
    let (status, name) = kind.parts();
    json(status, &ErrorBody::new(name, message))
}

fn fault_kind(fault: &Fault) -> ErrorKind {
    match fault {
        Fault::SourceDisconnected
        | Fault::SourceBroke(_)
        | Fault::LengthMismatch(_)
        | Fault::TooLong { .. }
        | Fault::TooSlow { .. }
        | Fault::Stalled { side: Side::Source, .. } => ErrorKind::SourceFailed,
        Fault::DestinationDisconnected | Fault::Stalled { side: Side::Destination, .. } => {
            ErrorKind::DestinationFailed
        }
        Fault::ShutDown => ErrorKind::ShuttingDown,
    }
}

/// Which error it is; `None` for one that a client reported.
fn refusal_kind(refusal: &Refusal) -> Option<ErrorKind> {
    Some(match refusal {
        Refusal::Reported(_) => return None,
        Refusal::NotFound => ErrorKind::NotFound,
        Refusal::BadRoute => ErrorKind::BadRoute,
        Refusal::Unauthorized => ErrorKind::Unauthorized,
        Refusal::Forbidden(_) => ErrorKind::Forbidden,
        Refusal::AlreadyConnected(_) => ErrorKind::AlreadyConnected,
        Refusal::AlreadyStarted => ErrorKind::AlreadyStarted,
        Refusal::Expired => ErrorKind::Expired,
        Refusal::LengthMismatch(_) => ErrorKind::LengthMismatch,
        Refusal::InvalidBody(_) => ErrorKind::InvalidBody,
        Refusal::BodyTooLarge { .. } => ErrorKind::BodyTooLarge,
        Refusal::BadRequest(_) => ErrorKind::BadRequest,
        Refusal::HeadTooLarge(_) => ErrorKind::HeadTooLarge,
        Refusal::RequestTimeout(_) => ErrorKind::RequestTimeout,
        Refusal::Busy(_) => ErrorKind::Busy,
        Refusal::TooMany(_) => ErrorKind::TooMany,
        Refusal::ShuttingDown => ErrorKind::ShuttingDown,
        Refusal::Internal => ErrorKind::Internal,
    })
}

fn refusal_parts(refusal: &Refusal) -> (StatusCode, ErrorBody) {
    let (status, name) = match (refusal, refusal_kind(refusal)) {
        (Refusal::Reported(report), _) => {
            let status = StatusCode::from_u16(report.status).unwrap_or(StatusCode::BAD_REQUEST);
            (status, report.name.as_str())
        }
        (_, kind) => kind.unwrap_or(ErrorKind::Internal).parts(),
    };
    (status, ErrorBody::new(name, refusal))
}
