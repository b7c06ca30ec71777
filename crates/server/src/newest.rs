//! Connections of which a new one replaces the oldest at their limit: those of the admin listener, and those of nodes that have not proved
//! themselves yet.
//!
//! *Invariants.* They have a limit of their own, so that a server that is full of clients still answers health checks and finds its nodes. Idle
//! connections cannot block a new one.
//!
//! *Concurrency.* Owned by the accept loop of their listener. Dropping it aborts all its connections.
//!
//! *Bounds.* The limit given to [`NewestConnections::new`].

use std::collections::VecDeque;
use std::future::Future;

use tokio::task::{AbortHandle, JoinSet};

pub(super) struct NewestConnections {
    limit: usize,
    connections: JoinSet<()>,
    /// Connections that have ended are removed.
    oldest_first: VecDeque<AbortHandle>,
}

impl NewestConnections {
    /// Allows `limit` connections at a time, and at least one.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), connections: JoinSet::new(), oldest_first: VecDeque::new() }
    }

    /// Serves a connection. At the limit, aborts the oldest one first.
    pub(super) async fn admit(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        while self.connections.len() >= self.limit {
            if let Some(oldest) = self.oldest_first.pop_front() {
                oldest.abort();
            }
            self.join_next().await;
        }
        self.oldest_first.push_back(self.connections.spawn(connection));
    }

    /// Waits until a connection has ended; `None` if there is none.
    pub(super) async fn join_next(&mut self) -> Option<()> {
        // The panic hook has logged a panic.
        let _ = self.connections.join_next().await?;
        self.oldest_first.retain(|connection| !connection.is_finished());
        Some(())
    }
}
