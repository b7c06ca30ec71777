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
mod app;
pub(crate) mod connection;
mod context;
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
mod passing;
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

use futures_util::future::BoxFuture;
use http::Version;
use rendezvous_core::clients::Permit;
use rendezvous_core::outcome::TooMany;
use rendezvous_core::rendezvous::{Presence, SeatRequest};
use rendezvous_core::token::Credential;
use rendezvous_core::transfer::SourceHalf;
use rendezvous_protocol::{StreamId, StreamName};
use tokio_util::task::task_tracker::TaskTrackerToken;

pub(crate) use self::app::App;
pub(crate) use self::context::RequestContext;
pub(crate) use self::passing::Attempt;
use crate::hop::pass::{PassedSide, PassedSource};
use crate::hop::request::{self, HopRequest};
use crate::request_body::{Offer, Pairing, RequestBody, Seat};
use connection::{Audience, ConnectionInfo, ListenerInfo};
use head::RequestHead;
use json_body::JsonBody;
use record::Record;
use refusal::Refusal;
use response::{GeneratedResponse, Later, Response};
use route::{Route, RouteError};

/// The action that the driver of a connection must perform for a request.
pub(crate) enum Action {
    /// Send this response.
    Respond(Box<Response>),
    /// Send this response part by part, as long as the client stays.
    Generate(Box<GeneratedResponse>),
    /// Read the JSON body, then call [`RequestContext::json_response`].
    ReadJson(JsonRoute),
    /// Wait for the response, as long as the client stays.
    Wait(BoxFuture<'static, Result<Later, Refusal>>),
    /// Wait for the destination. The destination's task reads the source's body.
    Source(Seat<SourceHalf>),
    /// Wait for the source.
    Destination(Seat<Pairing>),
    /// Wait, then route the request again: which node has the stream is known better then.
    Reconsider(BoxFuture<'static, ()>),
    /// Wait for the destination at the node that has the stream, and pass the body on to it.
    PassSource(Box<PassedSource>),
    /// Wait for the source at the node that has the stream, and bring the body from it.
    PassDestination(PassedSide),
}

impl Action {
    /// Counts a side in a cluster. It holds the count while it is routed again, so that a drain of this node waits for it without a gap.
    pub(crate) fn count(&self, app: &App) -> Option<TaskTrackerToken> {
        let is_side = matches!(
            self,
            Self::Source(_) | Self::Destination(_) | Self::PassSource(_) | Self::PassDestination(_)
        );
        app.cluster.as_ref().filter(|_| is_side).map(|cluster| cluster.sides.token())
    }
}

/// A route whose request has a JSON body.
pub(crate) enum JsonRoute {
    /// `POST /stream`, from this client.
    Create(IpAddr),
    /// `POST /stream/:id/error`.
    Report(StreamId),
    /// The same for a stream of another node.
    Pass(StreamName, HopRequest),
    /// `POST /stream` while this node drains, for another node.
    CreateElsewhere(HopRequest),
}

/// Routes and authorizes a request, and takes its seat.
///
/// `body` is called only for a source. `presence` is the connection or HTTP/2 stream; the seat is freed when it disconnects. It may have been
/// routed before.
pub(crate) fn route(
    app: &App,
    connection: ConnectionInfo,
    head: &impl RequestHead,
    body: impl FnOnce() -> RequestBody,
    presence: &Arc<impl Presence + 'static>,
    attempt: Attempt,
) -> (RequestContext, Action) {
    let record = Record::begin(app.client(connection, head), head.version());
    let origin = app.cors.allowed_origin(connection.listener, head).map(Box::new);
    let mut context = RequestContext { record, origin };
    let decided = guard(|| decide(app, connection, head, body, presence, &mut context, attempt));
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
    attempt: Attempt,
) -> Result<Action, Refusal> {
    let listener = connection.listener;
    let route = match target(app, listener, head, context.origin.is_some())? {
        Target::Route(route) => route,
        Target::Preflight => return Ok(respond(response::preflight(head))),
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
    let is_hop = listener.audience == Audience::Nodes;
    if let Some(cluster) = &app.cluster
        && let Some(why) = passing::elsewhere(app, cluster, is_hop, &route)
    {
        let request = passing::Request { connection, route: &route, head, attempt };
        return passing::pass_on(app, cluster, why, &request, body, record);
    }
    if is_hop && route == Route::Ping {
        // Two a second from each node.
        record.cancel();
    }
    Ok(match route {
        Route::Source(name) => {
            Action::Source(seat_source(app, connection, head, &name, body, presence, attempt)?)
        }
        // On a hop, the body of a GET is the receipt.
        Route::Destination(_) | Route::Probe(_) if has_body(head) && !is_hop => return Err(no_body()),
        Route::Destination(name) => {
            let request = seat_request(app, connection, head, &name, presence, attempt);
            Action::Destination(app.rendezvous.seat_destination(request)?)
        }
        Route::Probe(name) => respond(handlers::probe(app, &name)?),
        Route::Create => read_json(app, head, JsonRoute::Create(app.client(connection, head)), record)?,
        Route::Report(id) => {
            app.rendezvous.check_reportable(&id)?;
            read_json(app, head, JsonRoute::Report(id), record)?
        }
        Route::List => match &app.cluster {
            Some(_) if is_hop => handlers::own_list(app)?,
            Some(cluster) => passing::list(app, cluster, head),
            None => handlers::list(app)?,
        },
        Route::ListEvents => match &app.cluster {
            Some(cluster) if !is_hop => watching::events_of_all_nodes(app, cluster),
            _ => watching::all_events(app),
        },
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

/// What a request is for.
enum Target {
    Route(Route),
    /// A preflight request of a page of an allowed origin.
    Preflight,
}

fn target(
    app: &App,
    listener: ListenerInfo,
    head: &impl RequestHead,
    is_allowed_origin: bool,
) -> Result<Target, RouteError> {
    let is_served = |route: &Route| app.serves(listener, route);
    match Route::parse(head.method(), head.path()) {
        Ok(route) if is_served(&route) => Ok(Target::Route(route)),
        Err(bad @ RouteError::BadPath(_)) if app.serves_paths(listener) => Err(bad),
        _ => {
            let is_preflight = is_allowed_origin
                && cors::is_preflight(head)
                && Route::of_path(head.path()).any(|route| is_served(&route));
            if is_preflight { Ok(Target::Preflight) } else { Err(RouteError::Unknown) }
        }
    }
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

/// Returns the refusal of a body where none may be.
fn no_body() -> Refusal {
    Refusal::BadRequest("A GET or HEAD cannot have a body here: to send, use PUT")
}

/// Refuses a part of a body.
fn check_whole_body(head: &impl RequestHead) -> Result<(), Refusal> {
    if head.has("content-range") {
        let message = "A stream carries whole bodies only: send the PUT without Content-Range";
        return Err(Refusal::BadRequest(message));
    }
    Ok(())
}

fn read_json(
    app: &App,
    head: &impl RequestHead,
    route: JsonRoute,
    record: &mut Record,
) -> Result<Action, Refusal> {
    let is_here = matches!(route, JsonRoute::Create(_) | JsonRoute::Report(_));
    if head.body_length() == Some(0) && is_here {
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
            // It is not handled here.
            Self::Pass(..) | Self::CreateElsewhere(_) => Err(Refusal::Internal),
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
    attempt: Attempt,
) -> SeatRequest<'a, impl FnOnce() -> Result<Option<Permit>, TooMany>> {
    SeatRequest {
        name,
        presence: Arc::clone(presence) as _,
        wait: preferences::wait(head),
        waited: match connection.listener.audience {
            Audience::Nodes => request::waited(head),
            Audience::Clients | Audience::Operators => attempt.waited(),
        },
        creation: match connection.listener.audience {
            Audience::Nodes => request::creation(head),
            Audience::Clients | Audience::Operators => app.access.creation().check(credential(head)),
        },
        permit: move || app.clients.create(app.client(connection, head)),
    }
}

fn seat_source(
    app: &App,
    connection: ConnectionInfo,
    head: &impl RequestHead,
    name: &StreamName,
    body: impl FnOnce() -> RequestBody,
    presence: &Arc<impl Presence + 'static>,
    attempt: Attempt,
) -> Result<Seat<SourceHalf>, Refusal> {
    check_whole_body(head)?;
    let length = head.body_length();
    let offer = Offer { body: body(), length, headers: transfer::passed_headers(head) };
    let request = seat_request(app, connection, head, name, presence, attempt);
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
