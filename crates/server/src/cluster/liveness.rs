//! Watches whether other nodes are heard, as long as requests run over connections with them.
//!
//! *Invariant.* A node that was not heard for 2 seconds gets nothing new, and sides that have not paired are let go. After 15 seconds what has
//! paired is cut too. One that is heard again is used again.
//!
//! *Concurrency.* One future for all nodes, with at most one ping of each.
//!
//! *Bounds.* One ping every half a second for each node with which requests run.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use rendezvous_cluster::liveness::{Liveness, Stage, TICK};
use rendezvous_protocol::Tag;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::peers::{Peer, Peers};
use crate::hop::exchange::Hop;

/// How long a ping may take before the next one is tried over a new connection.
const PING_LIMIT: Duration = Duration::from_secs(2);

/// A node with which requests run, or did when it fell silent.
struct Watched {
    peer: Arc<Peer>,
    liveness: Liveness,
    stage: Stage,
    is_pinged: bool,
}

/// Watches all nodes with which requests run. Never returns.
pub(crate) async fn watch(peers: &Peers) {
    let mut watched: HashMap<Tag, Watched> = HashMap::new();
    let mut pings: FuturesUnordered<BoxFuture<'static, (Tag, bool)>> = FuturesUnordered::new();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some((tag, is_answered)) = pings.next(), if !pings.is_empty() => {
                if let Some(node) = watched.get_mut(&tag) {
                    node.pinged(is_answered);
                }
            }
            _ = ticks.tick() => {
                for peer in peers.in_use() {
                    watched.entry(peer.tag).or_insert_with(|| Watched::new(peer));
                }
                for node in watched.values_mut() {
                    if node.tick() {
                        let peer = Arc::clone(&node.peer);
                        pings.push(async move { (peer.tag, ping(&peer).await) }.boxed());
                    }
                }
                watched.retain(|_, node| node.is_needed());
            }
        }
    }
}

/// Returns whether the node answers.
async fn ping(peer: &Arc<Peer>) -> bool {
    timeout(PING_LIMIT, Hop::ping(peer)).await.unwrap_or(false)
}

impl Watched {
    fn new(peer: Arc<Peer>) -> Self {
        Self { peer, liveness: Liveness::new(Instant::now()), stage: Stage::Heard, is_pinged: false }
    }

    fn pinged(&mut self, is_answered: bool) {
        self.is_pinged = false;
        if !is_answered {
            return;
        }
        if self.stage == Stage::Lost {
            // What has begun with it before was cut. This is a new beginning.
            *self = Self::new(Arc::clone(&self.peer));
            self.peer.recover();
        }
        self.liveness.heard().note();
    }

    /// Returns whether a ping is due.
    fn tick(&mut self) -> bool {
        if self.peer.take_heard() && self.stage != Stage::Lost {
            self.liveness.heard().note();
        }
        let tick = self.liveness.tick(Instant::now());
        let before = std::mem::replace(&mut self.stage, tick.stage);
        let node = self.peer.tag;
        match (before, tick.stage) {
            (Stage::Heard, Stage::Silent) => {
                warn!(%node, "a node is silent: nothing new is begun with it");
                self.peer.fall_silent();
            }
            (Stage::Silent, Stage::Heard) => {
                info!(%node, "a silent node is heard again");
                self.peer.recover();
            }
            (Stage::Heard | Stage::Silent, Stage::Lost) => {
                warn!(%node, "a node is lost: transfers that run over it are cut");
                self.peer.lose();
            }
            _ => {}
        }
        let is_due = tick.ping && !self.is_pinged;
        self.is_pinged |= is_due;
        is_due
    }

    /// Returns whether it is still to be watched. One that is not is not silent either.
    fn is_needed(&self) -> bool {
        let is_needed = self.peer.is_in_use() || self.stage == Stage::Silent;
        if !is_needed && self.stage == Stage::Lost {
            self.peer.recover();
        }
        is_needed
    }
}
