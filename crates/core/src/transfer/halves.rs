//! The two halves of a transfer, one for each side. Dropping a half early fails the transfer.

use std::sync::Arc;

use super::{Transfer, WholeBody};
use crate::outcome::{Fault, Outcome};

/// The source's half of a transfer. Dropping it before the whole body was read fails the transfer with
/// [`Fault::SourceDisconnected`].
pub struct SourceHalf(Arc<Transfer>);

impl SourceHalf {
    pub(super) fn new(transfer: Arc<Transfer>) -> Self {
        Self(transfer)
    }

    /// Returns the transfer.
    #[must_use]
    pub fn transfer(&self) -> &Arc<Transfer> {
        &self.0
    }
}

impl Drop for SourceHalf {
    fn drop(&mut self) {
        self.0.fail_source(Fault::SourceDisconnected);
    }
}

/// The destination's half of a transfer. Dropping it before [`DestinationHalf::delivered`] fails the transfer with
/// [`Fault::DestinationDisconnected`].
pub struct DestinationHalf {
    transfer: Arc<Transfer>,
    on_end: Option<OnHalfEnd>,
}

type OnHalfEnd = Box<dyn FnOnce(&Transfer) + Send>;

impl DestinationHalf {
    pub(super) fn new(transfer: Arc<Transfer>) -> Self {
        Self { transfer, on_end: None }
    }

    /// Returns the transfer.
    #[must_use]
    pub fn transfer(&self) -> &Arc<Transfer> {
        &self.transfer
    }

    /// Calls `on_end` when this half is dropped or has delivered, after the transfer has ended. It replaces an earlier one.
    pub fn on_end(&mut self, on_end: impl FnOnce(&Transfer) + Send + 'static) {
        self.on_end = Some(Box::new(on_end));
    }

    /// Ends the transfer as finished: the destination has acknowledged every byte of the body.
    pub fn delivered(self, _: WholeBody) {
        self.transfer.settle(Outcome::Finished);
    }
}

impl Drop for DestinationHalf {
    fn drop(&mut self) {
        // Does nothing if the transfer has ended before.
        self.transfer.fail(Fault::DestinationDisconnected);
        if let Some(on_end) = self.on_end.take() {
            on_end(&self.transfer);
        }
    }
}
