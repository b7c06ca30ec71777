//! The responses of a paired stream: the outcome to the source, the body to the destination (docs/api.md, section 4).

use std::sync::Arc;

use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use rendezvous_core::header_set::StreamHeaders;
use rendezvous_core::outcome::{Fault, Outcome};
use rendezvous_core::transfer::{Judged, SourceHalf};
use rendezvous_protocol::Side;

use super::head::RequestHead;
use super::record::Record;
use super::response::{self, Body, Download, Response, ResponseHead};
use crate::request_body::{Pairing, Relay};

/// The representation fields of the source that are passed on to the destination.
pub(crate) const PASSED_HEADERS: [HeaderName; 6] = [
    CONTENT_TYPE,
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    CONTENT_DISPOSITION,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// Waits for the outcome of the transfer and returns the source's response.
pub(crate) async fn source_response(half: SourceHalf, record: &mut Record) -> Response {
    let transfer = half.transfer();
    let outcome = transfer.outcome().await;
    record.set_transfer(transfer);
    if let Outcome::Failed(fault) = outcome {
        return response::source_fault(fault);
    }
    let mut response = response::empty(StatusCode::OK);
    override_by(&mut response.head, transfer.headers(), Side::Source);
    response
}

/// Waits for the first byte of the body, or its end, and returns the destination's response. A failure before it is reported as a status.
///
/// `departure` resolves when the destination has disconnected. Returns `None` if it has.
pub(crate) async fn destination_response(
    pairing: Pairing,
    departure: impl Future<Output = ()> + Send + 'static,
    record: &mut Record,
) -> Option<Response> {
    let Pairing { mut half, offer, source_may_have_left } = pairing;
    let transfer = Arc::clone(half.transfer());
    let mut headers = default_headers();
    headers.extend(offer.headers.as_deref().cloned().unwrap_or_default());
    let mut relay = Relay::new(*offer, source_may_have_left, Arc::clone(&transfer), departure);

    let first = tokio::select! {
        biased;
        first = relay.first() => first,
        fault = transfer.failed() => Err(fault.clone()),
        fault = transfer.stalled(Judged::Both, || 0) => Err(fault),
    };
    if let Err(fault) = first {
        transfer.fail(fault);
        // Another fault may have been first, and the first one stands.
        let fault = transfer.failed().await;
        record.set_transfer(&transfer);
        return (*fault != Fault::DestinationDisconnected).then(|| response::destination_fault(fault));
    }

    record.log_at_end_of(&mut half);
    let mut head = ResponseHead { headers, ..ResponseHead::default() };
    override_by(&mut head, transfer.headers(), Side::Destination);
    declare_type(&mut head.headers);
    Some(Response { head, body: Body::Download(Box::new(Download { half, relay, receipt: None })) })
}

/// Returns the fields of the source that are passed on to the destination; `None` if there are none.
pub(super) fn passed_headers(head: &impl RequestHead) -> Option<Box<HeaderMap>> {
    let mut passed = HeaderMap::new();
    for name in PASSED_HEADERS {
        for value in head.values(name.as_str()).filter_map(|value| HeaderValue::from_bytes(value).ok()) {
            passed.append(name.clone(), value);
        }
    }
    (!passed.is_empty()).then(|| Box::new(passed))
}

/// The default fields of a download. Nothing may cache it, guess its type, index it, resume it or buffer it.
fn default_headers() -> HeaderMap {
    HeaderMap::from_iter([
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (HeaderName::from_static("x-robots-tag"), HeaderValue::from_static("none")),
        (ACCEPT_RANGES, HeaderValue::from_static("none")),
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ])
}

/// Overrides fields of the response by the stream's header set, and keeps the spelling of the names.
fn override_by(head: &mut ResponseHead, headers: &StreamHeaders, side: Side) {
    head.spellings = headers.of(side).map(|set| set.override_in(&mut head.headers));
}

/// Sets the default `Content-Type`. Without a type, browsers show a binary as text, and the stream is used up.
fn declare_type(headers: &mut HeaderMap) {
    if headers.get(CONTENT_TYPE).is_none_or(HeaderValue::is_empty) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    }
}
