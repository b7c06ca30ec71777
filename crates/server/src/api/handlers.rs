//! The handlers of the routes that respond without waiting for the other side.

use std::net::IpAddr;
use std::time::SystemTime;

use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderValue, StatusCode};
use rendezvous_core::outcome::SeatError;
use rendezvous_core::rendezvous::NewStream;
use rendezvous_core::token::Tokens;
use rendezvous_protocol::{CreatedStream, StreamId, StreamName, Timestamp};

use super::head::RequestHead;
use super::json_body::{self, JsonBody};
use super::listing::{self, Listing};
use super::record::Record;
use super::refusal::Refusal;
use super::response::{self, Response};
use super::{Action, App, generate, respond};
use crate::hop::gather;
use crate::metrics::Format;

/// Handles `POST /stream`.
pub(super) fn create(
    app: &App,
    client: IpAddr,
    body: JsonBody,
    record: &mut Record,
) -> Result<Response, Refusal> {
    let settings = json_body::stream_settings(&body.bytes, app.max_ttl)?;
    let reserved = body.into_reservation(settings.headers.memory())?;
    let tokens = settings.is_split.then(Tokens::mint);
    let new = NewStream { headers: settings.headers, tokens: tokens.clone(), reserved, ttl: settings.ttl };
    let expires_at = settings.ttl.map(|ttl| Timestamp(SystemTime::now() + ttl));
    let id = app.rendezvous.create(new, || app.clients.create(client))?;
    record.set_stream(StreamName::Id(id.clone()));
    let created = CreatedStream {
        stream: id.as_str(),
        url: app.public_url.as_ref().map(|url| url.of_stream(id.as_str())),
        upload_token: tokens.as_ref().map(|tokens| tokens.upload.as_str()),
        download_token: tokens.as_ref().map(|tokens| tokens.download.as_str()),
        expires_at,
    };
    Ok(response::json(StatusCode::CREATED, &created))
}

/// Handles `POST /stream/:id/error`.
pub(super) fn report(app: &App, id: &StreamId, body: JsonBody) -> Result<Response, Refusal> {
    let report = json_body::report(&body.bytes)?;
    let reserved = body.into_reservation(report.memory())?;
    app.rendezvous.report(id, report, reserved)?;
    Ok(response::empty(StatusCode::OK))
}

/// Handles `GET /stream`. A list of one part is a complete body; a longer one is written in parts and reserves memory.
pub(super) fn list(app: &App) -> Result<Action, Refusal> {
    let mut listing = Listing::new(&app.rendezvous);
    let first = listing.first_part().map_err(|_| Refusal::Internal)?;
    if listing.is_finished() {
        return Ok(respond(response::json_body(StatusCode::OK, first)));
    }
    let reserved = app
        .response_memory
        .reserve_alone(listing::MEMORY)
        .map_err(|_| response::response_memory_exhausted())?;
    Ok(generate(response::listing(listing.resumed(first, reserved))))
}

/// Handles `GET /stream` of another node, which gathers the list of a cluster: always in parts, because its end is not known at once.
pub(super) fn own_list(app: &App) -> Result<Action, Refusal> {
    let listing = Listing::newest(&app.rendezvous, gather::MAX_OBJECTS);
    let is_truncated = listing.is_truncated();
    let reserved = app
        .response_memory
        .reserve_alone(listing::MEMORY)
        .map_err(|_| response::response_memory_exhausted())?;
    let mut response = response::listing(listing.resumed(Bytes::new(), reserved));
    if is_truncated {
        response.head.headers.insert(gather::TRUNCATED, HeaderValue::from_static("1"));
    }
    Ok(generate(response))
}

/// Handles `GET /metrics`.
pub(super) fn metrics(app: &App, head: &impl RequestHead) -> Response {
    let accepted = head.values(ACCEPT.as_str()).filter_map(|value| std::str::from_utf8(value).ok());
    let format = Format::of_accept(accepted);
    response::generated_text(format.content_type(), app.metrics.text(app.gauges(), format))
}

/// Handles `GET /readyz`.
pub(super) fn ready(app: &App) -> Result<Response, Refusal> {
    if app.rendezvous.is_draining() {
        Err(SeatError::ShuttingDown.into())
    } else {
        Ok(response::text("ready"))
    }
}

/// Handles `HEAD /stream/:id` and `HEAD /p/:path`.
pub(super) fn probe(app: &App, name: &StreamName) -> Result<Response, Refusal> {
    if app.rendezvous.is_connectable(name) {
        Ok(response::empty(StatusCode::OK))
    } else {
        Err(SeatError::NotFound.into())
    }
}
