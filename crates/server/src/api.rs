//! HTTP: from a request to a response. [`route()`] decides what a request gets, for both versions of HTTP and without I/O; the
//! driver of its connection carries that [`Action`] out.
//!
//! Knows nothing of listeners and connections but what [`ConnectionInfo`] shows. Every refusal and every ending
//! becomes a response in [`response`].

pub(crate) mod access;
pub(crate) mod connection;
pub(crate) mod cors;
mod front;
mod handlers;
pub(crate) mod head;
pub(crate) mod hosts;
pub mod json_body;
pub(crate) mod listing;
pub mod message;
pub(crate) mod openapi;
pub(crate) mod record;
pub(crate) mod refusal;
pub(crate) mod response;
pub(crate) mod route;
pub(crate) mod status;
pub(crate) mod transfer;

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use http::Version;
use rendezvous_core::budget::Budget;
use rendezvous_core::clients::Clients;
use rendezvous_core::rendezvous::Presence;
use rendezvous_core::token::{AuthError, RequiredToken};
use rendezvous_core::transfer::SourceHalf;
use rendezvous_net::splice::Pipes;
use rendezvous_protocol::Side;
use rendezvous_protocol::StreamId;

use crate::metrics::{Gauges, Metrics};
use crate::proxies::TrustedProxies;
use crate::request_body::{Offer, Pairing, Rendezvous, RequestBody, Seat};
use access::Access;
use connection::ConnectionInfo;
use cors::{Cors, Grant};
use head::RequestHead;
use hosts::Hosts;
use json_body::{BodyError, Metadata};
use record::Record;
use refusal::Refusal;
use response::Response;
use route::Route;

/// What all requests share.
pub(crate) struct App {
    /// Where the sides meet.
    pub rendezvous: Arc<Rendezvous>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// For bodies that the kernel moves; `None` where all are copied.
    pub pipes: Option<Arc<Pipes>>,
    /// How long a request's head, and a JSON body, may take, and how long a client may take nothing of a response.
    pub request_timeout: Duration,
    /// How long a connection is kept between two requests.
    pub keep_alive: Duration,
    /// How long a client's kernel may leave everything unanswered.
    pub peer_timeout: Duration,
    /// Who may do what that concerns no stream of theirs.
    pub access: Access,
    /// Which web pages may use it.
    pub cors: Cors,
    /// Which host names a listener on loopback accepts.
    pub hosts: Hosts,
    /// What each client has.
    pub clients: Clients,
    /// The memory of JSON bodies that are read, and of the header sets and error reports of all streams.
    pub metadata: Arc<Budget>,
    /// The memory of large answers that describe streams.
    pub answers: Arc<Budget>,
    /// Whose word is taken for whom they speak for.
    pub trusted_proxies: TrustedProxies,
}

impl App {
    /// Checks whether a request may use a route: its `Host`, the page that it is sent for, its purpose, its token.
    fn permit(
        &self,
        connection: ConnectionInfo,
        route: &Route,
        head: &impl RequestHead,
    ) -> Result<(), AuthError> {
        let entrance = connection.entrance;
        if !route.is_public() {
            // A proxy passes on the `Host` of its clients.
            if entrance.is_loopback && !connection.is_proxy {
                self.hosts.check(head)?;
            }
            self.cors.check(entrance, route, head)?;
        }
        if route.has_effect() {
            access::check_purpose(head)?;
        }
        let given = access::credential(head.values("authorization"), head.query());
        let of_stream = |id, needed| self.rendezvous.authorize(id, needed, given);
        match route {
            Route::Create => self.access.creation().check(given),
            Route::List => self.access.list(entrance).check(given),
            Route::Metrics => self.access.metrics(entrance).check(given),
            Route::Source(id) => of_stream(id, RequiredToken::Of(Side::Source)),
            Route::Destination(id) => of_stream(id, RequiredToken::Of(Side::Destination)),
            Route::Probe(id) | Route::Report(id) | Route::Status(id) => of_stream(id, RequiredToken::Either),
            Route::Front | Route::Ping | Route::Health | Route::Ready | Route::Describe => Ok(()),
        }
    }

    /// What `GET /metrics` shows besides what is counted there.
    fn gauges(&self) -> Gauges {
        Gauges {
            streams: self.rendezvous.census(),
            body_bytes: self.rendezvous.body_bytes(),
            pipes_in_use: self.pipes.as_ref().map_or(0, |pipes| pipes.in_use()),
        }
    }

    /// Who asks: the far end of the connection, or whom a trusted proxy there speaks for.
    fn client(&self, connection: ConnectionInfo, head: &impl RequestHead) -> IpAddr {
        let named = connection
            .is_proxy
            .then(|| self.trusted_proxies.client(head.values("forwarded"), head.values("x-forwarded-for")))
            .flatten();
        named.unwrap_or(connection.address)
    }
}

/// What the driver of a connection does for a request.
pub(crate) enum Action {
    /// Send this.
    Respond(Box<Response>),
    /// Read the JSON body, and respond by it.
    ReadJson(JsonRoute),
    /// Wait for the destination. The body that was offered is read by its task.
    Source(Seat<SourceHalf>),
    /// Wait for the source.
    Destination(Seat<Pairing>),
}

/// A route whose request has a JSON body.
pub(crate) enum JsonRoute {
    /// `POST /stream`, by this client.
    Create(IpAddr),
    /// `POST /stream/:id/error`
    Report(StreamId),
}

/// What is kept of a request until its response.
pub(crate) struct RequestContext {
    /// Its line in the access log.
    pub record: Record,
    /// For the web page that asks, if one does that may. Boxed: most requests have none.
    grant: Option<Box<Grant>>,
}

impl RequestContext {
    /// Completes the response.
    pub(crate) fn finish(&mut self, response: &mut Response) {
        if let Some(grant) = &self.grant {
            grant.put_on(&mut response.head.headers);
        }
        self.record.answered(response);
    }

    /// The response to a request that is refused, counted and recorded.
    pub(crate) fn refuse(&mut self, app: &App, refusal: impl Into<Refusal>) -> Response {
        let refusal = refusal.into();
        app.metrics.refused(response::refusal_name(&refusal));
        self.record.refused(&refusal);
        response::refusal(&refusal)
    }

    /// The response to a request whose JSON body was read.
    pub(crate) fn answer_json(
        &mut self,
        app: &App,
        route: JsonRoute,
        read: Result<Metadata, BodyError>,
    ) -> Response {
        let answered = read.map_err(Refusal::from).and_then(|json| route.answer(app, json, &mut self.record));
        answered.unwrap_or_else(|refusal| self.refuse(app, refusal))
    }
}

/// Decides what a request gets: its rights, its route and its seat. `body` is called for what is offered as a source, and `presence` is the
/// connection, whose departure frees the seat.
pub(crate) fn route(
    app: &App,
    connection: ConnectionInfo,
    head: &impl RequestHead,
    body: impl FnOnce() -> RequestBody,
    presence: &Arc<impl Presence + 'static>,
) -> (RequestContext, Action) {
    let record = Record::begin(app.client(connection, head), head.version());
    let grant = app.cors.grant(connection.entrance, head).map(Box::new);
    let mut context = RequestContext { record, grant };
    let decided = guard(|| decide(app, connection, head, body, presence, &mut context));
    let action = decided.unwrap_or_else(|refusal| respond(context.refuse(app, refusal)));
    (context, action)
}

/// Makes a refusal of a panic: one request must not end the others of its connection.
fn guard<T>(answer: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
    catch_unwind(AssertUnwindSafe(answer)).unwrap_or(Err(Refusal::Internal))
}

/// As [`route()`], for a request that is refused whatever it asks.
pub(crate) fn refuse(
    app: &App,
    connection: ConnectionInfo,
    version: Version,
    refusal: impl Into<Refusal>,
) -> (RequestContext, Action) {
    let mut context = RequestContext { record: Record::begin(connection.address, version), grant: None };
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
    let is_served = |route: &Route| app.access.serves(connection.entrance, route);
    let Some(route) = Route::parse(head.method(), head.path()).filter(is_served) else {
        let is_preflight = context.grant.is_some()
            && cors::is_preflight(head)
            && Route::of_path(head.path()).any(|route| is_served(&route));
        return if is_preflight { Ok(respond(response::preflight(head))) } else { Err(Refusal::BadRoute) };
    };
    let record = &mut context.record;
    record.asks(route.name());
    if let Some(id) = route.stream() {
        record.concerns(id);
    }
    app.permit(connection, &route, head)?;
    Ok(match route {
        Route::Source(id) => Action::Source(seat_source(app, head, &id, body, presence)?),
        Route::Destination(_) | Route::Probe(_) if has_body(head) => {
            let message = "A GET of a stream cannot have a body: to send, use PUT";
            return Err(Refusal::BadRequest(message));
        }
        Route::Destination(id) => {
            Action::Destination(app.rendezvous.seat_destination(&id, Arc::clone(presence) as _)?)
        }
        Route::Probe(id) => respond(handlers::probe(app, &id)?),
        Route::Create => read_json(app, head, JsonRoute::Create(app.client(connection, head)), record)?,
        Route::Report(id) => {
            app.rendezvous.check_reportable(&id)?;
            read_json(app, head, JsonRoute::Report(id), record)?
        }
        Route::List => respond(handlers::list(app)?),
        Route::Status(id) => respond(handlers::status(app, &id)?),
        Route::Metrics => respond(handlers::metrics(app, head)),
        Route::Front => respond(front::front(connection, head, app.access.create_token.is_some())),
        Route::Ping => respond(response::text("pong")),
        Route::Health => respond(response::text("ok")),
        Route::Ready => respond(handlers::ready(app)?),
        Route::Describe => respond(response::written_json(openapi::DOCUMENT)),
    })
}

fn respond(response: Response) -> Action {
    Action::Respond(Box::new(response))
}

/// Whether a request declares a body. HTTP/2 without `Content-Length` declares nothing before `END_STREAM`, which some proxies send
/// in an empty DATA frame of its own, so there it counts as none.
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
        route.answer(app, Metadata::default(), record).map(respond)
    } else {
        Ok(Action::ReadJson(route))
    }
}

impl JsonRoute {
    fn answer(self, app: &App, metadata: Metadata, record: &mut Record) -> Result<Response, Refusal> {
        guard(|| match self {
            Self::Create(client) => handlers::create(app, client, metadata, record),
            Self::Report(id) => handlers::report(app, &id, metadata),
        })
    }
}

fn seat_source(
    app: &App,
    head: &impl RequestHead,
    id: &StreamId,
    body: impl FnOnce() -> RequestBody,
    presence: &Arc<impl Presence + 'static>,
) -> Result<Seat<SourceHalf>, Refusal> {
    if head.has("content-range") {
        let message = "A PUT with Content-Range is a part of something: streams carry whole bodies only";
        return Err(Refusal::BadRequest(message));
    }
    let length = head.body_length();
    let offer = Offer { body: body(), length, headers: transfer::passed_headers(head) };
    Ok(app.rendezvous.seat_source(id, Box::new(offer), Arc::clone(presence) as _)?)
}
