//! The connections of the operators' listener.
//!
//! They have places of their own, so that a server that is full of clients still answers its health checks. Where all places are
//! taken the oldest connection is closed for the new one: connections that nobody uses cannot keep a probe out.

use std::collections::VecDeque;
use std::future::Future;

use tokio::task::{AbortHandle, JoinSet};

pub(super) struct Operators {
    places: usize,
    connections: JoinSet<()>,
    /// Without those that have ended.
    oldest_first: VecDeque<AbortHandle>,
}

impl Operators {
    /// Nobody is connected. There is always at least one place.
    pub(super) fn new(places: usize) -> Self {
        Self { places: places.max(1), connections: JoinSet::new(), oldest_first: VecDeque::new() }
    }

    /// Serves a connection, once there is a place for it.
    pub(super) async fn admit(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        while self.connections.len() >= self.places {
            if let Some(oldest) = self.oldest_first.pop_front() {
                oldest.abort();
            }
            self.forget_ended().await;
        }
        self.oldest_first.push_back(self.connections.spawn(connection));
    }

    /// Waits until a connection has ended; `None` where there is none.
    pub(super) async fn forget_ended(&mut self) -> Option<()> {
        // A panic has been logged.
        let _ = self.connections.join_next().await?;
        self.oldest_first.retain(|connection| !connection.is_finished());
        Some(())
    }
}
