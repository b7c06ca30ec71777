//! The source's part of a transfer: its body, and checks of whether it has left.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;

use crate::outcome::Fault;

/// The body of a source that connects, and its description. Kept in the table until the sides are paired.
pub struct Offer<B> {
    /// The request body.
    pub body: B,
    /// The declared length in bytes. `None` for a body of unknown length.
    pub length: Option<u64>,
    /// The source's headers that describe the body and are passed to the destination. Boxed, because most waiting sources
    /// have none.
    pub headers: Option<Box<HeaderMap>>,
}

/// The request body of a source, as a [`Relay`](super::Relay) reads it. It is not polled until the sides are paired.
pub trait SourceBody: Send + 'static {
    /// The connection from which the kernel can move a part of the body.
    type Kernel;

    /// Polls for the next data. `None` is the proper end of the body.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>>;

    /// Returns the connection and the number of body bytes that the kernel can move from it without copying them into this
    /// process. `None` if the next bytes must be read by [`SourceBody::poll_data`].
    fn in_kernel(&self) -> Option<(Self::Kernel, u64)>;

    /// Records that the kernel has moved this many bytes of the body.
    fn skip(&mut self, bytes: u64);

    /// Returns whether the rest of the body has arrived, as far as that is known without reading it.
    fn has_arrived(&self) -> bool;

    /// Returns a future that completes when the source's connection closes or is reset. `None` if that cannot be observed
    /// separately from the body.
    fn departure(&self) -> Option<Departure>;

    /// Returns a check of whether a source that may have left while it waited is still connected. `None` if no check is
    /// needed.
    fn presence(&self) -> Option<PresenceCheck>;
}

/// Completes when a side has left.
pub type Departure = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A check of whether a source that may have left while it waited is still connected.
pub struct PresenceCheck {
    /// Whether the check must complete before the first byte is passed on, because the source has closed its sending side.
    ///
    /// Otherwise it runs after the last byte was read. The bytes that complete the body are held back until then, so that
    /// the body of a source that has left never looks whole.
    pub before_body: bool,
    /// Resolves to whether the source is still connected.
    pub answer: Pin<Box<dyn Future<Output = bool> + Send>>,
}
