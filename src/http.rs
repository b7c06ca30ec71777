//! HTTP: from a request to an answer. One match over [`route::Route`] leads to one function for each route.
//!
//! Knows nothing of listeners and connections but what [`peer::Peer`] shows. Every refusal and every ending
//! becomes an answer in [`reply`].

pub mod access;
pub mod cors;
mod handlers;
pub mod head;
pub mod hosts;
pub mod json_body;
pub mod message;
pub mod openapi;
pub mod peer;
pub mod record;
pub mod reply;
pub mod route;
pub mod spelling;
pub mod status;

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, lazy};
use http::header::FORWARDED;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Version};
use hyper::body::Body;

use crate::budget::Budget;
use crate::clients::Clients;
use crate::header_set::Spellings;
use crate::id::StreamId;
use crate::metrics::Metrics;
use crate::outcome::{Refusal, Side};
use crate::proxies::TrustedProxies;
use crate::relay::{BodyStream, Offer};
use crate::rendezvous::Rendezvous;
use crate::token::Needed;
use access::Access;
use cors::{Cors, Grant};
use handlers::Unanswered;
pub use handlers::passed_headers;
use head::RequestHead;
use hosts::Hosts;
use json_body::{RequestBody, StreamSettings};
use peer::Peer;
use record::Record;
use reply::Reply;
use route::Route;

/// What all requests share.
pub struct App {
    /// Where the sides meet.
    pub rendezvous: Arc<Rendezvous>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How long a request's head, and a JSON body, may take.
    pub request_timeout: Duration,
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
    /// Checks whether a request may use a route: its `Host`, the page that it is sent for, its purpose, its token. Every lane
    /// calls this before a handler.
    ///
    /// # Errors
    /// [`Refusal::Unauthorized`] or [`Refusal::Forbidden`].
    pub fn permit(&self, peer: &Peer, route: &Route, head: &impl RequestHead) -> Result<(), Refusal> {
        let entrance = peer.entrance();
        if !route.is_public() {
            // A proxy passes on the `Host` of its clients.
            if entrance.is_loopback && !peer.is_proxy() {
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
            Route::Source(id) => of_stream(id, Needed::Of(Side::Source)),
            Route::Destination(id) => of_stream(id, Needed::Of(Side::Destination)),
            Route::Probe(id) | Route::Report(id) | Route::Status(id) => of_stream(id, Needed::Either),
            Route::Ping | Route::Health | Route::Ready | Route::Describe => Ok(()),
        }
    }

    /// Who asks: the other end of the connection, or whom a trusted proxy there speaks for, by the values of `Forwarded` and
    /// `X-Forwarded-For`.
    pub fn client<'a>(
        &self,
        peer: &Peer,
        forwarded: impl IntoIterator<Item = &'a [u8]>,
        x_forwarded_for: impl IntoIterator<Item = &'a [u8]>,
    ) -> IpAddr {
        let named =
            peer.is_proxy().then(|| self.trusted_proxies.client(forwarded, x_forwarded_for)).flatten();
        named.unwrap_or(peer.address())
    }

    /// The answer to a request that gets nothing, counted and recorded.
    fn refuse(&self, record: &mut Record, refusal: &Refusal) -> Reply {
        self.metrics.refused(refusal);
        record.refused(refusal);
        reply::refusal(refusal)
    }
}

/// The client has gone: there is nobody to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client has left")]
pub struct Departed;

/// As proxies name it who know nothing of RFC 7239.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Answers a request that a library has read.
///
/// # Errors
/// [`Departed`]: the connection is to be dropped.
pub async fn answer(
    app: &App,
    peer: &Arc<Peer>,
    request: Box<Request<BodyStream>>,
) -> Result<Reply, Departed> {
    let version = request.version();
    let mut record = Record::begin(client(app, peer, request.headers()), version);
    // Boxed: a waiting side, mostly without a grant, does not reserve space for it.
    let grant = app.cors.grant(peer.entrance(), &*request).map(Box::new);
    // Lazily: what it does at once is then in the future too, where a panic is caught.
    let answering = lazy(|_| dispatch(app, peer, request, grant.as_deref(), &mut record)).flatten();
    let answered = AssertUnwindSafe(answering).catch_unwind().await;
    let mut reply = settle(app, version, &mut record, answered)?;
    if let Some(grant) = grant {
        grant.put_on(reply.headers_mut());
    }
    Ok(reply)
}

/// The answer to a request that is not to be read.
pub fn refuse(app: &App, peer: &Peer, version: Version, refusal: &Refusal) -> Reply {
    let mut record = Record::begin(peer.address(), version);
    let reply = app.refuse(&mut record, refusal);
    record.answered(&reply);
    reply
}

/// Answers a request that hyper has read, so that hyper spells the answer's headers as they were given.
///
/// # Errors
/// [`Departed`]: the connection is to be dropped.
pub async fn answer_spelled(
    app: Arc<App>,
    peer: Arc<Peer>,
    request: Request<BodyStream>,
) -> Result<Reply, Departed> {
    let mut reply = answer(&app, &peer, Box::new(request)).await?;
    if let Some(spellings) = reply.extensions_mut().remove::<Spellings>() {
        reply.extensions_mut().extend(spelling::extensions(spellings.of_lines()).await);
    }
    Ok(reply)
}

/// A request in the plainest form, read without hyper.
pub struct PlainRequest {
    /// The version of the request.
    pub version: Version,
    /// Who asks: what [`App::client`] said.
    pub client: IpAddr,
    /// What it asks for.
    pub asks: Asks,
    /// Whether it may: what [`App::permit`] said. Boxed: a waiting side does not reserve space for it.
    pub permitted: Result<(), Box<Refusal>>,
}

/// What may be asked for in the plainest form.
pub enum Asks {
    /// A stream with nothing special about it.
    Create,
    /// To be the source of this stream.
    Source(StreamId, Box<Offer>),
    /// To be the destination of this stream.
    Destination(StreamId),
}

impl Asks {
    fn route(&self) -> Route {
        match self {
            Self::Create => Route::Create,
            Self::Source(id, _) => Route::Source(id.clone()),
            Self::Destination(id) => Route::Destination(id.clone()),
        }
    }
}

/// Answers a request that did not go through hyper.
///
/// # Errors
/// [`Departed`]: the connection is to be dropped.
pub async fn answer_plain(
    app: &App,
    peer: &Arc<Peer>,
    request: Box<PlainRequest>,
) -> Result<Reply, Departed> {
    let version = request.version;
    let mut record = Record::begin(request.client, version);
    // As in [`answer`].
    let answering = lazy(|_| dispatch_plain(app, peer, *request, &mut record)).flatten();
    let answered = AssertUnwindSafe(answering).catch_unwind().await;
    settle(app, version, &mut record, answered)
}

/// As [`dispatch`].
fn dispatch_plain<'a>(
    app: &'a App,
    peer: &'a Arc<Peer>,
    request: PlainRequest,
    record: &'a mut Record,
) -> impl Future<Output = Result<Reply, Unanswered>> + use<'a> {
    let PlainRequest { version, client, asks, permitted } = request;
    note(record, &asks.route());
    match asks {
        Asks::Source(id, offer) => {
            let offer = permitted.map(|()| offer);
            Either::Left(handlers::source(app, peer, &id, offer, record).left_future())
        }
        Asks::Destination(id) => {
            Either::Left(handlers::destination(app, peer, &id, permitted, version, record).right_future())
        }
        Asks::Create => Either::Right(async move {
            permitted?;
            Ok(handlers::create_with(app, client, StreamSettings::default(), None, record)?)
        }),
    }
}

/// Notes what a request asks for, and of which stream.
fn note(record: &mut Record, route: &Route) {
    record.asks(route.name());
    if let Some(id) = route.stream() {
        record.concerns(id);
    }
}

/// Makes an answer of whatever came of a request, also of a panic.
fn settle(
    app: &App,
    version: Version,
    record: &mut Record,
    answered: std::thread::Result<Result<Reply, Unanswered>>,
) -> Result<Reply, Departed> {
    let mut reply = match answered.unwrap_or(Err(Refusal::Internal.into())) {
        Ok(reply) => reply,
        Err(Unanswered::Refused { refusal, closes }) => {
            let mut reply = app.refuse(record, &refusal);
            if closes {
                reply::close(&mut reply);
            }
            reply
        }
        Err(Unanswered::Departed) => return Err(Departed),
    };
    record.answered(&reply);
    if version == Version::HTTP_10 {
        // Said so, hyper does not add a keep-alive of its own.
        *reply.version_mut() = version;
        reply::close(&mut reply);
    }
    Ok(reply)
}

/// Who asks, by a request that a library has read.
fn client(app: &App, peer: &Peer, headers: &HeaderMap) -> IpAddr {
    let values = |name| headers.get_all(name).iter().map(HeaderValue::as_bytes);
    app.client(peer, values(FORWARDED), values(X_FORWARDED_FOR))
}

/// `grant` is for the web page that asks, if one does that may.
///
/// What can be done at once is done here: a side that waits is what comes back, and carries nothing that led to it. What others
/// need is in a box.
fn dispatch<'a>(
    app: &'a App,
    peer: &'a Arc<Peer>,
    request: Box<Request<BodyStream>>,
    grant: Option<&'a Grant>,
    record: &'a mut Record,
) -> impl Future<Output = Result<Reply, Unanswered>> + use<'a> {
    if let Some(refusal) = peer.wire().take_refusal() {
        return Either::Right(async { Err(refusal.into()) }.boxed());
    }
    let version = request.version();
    match route(app, peer, &request, record) {
        (Some(Route::Source(id)), permitted) => {
            let offer = permitted.and_then(|()| handlers::offer(peer, *request).map_err(Box::new));
            Either::Left(handlers::source(app, peer, &id, offer, record).left_future())
        }
        (Some(Route::Destination(_) | Route::Probe(_)), Ok(())) if has_body(&request) => {
            let message = "A GET of a stream cannot have a body: to send, use PUT";
            let refused = Unanswered::from(Refusal::BadRequest(message.into()));
            // The body may never arrive, so it is not read.
            Either::Right(async { Err(refused.closing()) }.boxed())
        }
        (Some(Route::Destination(id)), permitted) => {
            let body = RequestBody::new(*request, app.request_timeout);
            let answering = handlers::destination(app, peer, &id, permitted, version, record);
            Either::Left(answering.then(|answered| Box::pin(finish(body, answered))).right_future())
        }
        (route, permitted) => {
            Either::Right(answer_at_once(app, peer, request, grant, route, permitted, record).boxed())
        }
    }
}

/// Whether a request declares a body. HTTP/2 without `Content-Length` declares nothing before `END_STREAM`, which some proxies send
/// in an empty DATA frame of its own, so there it counts as none.
fn has_body(request: &Request<BodyStream>) -> bool {
    match request.body().size_hint().exact() {
        Some(length) => length > 0,
        None => request.version() != Version::HTTP_2,
    }
}

/// What is asked for, and whether it may be.
fn route(
    app: &App,
    peer: &Peer,
    request: &Request<BodyStream>,
    record: &mut Record,
) -> (Option<Route>, Result<(), Box<Refusal>>) {
    let route = Route::parse(request.method(), request.uri().path());
    let Some(route) = route.filter(|route| app.access.serves(peer.entrance(), route)) else {
        return (None, Ok(()));
    };
    note(record, &route);
    let permitted = app.permit(peer, &route, request).map_err(Box::new);
    (Some(route), permitted)
}

/// Answers a request that waits for nobody.
async fn answer_at_once(
    app: &App,
    peer: &Peer,
    request: Box<Request<BodyStream>>,
    grant: Option<&Grant>,
    route: Option<Route>,
    permitted: Result<(), Box<Refusal>>,
    record: &mut Record,
) -> Result<Reply, Unanswered> {
    let asked = match (route, permitted) {
        (Some(Route::Metrics), Ok(())) => Err(handlers::metrics(app, request.headers())),
        (Some(route), Ok(())) => Ok(route),
        (Some(_), Err(refusal)) => Err(app.refuse(record, &refusal)),
        (None, _) => Err(no_such_route(app, peer, &request, grant, record)),
    };
    let client = client(app, peer, request.headers());
    let mut body = RequestBody::new(*request, app.request_timeout);
    let answered = match asked {
        Err(reply) => Ok(reply),
        // They were answered before.
        Ok(Route::Source(_) | Route::Destination(_) | Route::Metrics) => Err(Refusal::BadRoute.into()),
        Ok(Route::Create) => handlers::create(app, client, &mut body, record).await.map_err(Unanswered::from),
        Ok(Route::Report(id)) => handlers::report(app, &id, &mut body).await.map_err(Unanswered::from),
        Ok(Route::List) => handlers::list(app).map_err(Unanswered::from),
        Ok(Route::Status(id)) => handlers::status(app, &id).map_err(Unanswered::from),
        Ok(Route::Probe(id)) => handlers::probe(app, &id).map_err(Unanswered::from),
        Ok(Route::Ping) => Ok(reply::text("pong")),
        Ok(Route::Health) => Ok(reply::text("ok")),
        Ok(Route::Ready) => handlers::ready(app).map_err(Unanswered::from),
        Ok(Route::Describe) => Ok(reply::written_json(openapi::DOCUMENT)),
    };
    finish(body, answered).await
}

/// The answer to a page that asks first whether it may, and else that there is no such route.
fn no_such_route(
    app: &App,
    peer: &Peer,
    request: &Request<BodyStream>,
    grant: Option<&Grant>,
    record: &mut Record,
) -> Reply {
    let is_preflight = grant.is_some()
        && cors::is_preflight(request.method(), request.headers())
        && Route::of_path(request.uri().path()).any(|route| app.access.serves(peer.entrance(), &route));
    if is_preflight { reply::preflight(request.headers()) } else { app.refuse(record, &Refusal::BadRoute) }
}

/// Sees to what is left of a request's body: where that is not little, the answer closes the connection.
async fn finish(mut body: RequestBody, answered: Result<Reply, Unanswered>) -> Result<Reply, Unanswered> {
    if matches!(answered, Err(Unanswered::Departed)) || body.finish().await {
        return answered;
    }
    let mut reply = answered.map_err(Unanswered::closing)?;
    reply::close(&mut reply);
    Ok(reply)
}
