//! One function for each route.

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::Either;
use http::header::{
    ACCEPT, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE,
    CONTENT_RANGE, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Body;
use serde::Serialize;

use super::json_body::{RequestBody, StreamSettings};
use super::peer::Peer;
use super::record::Record;
use super::reply::{self, Reply};
use super::status::{List, Status};
use super::{App, Departed, json_body};
use crate::budget::Reservation;
use crate::header_set::StreamHeaders;
use crate::id::StreamId;
use crate::metrics::Format;
use crate::outcome::{Fault, LengthMismatch, Outcome, Refusal, Side, UploadLength};
use crate::relay::{BodyStream, Offer, Relay, SourceBody, SourceHalf};
use crate::rendezvous::{Meeting, NewStream, Seat};
use crate::token::Tokens;

/// A request that is not answered: refused by a rule, or by its own leaving.
pub(super) enum Unanswered {
    Refused {
        refusal: Refusal,
        /// What is still to come of its body is not waited for: the answer closes the connection.
        closes: bool,
    },
    Departed,
}

impl Unanswered {
    /// The same, of a request whose body is not waited for.
    pub(super) fn closing(self) -> Self {
        match self {
            Self::Refused { refusal, .. } => Self::Refused { refusal, closes: true },
            Self::Departed => Self::Departed,
        }
    }
}

impl From<Refusal> for Unanswered {
    fn from(refusal: Refusal) -> Self {
        Self::Refused { refusal, closes: false }
    }
}

impl From<Box<Refusal>> for Unanswered {
    fn from(refusal: Box<Refusal>) -> Self {
        (*refusal).into()
    }
}

impl From<Departed> for Unanswered {
    fn from(_: Departed) -> Self {
        Self::Departed
    }
}

/// `POST /stream`
pub(super) async fn create(
    app: &App,
    client: IpAddr,
    body: &mut RequestBody,
    record: &mut Record,
) -> Result<Reply, Refusal> {
    let metadata = body.read(&app.metadata).await?;
    let settings = json_body::stream_settings(&metadata.json)?;
    let reserved = metadata.into_reservation(settings.headers.memory())?;
    create_with(app, client, settings, reserved, record)
}

/// `POST /stream`, its body read.
pub(super) fn create_with(
    app: &App,
    client: IpAddr,
    settings: StreamSettings,
    reserved: Option<Reservation>,
    record: &mut Record,
) -> Result<Reply, Refusal> {
    #[derive(Serialize)]
    struct Created<'a> {
        stream: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        upload_token: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        download_token: Option<&'a str>,
    }

    let tokens = settings.is_split.then(Tokens::mint);
    let new = NewStream { headers: settings.headers, tokens: tokens.clone(), reserved };
    let id = app.rendezvous.create(new, || app.clients.create(client))?;
    record.concerns(&id);
    let created = Created {
        stream: id.as_str(),
        upload_token: tokens.as_ref().map(|tokens| tokens.upload.as_str()),
        download_token: tokens.as_ref().map(|tokens| tokens.download.as_str()),
    };
    Ok(reply::json(StatusCode::CREATED, &created))
}

/// `GET /stream`
pub(super) fn list(app: &App) -> Result<Reply, Refusal> {
    reply::large_json(&List(&app.rendezvous.snapshots()), &app.answers)
}

/// `GET /metrics`
pub(super) fn metrics(app: &App, headers: &HeaderMap) -> Reply {
    let (census, body_bytes) = app.rendezvous.tally();
    let format = Format::of_accept(headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()));
    reply::made_text(format.content_type(), app.metrics.text(census, body_bytes, format))
}

/// `GET /readyz`
pub(super) fn ready(app: &App) -> Result<Reply, Refusal> {
    if app.rendezvous.is_draining() { Err(Refusal::ShuttingDown) } else { Ok(reply::text("ready")) }
}

/// `GET /stream/:id/status`
pub(super) fn status(app: &App, id: &StreamId) -> Result<Reply, Refusal> {
    let snapshot = app.rendezvous.snapshot(id).ok_or(Refusal::NotFound)?;
    reply::large_json(&Status::from(&snapshot), &app.answers)
}

/// `HEAD /stream/:id`
pub(super) fn probe(app: &App, id: &StreamId) -> Result<Reply, Refusal> {
    match app.rendezvous.snapshot(id) {
        Some(snapshot) if snapshot.is_connectable() => Ok(reply::empty(StatusCode::OK)),
        _ => Err(Refusal::NotFound),
    }
}

/// `POST /stream/:id/error`
pub(super) async fn report(app: &App, id: &StreamId, body: &mut RequestBody) -> Result<Reply, Refusal> {
    app.rendezvous.check_reportable(id)?;
    let metadata = body.read(&app.metadata).await?;
    let report = json_body::report(&metadata.json)?;
    let reserved = metadata.into_reservation(report.memory())?;
    app.rendezvous.report(id, report, reserved)?;
    Ok(reply::empty(StatusCode::OK))
}

/// `PUT /stream/:id`. There is no `offer` where the request is refused. Every answer closes the connection.
///
/// The seat is taken at once, so that a side that waits carries that, and nothing that led to it; what is to be awaited is the
/// answer: the outcome, so it comes last.
pub(super) fn source<'a>(
    app: &App,
    peer: &'a Peer,
    id: &StreamId,
    offer: Result<Box<Offer>, Box<Refusal>>,
    record: &'a mut Record,
) -> impl Future<Output = Result<Reply, Unanswered>> + use<'a> {
    let mut seat = match take_source_seat(app, peer, id, offer) {
        Ok(seat) => seat,
        Err(refused) => return Either::Left(async { Err(refused.closing()) }),
    };
    Either::Right(async move {
        let half = tokio::select! {
            biased;
            half = seat.met() => half.map_err(|refusal| Unanswered::from(refusal).closing())?,
            () = peer.source_left() => return Err(Unanswered::Departed),
        };
        peer.want_body();
        // Boxed: a waiting side does not reserve space for it.
        Box::pin(conclude(peer, half, record)).await
    })
}

fn take_source_seat(
    app: &App,
    peer: &Peer,
    id: &StreamId,
    offer: Result<Box<Offer>, Box<Refusal>>,
) -> Result<Seat<SourceHalf>, Unanswered> {
    let offer = offer?;
    if let (Some(promised), Some(declared)) = (app.rendezvous.promised_length(id)?, offer.length)
        && promised != declared
    {
        let mismatch = LengthMismatch { promised, upload: UploadLength::Exactly(declared) };
        return Err(Refusal::from(mismatch).into());
    }
    if let (Some(limit), Some(declared)) = (app.rendezvous.max_stream_bytes(), offer.length)
        && declared > limit
    {
        return Err(Refusal::BodyTooLarge { limit }.into());
    }
    Ok(app.rendezvous.seat_source(id, offer, Arc::clone(peer.wire()) as _)?)
}

/// Waits for the outcome of the source's transfer, which is its answer.
async fn conclude(peer: &Peer, half: SourceHalf, record: &mut Record) -> Result<Reply, Unanswered> {
    let outcome = half.transfer().outcome().await;
    record.transferred(half.transfer());
    if let Outcome::Failed(fault) = outcome {
        return Ok(reply::source_fault(fault));
    }
    peer.body_taken();
    let mut reply = reply::empty(StatusCode::OK);
    put_over(&mut reply, half.transfer().headers(), Side::Source);
    reply::close(&mut reply);
    Ok(reply)
}

/// `GET /stream/:id`, if that is `permitted`. The seat is taken as in [`source`].
pub(super) fn destination<'a>(
    app: &App,
    peer: &'a Arc<Peer>,
    id: &StreamId,
    permitted: Result<(), Box<Refusal>>,
    version: Version,
    record: &'a mut Record,
) -> impl Future<Output = Result<Reply, Unanswered>> + use<'a> {
    let seat = permitted.map_err(Unanswered::from);
    let mut seat =
        match seat.and_then(|()| Ok(app.rendezvous.seat_destination(id, Arc::clone(peer.wire()) as _)?)) {
            Ok(seat) => seat,
            Err(refused) => return Either::Left(async { Err(refused) }),
        };
    Either::Right(async move {
        let meeting = tokio::select! {
            biased;
            meeting = seat.met() => meeting?,
            () = peer.destination_left() => return Err(Unanswered::Departed),
        };
        // As in [`source`].
        Box::pin(begin(peer, meeting, version, record)).await
    })
}

/// Begins the download. Its head goes out with the first body byte, so that until then a failure can be told as
/// a status.
async fn begin(
    peer: &Arc<Peer>,
    meeting: Meeting,
    version: Version,
    record: &mut Record,
) -> Result<Reply, Unanswered> {
    let Meeting { mut half, offer, is_source_in_doubt } = meeting;
    let transfer = Arc::clone(half.transfer());
    let mut headers = default_headers();
    headers.extend(offer.headers.as_deref().cloned().unwrap_or_default());
    let watched = Arc::clone(peer);
    let mut relay = Relay::new(*offer, is_source_in_doubt, Arc::clone(&transfer), async move {
        watched.destination_left().await;
    });

    let begun = tokio::select! {
        biased;
        begun = relay.first() => begun,
        fault = transfer.failed() => Err(fault.clone()),
        fault = transfer.stalled(|| 0) => Err(fault),
    };
    if let Err(fault) = begun {
        transfer.fail(fault);
        let outcome = transfer.outcome().await;
        record.transferred(&transfer);
        return match outcome {
            Outcome::Failed(Fault::DestinationDisconnected) => Err(Unanswered::Departed),
            Outcome::Failed(fault) => Ok(reply::destination_fault(fault)),
            _ => Err(Refusal::Internal.into()),
        };
    }

    if version == Version::HTTP_10 && relay.length().is_none() {
        peer.socket().arm_reset();
    }
    let mut reply = Response::new(http_body_util::Either::Right(relay));
    *reply.headers_mut() = headers;
    put_over(&mut reply, transfer.headers(), Side::Destination);
    declare_type(reply.headers_mut());
    reply::close(&mut reply);
    record.downloads(&mut half);
    peer.receive(half);
    Ok(reply)
}

/// What a source brings by a request that a library has read.
pub(super) fn offer(peer: &Peer, request: Request<BodyStream>) -> Result<Box<Offer>, Refusal> {
    let (parts, body) = request.into_parts();
    if parts.headers.contains_key(CONTENT_RANGE) {
        let message = "A PUT with Content-Range is a part of something: streams carry whole bodies only";
        return Err(Refusal::BadRequest(message.into()));
    }
    let length = body.size_hint().exact();
    let values = |name: &HeaderName| parts.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
    let headers = passed_headers(values);
    let body = SourceBody::Stream(body, peer.own_wire());
    Ok(Box::new(Offer { body, length, headers }))
}

/// Of a source's headers those that go to the destination.
pub fn passed_headers<'a>(values: impl Fn(&HeaderName) -> Vec<&'a [u8]>) -> Option<Box<HeaderMap>> {
    let mut passed = HeaderMap::new();
    for name in PASSED_HEADERS {
        for value in values(&name).into_iter().filter_map(|value| HeaderValue::from_bytes(value).ok()) {
            passed.append(name.clone(), value);
        }
    }
    (!passed.is_empty()).then(|| Box::new(passed))
}

/// Those of a source's headers that describe the body it sends, and go to the destination.
const PASSED_HEADERS: [HeaderName; 6] = [
    CONTENT_TYPE,
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    CONTENT_DISPOSITION,
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// A stream is nobody's to keep, to guess at, to index, to resume or to hold back.
fn default_headers() -> HeaderMap {
    HeaderMap::from_iter([
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (HeaderName::from_static("x-robots-tag"), HeaderValue::from_static("none")),
        (ACCEPT_RANGES, HeaderValue::from_static("none")),
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ])
}

/// Puts the maker's headers over the answer's own, to be spelled as they were given.
fn put_over(reply: &mut Reply, headers: &StreamHeaders, side: Side) {
    if let Some(set) = headers.of(side) {
        let spellings = set.override_in(reply.headers_mut());
        reply.extensions_mut().insert(spellings);
    }
}

/// Sets the default `Content-Type`. Without a type, browsers show a download as text, and the stream is used up.
fn declare_type(headers: &mut HeaderMap) {
    if headers.get(CONTENT_TYPE).is_none_or(HeaderValue::is_empty) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    }
}
