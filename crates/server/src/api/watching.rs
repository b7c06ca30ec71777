//! Watching a stream (docs/api.md, section 11): its status, a long poll of the status, and events.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, TryFutureExt};
use http::header::{CACHE_CONTROL, ETAG};
use http::{HeaderValue, StatusCode};
use rendezvous_core::budget::Budget;
use rendezvous_core::feed::Subscription;
use rendezvous_core::outcome::SeatError;
use rendezvous_core::snapshot::Snapshot;
use rendezvous_protocol::StreamId;
use tokio::time::{Instant, timeout_at};

use super::events::Events;
use super::head::RequestHead;
use super::preferences::{self, entity_tag};
use super::refusal::Refusal;
use super::response::{self, Later, Response};
use super::status::status as status_of;
use super::{Action, App, generate, respond};
use crate::cluster::Cluster;
use crate::hop::others::OtherEvents;
use crate::request_body::Rendezvous;

/// Handles `GET /stream/:id/status`. A client that has the current version and prefers to wait gets the next one.
///
/// Without a wait, `If-None-Match` is ignored: browsers send it by themselves, and would show the bytes of a running transfer as they were.
pub(super) fn status(app: &App, head: &impl RequestHead, id: StreamId) -> Result<Action, Refusal> {
    let Some(wait) = preferences::wait(head) else {
        let snapshot = app.rendezvous.snapshot(&id).ok_or(SeatError::NotFound)?;
        return current(&snapshot, &app.response_memory).map(respond);
    };
    let (snapshot, changes) = app.rendezvous.watch(&id).ok_or(SeatError::NotFound)?;
    if !preferences::has_version(head, snapshot.version) {
        return current(&snapshot, &app.response_memory).map(respond);
    }
    let poll = LongPoll {
        rendezvous: Arc::clone(&app.rendezvous),
        memory: Arc::clone(&app.response_memory),
        id,
        version: snapshot.version,
        wait,
        changes,
    };
    Ok(Action::Wait(poll.run().map_ok(Later::Response).boxed()))
}

/// A client that waits for the next version of a status.
struct LongPoll {
    rendezvous: Arc<Rendezvous>,
    memory: Arc<Budget>,
    id: StreamId,
    /// The version that the client has.
    version: u64,
    /// Seconds.
    wait: u64,
    changes: Subscription,
}

impl LongPoll {
    async fn run(mut self) -> Result<Response, Refusal> {
        let limit = Instant::now().checked_add(Duration::from_secs(self.wait));
        let news = self.changes.next();
        if let Some(limit) = limit {
            let _ = timeout_at(limit, news).await;
        } else {
            news.await;
        }
        let snapshot = self.rendezvous.snapshot(&self.id).ok_or(SeatError::NotFound)?;
        // At the end of the server, the wait ends without a change.
        let mut response = if snapshot.version == self.version {
            not_modified(self.version)
        } else {
            current(&snapshot, &self.memory)?
        };
        response.head.headers.extend(preferences::applied_wait(self.wait));
        Ok(response)
    }
}

/// The response with a status.
fn current(snapshot: &Snapshot, memory: &Arc<Budget>) -> Result<Response, Refusal> {
    let mut response = response::large_json(&status_of(snapshot), memory)?;
    add_version_fields(&mut response, snapshot.version);
    Ok(response)
}

fn not_modified(version: u64) -> Response {
    let mut response = response::empty(StatusCode::NOT_MODIFIED);
    add_version_fields(&mut response, version);
    response
}

fn add_version_fields(response: &mut Response, version: u64) {
    if let Ok(tag) = HeaderValue::try_from(entity_tag(version)) {
        response.head.headers.insert(ETAG, tag);
    }
    response.head.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

/// Handles `GET /stream/:id/events`. A client that reconnects after the last event gets 204, which ends `EventSource`.
pub(super) fn events(app: &App, head: &impl RequestHead, id: StreamId) -> Result<Action, Refusal> {
    let (snapshot, changes) = app.rendezvous.watch(&id).ok_or(SeatError::NotFound)?;
    if snapshot.is_final() && preferences::last_event_id(head) == Some(snapshot.version) {
        return Ok(respond(response::empty(StatusCode::NO_CONTENT)));
    }
    let memory = Arc::clone(&app.response_memory);
    let events = Events::of_stream(Arc::clone(&app.rendezvous), id, &snapshot, changes, memory)?;
    Ok(generate(response::events(events)))
}

/// Handles `GET /events`.
pub(super) fn all_events(app: &App) -> Action {
    let memory = Arc::clone(&app.response_memory);
    generate(response::events(Events::of_all(app.rendezvous.watch_all(), None, memory)))
}

/// Handles `GET /events` of a node of a cluster.
pub(super) fn events_of_all_nodes(app: &App, cluster: &Arc<Cluster>) -> Action {
    let (cluster, rendezvous) = (Arc::clone(cluster), Arc::clone(&app.rendezvous));
    let memory = Arc::clone(&app.response_memory);
    let subscribing = async move {
        let own = rendezvous.watch_all();
        let others = OtherEvents::subscribe(&cluster, &rendezvous).await;
        Ok(Later::Generated(response::events(Events::of_all(own, Some(others), memory))))
    };
    Action::Wait(subscribing.boxed())
}
