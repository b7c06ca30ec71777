//! Responses, and the only place that turns a refusal or an outcome into one: status, headers and body.
//!
//! The statuses and names are in docs/api.md, section 2.
//!
//! *Bounds.* A status object of more than [`SMALL_JSON`] bytes reserves its memory in a budget until it is written.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use rendezvous_core::budget::{Budget, Reservation, allocated};
use rendezvous_core::header_set::Spellings;
use rendezvous_core::outcome::{Fault, SeatError, TooMany};
use rendezvous_core::token::AuthError;
use rendezvous_core::transfer::DestinationHalf;
use rendezvous_protocol::ErrorBody;
use serde::Serialize;

use super::cors;
use super::errors::{refusal_parts, status_code};
use super::events::Events;
use super::generated::Generated;
use super::head::RequestHead;
use super::json_body::BodyError;
use super::listing::Listing;
use super::preferences;
use super::refusal::Refusal;
use crate::hop::HopError;
use crate::hop::receipt::Receipt;
use crate::request_body::Relay;

/// A response.
pub(crate) struct Response {
    /// The status and the fields.
    pub head: ResponseHead,
    /// The body.
    pub body: Body,
}

/// A response whose body the server generates in parts while the client reads them.
pub(crate) struct GeneratedResponse {
    /// The status and the fields.
    pub head: ResponseHead,
    /// The body.
    pub body: Generated,
}

/// A response that was waited for.
pub(crate) enum Later {
    /// A complete one.
    Response(Response),
    /// One whose body comes in parts.
    Generated(GeneratedResponse),
}

/// The head of a response.
#[derive(Debug, Default)]
pub struct ResponseHead {
    /// The status code. Default: 200.
    pub status: StatusCode,
    /// The fields, except for the framing, the connection options and `Date`.
    pub headers: HeaderMap,
    /// The field names as the stream's creator spelled them.
    pub spellings: Option<Spellings>,
    /// Whether an HTTP/1 connection closes after this response. Default: false.
    pub closes: bool,
    /// Whether a 100 goes before it in the same write: over HTTP/1 between nodes it says that the sides have paired. Default: false.
    pub says_paired: bool,
}

impl ResponseHead {
    /// Whether a response with this status has a body, and so a length (RFC 9110, sections 15.3.5 and 15.4.5).
    pub(crate) fn may_have_body(&self) -> bool {
        !matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }
}

/// The body of a response.
pub(crate) enum Body {
    /// A complete body.
    Bytes(Bytes),
    /// The body of a transfer.
    Download(Box<Download>),
}

/// The running transfer to a destination.
pub(crate) struct Download {
    /// The destination's half of the transfer. Dropping it fails the transfer.
    pub half: DestinationHalf,
    /// Relays the body.
    pub relay: Relay,
    /// The receipt for the node that has the stream. `None` if that is this one.
    pub receipt: Option<Receipt>,
}

/// The `Retry-After` value, except for the quota of creations, which is free again at a known time.
const RETRY_DELAY: Duration = Duration::from_secs(5);
/// The size in bytes up to which a response reserves no memory. Every connection needs as much for its input.
const SMALL_JSON: usize = 4 * 1024;

/// Returns a response with an empty body.
#[must_use]
pub(crate) fn empty(status: StatusCode) -> Response {
    with_body(status, Bytes::new())
}

/// Returns the response to a CORS preflight from an allowed origin.
#[must_use]
pub(crate) fn preflight(request: &impl RequestHead) -> Response {
    let mut response = empty(StatusCode::NO_CONTENT);
    response.head.headers = cors::preflight(request);
    response
}

/// Returns a 200 with plain text.
#[must_use]
pub(crate) fn text(text: &'static str) -> Response {
    let mut response = with_body(StatusCode::OK, Bytes::from_static(text.as_bytes()));
    response.head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Returns a 200 with constant JSON.
#[must_use]
pub(crate) fn static_json(json: &'static str) -> Response {
    let mut response = with_body(StatusCode::OK, Bytes::from_static(json.as_bytes()));
    response.head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Returns a 200 with generated text.
#[must_use]
pub(crate) fn generated_text(content_type: &'static str, text: String) -> Response {
    let mut response = with_body(StatusCode::OK, text.into());
    response.head.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// Returns a response with compact JSON.
#[must_use]
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => json_body(status, body.into()),
        // No type here has a value that JSON cannot represent.
        Err(_) => empty(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// Returns a 200 with compact JSON that may be large.
///
/// Its memory is reserved in `budget` until the response is written. The JSON is measured first, so that nothing is allocated before the
/// reservation.
///
/// # Errors
/// [`Refusal::Busy`] if the budget is used up.
pub(crate) fn large_json(value: &impl Serialize, budget: &Arc<Budget>) -> Result<Response, Refusal> {
    let mut length = ByteCounter(0);
    serde_json::to_writer(&mut length, value).map_err(|_| Refusal::Internal)?;
    let reserved = if length.0 > SMALL_JSON { allocated(length.0) } else { 0 };
    let reserved = budget.reserve_alone(reserved).map_err(|_| response_memory_exhausted())?;
    let mut text = Vec::with_capacity(length.0);
    serde_json::to_writer(&mut text, value).map_err(|_| Refusal::Internal)?;
    Ok(json_body(StatusCode::OK, Bytes::from_owner(ReservedText { text, _reserved: reserved })))
}

/// Returns the refusal of a large response when its memory budget is used up.
pub(crate) fn response_memory_exhausted() -> Refusal {
    Refusal::Busy("The memory for large responses is used up (--max-metadata-bytes): try again later")
}

/// Returns the head of a response with JSON.
pub(crate) fn json_head(status: StatusCode) -> ResponseHead {
    json_body(status, Bytes::new()).head
}

/// Returns a 200 with the list of all streams, in parts.
pub(super) fn listing(listing: Listing) -> GeneratedResponse {
    GeneratedResponse { head: json_head(StatusCode::OK), body: Generated::listing(listing) }
}

/// Returns a 200 with events. An HTTP/1 connection closes behind them, because they have reduced its send buffer.
pub(super) fn events(events: Events) -> GeneratedResponse {
    let headers = HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // nginx buffers other responses.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ]);
    let head = ResponseHead { headers, closes: true, ..ResponseHead::default() };
    GeneratedResponse { head, body: Generated::events(events) }
}

/// A writer that only counts bytes.
struct ByteCounter(usize);

impl io::Write for ByteCounter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A body with the reservation of its memory.
struct ReservedText {
    text: Vec<u8>,
    _reserved: Reservation,
}

impl AsRef<[u8]> for ReservedText {
    fn as_ref(&self) -> &[u8] {
        &self.text
    }
}

pub(super) fn json_body(status: StatusCode, body: Bytes) -> Response {
    let mut response = with_body(status, body);
    response.head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Returns the response to a refused request.
#[must_use]
pub(crate) fn refusal(refusal: &Refusal) -> Response {
    let (status, body) = refusal_parts(refusal);
    let mut response = error(status, &body);
    let headers = &mut response.head.headers;
    match refusal {
        Refusal::Auth(AuthError::Unauthorized) => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // The refusal depends on request fields that `Vary` does not list.
        Refusal::Auth(AuthError::Forbidden(_)) => {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        Refusal::Seat(SeatError::TooMany(too_many)) => {
            let seconds = match too_many {
                TooMany::Creations { wait, .. } => wait.as_millis().div_ceil(1000),
                TooMany::Connections(_) | TooMany::Streams(_) => RETRY_DELAY.as_secs().into(),
            };
            headers.insert(RETRY_AFTER, u64::try_from(seconds).unwrap_or(u64::MAX).into());
        }
        Refusal::Seat(SeatError::PeerNotConnected { seconds }) => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            headers.extend(preferences::applied_wait(*seconds));
        }
        Refusal::Hop(HopError::OwnerUnreachable | HopError::PartialList) => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("3"));
        }
        Refusal::Hop(HopError::DirectoryUnavailable) => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("2"));
        }
        _ => {}
    }
    // After these, the server does not know where the request ends in the input, or it is shutting down.
    response.head.closes = matches!(
        refusal,
        Refusal::Head(_)
            | Refusal::BadRequest(_)
            | Refusal::Body(BodyError::Incomplete | BodyError::TimedOut(_))
            | Refusal::Seat(SeatError::ShuttingDown)
            | Refusal::Hop(HopError::OwnerLost)
    );
    response
}

/// Returns the response to the source of a failed transfer.
#[must_use]
pub(crate) fn source_fault(fault: &Fault) -> Response {
    let (status, name) = fault.traits().source;
    match fault {
        Fault::SourceDisconnected => {
            closing_error(status, name, "The connection closed before the upload was complete")
        }
        _ => closing_error(status, name, fault),
    }
}

/// Returns the response to the destination of a transfer that failed before its first byte.
#[must_use]
pub(crate) fn destination_fault(fault: &Fault) -> Response {
    let (status, name) = fault.traits().destination;
    match fault {
        // The details of the source's error are for the source only.
        Fault::SourceBroke(_) | Fault::LengthMismatch(_) | Fault::TooLong { .. } => {
            closing_error(status, name, &Fault::SourceDisconnected)
        }
        _ => closing_error(status, name, fault),
    }
}

pub(super) fn with_body(status: StatusCode, body: Bytes) -> Response {
    Response { head: ResponseHead { status, ..ResponseHead::default() }, body: Body::Bytes(body) }
}

/// Returns an error response that closes an HTTP/1 connection.
fn closing_error(status: u16, name: &str, message: &(impl ToString + ?Sized)) -> Response {
    let mut response = error(status_code(status), &ErrorBody::new(name, message));
    response.head.closes = true;
    response
}

fn error(status: StatusCode, body: &ErrorBody) -> Response {
    let mut response = json(status, body);
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.head.headers.insert(RETRY_AFTER, RETRY_DELAY.as_secs().into());
    }
    response
}
