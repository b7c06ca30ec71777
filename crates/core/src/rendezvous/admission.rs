//! Graceful shutdown: which requests the table still admits.

use rendezvous_protocol::PathName;

use super::waiting::{WaitingSide, refuse};
use super::{Census, Censuses, Rendezvous};
use crate::feed::Wakers;
use crate::outcome::{Fault, SeatError};

/// The requests that the table admits.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum AdmissionState {
    /// New streams, and sides of all streams.
    #[default]
    Open,
    /// Sides of existing streams.
    Draining,
    /// Nothing.
    Closed,
}

impl<B: Send + 'static> Rendezvous<B> {
    /// Refuses new streams from now on. Sides can still connect to existing streams, wait and transfer.
    pub fn drain(&self) {
        self.table.lock().admission = AdmissionState::Draining;
    }

    /// Returns whether [`Rendezvous::drain`] or [`Rendezvous::close`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.table.lock().admission != AdmissionState::Open
    }

    /// Returns the number of streams in each state.
    #[must_use]
    pub fn census(&self) -> Census {
        self.censuses().total()
    }

    /// Returns the number of streams of each kind in each state.
    #[must_use]
    pub fn censuses(&self) -> Censuses {
        self.table.lock().censuses
    }

    /// Waits until the census satisfies `condition`, which is checked when a stream ends or a waiting side leaves. Only one
    /// task may wait at a time.
    pub async fn wait_until(&self, condition: impl Fn(Census) -> bool) {
        while !condition(self.census()) {
            self.counts_decreased.notified().await;
        }
    }

    /// Refuses new sides too from now on, and ends the wait of all waiting sides. Transfers continue.
    pub fn close(&self) {
        let waiters: Vec<WaitingSide<B>> = self.change(|table, changes| {
            table.admission = AdmissionState::Closed;
            let streams = table.numbers();
            streams.into_iter().filter_map(|stream| table.vacate_if(stream, |_| true, changes)).collect()
        });
        for waiter in waiters {
            refuse(waiter, SeatError::ShuttingDown);
        }
    }

    /// Ends the wait of all sides at paths that are not `kept`, because another node of the cluster owns them now. Transfers continue.
    pub fn release_paths(&self, kept: impl Fn(&PathName) -> bool) {
        let waiters: Vec<WaitingSide<B>> = self.change(|table, changes| {
            let streams = table.paths(|path| !kept(path));
            streams.into_iter().filter_map(|stream| table.vacate_if(stream, |_| true, changes)).collect()
        });
        self.counts_decreased.notify_one();
        for waiter in waiters {
            refuse(waiter, SeatError::Moved);
        }
    }

    /// Aborts all running transfers with [`Fault::ShutDown`]. Returns their number.
    pub fn abort_transfers(&self) -> usize {
        let transfers = self.table.lock().transfers();
        for transfer in &transfers {
            transfer.fail(Fault::ShutDown);
        }
        transfers.len()
    }

    /// Ends all subscriptions behind the changes so far. Wakes all subscribers at once, because the task that wakes them in turn may
    /// have ended.
    pub fn close_feeds(&self) {
        let mut wakers = Wakers::default();
        for feed in self.table.lock().feeds() {
            feed.close(&mut wakers);
        }
        self.turns.close(wakers);
    }
}
