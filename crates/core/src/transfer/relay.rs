//! The body that flows through: what the source sends, as the destination may have it.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::pace::Pace;
use super::{Awaited, Departure, Offer, PresenceCheck, SourceBody, Transfer};
use crate::outcome::{Fault, LengthMismatch, UploadLength};

/// What a [`Relay`] passes on next.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    /// Some bytes, at least one; more bytes may follow.
    Data(Bytes),
    /// The last bytes, or none where the end of the body was only seen behind them. Nothing follows.
    Last(Bytes),
}

impl Piece {
    /// The bytes.
    #[must_use]
    pub fn into_data(self) -> Bytes {
        match self {
            Self::Data(data) | Self::Last(data) => data,
        }
    }
}

/// The destination's response body: the source's request body as it comes, and the watch over both.
///
/// It ends well only where the source's body did; any other end is an error, which makes the response visibly
/// incomplete.
pub struct Relay<B> {
    transfer: Arc<Transfer>,
    body: B,
    /// Total length, where it is declared or promised.
    length: Option<u64>,
    /// The length is only promised: the frame that fulfils it waits in `held` until the source has really
    /// ended.
    promised: bool,
    received: u64,
    /// The source's body has ended well. What is in `held` and `ahead` is still to be passed on.
    ended: bool,
    /// Bytes that may be received.
    most: u64,
    held: Option<Bytes>,
    /// Taken from the source and not yet passed on: by [`Relay::first`], or because of the pace.
    ahead: Option<Bytes>,
    pace: Option<Box<Pace>>,
    /// Where the source may have left while it waited: whether it is still there.
    presence: Option<PresenceCheck>,
    /// Resolves when the destination leaves.
    departure: Departure,
}

impl<B: SourceBody> Relay<B> {
    /// `departure` resolves when the destination's connection closes or resets. A source may be in doubt because it can have left
    /// while it waited.
    pub fn new(
        offer: Offer<B>,
        is_source_in_doubt: bool,
        transfer: Arc<Transfer>,
        departure: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let promised = transfer.headers.promised_length();
        let limits = transfer.limits.stream;
        Self {
            pace: limits.max_rate.map(|rate| Box::new(Pace::new(rate, &offer.body))),
            most: transfer.limits.max_bytes().unwrap_or(u64::MAX),
            presence: if is_source_in_doubt { offer.body.presence() } else { None },
            body: offer.body,
            length: offer.length.or(promised),
            promised: offer.length.is_none() && promised.is_some(),
            received: 0,
            ended: false,
            held: None,
            ahead: None,
            departure: Box::pin(departure),
            transfer,
        }
    }

    /// Waits for the first bytes, or the end of an empty body. Until then a failure can be told as a status.
    ///
    /// # Errors
    /// The fault that ended the transfer.
    pub async fn first(&mut self) -> Result<(), Fault> {
        self.ahead = std::future::poll_fn(|cx| self.poll_data(cx)).await.transpose()?;
        if self.is_passed_on() {
            self.transfer.awaits(Awaited::Delivery);
        }
        Ok(())
    }

    /// The length of the whole body in bytes, where it is known.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next piece to pass on, counted as passed on. Behind the last there are only empty last pieces.
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
            None if self.ended => Bytes::new(),
            None => ready!(self.poll_data(cx)).transpose()?.unwrap_or_default(),
        };
        if (data.len() as u64) > allowed {
            self.ahead = Some(data.split_off(usize::try_from(allowed).unwrap_or(usize::MAX)));
        }
        self.pass_on(data.len());
        if !self.is_passed_on() {
            return Poll::Ready(Ok(Piece::Data(data)));
        }
        self.transfer.awaits(Awaited::Delivery);
        Poll::Ready(Ok(Piece::Last(data)))
    }

    /// Whether the body has ended, and nothing of it is held back here.
    #[must_use]
    pub fn is_passed_on(&self) -> bool {
        self.ended && self.ahead.is_none()
    }

    /// How many bytes may be passed on now: at least one. Until then each side is watched.
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
        if pace.poll_source_left(cx, &self.body).is_ready() && !self.ended {
            return Poll::Ready(Err(self.fail(Fault::SourceDisconnected)));
        }
        ready!(self.departure.as_mut().poll(cx));
        Poll::Ready(Err(self.fail(Fault::DestinationDisconnected)))
    }

    fn pass_on(&mut self, bytes: usize) {
        self.transfer.passed_on(bytes);
        if let Some(pace) = &mut self.pace {
            pace.take(bytes as u64);
        }
    }

    /// From where, and how many bytes the kernel can move past the program. `None` where they have to pass through it.
    #[must_use]
    pub fn in_kernel(&self) -> Option<(B::Kernel, u64)> {
        if self.ahead.is_some() {
            return None;
        }
        // The last byte is held back.
        let held = u64::from(self.presence.is_some());
        self.body.in_kernel().map(|(from, left)| (from, left - held)).filter(|(_, left)| *left > 0)
    }

    /// The kernel has taken so many bytes from the source.
    pub fn taken_by_kernel(&mut self, bytes: u64) {
        self.body.skip(bytes);
        self.received += bytes;
        self.transfer.brought(bytes);
        self.transfer.awaits(Awaited::Destination);
        if self.length == Some(self.received) {
            self.end();
        }
    }

    /// The kernel has passed so many bytes on to the destination. That they were the last, [`Relay::next`] says.
    pub fn passed_by_kernel(&mut self, bytes: usize) {
        self.pass_on(bytes);
    }

    /// The source's next bytes are what is waited for.
    pub fn awaits_source(&self) {
        self.transfer.awaits(Awaited::Source);
    }

    /// What was taken of it is about to be written.
    pub fn awaits_destination(&self) {
        self.transfer.awaits_destination();
    }

    /// The source's connection has ended inside its body.
    pub fn source_gone(&self) -> Fault {
        self.fail(Fault::SourceDisconnected)
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        loop {
            let Poll::Ready(data) = self.poll_body(cx) else {
                self.transfer.awaits(Awaited::Source);
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

    /// Data has come: what of it may be passed on now.
    fn accept(&mut self, data: Bytes) -> Result<Option<Bytes>, Fault> {
        self.received += data.len() as u64;
        self.transfer.brought(data.len() as u64);
        self.transfer.awaits(Awaited::Destination);
        match self.length {
            Some(length) if self.received > length => {
                Err(mismatch(length, UploadLength::MoreThan(length)).into())
            }
            _ if self.received > self.most => Err(Fault::TooLong { limit: self.most }),
            Some(length) if self.received == length && (self.promised || self.presence.is_some()) => {
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

    /// The source's body. It ends well only where the source is known not to have left while it waited.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        if self.presence.as_ref().is_some_and(|presence| presence.comes_first) {
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
        let is_there = ready!(presence.answer.as_mut().poll(cx));
        self.presence = None;
        Poll::Ready(if is_there { Ok(()) } else { Err(Fault::SourceDisconnected) })
    }

    fn check_end(&self) -> Result<(), Fault> {
        match self.length {
            Some(length) if self.received != length && self.promised => {
                Err(mismatch(length, UploadLength::Exactly(self.received)).into())
            }
            Some(length) if self.received != length => Err(Fault::SourceDisconnected),
            _ => Ok(()),
        }
    }

    /// The source's body has ended well.
    fn end(&mut self) {
        self.ended = true;
        self.transfer.source_done();
    }

    fn fail(&self, fault: Fault) -> Fault {
        self.transfer.fail(fault.clone());
        fault
    }
}

fn mismatch(promised: u64, upload: UploadLength) -> LengthMismatch {
    LengthMismatch { promised, upload }
}
