//! Requests for streams of other nodes: what the edge checks of them, and what it passes on.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::Method;
use rendezvous_codec::body::Framing;
use rendezvous_protocol::StreamName;
use tokio::time::Instant;

use super::connection::ConnectionInfo;
use super::head::RequestHead;
use super::record::Record;
use super::refusal::Refusal;
use super::route::Route;
use super::{Action, App, JsonRoute, check_whole_body, credential, has_body, no_body};
use crate::cluster::Cluster;
use crate::hop::pass::{self, PassedSide, PassedSource, TRIES};
use crate::hop::request::{self, HopRequest};
use crate::hop::{HopError, gather};
use crate::request_body::{Offer, RequestBody};

/// Why a request is not handled by this node.
pub(super) enum Elsewhere {
    /// Another node has the stream.
    Stream(StreamName),
    /// This node drains, and creates no stream.
    Creation,
    /// Another node has passed the request on, and not to the right one.
    Misdirected,
}

/// A request with its route, as [`pass_on`] needs it.
pub(super) struct Request<'a, H> {
    pub(super) connection: ConnectionInfo,
    pub(super) route: &'a Route,
    pub(super) head: &'a H,
    pub(super) attempt: Attempt,
}

/// How often a request was routed before, and since when: the nodes of a cluster may not agree at once which of them has its stream.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attempt {
    number: usize,
    since: Instant,
}

impl Attempt {
    /// The first one begins now.
    pub(crate) fn first() -> Self {
        Self { number: 0, since: Instant::now() }
    }

    /// Returns the attempt after this one.
    pub(crate) fn next(self) -> Self {
        Self { number: self.number + 1, ..self }
    }

    /// Returns how long the request has waited at other nodes: it may not wait as long again.
    pub(super) fn waited(self) -> Duration {
        if self.number == 0 { Duration::ZERO } else { self.since.elapsed() }
    }
}

/// Returns why this node does not handle a request; `None` if it does.
pub(super) fn elsewhere(app: &App, cluster: &Cluster, is_hop: bool, route: &Route) -> Option<Elsewhere> {
    match route.stream() {
        Some(name) if cluster.is_here(&name) => None,
        Some(_) if is_hop => Some(Elsewhere::Misdirected),
        Some(name) => Some(Elsewhere::Stream(name)),
        None if *route == Route::Create && !is_hop && app.rendezvous.is_draining() => {
            Some(Elsewhere::Creation)
        }
        None => None,
    }
}

/// Passes a request on to another node.
pub(super) fn pass_on(
    app: &App,
    cluster: &Arc<Cluster>,
    why: Elsewhere,
    request: &Request<'_, impl RequestHead>,
    body: impl FnOnce() -> RequestBody,
    record: &mut Record,
) -> Result<Action, Refusal> {
    match why {
        Elsewhere::Misdirected => check_list(cluster, request.head, request.attempt),
        Elsewhere::Creation => Ok(create(app, cluster, request.connection, request.head)),
        Elsewhere::Stream(name) => {
            record.set_node(cluster.tag_of(&name));
            if request.attempt.number >= TRIES {
                return Err(HopError::OwnerUnreachable.into());
            }
            pass_stream(app, cluster, name, request, body)
        }
    }
}

/// Passes a request for the stream `name` on to the node that has it.
fn pass_stream(
    app: &App,
    cluster: &Arc<Cluster>,
    name: StreamName,
    request: &Request<'_, impl RequestHead>,
    body: impl FnOnce() -> RequestBody,
) -> Result<Action, Refusal> {
    let Request { connection, route, head, attempt } = *request;
    let client = app.client(connection, head);
    let make = |method: &Method, once_paired| {
        let mut request = HopRequest::of(head, method, client, once_paired);
        request.set_waited(attempt.waited());
        if matches!(name, StreamName::Path(_)) {
            request.set_creation(app.access.creation().check(credential(head)));
        }
        request
    };
    Ok(match route {
        Route::Source(_) => {
            check_whole_body(head)?;
            let length = head.body_length();
            let framing = length.map_or(Framing::Chunked, Framing::Length);
            let request = make(&Method::PUT, Some(framing));
            let offer = Offer { body: body(), length, headers: None };
            let is_path = route.is_named_path();
            Action::PassSource(Box::new(PassedSource {
                side: PassedSide::new(cluster, name, request),
                offer,
                is_path,
            }))
        }
        Route::Destination(_) | Route::Probe(_) if has_body(head) => return Err(no_body()),
        Route::Destination(_) => {
            // Its body is the receipt.
            let request = make(&Method::GET, Some(Framing::Chunked));
            Action::PassDestination(PassedSide::new(cluster, name, request))
        }
        Route::Report(_) => Action::ReadJson(JsonRoute::Pass(name.clone(), make(&Method::POST, None))),
        _ => {
            let request = make(head.method(), None);
            Action::Wait(pass::exchange(Arc::clone(cluster), name, request).boxed())
        }
    })
}

/// Lets another node create a stream, because this one drains. If there is no other, this one refuses.
fn create(app: &App, cluster: &Cluster, connection: ConnectionInfo, head: &impl RequestHead) -> Action {
    let client = app.client(connection, head);
    Action::ReadJson(if cluster.membership.others().is_empty() {
        JsonRoute::Create(client)
    } else {
        JsonRoute::CreateElsewhere(HopRequest::of(head, &Method::POST, client, None))
    })
}

/// Gathers the list of all nodes.
pub(super) fn list(app: &App, cluster: &Arc<Cluster>, head: &impl RequestHead) -> Action {
    let mut parameters = head.query().into_iter().flat_map(|query| query.split('&'));
    let is_strict = parameters.any(|parameter| parameter == "strict=1");
    let (rendezvous, memory) = (Arc::clone(&app.rendezvous), Arc::clone(&app.response_memory));
    Action::Wait(gather::list(rendezvous, memory, Arc::clone(cluster), is_strict).boxed())
}

/// Decides about a request of another node for a stream that this one does not have: if the other node has a newer list, it is right. Only a path
/// can change its node.
fn check_list(cluster: &Arc<Cluster>, head: &impl RequestHead, attempt: Attempt) -> Result<Action, Refusal> {
    let is_newer = request::list(head).is_some_and(|list| list > cluster.membership.list());
    if !is_newer || attempt.number > 0 {
        return Err(HopError::Misdirected.into());
    }
    let cluster = Arc::clone(cluster);
    Ok(Action::Reconsider(async move { cluster.membership.read_again().await }.boxed()))
}
