//! The changes of all streams of the other nodes, for the subscribers of this one.
//!
//! While it has subscribers, a node subscribes once to each other node, and passes the events on as they come.
//!
//! *Invariant.* If events of a node may be missing, because it has come or was lost, all subscribers get `lagged`.
//!
//! *Concurrency.* One task follows the list of nodes, and one each of them. They end with the last subscriber.
//!
//! *Bounds.* One connection and [`MAX_EVENT`] bytes for each node, and a feed.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use http::StatusCode;
use parking_lot::Mutex;
use rendezvous_core::feed::{Feed, News, Subscription};
use rendezvous_protocol::Tag;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::exchange::{Hop, PassedBody, Reply};
use super::request::HopRequest;
use crate::cluster::Cluster;
use crate::cluster::membership::Node;
use crate::request_body::Rendezvous;

/// How long a node may take to begin its events.
const DEADLINE: Duration = Duration::from_secs(1);
/// The pause before a node that was lost is asked again.
const PAUSE: Duration = Duration::from_secs(1);
/// The limit on the bytes of an event: a status with two header sets and a report.
const MAX_EVENT: usize = 512 * 1024;
/// Events of a node may be missing, and nobody knows how many.
const LAGGED: Bytes = Bytes::from_static(b"event: lagged\ndata: 0\n\n");

/// The events of other nodes, while there are subscribers.
#[derive(Debug, Default)]
pub(crate) struct Others(Mutex<Weak<Followed>>);

/// The tasks that follow the other nodes.
#[derive(Debug)]
struct Followed {
    feed: Arc<Feed<Bytes>>,
    /// Every node of the list has answered for the first time, or had its time.
    is_ready: CancellationToken,
    /// Only held: its tasks end with it.
    _tasks: JoinSet<()>,
}

/// A subscription to the events of all other nodes.
pub(crate) struct OtherEvents {
    subscription: Subscription<Bytes>,
    _followed: Arc<Followed>,
}

impl OtherEvents {
    /// Subscribes. Waits until the other nodes pass on what happens from now on, or at most [`DEADLINE`].
    pub(crate) async fn subscribe(cluster: &Arc<Cluster>, rendezvous: &Rendezvous) -> Self {
        let followed = cluster.others.followed(cluster, rendezvous);
        let subscription = followed.feed.subscribe();
        followed.is_ready.cancelled().await;
        Self { subscription, _followed: followed }
    }

    /// Waits for the next news: the texts of events. Cancelling it loses nothing.
    pub(crate) async fn next(&mut self) -> News<Bytes> {
        self.subscription.next().await
    }

    /// Returns the next news if there are any.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<News<Bytes>> {
        self.subscription.poll_next(cx)
    }
}

impl Others {
    fn followed(&self, cluster: &Arc<Cluster>, rendezvous: &Rendezvous) -> Arc<Followed> {
        let mut present = self.0.lock();
        if let Some(followed) = present.upgrade() {
            return followed;
        }
        let (feed, is_ready) = (rendezvous.feed(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(follow_all(Arc::clone(cluster), Arc::clone(&feed), is_ready.clone()));
        let followed = Arc::new(Followed { feed, is_ready, _tasks: tasks });
        *present = Arc::downgrade(&followed);
        followed
    }
}

async fn follow_all(cluster: Arc<Cluster>, feed: Arc<Feed<Bytes>>, is_ready: CancellationToken) {
    let mut generation = cluster.membership.generation();
    let nodes = cluster.membership.others();
    let mut tags: HashSet<Tag> = nodes.iter().map(|node| node.tag).collect();
    let opened = join_all(nodes.iter().map(|node| subscribe_to(&cluster, node))).await;
    let mut tasks = JoinSet::new();
    for (node, hop) in nodes.into_iter().zip(opened) {
        tasks.spawn(follow(Arc::clone(&cluster), node, hop, Arc::clone(&feed)));
    }
    is_ready.cancel();
    loop {
        tokio::select! {
            () = cluster.membership.changed(generation) => {}
            Some(Ok(left)) = tasks.join_next() => drop(tags.remove(&left)),
        }
        generation = cluster.membership.generation();
        for node in cluster.membership.others() {
            if tags.insert(node.tag) {
                tasks.spawn(follow(Arc::clone(&cluster), node, None, Arc::clone(&feed)));
            }
        }
    }
}

/// Passes on the events of a node while it is a member. `hop` is the subscription to them, if it exists. Returns its tag.
async fn follow(cluster: Arc<Cluster>, node: Node, mut hop: Option<Hop>, feed: Arc<Feed<Bytes>>) -> Tag {
    loop {
        if let Some(hop) = hop {
            pass_on(hop, &feed).await;
            feed.publish(LAGGED);
            sleep(PAUSE).await;
        }
        if !cluster.membership.others().contains(&node) {
            return node.tag;
        }
        hop = subscribe_to(&cluster, &node).await;
        match hop {
            // What happened before is missing.
            Some(_) => feed.publish(LAGGED),
            None => sleep(PAUSE).await,
        }
    }
}

async fn subscribe_to(cluster: &Cluster, node: &Node) -> Option<Hop> {
    let peer = cluster.peers.peer(node.clone());
    match timeout(DEADLINE, Hop::begin(&cluster.peers, &peer, &HopRequest::events(), 0)).await {
        Ok(Ok(Reply::Final(hop, answer))) if answer.status == StatusCode::OK => Some(hop),
        _ => None,
    }
}

/// Passes on the events of a node until it ends or is lost.
async fn pass_on(hop: Hop, feed: &Feed<Bytes>) {
    let mut body = pin!(PassedBody::new(hop, None));
    let mut text = BytesMut::new();
    while let Ok(part) = body.next_part().await {
        text.extend_from_slice(&part);
        while let Some(event) = take_event(&mut text) {
            feed.publish(event);
        }
        if body.is_finished() || text.len() > MAX_EVENT {
            return;
        }
    }
}

/// Takes the first complete event. Comments are left out: each subscriber has its own.
fn take_event(text: &mut BytesMut) -> Option<Bytes> {
    loop {
        let end = text.windows(2).position(|bytes| bytes == b"\n\n")? + 2;
        let event = text.split_to(end);
        if !event.starts_with(b":") {
            return Some(event.freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_whole_however_they_come_and_comments_are_left_out() {
        const TEXT: &[u8] =
            b":\n\nid: 1\nevent: status\ndata: {}\n\n:\n\n:\n\nevent: lagged\ndata: 3\n\nid: 2";
        for size in 1..TEXT.len() {
            let (mut text, mut events) = (BytesMut::new(), Vec::new());
            for part in TEXT.chunks(size) {
                text.extend_from_slice(part);
                events.extend(std::iter::from_fn(|| take_event(&mut text)));
            }
            assert_eq!(
                events,
                ["id: 1\nevent: status\ndata: {}\n\n", "event: lagged\ndata: 3\n\n"],
                "{size}"
            );
            assert_eq!(&*text, b"id: 2");
        }
    }
}
