//! A response, and the one place where an ending becomes one: status, headers and body.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use rendezvous_codec::head::HeadError;
use rendezvous_core::budget::{Budget, Reservation, allocated};
use rendezvous_core::header_set::Spellings;
use rendezvous_core::outcome::{Fault, Outcome, SeatError, TooMany};
use rendezvous_core::token::AuthError;
use rendezvous_core::transfer::DestinationHalf;
use rendezvous_protocol::{ErrorBody, ErrorKind};
use serde::Serialize;

use super::cors;
use super::head::RequestHead;
use super::json_body::BodyError;
use super::listing::Listing;
use super::refusal::Refusal;
use crate::metrics::REPORTED;
use crate::request_body::Relay;

/// A response.
pub(crate) struct Response {
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
pub(crate) enum Body {
    /// Bytes that are there.
    Bytes(Bytes),
    /// The list of all streams.
    Listing {
        /// Its first part.
        first: Bytes,
        /// The parts behind it.
        rest: Box<Listing>,
    },
    /// The body of a stream, to be delivered.
    Download(Box<Download>),
}

/// What a destination is still to receive.
pub(crate) struct Download {
    /// Its hold on the transfer.
    pub half: DestinationHalf,
    /// The body.
    pub relay: Relay,
}

/// When a client may try again that was told so.
const RETRY: Duration = Duration::from_secs(5);
/// Bytes of an answer that are not reserved: a connection takes as much anyway.
const SMALL_JSON: usize = 4 * 1024;

/// What the status object says of an ending; `None` for a good one.
#[must_use]
pub(crate) fn error_of_outcome(outcome: &Outcome) -> Option<ErrorBody> {
    match outcome {
        Outcome::Finished => None,
        Outcome::Failed(fault) => Some(ErrorBody::new(fault.traits().error, fault)),
        Outcome::Expired { .. } => Some(refusal_parts(&SeatError::Expired.into()).1),
        Outcome::Reported(report) => Some(ErrorBody::new(&report.name, &report.message)),
    }
}

/// `status` with an empty body.
#[must_use]
pub(crate) fn empty(status: StatusCode) -> Response {
    with_body(status, Bytes::new())
}

/// The response to the preflight of a page that may use the server.
#[must_use]
pub(crate) fn preflight(request: &impl RequestHead) -> Response {
    let mut response = empty(StatusCode::NO_CONTENT);
    response.head.headers = cors::preflight(request);
    response
}

/// `200 OK` with plain text.
#[must_use]
pub(crate) fn text(text: &'static str) -> Response {
    let mut response = with_body(StatusCode::OK, Bytes::from_static(text.as_bytes()));
    response.head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// `200 OK` with JSON that is written already.
#[must_use]
pub(crate) fn written_json(json: &'static str) -> Response {
    let mut response = with_body(StatusCode::OK, Bytes::from_static(json.as_bytes()));
    response.head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// `200 OK` with text that was made for this answer.
#[must_use]
pub(crate) fn made_text(content_type: &'static str, text: String) -> Response {
    let mut response = with_body(StatusCode::OK, text.into());
    response.head.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// `status` with compact JSON.
#[must_use]
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
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
pub(crate) fn large_json(value: &impl Serialize, budget: &Arc<Budget>) -> Result<Response, Refusal> {
    let mut length = Length(0);
    serde_json::to_writer(&mut length, value).map_err(|_| Refusal::Internal)?;
    let reserved = if length.0 > SMALL_JSON { allocated(length.0) } else { 0 };
    let reserved = budget.reserve_alone(reserved).map_err(|_| too_many_answers())?;
    let mut text = Vec::with_capacity(length.0);
    serde_json::to_writer(&mut text, value).map_err(|_| Refusal::Internal)?;
    Ok(json_body(StatusCode::OK, Bytes::from_owner(Held { text, _reserved: reserved })))
}

/// The memory of large answers is used up.
pub(super) fn too_many_answers() -> Refusal {
    Refusal::Busy("The server sends as many large answers as it may (--max-metadata-bytes): try again later")
}

/// `200 OK` with the list of all streams, the `first` part of which is there.
pub(super) fn listing(first: Bytes, rest: Listing) -> Response {
    let mut response = json_body(StatusCode::OK, Bytes::new());
    response.body = Body::Listing { first, rest: Box::new(rest) };
    response
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

pub(super) fn json_body(status: StatusCode, body: Bytes) -> Response {
    let mut response = with_body(status, body);
    response.head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The name of an error that is the server's own, or [`REPORTED`] for one that a client has named.
#[must_use]
pub(crate) fn refusal_name(refusal: &Refusal) -> &'static str {
    refusal_kind(refusal).map_or(REPORTED, ErrorKind::name)
}

/// The response to a request that is refused.
#[must_use]
pub(crate) fn refusal(refusal: &Refusal) -> Response {
    let (status, body) = refusal_parts(refusal);
    let mut response = error(status, &body);
    let headers = &mut response.head.headers;
    match refusal {
        Refusal::Auth(AuthError::Unauthorized) => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // It depends on request fields that are in no `Vary`.
        Refusal::Auth(AuthError::Forbidden(_)) => {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        Refusal::Seat(SeatError::TooMany(too_many)) => {
            let seconds = match too_many {
                TooMany::Creations { wait, .. } => wait.as_millis().div_ceil(1000),
                TooMany::Connections(_) | TooMany::Streams(_) => RETRY.as_secs().into(),
            };
            headers.insert(RETRY_AFTER, u64::try_from(seconds).unwrap_or(u64::MAX).into());
        }
        _ => {}
    }
    // The connection's input is of no more use, or its server.
    response.head.closes = matches!(
        refusal,
        Refusal::Head(_)
            | Refusal::BadRequest(_)
            | Refusal::Body(BodyError::BrokenOff | BodyError::TimedOut(_))
            | Refusal::Seat(SeatError::ShuttingDown)
    );
    response
}

/// The response to the source of a transfer that has ended so.
#[must_use]
pub(crate) fn source_fault(fault: &Fault) -> Response {
    let (status, name) = fault.traits().source;
    match fault {
        Fault::SourceDisconnected => last_error(status, name, "The connection ended before the upload did"),
        _ => last_error(status, name, fault),
    }
}

/// The response to a destination that has received no byte of a transfer that has ended so.
#[must_use]
pub(crate) fn destination_fault(fault: &Fault) -> Response {
    let (status, name) = fault.traits().destination;
    match fault {
        // How the source broke is between it and the server.
        Fault::SourceBroke(_) | Fault::LengthMismatch(_) | Fault::TooLong { .. } => {
            last_error(status, name, &Fault::SourceDisconnected)
        }
        _ => last_error(status, name, fault),
    }
}

fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

pub(super) fn with_body(status: StatusCode, body: Bytes) -> Response {
    Response { head: ResponseHead { status, ..ResponseHead::default() }, body: Body::Bytes(body) }
}

/// An error behind which the connection is of no more use.
fn last_error(status: u16, name: &str, message: &(impl ToString + ?Sized)) -> Response {
    let mut response = error(status_code(status), &ErrorBody::new(name, message));
    response.head.closes = true;
    response
}

fn error(status: StatusCode, body: &ErrorBody) -> Response {
    let mut response = json(status, body);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.head.headers.insert(RETRY_AFTER, RETRY.as_secs().into());
    }
    response
}

/// Which error it is; `None` for one that a client reported.
fn refusal_kind(refusal: &Refusal) -> Option<ErrorKind> {
    Some(match refusal {
        Refusal::Head(HeadError::Malformed(_)) | Refusal::BadRequest(_) => ErrorKind::BadRequest,
        Refusal::Head(HeadError::TooLong | HeadError::TooManyFields) => ErrorKind::HeadTooLarge,
        Refusal::Head(HeadError::TimedOut(_)) => ErrorKind::RequestTimeout,
        Refusal::Auth(AuthError::Unauthorized) => ErrorKind::Unauthorized,
        Refusal::Auth(AuthError::Forbidden(_)) => ErrorKind::Forbidden,
        Refusal::Seat(error) => match error {
            SeatError::Reported(_) => return None,
            SeatError::NotFound => ErrorKind::NotFound,
            SeatError::AlreadyConnected(_) => ErrorKind::AlreadyConnected,
            SeatError::AlreadyStarted => ErrorKind::AlreadyStarted,
            SeatError::Expired => ErrorKind::Expired,
            SeatError::LengthMismatch(_) => ErrorKind::LengthMismatch,
            SeatError::TooLong { .. } => ErrorKind::BodyTooLarge,
            SeatError::TooManyStreams => ErrorKind::Busy,
            SeatError::TooMany(_) => ErrorKind::TooMany,
            SeatError::ShuttingDown => ErrorKind::ShuttingDown,
        },
        Refusal::Body(error) => match error {
            BodyError::Invalid(_) => ErrorKind::InvalidBody,
            BodyError::TooLarge => ErrorKind::BodyTooLarge,
            BodyError::BrokenOff => ErrorKind::BadRequest,
            BodyError::TimedOut(_) => ErrorKind::RequestTimeout,
            BodyError::Busy => ErrorKind::Busy,
        },
        Refusal::BadRoute => ErrorKind::BadRoute,
        Refusal::Busy(_) => ErrorKind::Busy,
        Refusal::Internal => ErrorKind::Internal,
    })
}

fn refusal_parts(refusal: &Refusal) -> (StatusCode, ErrorBody) {
    if let Refusal::Seat(SeatError::Reported(report)) = refusal {
        return (status_code(report.status), ErrorBody::new(&report.name, &report.message));
    }
    let kind = refusal_kind(refusal).unwrap_or(ErrorKind::Internal);
    let message = match refusal.flag() {
        Some(flag) => format!("{refusal} ({flag})"),
        None => refusal.to_string(),
    };
    (status_code(kind.status()), ErrorBody::new(kind.name(), &message))
}
