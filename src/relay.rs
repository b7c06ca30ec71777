//! A source meets a destination: the transfer, its two halves, and the body that flows through.
//!
//! A [`Transfer`] settles exactly one [`Outcome`], and the first stands. Each side holds a half; a half that
//! is dropped (its connection broke, its task was cancelled or panicked) settles the transfer as a failure of
//! that side, so no path leaves the other side waiting. Nothing but [`DestinationHalf::delivered`] settles a
//! success.
//!
//! The destination conducts: it polls the [`Relay`], watches for stalls, and confirms delivery. The source
//! waits for the outcome. Memory is bounded by one frame in flight here, and by hyper's buffers on both
//! connections.

mod pace;
mod source;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::sync::SetOnce;
use tokio::time::Instant;

use self::pace::Pace;
use crate::config::{Size, StreamLimits};
use crate::header_set::StreamHeaders;
use crate::outcome::{Fault, LengthMismatch, Outcome, Side, UploadLength};
use crate::rate::Upload;
use crate::wire::Wire;
pub use source::{BodyStream, SocketBody, SourceBody};

/// What a source brings to the meeting.
pub struct Offer {
    /// The request body.
    pub body: SourceBody,
    /// The declared length in bytes; `None` for a chunked body.
    pub length: Option<u64>,
    /// Those of the source's headers that describe the body and go to the destination, if there are any: in a box,
    /// because most sources that wait have none.
    pub headers: Option<Box<HeaderMap>>,
}

/// The limits of a transfer.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long it may stand still.
    pub idle: Duration,
    /// How much it may carry, and how fast.
    pub stream: StreamLimits,
}

/// One pair of sides, from their meeting to the outcome.
pub struct Transfer {
    headers: Arc<StreamHeaders>,
    limits: Limits,
    started: Instant,
    progress: Mutex<Progress>,
    /// Where a source must bring so much.
    upload: Option<Box<Mutex<Upload>>>,
    settled: Mutex<Option<OnEnd>>,
    outcome: SetOnce<Outcome>,
}

/// Told of the outcome, once, before anybody who waits for it.
pub type OnEnd = Box<dyn FnOnce(&Outcome) + Send>;

#[derive(Debug)]
struct Progress {
    bytes: u64,
    moved: Instant,
    awaited: Awaited,
    /// It goes on as soon as its pace allows it.
    paced: bool,
}

/// What has to happen next, which says whose fault a stall is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// The source's next bytes.
    Source,
    /// That the destination takes what there is.
    Destination,
    /// That the destination has the last of a body that has ended.
    Delivery,
}

impl Transfer {
    /// The halves of a new transfer. `on_end` is told of the outcome.
    #[must_use]
    pub fn start(
        headers: Arc<StreamHeaders>,
        limits: Limits,
        on_end: OnEnd,
    ) -> (SourceHalf, DestinationHalf) {
        let started = Instant::now();
        let progress = Progress { bytes: 0, moved: started, awaited: Awaited::Source, paced: false };
        let transfer = Arc::new(Self {
            headers,
            limits,
            started,
            progress: Mutex::new(progress),
            upload: limits.stream.min_upload_rate.map(|_| Box::default()),
            settled: Mutex::new(Some(on_end)),
            outcome: SetOnce::new(),
        });
        (SourceHalf(Arc::clone(&transfer)), DestinationHalf(transfer))
    }

    /// The header sets of the stream.
    #[must_use]
    pub fn headers(&self) -> &Arc<StreamHeaders> {
        &self.headers
    }

    /// When the sides met.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Body bytes passed on so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.progress.lock().bytes
    }

    /// Ends the transfer, if nothing has ended it before.
    pub fn settle(&self, outcome: Outcome) {
        let Some(on_end) = self.settled.lock().take() else { return };
        // The table first: who learns the outcome must find it there.
        on_end(&outcome);
        // Only the holder of `on_end` comes here, so the cell is empty.
        let _ = self.outcome.set(outcome);
    }

    /// Ends the transfer by `fault`, if nothing has ended it before.
    pub fn fail(&self, fault: Fault) {
        self.settle(Outcome::Failed(fault));
    }

    /// Waits for the outcome.
    pub async fn outcome(&self) -> &Outcome {
        self.outcome.wait().await
    }

    /// Waits until the transfer has failed; forever where it does not.
    pub async fn failed(&self) -> &Fault {
        match self.outcome().await {
            Outcome::Failed(fault) => fault,
            _ => std::future::pending().await,
        }
    }

    /// The fault, where the transfer has failed already.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        match self.outcome.get() {
            Some(Outcome::Failed(fault)) => Some(fault),
            _ => None,
        }
    }

    /// The source's whole body has been passed on, and what is left is to deliver it.
    #[must_use]
    pub fn is_source_done(&self) -> bool {
        self.progress.lock().awaited == Awaited::Delivery
    }

    /// Bytes have moved somewhere: the idle limit counts from now.
    pub fn touch(&self) {
        self.progress.lock().moved = Instant::now();
    }

    /// Waits until no byte has moved for the idle limit, or the source has been too slow. `unacknowledged` tells how
    /// many bytes the kernel still holds for the destination: while that shrinks, bytes move, though no write of ours
    /// shows it.
    pub async fn stalled(&self, unacknowledged: impl Fn() -> usize) -> Fault {
        tokio::select! {
            fault = self.stood_still(unacknowledged) => fault,
            fault = self.brought_too_little() => fault,
        }
    }

    async fn stood_still(&self, unacknowledged: impl Fn() -> usize) -> Fault {
        let mut held = unacknowledged();
        loop {
            let moved = self.progress.lock().moved;
            tokio::time::sleep_until(moved + self.limits.idle).await;
            let awaited = {
                let mut progress = self.progress.lock();
                if progress.paced {
                    progress.moved = Instant::now();
                }
                if progress.moved != moved {
                    continue;
                }
                progress.awaited
            };
            let holds = unacknowledged();
            if std::mem::replace(&mut held, holds) > holds {
                self.touch();
                continue;
            }
            let side = if awaited == Awaited::Source { Side::Source } else { Side::Destination };
            return Fault::Stalled { side, limit: self.limits.idle };
        }
    }

    async fn brought_too_little(&self) -> Fault {
        let (Some(upload), Some(least)) = (&self.upload, self.limits.stream.min_upload_rate) else {
            return std::future::pending().await;
        };
        loop {
            let (rate, next_look) = {
                let (mut upload, now) = (upload.lock(), self.started.elapsed());
                (upload.rate(now), upload.next_look(now))
            };
            if let Some(rate) = rate.filter(|rate| *rate < least.get()) {
                return Fault::TooSlow { rate, limit: least.get() };
            }
            tokio::time::sleep(next_look).await;
        }
    }

    fn awaits(&self, awaited: Awaited) {
        self.progress.lock().awaited = awaited;
        self.waits_for_source(awaited == Awaited::Source);
    }

    /// What there is waits for the destination to take it: the time is neither the source's nor the pace's.
    pub fn awaits_destination(&self) {
        if self.limits.stream.max_rate.is_some() {
            self.set_paced(false);
        }
        self.waits_for_source(false);
    }

    fn waits_for_source(&self, waits: bool) {
        if let Some(upload) = &self.upload {
            upload.lock().waits(waits, self.started.elapsed());
        }
    }

    fn brought(&self, bytes: u64) {
        if let Some(upload) = &self.upload {
            upload.lock().brings(bytes, self.started.elapsed());
        }
    }

    /// From now on the transfer is held up by its pace, and by neither side; or is not.
    fn set_paced(&self, paced: bool) {
        let mut progress = self.progress.lock();
        if std::mem::replace(&mut progress.paced, paced) {
            progress.moved = Instant::now();
        }
    }

    fn passed_on(&self, bytes: usize) {
        let mut progress = self.progress.lock();
        progress.bytes += bytes as u64;
        progress.moved = Instant::now();
    }
}

/// The source's hold on a transfer. Dropped early, the source is gone.
pub struct SourceHalf(Arc<Transfer>);

impl SourceHalf {
    /// The transfer.
    #[must_use]
    pub fn transfer(&self) -> &Transfer {
        &self.0
    }
}

impl Drop for SourceHalf {
    fn drop(&mut self) {
        // A source that leaves after its last byte spoils nothing.
        if !self.0.is_source_done() {
            self.0.fail(Fault::SourceDisconnected);
        }
    }
}

/// The destination's hold on a transfer. Dropped early, the destination is gone.
pub struct DestinationHalf(Arc<Transfer>);

impl DestinationHalf {
    /// The transfer.
    #[must_use]
    pub fn transfer(&self) -> &Arc<Transfer> {
        &self.0
    }

    /// Every byte is at the destination.
    pub fn delivered(self) {
        self.0.settle(Outcome::Finished);
    }
}

impl Drop for DestinationHalf {
    fn drop(&mut self) {
        self.0.fail(Fault::DestinationDisconnected);
    }
}

/// The destination's response body: the source's request body as it comes, and the watch over both.
///
/// It ends well only where the source's body did; any other end is an error, which makes the response visibly
/// incomplete. Trailers are consumed, not passed on.
pub struct Relay {
    transfer: Arc<Transfer>,
    body: SourceBody,
    /// Total length, where it is declared or promised.
    length: Option<u64>,
    /// The length is only promised: the frame that fulfils it waits in `held` until the source has really
    /// ended.
    promised: bool,
    received: u64,
    /// Bytes that may be received.
    most: u64,
    held: Option<Bytes>,
    /// Taken from the source and not yet passed on: by [`Relay::first`], or because of the pace.
    ahead: Option<Bytes>,
    pace: Option<Box<Pace>>,
    /// Resolves when the destination leaves.
    departure: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Relay {
    /// `departure` resolves when the destination's connection closes or resets.
    pub fn new(
        offer: Offer,
        transfer: Arc<Transfer>,
        departure: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let promised = transfer.headers.promised_length();
        let limits = transfer.limits.stream;
        Self {
            pace: limits.max_rate.map(|rate| Box::new(Pace::new(rate, &offer.body))),
            most: limits.max_bytes.map_or(u64::MAX, Size::get),
            body: offer.body,
            length: offer.length.or(promised),
            promised: offer.length.is_none() && promised.is_some(),
            received: 0,
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
        Ok(())
    }

    /// The length of the whole body in bytes, where it is known.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// The next data to pass on, counted as passed on; `None` at the end.
    ///
    /// # Errors
    /// The fault that ended the transfer.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await.transpose()
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        let allowed = match ready!(self.poll_allowance(cx)) {
            Ok(allowed) => allowed,
            Err(fault) => return Poll::Ready(Some(Err(fault))),
        };
        let mut data = match self.ahead.take() {
            Some(ahead) => Some(Ok(ahead)),
            None if self.transfer.is_source_done() => None,
            None => ready!(self.poll_data(cx)),
        };
        if let Some(Ok(data)) = &mut data {
            if (data.len() as u64) > allowed {
                self.ahead = Some(data.split_off(usize::try_from(allowed).unwrap_or(usize::MAX)));
            }
            self.pass_on(data.len());
        }
        Poll::Ready(data)
    }

    /// How many bytes may be passed on now: at least one. Until then each side is watched.
    ///
    /// # Errors
    /// The fault that ended the transfer.
    pub async fn allowance(&mut self) -> Result<u64, Fault> {
        std::future::poll_fn(|cx| self.poll_allowance(cx)).await
    }

    fn poll_allowance(&mut self, cx: &mut Context<'_>) -> Poll<Result<u64, Fault>> {
        let Some(pace) = &mut self.pace else { return Poll::Ready(Ok(u64::MAX)) };
        if self.ahead.is_none() && self.transfer.is_source_done() {
            return Poll::Ready(Ok(u64::MAX));
        }
        let allowance = pace.poll_allowance(cx);
        self.transfer.set_paced(allowance.is_pending());
        if let Poll::Ready(allowed) = allowance {
            return Poll::Ready(Ok(allowed));
        }
        if pace.poll_source_left(cx, &self.body).is_ready() && !self.transfer.is_source_done() {
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

    /// The source's connection, and how many bytes can be moved from it by the kernel. `None` where they have to
    /// pass through the program.
    #[must_use]
    pub fn in_kernel(&self) -> Option<(Arc<Wire>, u64)> {
        match &self.body {
            SourceBody::Socket(body) if self.ahead.is_none() => body.in_kernel(),
            _ => None,
        }
    }

    /// The kernel has taken so many bytes from the source.
    pub fn taken_by_kernel(&mut self, bytes: u64) {
        if let SourceBody::Socket(body) = &mut self.body {
            body.skip(bytes);
        }
        self.received += bytes;
        self.transfer.brought(bytes);
        self.transfer.awaits(Awaited::Destination);
    }

    /// The kernel has passed so many bytes on to the destination.
    pub fn passed_by_kernel(&mut self, bytes: usize) {
        self.pass_on(bytes);
        if self.in_kernel().is_none() && self.length == Some(self.received) {
            self.transfer.awaits(Awaited::Delivery);
        }
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
            let Poll::Ready(data) = self.body.poll_data(cx) else {
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
                    self.transfer.awaits(Awaited::Delivery);
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
            Some(length) if self.received == length && self.promised => {
                self.held = Some(data);
                Ok(None)
            }
            Some(length) if self.received == length => {
                // hyper does not poll a response body of known length again after its last byte.
                self.transfer.awaits(Awaited::Delivery);
                Ok(Some(data))
            }
            _ => Ok(Some(data)),
        }
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

    fn fail(&self, fault: Fault) -> Fault {
        self.transfer.fail(fault.clone());
        fault
    }
}

fn mismatch(promised: u64, upload: UploadLength) -> LengthMismatch {
    LengthMismatch { promised, upload }
}

impl Body for Relay {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        self.poll_next(cx).map(|data| data.map(|data| data.map(Frame::data)))
    }

    /// False for a body of a known length of zero, which [`Relay::length`] tells: hyper would drop the length that
    /// the stream's maker spelled.
    fn is_end_stream(&self) -> bool {
        self.ahead.is_none() && self.transfer.is_source_done() && self.length != Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
