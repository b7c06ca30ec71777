//! Watches whether other nodes are heard, as long as requests run over connections with them. Closes connections that nothing uses.
//!
//! A node is heard over its links, twice a second, by each response and by each new connection. Links have room of their own: a node that is full
//! of requests is not silent. What this node has opened and what the other one has are watched apart.
//!
//! *Invariant.* A node that was not heard for 2 seconds gets nothing new, and sides that have not paired are let go. After 15 seconds what has
//! paired is cut too. One that is heard again is used again.
//!
//! *Concurrency.* One future for all nodes.

use std::collections::HashMap;
use std::sync::Arc;

use rendezvous_cluster::liveness::{Liveness, Stage, TICK};
use rendezvous_protocol::Tag;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use super::peers::{OpenedBy, Peer, Peers};

/// A node with which requests run, or did when it fell silent.
struct Watched {
    peer: Arc<Peer>,
    liveness: Liveness,
    stage: Stage,
}

/// Watches all nodes with which requests run. Never returns.
pub(crate) async fn watch(peers: &Peers) {
    let mut watched: HashMap<(Tag, OpenedBy), Watched> = HashMap::new();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        peers.close_idle();
        for peer in peers.in_use() {
            watched.entry((peer.tag, peer.opened_by)).or_insert_with(|| Watched::new(peer));
        }
        watched.values_mut().for_each(Watched::tick);
        watched.retain(|_, node| node.is_needed());
    }
}

impl Watched {
    fn new(peer: Arc<Peer>) -> Self {
        Self { peer, liveness: Liveness::new(Instant::now()), stage: Stage::Heard }
    }

    fn tick(&mut self) {
        let is_heard = self.peer.take_heard();
        if is_heard && self.stage == Stage::Lost {
            // What has begun with it before was cut. This is a new beginning.
            *self = Self::new(Arc::clone(&self.peer));
            return self.peer.recover();
        }
        if is_heard {
            self.liveness.heard().note();
        }
        let stage = self.liveness.tick(Instant::now());
        let before = std::mem::replace(&mut self.stage, stage);
        let node = self.peer.tag;
        match (before, stage) {
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
