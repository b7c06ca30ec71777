//! HTTP: from a request to an answer. One match over [`route::Route`] leads to one function for each route.
//!
//! Knows nothing of listeners and connections but what [`peer::Peer`] shows. Every refusal and every ending
//! becomes an answer in [`reply`].

mod handlers;
pub mod json_body;
pub mod message;
pub mod peer;
pub mod reply;
pub mod route;
pub mod spelling;
pub mod status;

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::header::FORWARDED;
use http::{HeaderMap, HeaderValue, Request, Version};
use hyper::body::Incoming;

use crate::clients::Clients;
use crate::header_set::StreamHeaders;
use crate::id::StreamId;
use crate::outcome::Refusal;
use crate::proxies::TrustedProxies;
use crate::relay::Offer;
use crate::rendezvous::Rendezvous;
pub use handlers::PASSED_HEADERS;
use handlers::Unanswered;
use json_body::RequestBody;
use peer::Peer;
use reply::{Reply, Spelled};
use route::Route;

/// What all requests share.
pub struct App {
    /// Where the sides meet.
    pub rendezvous: Arc<Rendezvous>,
    /// How long a request's head, and a JSON body, may take.
    pub request_timeout: Duration,
    /// What each client has.
    pub clients: Clients,
    /// Whose word is taken for whom they speak for.
    pub trusted_proxies: TrustedProxies,
}

/// The client has gone: there is nobody to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client has left")]
pub struct Departed;

/// Answers a request that hyper has read.
///
/// # Errors
/// [`Departed`]: the connection is to be dropped.
pub async fn answer(app: Arc<App>, peer: Arc<Peer>, request: Request<Incoming>) -> Result<Reply, Departed> {
    let version = request.version();
    let answered = AssertUnwindSafe(dispatch(&app, &peer, request)).catch_unwind().await;
    let mut reply = settle(version, answered)?;
    if let Some(Spelled { headers, side }) = reply.extensions_mut().remove()
        && let Some(set) = headers.of(side)
    {
        reply.extensions_mut().extend(spelling::extensions(set.spellings()).await);
    }
    Ok(reply)
}

/// A request in the plainest form, read without hyper.
pub struct PlainRequest {
    /// The version of the request.
    pub version: Version,
    /// What it asks for.
    pub asks: Asks,
}

/// What may be asked for in the plainest form.
pub enum Asks {
    /// A stream without header sets.
    Create,
    /// To be the source of this stream.
    Source(StreamId, Box<Offer>),
    /// To be the destination of this stream.
    Destination(StreamId),
}

/// Answers a request that did not go through hyper.
///
/// # Errors
/// [`Departed`]: the connection is to be dropped.
pub async fn answer_plain(app: &App, peer: &Arc<Peer>, request: PlainRequest) -> Result<Reply, Departed> {
    let PlainRequest { version, asks } = request;
    let answering = async {
        match asks {
            Asks::Create => Ok(handlers::create_with(app, peer.address(), StreamHeaders::default())?),
            Asks::Source(id, offer) => source(app, peer, &id, Ok(offer)).await,
            Asks::Destination(id) => handlers::destination(app, peer, &id, version).await,
        }
    };
    settle(version, AssertUnwindSafe(answering).catch_unwind().await)
}

/// Makes an answer of whatever came of a request, also of a panic.
fn settle(
    version: Version,
    answered: std::thread::Result<Result<Reply, Unanswered>>,
) -> Result<Reply, Departed> {
    let mut reply = match answered.unwrap_or(Err(Unanswered::Refused(Refusal::Internal))) {
        Ok(reply) => reply,
        Err(Unanswered::Refused(refusal)) => reply::refusal(&refusal),
        Err(Unanswered::Departed) => return Err(Departed),
    };
    if version == Version::HTTP_10 {
        // Said so, hyper does not add a keep-alive of its own.
        *reply.version_mut() = version;
        reply::close(&mut reply);
    }
    Ok(reply)
}

/// Who asks: the other end of the connection, or whom a trusted proxy there speaks for.
fn client(app: &App, peer: &Peer, headers: &HeaderMap) -> IpAddr {
    if !peer.is_proxy() {
        return peer.address();
    }
    let forwarded = headers.get_all(FORWARDED).iter().map(HeaderValue::as_bytes);
    let x_forwarded_for = headers.get_all("x-forwarded-for").iter().map(HeaderValue::as_bytes);
    app.trusted_proxies.client(forwarded, x_forwarded_for).unwrap_or(peer.address())
}

/// What is still to come of a refused upload is not waited for: every answer to a source closes.
async fn source(
    app: &App,
    peer: &Peer,
    id: &StreamId,
    offer: Result<Box<Offer>, Refusal>,
) -> Result<Reply, Unanswered> {
    let answered = match offer {
        Ok(offer) => handlers::source(app, peer, id, offer).await,
        Err(refusal) => Err(refusal.into()),
    };
    answered.or_else(|unanswered| match unanswered {
        Unanswered::Refused(refusal) => {
            let mut reply = reply::refusal(&refusal);
            reply::close(&mut reply);
            Ok(reply)
        }
        Unanswered::Departed => Err(Unanswered::Departed),
    })
}

async fn dispatch(app: &App, peer: &Arc<Peer>, request: Request<Incoming>) -> Result<Reply, Unanswered> {
    if let Some(refusal) = peer.wire().take_refusal() {
        return Err(refusal.into());
    }
    let version = request.version();
    let route = Route::parse(request.method(), request.uri().path());
    if let Some(Route::Source(id)) = route {
        return source(app, peer, &id, handlers::offer(peer, request)).await;
    }
    let client = client(app, peer, request.headers());
    let mut body = RequestBody::new(request, app.request_timeout);
    let answered = match route {
        // A source was answered above.
        None | Some(Route::Source(_)) => Err(Refusal::BadRoute.into()),
        Some(Route::Create) => handlers::create(app, client, &mut body).await.map_err(Unanswered::from),
        Some(Route::Report(id)) => handlers::report(app, &id, &mut body).await.map_err(Unanswered::from),
        Some(Route::List) => Ok(handlers::list(app)),
        Some(Route::Status(id)) => handlers::status(app, &id).map_err(Unanswered::from),
        Some(Route::Probe(id)) => handlers::probe(app, &id).map_err(Unanswered::from),
        Some(Route::Ping) => Ok(reply::text("pong")),
        Some(Route::Destination(id)) => handlers::destination(app, peer, &id, version).await,
    };
    let mut reply = match answered {
        Err(Unanswered::Refused(refusal)) => reply::refusal(&refusal),
        other => other?,
    };
    if !body.finish().await {
        reply::close(&mut reply);
    }
    Ok(reply)
}
