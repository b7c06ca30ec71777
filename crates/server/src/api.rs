//! The HTTP API (docs/api.md): routing, authorization and responses, shared by HTTP/1 and HTTP/2.
//!
//! [`route()`] takes a request head and returns an [`Action`]: a response, a JSON body to read, or a seat to wait in. It does no I/O; the
//! driver of the connection (`http1` or `http2`) carries the action out.
//!
//! *Invariants.* This module depends on no listener or connection, only on [`ConnectionInfo`]. [`response`] is the only place that turns a
//! refusal or an outcome into a response. A panic within a request becomes a 500.
//!
//! *Concurrency.* [`App`] is shared by all connections and is not locked as a whole.
//!
//! *Bounds.* `App::metadata_memory` limits JSON bodies, stored header sets and reports; `App::response_memory` limits large responses.
//! `App::upload_memory` limits bodies over HTTP/2.

pub(crate) mod access;
pub(crate) mod connection;
pub(crate) mod cors;
pub(crate) mod errors;
pub(crate) mod events;
mod front;
pub(crate) mod generated;
mod handlers;
pub(crate) mod head;
pub(crate) mod hosts;
pub(crate) mod json_body;
pub(crate) mod listing;
pub(crate) mod message;
pub(crate) mod openapi;
pub(crate) mod preferences;
pub(crate) mod record;
pub(crate) mod refusal;
pub(crate) mod response;
pub(crate) mod route;
pub(crate) mod status;
pub(crate) mod transfer;
mod watching;

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Version;
use rendezvous_core::budget::Budget;
use rendezvous_core::clients::{Clients, Permit};
use rendezvous_core::outcome::SeatError;
use rendezvous_core::rendezvous::{Presence, SeatRequest};
use rendezvous_core::token::{AuthError, Credential, RequiredToken};
use rendezvous_core::transfer::SourceHalf;
use rendezvous_net::splice::Pipes;
use rendezvous_protocol::{Period, Side, StreamId, StreamName};

use crate::metrics::{Gauges, Metrics};
use crate::proxies::TrustedProxies;
use crate::request_body::{Offer, Pairing, Rendezvous, RequestBody, Seat};
use access::Access;
use connection::{Audience, ConnectionInfo, ListenerInfo};
use cors::{AllowedOrigin, Cors};
use head::RequestHead;
use hosts::Hosts;
use json_body::{BodyError, JsonBody};
use record::Record;
use refusal::Refusal;
use response::{Body, GeneratedResponse, Response, ResponseHead};
use route::{Route, RouteError};

/// The state and the settings that all requests share.
pub(crate) struct App {
    /// The table of all streams.
    pub rendezvous: Arc<Rendezvous>,
    /// The metrics of the server.
    pub metrics: Arc<Metrics>,
    /// The pipes for splice(2); `None` if all bodies are copied through user space.
    pub pipes: Option<Arc<Pipes>>,
    /// The timeout for a TLS handshake, a request head, a JSON body, and a client that reads nothing of a response.
    pub request_timeout: Duration,
    /// Whether there are named paths.
    pub has_paths: bool,
    /// The longest `ttl` that a new stream may ask for.
    pub max_ttl: Period,
    /// The limit on the bytes of a request head.
    pub max_head_bytes: usize,
    /// The timeout of an idle connection between two requests.
    pub keep_alive: Duration,
    /// The timeout after which a client whose kernel acknowledges nothing counts as disconnected.
    pub peer_timeout: Duration,
    /// The authorization of requests that need no token of a stream.
    pub access: Access,
    /// The web origins that may use the server.
    pub cors: Cors,
    /// The host names that a loopback listener accepts.
    pub hosts: Hosts,
    /// The quotas of each client: connections, streams and creations.
    pub clients: Clients,
    /// The memory budget of JSON bodies that are being read, and of the header sets and error reports of all streams.
    pub metadata_memory: Arc<Budget>,
    /// The memory budget of large responses that describe streams.
    pub response_memory: Arc<Budget>,
    /// The memory budget of HTTP/2 uploads: those that wait, and large windows of those that are passed on.
    pub upload_memory: Arc<Budget>,
    /// The maximum number of requests of an HTTP/2 connection at a time.
    pub max_streams_per_connection: u32,
    /// The proxies whose `Forwarded` and `X-Forwarded-For` fields are trusted.
    pub trusted_proxies: TrustedProxies,
}

impl App {
    /// Whether a listener serves named paths.
    fn serves_paths(&self, listener: ListenerInfo) -> bool {
        self.has_paths && listener.audience == Audience::Clients
    }

    /// Whether a listener serves a route.
    fn serves(&self, listener: ListenerInfo, route: &Route) -> bool {
        self.access.serves(listener, route) && (self.has_paths || !route.is_named_path())
    }

    /// Checks the `Host`, origin, purpose and token of a request (docs/api.md, section 2, "Rights"). Affects no stream.
    fn authorize(
        &self,
        connection: ConnectionInfo,
        route: &Route,
        head: &impl RequestHead,
    ) -> Result<(), AuthError> {
        let listener = connection.listener;
        if !route.is_public() {
            // A proxy forwards the `Host` of its clients, which is a public name.
            if listener.is_loopback && !connection.is_proxy {
                self.hosts.check(head)?;
            }
            self.cors.check(listener, route, head)?;
        }
        if route.has_effect() {
            access::check_purpose(head)?;
        }
        let credential = credential(head);
        let of_stream = |id, needed| self.rendezvous.authorize(id, needed, credential);
        match route {
            Route::Create => self.access.creation().check(credential),
            Route::List | Route::ListEvents => self.access.list(listener).check(credential),
            Route::Metrics => self.access.metrics(listener).check(credential),
            Route::Source(StreamName::Id(id)) => of_stream(id, RequiredToken::Of(Side::Source)),
            Route::Destination(StreamName::Id(id)) => of_stream(id, RequiredToken::Of(Side::Destination)),
            Route::Probe(StreamName::Id(id)) | Route::Report(id) | Route::Status(id) | Route::Events(id) => {
                of_stream(id, RequiredToken::Either)
            }
            // The first side of a path is checked with the table locked.
            Route::Source(StreamName::Path(_))
            | Route::Destination(StreamName::Path(_))
            | Route::Probe(StreamName::Path(_))
            | Route::Front
            | Route::Ping
            | Route::Health
            | Route::Ready
            | Route::OpenApi => Ok(()),
        }
    }

    /// Checks whether a client may create a stream: by its token, and by its quotas. Counts the stream.
    fn may_create(
        &self,
        client: IpAddr,
        credential: Option<Credential<'_>>,
    ) -> Result<Option<Permit>, SeatError> {
        self.access.creation().check(credential)?;
        Ok(self.clients.create(client)?)
    }

    /// Returns the values that are read at each `GET /metrics`.
    fn gauges(&self) -> Gauges {
        Gauges {
            streams: self.rendezvous.censuses(),
            body_bytes: self.rendezvous.body_bytes(),
            pipes_in_use: self.pipes.as_ref().map_or(0, |pipes| pipes.in_use()),
        }
    }

    /// Returns the client's address: the peer of the connection, or the address that a trusted proxy forwards.
    fn client(&self, connection: ConnectionInfo, head: &impl RequestHead) -> IpAddr {
        let forwarded = connection
            .is_proxy
            .then(|| self.trusted_proxies.client(head.values("forwarded"), head.values("x-forwarded-for")))
            .flatten();
        forwarded.unwrap_or(connection.address)
    }
}

/// The action that the driver of a connection must perform for a request.
pub(crate) enum Action {
    /// Send this response.
    Respond(Box<Response>),
    /// Send this response part by part, as long as the client stays.
    Generate(Box<GeneratedResponse>),
    /// Read the JSON body, then call [`RequestContext::json_response`].
    ReadJson(JsonRoute),
    /// Wait for the response, as long as the client stays.
    Wait(BoxFuture<'static, Result<Response, Refusal>>),
    /// Wait for the destination. The destination's task reads the source's body.
    Source(Seat<SourceHalf>),
    /// Wait for the source.
    Destination(Seat<Pairing>),
}

/// A route whose request has a JSON body.
pub(crate) enum JsonRoute {
    /// `POST /stream`, from this client.
    Create(IpAddr),
    /// `POST /stream/:id/error`.
    Report(StreamId),
}

/// State that a request needs until its response.
pub(crate) struct RequestContext {
    /// The request's line in the access log.
    pub record: Record,
    /// The allowed origin for the CORS fields. Boxed, because most requests have none.
    origin: Option<Box<AllowedOrigin>>,
}

impl RequestContext {
    /// Adds the CORS fields to the response and records it for the access log.
    pub(crate) fn finish(&mut self, response: &mut Response) {
        self.finish_head(&mut response.head);
        if let Body::Bytes(body) = &response.body {
            self.record.add_bytes(body.len() as u64);
            if response.head.status.is_success() {
                self.record.set_answered();
            }
        }
    }

    /// Like [`RequestContext::finish`]. The line in the access log is logged when the body is dropped.
    pub(crate) fn finish_generated(&mut self, response: &mut GeneratedResponse) {
        self.finish_head(&mut response.head);
        response.body.log_with(self.record.take());
    }

    fn finish_head(&mut self, head: &mut ResponseHead) {
        if let Some(origin) = &self.origin {
            origin.add_to(&mut head.headers);
        }
        self.record.set_status(head.status);
    }

    /// Returns the response to a refused request, and records the refusal in the metrics and the access log.
    pub(crate) fn refuse(&mut self, app: &App, refusal: impl Into<Refusal>) -> Response {
        let refusal = refusal.into();
        app.metrics.refused(errors::refusal_name(&refusal));
        self.record.set_refusal(&refusal);
        response::refusal(&refusal)
    }

    /// Returns the response that was waited for.
    pub(crate) fn later_response(&mut self, app: &App, response: Result<Response, Refusal>) -> Response {
        response.unwrap_or_else(|refusal| self.refuse(app, refusal))
    }

    /// Returns the response to a request whose JSON body was read.
    pub(crate) fn json_response(
        &mut self,
        app: &App,
        route: JsonRoute,
        body: Result<JsonBody, BodyError>,
    ) -> Response {
        let response = body.map_err(Refusal::from).and_then(|body| route.handle(app, body, &mut self.record));
        response.unwrap_or_else(|refusal| self.refuse(app, refusal))
    }
}

/// Routes and authorizes a request, and takes its seat.
///
/// `body` is called only for a source. `presence` is the connection or HTTP/2 stream; the seat is freed when it disconnects.
pub(crate) fn route(
    app: &App,
    connection: ConnectionInfo,
    head: &impl RequestHead,
    body: impl FnOnce() -> RequestBody,
    presence: &Arc<impl Presence + 'static>,
) -> (RequestContext, Action) {
    let record = Record::begin(app.client(connection, head), head.version());
    let origin = app.cors.allowed_origin(connection.listener, head).map(Box::new);
    let mut context = RequestContext { record, origin };
    let decided = guard(|| decide(app, connection, head, body, presence, &mut context));
    let action = decided.unwrap_or_else(|refusal| respond(context.refuse(app, refusal)));
    (context, action)
}

/// Turns a panic into a refusal, so that it does not end the other requests of the connection.
fn guard<T>(handler: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
    catch_unwind(AssertUnwindSafe(handler)).unwrap_or(Err(Refusal::Internal))
}

/// Like [`route()`], for a request that is refused before it is routed.
pub(crate) fn refuse(
    app: &App,
    connection: ConnectionInfo,
    version: Version,
    refusal: impl Into<Refusal>,
) -> (RequestContext, Action) {
    let mut context = RequestContext { record: Record::begin(connection.address, version), origin: None };
    let action = respond(context.refuse(app, refusal));
    (context, action)
}

fn decide(
    app: &App,
    connection: ConnectionInfo,
    head: &impl RequestHead,
    body: impl FnOnce() -> RequestBody,
    presence: &Arc<impl Presence + 'static>,
    context: &mut RequestContext,
) -> Result<Action, Refusal> {
    let listener = connection.listener;
    let is_served = |route: &Route| app.serves(listener, route);
    let route = match Route::parse(head.method(), head.path()) {
        Ok(route) if is_served(&route) => route,
        Err(bad @ RouteError::BadPath(_)) if app.serves_paths(listener) => return Err(bad.into()),
        _ => {
            let is_preflight = context.origin.is_some()
                && cors::is_preflight(head)
                && Route::of_path(head.path()).any(|route| is_served(&route));
            return if is_preflight {
                Ok(respond(response::preflight(head)))
            } else {
                Err(RouteError::Unknown.into())
            };
        }
    };
    let record = &mut context.record;
    record.set_route(route.name());
    if let Some(name) = route.stream() {
        record.set_stream(name);
    }
    app.authorize(connection, &route, head)?;
    if route.is_named_path() {
        check_count(head)?;
    }
    Ok(match route {
        Route::Source(name) => Action::Source(seat_source(app, connection, head, &name, body, presence)?),
        Route::Destination(_) | Route::Probe(_) if has_body(head) => {
            let message = "A GET of a stream cannot have a body: to send, use PUT";
            return Err(Refusal::BadRequest(message));
        }
        Route::Destination(name) => {
            let request = seat_request(app, connection, head, &name, presence);
            Action::Destination(app.rendezvous.seat_destination(request)?)
        }
        Route::Probe(name) => respond(handlers::probe(app, &name)?),
        Route::Create => read_json(app, head, JsonRoute::Create(app.client(connection, head)), record)?,
        Route::Report(id) => {
            app.rendezvous.check_reportable(&id)?;
            read_json(app, head, JsonRoute::Report(id), record)?
        }
        Route::List => handlers::list(app)?,
        Route::ListEvents => watching::all_events(app),
        Route::Status(id) => watching::status(app, head, id)?,
        Route::Events(id) => watching::events(app, head, id)?,
        Route::Metrics => respond(handlers::metrics(app, head)),
        Route::Front => respond(front::front(connection, head, app.access.create_token.is_some())),
        Route::Ping => respond(response::text("pong")),
        Route::Health => respond(response::text("ok")),
        Route::Ready => respond(handlers::ready(app)?),
        Route::OpenApi => respond(response::static_json(openapi::DOCUMENT)),
    })
}

fn respond(response: Response) -> Action {
    Action::Respond(Box::new(response))
}

fn generate(response: GeneratedResponse) -> Action {
    Action::Generate(Box::new(response))
}

/// Whether a request declares a body.
///
/// An HTTP/2 request without `Content-Length` counts as one without a body: some proxies send its `END_STREAM` in a separate, empty DATA
/// frame.
fn has_body(head: &impl RequestHead) -> bool {
    head.body_length().map_or(head.version() != Version::HTTP_2, |length| length > 0)
}

fn read_json(
    app: &App,
    head: &impl RequestHead,
    route: JsonRoute,
    record: &mut Record,
) -> Result<Action, Refusal> {
    if head.body_length() == Some(0) {
        route.handle(app, JsonBody::default(), record).map(respond)
    } else {
        Ok(Action::ReadJson(route))
    }
}

impl JsonRoute {
    fn handle(self, app: &App, body: JsonBody, record: &mut Record) -> Result<Response, Refusal> {
        guard(|| match self {
            Self::Create(client) => handlers::create(app, client, body, record),
            Self::Report(id) => handlers::report(app, &id, body),
        })
    }
}

/// Returns the request of a side for its seat.
fn seat_request<'a>(
    app: &'a App,
    connection: ConnectionInfo,
    head: &'a impl RequestHead,
    name: &'a StreamName,
    presence: &Arc<impl Presence + 'static>,
) -> SeatRequest<'a, impl FnOnce() -> Result<Option<Permit>, SeatError>> {
    SeatRequest {
        name,
        presence: Arc::clone(presence) as _,
        wait: preferences::wait(head),
        may_create: move || app.may_create(app.client(connection, head), credential(head)),
    }
}

fn seat_source(
    app: &App,
    connection: ConnectionInfo,
    head: &impl RequestHead,
    name: &StreamName,
    body: impl FnOnce() -> RequestBody,
    presence: &Arc<impl Presence + 'static>,
) -> Result<Seat<SourceHalf>, Refusal> {
    if head.has("content-range") {
        let message = "A stream carries whole bodies only: send the PUT without Content-Range";
        return Err(Refusal::BadRequest(message));
    }
    let length = head.body_length();
    let offer = Offer { body: body(), length, headers: transfer::passed_headers(head) };
    let request = seat_request(app, connection, head, name, presence);
    Ok(app.rendezvous.seat_source(request, Box::new(offer))?)
}

/// Refuses a number of destinations other than one.
fn check_count(head: &impl RequestHead) -> Result<(), RouteError> {
    let mut counts = head.query().into_iter().flat_map(|query| query.split('&'));
    let is_other = |parameter: &str| parameter == "n" || parameter.starts_with("n=") && parameter != "n=1";
    if counts.any(is_other) { Err(RouteError::SeveralDestinations) } else { Ok(()) }
}

/// Returns the credential of a request.
fn credential(head: &impl RequestHead) -> Option<Credential<'_>> {
    access::credential(head.values("authorization"), head.query())
}
