//! Graceful shutdown: who is still admitted.

use rendezvous_protocol::Side;

use super::seats::{Party, refuse};
use super::{Census, Rendezvous};
use crate::outcome::{Fault, SeatError};

/// Who is admitted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum AdmissionState {
    /// New streams and sides.
    #[default]
    Open,
    /// Sides of the streams that exist.
    Draining,
    /// Nobody.
    Closed,
}

impl<B: Send + 'static> Rendezvous<B> {
    /// Refuses new streams from now on. Existing ones may still be joined, wait and run.
    pub fn drain(&self) {
        self.table.lock().admission = AdmissionState::Draining;
    }

    /// Whether [`Rendezvous::drain`] or [`Rendezvous::close`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.table.lock().admission != AdmissionState::Open
    }

    /// How many streams are in which state.
    #[must_use]
    pub fn census(&self) -> Census {
        self.table.lock().census
    }

    /// Waits until the census satisfies `is_enough`, which is asked when streams end and when sides leave. For one caller at a time.
    pub async fn until(&self, is_enough: impl Fn(Census) -> bool) {
        while !is_enough(self.census()) {
            self.abandoned.notified().await;
        }
    }

    /// Refuses new sides too from now on, and those that wait. Transfers go on.
    pub fn close(&self) {
        let waiters: Vec<Party<B>> = {
            let mut table = self.table.lock();
            table.admission = AdmissionState::Closed;
            table.update_all(|slot| slot.leave(Side::Source).or_else(|| slot.leave(Side::Destination)))
        };
        for waiter in waiters {
            refuse(waiter, SeatError::ShuttingDown);
        }
    }

    /// Ends every running transfer. Returns how many there were.
    pub fn cut(&self) -> usize {
        let transfers = self.table.lock().transfers();
        for transfer in &transfers {
            transfer.fail(Fault::ShutDown);
        }
        transfers.len()
    }
}
