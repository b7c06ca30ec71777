//! A source meets a destination: the transfer, its two halves, and the body that flows through.
//!
//! A [`Transfer`] settles exactly one [`Outcome`], and the first stands. Each side holds a half; a half that
//! is dropped (its connection broke, its task was cancelled or panicked) settles the transfer as a failure of
//! that side, so no path leaves the other side waiting. Nothing but [`DestinationHalf::delivered`] settles a
//! success, and it asks for [`WholeBody`], which only the [`Relay`] can give: it alone sees where a body ends.
//!
//! The destination conducts: it polls the [`Relay`], watches for stalls, and confirms delivery. The source
//! waits for the outcome. Memory is bounded by one read of the source's connection, and by one write to the destination's.

mod pace;
mod relay;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use rendezvous_protocol::{Side, Size};
use tokio::sync::SetOnce;
use tokio::time::Instant;

use crate::header_set::StreamHeaders;
use crate::outcome::{Fault, Outcome};
use crate::rate::Upload;
pub use relay::{Piece, Relay};

/// What a source brings to the meeting.
pub struct Offer<B> {
    /// The request body.
    pub body: B,
    /// The declared length in bytes; `None` for a chunked body.
    pub length: Option<u64>,
    /// Those of the source's headers that describe the body and go to the destination, if there are any: in a box,
    /// because most sources that wait have none.
    pub headers: Option<Box<HeaderMap>>,
}

/// The body of a source's request, as a [`Relay`] reads it. Untouched until the sides have paired.
pub trait SourceBody: Send + 'static {
    /// What the kernel can move a part of the body from.
    type Kernel;

    /// Reads the next data; `None` at the proper end of the body.
    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>>;

    /// From where, and how many bytes of the body the kernel can move past the program. `None` where they have to pass through it.
    fn in_kernel(&self) -> Option<(Self::Kernel, u64)>;

    /// The kernel has moved so many bytes.
    fn skip(&mut self, bytes: u64);

    /// Whether the rest of the body has arrived, as far as can be known without reading it.
    fn has_arrived(&self) -> bool;

    /// Resolves when the source's connection closes or resets. `None` where that cannot be seen apart from the body.
    fn departure(&self) -> Option<Departure>;

    /// Asks a source that may have left while it waited whether it is still there. `None` where it needs not be asked.
    fn presence(&self) -> Option<PresenceCheck>;
}

/// Resolves when a side has left.
pub type Departure = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A question to a source that may have left while it waited.
pub struct PresenceCheck {
    /// Before the first byte, where the source has closed its sending side. Else behind the last: what completes the body is held
    /// back until then, because nothing of a source that has left may look whole.
    pub comes_first: bool,
    /// Whether it is still there.
    pub answer: Pin<Box<dyn Future<Output = bool> + Send>>,
}

/// The limits of a transfer.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long it may stand still.
    pub idle: Duration,
    /// How much it may carry, and how fast.
    pub stream: StreamLimits,
}

impl Limits {
    /// Bytes of a body, where that is limited.
    #[must_use]
    pub fn max_bytes(&self) -> Option<u64> {
        self.stream.max_bytes.map(Size::get)
    }
}

/// What each stream may carry, and how fast; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamLimits {
    /// Bytes of the body.
    pub max_bytes: Option<Size>,
    /// Bytes a second that are passed on at most.
    pub max_rate: Option<Size>,
    /// Bytes a second that the source is to bring at least, in the time that it is waited for.
    pub min_upload_rate: Option<Size>,
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
    /// Of all transfers.
    body_bytes: Arc<AtomicU64>,
}

/// Told of the outcome, once, before anybody who waits for it.
pub type OnEnd = Box<dyn FnOnce(&Outcome) + Send>;

#[derive(Debug)]
struct Progress {
    bytes: u64,
    /// The outcome stands: what still moves is not counted.
    is_settled: bool,
    moved: Instant,
    awaited: Awaited,
    /// The relay has the source's whole body, and needs the source no more. Some of it may still be held back by the pace.
    source_done: bool,
    /// It goes on as soon as its pace allows it.
    paced: bool,
}

/// Proof that the last byte of a body was handed to whatever writes it to the destination.
#[derive(Debug)]
pub struct WholeBody(());

/// What has to happen next, which says whose fault a stall is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// The source's next bytes.
    Source,
    /// That the destination takes what there is.
    Destination,
    /// That the destination acknowledges a body that was passed on whole.
    Delivery,
}

impl Transfer {
    /// The halves of a new transfer, which counts what it passes on in `body_bytes` too. `on_end` is told of the outcome.
    #[must_use]
    pub fn start(
        headers: Arc<StreamHeaders>,
        limits: Limits,
        body_bytes: Arc<AtomicU64>,
        on_end: OnEnd,
    ) -> (SourceHalf, DestinationHalf) {
        let started = Instant::now();
        let progress = Progress {
            bytes: 0,
            is_settled: false,
            moved: started,
            awaited: Awaited::Source,
            source_done: false,
            paced: false,
        };
        let transfer = Arc::new(Self {
            headers,
            limits,
            started,
            progress: Mutex::new(progress),
            upload: limits.stream.min_upload_rate.map(|_| Box::default()),
            settled: Mutex::new(Some(on_end)),
            outcome: SetOnce::new(),
            body_bytes,
        });
        (SourceHalf(Arc::clone(&transfer)), DestinationHalf { transfer, at_end: None })
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
        self.progress.lock().is_settled = true;
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

    /// The outcome, where there is one already.
    #[must_use]
    pub fn ending(&self) -> Option<&Outcome> {
        self.outcome.get()
    }

    /// The fault, where the transfer has failed already.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        match self.ending() {
            Some(Outcome::Failed(fault)) => Some(fault),
            _ => None,
        }
    }

    /// The proof that the whole body was passed on, if it was. The destination may not have received it yet.
    #[must_use]
    pub fn whole_body(&self) -> Option<WholeBody> {
        (self.progress.lock().awaited == Awaited::Delivery).then_some(WholeBody(()))
    }

    fn source_done(&self) {
        self.progress.lock().source_done = true;
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
        // To gather what there is, the relay was polled until the source had no more.
        let mut progress = self.progress.lock();
        if progress.awaited == Awaited::Source {
            progress.awaited = Awaited::Destination;
        }
        drop(progress);
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
        progress.moved = Instant::now();
        if !progress.is_settled {
            progress.bytes += bytes as u64;
            self.body_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
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
        if !self.0.progress.lock().source_done {
            self.0.fail(Fault::SourceDisconnected);
        }
    }
}

/// The destination's hold on a transfer. Dropped early, the destination is gone.
pub struct DestinationHalf {
    transfer: Arc<Transfer>,
    at_end: Option<AtEnd>,
}

type AtEnd = Box<dyn FnOnce(&Transfer) + Send>;

impl DestinationHalf {
    /// The transfer.
    #[must_use]
    pub fn transfer(&self) -> &Arc<Transfer> {
        &self.transfer
    }

    /// Tells `at_end` of the transfer when this hold is over, and with it the transfer.
    pub fn at_end(&mut self, at_end: impl FnOnce(&Transfer) + Send + 'static) {
        self.at_end = Some(Box::new(at_end));
    }

    /// The destination has acknowledged every byte of the body.
    pub fn delivered(self, _: WholeBody) {
        self.transfer.settle(Outcome::Finished);
    }
}

impl Drop for DestinationHalf {
    fn drop(&mut self) {
        self.transfer.fail(Fault::DestinationDisconnected);
        if let Some(at_end) = self.at_end.take() {
            at_end(&self.transfer);
        }
    }
}
