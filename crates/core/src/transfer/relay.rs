//! The relay: the body of a transfer, from the source's request to the destination's response.
//!
//! *Invariant.* The relay reaches its end only where the source's body did, with the right length, and from a source that
//! is known not to have left while it waited. Bytes that would complete the body are held back until that is known. Any
//! other end is an error, which makes the response visibly incomplete.
//!
//! *Bounds.* One piece of the source's body, either held back or ahead of the rate limit.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::pace::Pace;
use super::{Awaited, Departure, Offer, PresenceCheck, SourceBody, Transfer};
use crate::outcome::{Fault, LengthMismatch, UploadLength};

/// The next part of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// At least one byte. More may follow.
    Data(Bytes),
    /// The last bytes. Empty if the end of the body was seen after all bytes were passed on.
    Last(Bytes),
}

impl Piece {
    /// Returns the bytes.
    #[must_use]
    pub fn into_data(self) -> Bytes {
        match self {
            Self::Data(data) | Self::Last(data) => data,
        }
    }
}

/// The body of the destination's response: the body of the source's request, as it is received.
pub struct Relay<B> {
    transfer: Arc<Transfer>,
    body: B,
    /// The length in bytes, if it is declared or promised.
    length: Option<u64>,
    /// The length is promised and not declared, so the body may turn out longer. The piece that reaches the length waits in
    /// `held` until the body has ended.
    is_promised: bool,
    /// Bytes received from the source.
    received: u64,
    /// The source's body has ended properly. `held` and `ahead` may still have to be passed on.
    has_ended: bool,
    /// Limit on `received`.
    max_bytes: u64,
    /// The piece that completes the body, held back until the body has ended and the source is known to be present.
    held: Option<Bytes>,
    /// Received and not yet passed on, by [`Relay::first`] or because of the rate limit.
    ahead: Option<Bytes>,
    pace: Option<Box<Pace>>,
    /// The check of a source that may have left while it waited, until it has succeeded.
    presence: Option<PresenceCheck>,
    /// Completes when the destination leaves.
    departure: Departure,
}

impl<B: SourceBody> Relay<B> {
    /// Creates a relay. If `source_may_have_left` while it waited, its presence is checked. `departure` completes when the
    /// destination's connection closes or is reset.
    pub fn new(
        offer: Offer<B>,
        source_may_have_left: bool,
        transfer: Arc<Transfer>,
        departure: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let promised = transfer.headers.promised_length();
        let limits = transfer.limits.stream;
        Self {
            pace: limits.max_rate.map(|rate| Box::new(Pace::new(rate, &offer.body))),
            max_bytes: transfer.limits.max_bytes().unwrap_or(u64::MAX),
            presence: if source_may_have_left { offer.body.presence() } else { None },
            body: offer.body,
            length: offer.length.or(promised),
            is_promised: offer.length.is_none() && promised.is_some(),
            received: 0,
            has_ended: false,
            held: None,
            ahead: None,
            departure: Box::pin(departure),
            transfer,
        }
    }

    /// Waits for the first bytes, or the end of an empty body. Until then the response head has not been sent, so a failure
    /// can still be reported as a status.
    ///
    /// # Errors
    /// The fault that ended the transfer.
    pub async fn first(&mut self) -> Result<(), Fault> {
        self.ahead = std::future::poll_fn(|cx| self.poll_data(cx)).await.transpose()?;
        if self.is_passed_on() {
            self.transfer.set_awaited(Awaited::Delivery);
        }
        Ok(())
    }

    /// Returns the transfer.
    #[must_use]
    pub fn transfer(&self) -> &Arc<Transfer> {
        &self.transfer
    }

    /// Returns the length of the whole body in bytes, if it is known.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Waits for the next piece, and counts it as passed on. After the last piece, returns empty last pieces.
    ///
    /// # Errors
    /// The fault that ended the transfer.
    pub async fn next(&mut self) -> Result<Piece, Fault> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Fault>> {
        let allowed = ready!(self.poll_allowance(cx))?;
        let mut data = match self.ahead.take() {
            Some(ahead) => ahead,
            None if self.has_ended => Bytes::new(),
            None => ready!(self.poll_data(cx)).transpose()?.unwrap_or_default(),
        };
        if (data.len() as u64) > allowed {
            self.ahead = Some(data.split_off(usize::try_from(allowed).unwrap_or(usize::MAX)));
        }
        self.pass_on(data.len());
        if !self.is_passed_on() {
            return Poll::Ready(Ok(Piece::Data(data)));
        }
        self.transfer.set_awaited(Awaited::Delivery);
        Poll::Ready(Ok(Piece::Last(data)))
    }

    /// Returns whether the body has ended and nothing of it is held back.
    #[must_use]
    pub fn is_passed_on(&self) -> bool {
        self.has_ended && self.ahead.is_none()
    }

    /// Waits until the rate limit allows more bytes, and returns their number, at least 1; `u64::MAX` without a limit. Fails
    /// if a side leaves in the meantime.
    ///
    /// # Errors
    /// The fault that ended the transfer.
    pub async fn allowance(&mut self) -> Result<u64, Fault> {
        std::future::poll_fn(|cx| self.poll_allowance(cx)).await
    }

    fn poll_allowance(&mut self, cx: &mut Context<'_>) -> Poll<Result<u64, Fault>> {
        let is_passed_on = self.is_passed_on();
        let Some(pace) = self.pace.as_mut().filter(|_| !is_passed_on) else {
            return Poll::Ready(Ok(u64::MAX));
        };
        let allowance = pace.poll_allowance(cx);
        self.transfer.set_paced(allowance.is_pending());
        if let Poll::Ready(allowed) = allowance {
            return Poll::Ready(Ok(allowed));
        }
        if pace.poll_source_left(cx, &self.body).is_ready() && !self.has_ended {
            return Poll::Ready(Err(self.fail(Fault::SourceDisconnected)));
        }
        ready!(self.departure.as_mut().poll(cx));
        Poll::Ready(Err(self.fail(Fault::DestinationDisconnected)))
    }

    fn pass_on(&mut self, bytes: usize) {
        self.transfer.record_passed_on(bytes);
        if let Some(pace) = &mut self.pace {
            pace.take(bytes as u64);
        }
    }

    /// Returns the source's connection and the number of body bytes, at least 1, that the kernel can move from it. `None` if
    /// the next bytes must be passed on by [`Relay::next`].
    #[must_use]
    pub fn in_kernel(&self) -> Option<(B::Kernel, u64)> {
        if self.ahead.is_some() {
            return None;
        }
        // The last byte is held back until the presence of the source is known.
        let held = u64::from(self.presence.is_some());
        self.body.in_kernel().map(|(from, left)| (from, left - held)).filter(|(_, left)| *left > 0)
    }

    /// Records that the kernel has taken this many bytes from the source.
    pub fn taken_by_kernel(&mut self, bytes: u64) {
        self.body.skip(bytes);
        self.received += bytes;
        self.transfer.record_received(bytes);
        self.transfer.set_awaited(Awaited::Destination);
        if self.length == Some(self.received) {
            self.end();
        }
    }

    /// Records that the kernel has passed this many bytes on to the destination. [`Relay::next`] reports the end of the body.
    pub fn passed_by_kernel(&mut self, bytes: usize) {
        self.pass_on(bytes);
    }

    /// Records that the transfer waits for the source's next bytes.
    pub fn awaits_source(&self) {
        self.transfer.set_awaited(Awaited::Source);
    }

    /// Records that the bytes taken from the relay are about to be written to the destination.
    pub fn awaits_destination(&self) {
        self.transfer.awaits_destination();
    }

    /// Waits until the source's connection has ended before the rest of its body has arrived. Never completes if that cannot be observed.
    /// To be awaited while bytes that were taken from the relay are written: it does not read.
    pub async fn source_lost(&mut self) {
        if let Some(departure) = self.body.departure() {
            departure.await;
            if !self.has_ended && !self.body.has_arrived() {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    /// Ends the transfer because the source's connection has closed before the end of its body. Returns the fault.
    pub fn source_disconnected(&self) -> Fault {
        self.fail(Fault::SourceDisconnected)
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        loop {
            let Poll::Ready(data) = self.poll_body(cx) else {
                self.transfer.set_awaited(Awaited::Source);
                ready!(self.departure.as_mut().poll(cx));
                return Poll::Ready(Some(Err(self.fail(Fault::DestinationDisconnected))));
            };
            let end = match data {
                Some(Ok(data)) => match self.accept(data) {
                    Ok(Some(data)) => return Poll::Ready(Some(Ok(data))),
                    Ok(None) => continue,
                    Err(fault) => Err(fault),
                },
                Some(Err(fault)) => Err(fault),
                None => self.check_end(),
            };
            return Poll::Ready(match end {
                Ok(()) => {
                    self.end();
                    self.held.take().map(Ok)
                }
                Err(fault) => Some(Err(self.fail(fault))),
            });
        }
    }

    /// Counts data received from the source. Returns the data if it may be passed on now, and `None` if it is held back.
    fn accept(&mut self, data: Bytes) -> Result<Option<Bytes>, Fault> {
        self.received += data.len() as u64;
        self.transfer.record_received(data.len() as u64);
        self.transfer.set_awaited(Awaited::Destination);
        match self.length {
            Some(length) if self.received > length => {
                Err(mismatch(length, UploadLength::MoreThan(length)).into())
            }
            _ if self.received > self.max_bytes => Err(Fault::TooLong { limit: self.max_bytes }),
            Some(length) if self.received == length && (self.is_promised || self.presence.is_some()) => {
                self.held = Some(data);
                Ok(None)
            }
            Some(length) if self.received == length => {
                self.end();
                Ok(Some(data))
            }
            _ => Ok(Some(data)),
        }
    }

    /// Polls the source's body. Its end is returned only if the source is known not to have left while it waited.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        if self.presence.as_ref().is_some_and(|presence| presence.before_body) {
            ready!(self.poll_presence(cx))?;
        }
        let data = ready!(self.body.poll_data(cx));
        if data.is_none() {
            ready!(self.poll_presence(cx))?;
        }
        Poll::Ready(data)
    }

    fn poll_presence(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let Some(presence) = &mut self.presence else { return Poll::Ready(Ok(())) };
        let is_connected = ready!(presence.answer.as_mut().poll(cx));
        self.presence = None;
        Poll::Ready(if is_connected { Ok(()) } else { Err(Fault::SourceDisconnected) })
    }

    fn check_end(&self) -> Result<(), Fault> {
        match self.length {
            Some(length) if self.received != length && self.is_promised => {
                Err(mismatch(length, UploadLength::Exactly(self.received)).into())
            }
            Some(length) if self.received != length => Err(Fault::SourceDisconnected),
            _ => Ok(()),
        }
    }

    /// Records the proper end of the source's body.
    fn end(&mut self) {
        self.has_ended = true;
        self.transfer.set_source_done();
    }

    fn fail(&self, fault: Fault) -> Fault {
        self.transfer.fail(fault.clone());
        fault
    }
}

fn mismatch(promised: u64, upload: UploadLength) -> LengthMismatch {
    LengthMismatch { promised, upload }
}
