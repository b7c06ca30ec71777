//! One paired stream: the transfer of its body from the source to the destination, and its outcome.
//!
//! The destination's task drives a transfer: it polls the [`Relay`], watches for stalls, and confirms delivery. The
//! source's task waits for the outcome.
//!
//! *Invariants.* A [`Transfer`] settles exactly one [`Outcome`]: the first stands. Each side holds a half. Dropping it
//! (because its connection closed, or its task was cancelled or panicked) settles the transfer as a failure of that side,
//! so no path leaves the other side waiting. Only [`DestinationHalf::delivered`] settles a success. It requires a
//! [`WholeBody`], which exists only after the [`Relay`] has seen the end of the body.
//!
//! *Concurrency.* Both tasks share the transfer. Its locks are held for a few assignments, never across an await.
//!
//! *Bounds.* One read of the source's connection and one write to the destination's. With a rate limit also the rest of
//! that read.

mod halves;
mod pace;
mod relay;
mod source;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rendezvous_protocol::{Side, Size};
use tokio::sync::SetOnce;
use tokio::time::{Instant, sleep_until};

use crate::header_set::StreamHeaders;
use crate::outcome::{Fault, Outcome};
use crate::rate::UploadMeter;
pub use halves::{DestinationHalf, SourceHalf};
pub use relay::{Piece, Relay};
pub use source::{Departure, Offer, PresenceCheck, SourceBody};

/// Looks at the kernel within the idle limit.
const LOOKS: u32 = 10;

/// The limits of a transfer.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long no byte may move before the transfer fails as stalled. While the kernel holds bytes for the destination, a tenth more.
    pub idle: Duration,
    /// Size and rate limits of the body.
    pub stream: StreamLimits,
}

impl Limits {
    /// Returns the limit on the body in bytes, if any.
    pub(crate) fn max_bytes(&self) -> Option<u64> {
        self.stream.max_bytes.map(Size::get)
    }
}

/// Limits on the body of each stream. `None`, the default of each, is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamLimits {
    /// Maximum length of the body in bytes. A longer upload gets 413.
    pub max_bytes: Option<Size>,
    /// Maximum rate in bytes per second. The relay pauses to keep it.
    pub max_rate: Option<Size>,
    /// Minimum rate of an upload in bytes per second, averaged over 10 seconds in which the relay waits for the source. A
    /// slower transfer fails with [`Fault::TooSlow`].
    pub min_upload_rate: Option<Size>,
}

/// The state that the two sides of a paired stream share.
pub struct Transfer {
    headers: Arc<StreamHeaders>,
    limits: Limits,
    started: Instant,
    progress: Mutex<Progress>,
    /// `None` without a minimum upload rate.
    upload: Option<Box<Mutex<UploadMeter>>>,
    /// `None` for a stream without a path. Within, `None` once the path is free.
    on_release: Option<Mutex<Option<OnRelease>>>,
    /// `None` once the transfer is settled.
    on_end: Mutex<Option<OnEnd>>,
    outcome: SetOnce<Outcome>,
    /// The counter of all transfers.
    body_bytes: Arc<AtomicU64>,
}

/// What the table learns of a transfer.
pub(crate) struct Observer {
    /// Frees the path, so that the next transfer can begin there. `None` for a stream without a path.
    pub(crate) on_release: Option<OnRelease>,
    /// Receives the outcome, once, before any task that waits for it.
    pub(crate) on_end: OnEnd,
}

type OnRelease = Box<dyn FnOnce() + Send>;
type OnEnd = Box<dyn FnOnce(&Outcome) + Send>;

#[derive(Debug)]
struct Progress {
    /// Body bytes passed on.
    bytes: u64,
    /// The transfer has its outcome. Bytes passed on after that are not counted.
    is_settled: bool,
    /// When a byte last moved.
    last_moved: Instant,
    awaited: Awaited,
    /// The relay has read the whole body and does not need the source any more. It may not have passed all of it on.
    is_source_done: bool,
    /// The relay waits for the rate limit, not for a side.
    is_paced: bool,
}

/// Proof that the relay has passed on the whole body. Only [`Transfer::whole_body`] creates it.
#[derive(Debug)]
pub struct WholeBody(());

/// The sides whose stalls a node judges: in a cluster, its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// Both sides use this node.
    Both,
    /// The destination uses another node.
    Source,
    /// The source uses another node, or the stream is that of another node.
    Destination,
}

/// What the transfer waits for: it determines the side that a stall is attributed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaited {
    /// The source's next bytes.
    Source,
    /// The destination, to take the bytes that were read.
    Destination,
    /// The destination's acknowledgement of the whole body.
    Delivery,
}

impl Transfer {
    /// Starts a transfer and returns its halves. Bytes passed on are added to `body_bytes` too.
    pub(crate) fn start(
        headers: Arc<StreamHeaders>,
        limits: Limits,
        body_bytes: Arc<AtomicU64>,
        observer: Observer,
    ) -> (SourceHalf, DestinationHalf) {
        let started = Instant::now();
        let progress = Progress {
            bytes: 0,
            is_settled: false,
            last_moved: started,
            awaited: Awaited::Source,
            is_source_done: false,
            is_paced: false,
        };
        let transfer = Arc::new(Self {
            headers,
            limits,
            started,
            progress: Mutex::new(progress),
            upload: limits.stream.min_upload_rate.map(|_| Box::default()),
            on_release: observer.on_release.map(|on_release| Mutex::new(Some(on_release))),
            on_end: Mutex::new(Some(observer.on_end)),
            outcome: SetOnce::new(),
            body_bytes,
        });
        (SourceHalf::new(Arc::clone(&transfer)), DestinationHalf::new(transfer))
    }

    /// Starts the part of a transfer that passes through this node, while another one has the stream, judges the transfer and limits it. Bytes
    /// passed on are added to `body_bytes` too. `idle` is the idle limit of a destination at this node.
    #[must_use]
    pub fn pass_through(body_bytes: Arc<AtomicU64>, idle: Duration) -> (SourceHalf, DestinationHalf) {
        let limits = Limits { idle, stream: StreamLimits::default() };
        let observer = Observer { on_release: None, on_end: Box::new(|_| {}) };
        Self::start(Arc::default(), limits, body_bytes, observer)
    }

    /// Returns the header sets of the stream.
    #[must_use]
    pub fn headers(&self) -> &Arc<StreamHeaders> {
        &self.headers
    }

    /// Returns when the sides were paired.
    #[must_use]
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Returns the body bytes passed on so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.progress.lock().bytes
    }

    /// Ends the transfer with `outcome`. Does nothing if it has ended before.
    pub(crate) fn settle(&self, outcome: Outcome) {
        let Some(on_end) = self.on_end.lock().take() else { return };
        self.progress.lock().is_settled = true;
        // First the table: a side that receives the outcome must find it in the status of the stream.
        on_end(&outcome);
        // `on_end` was taken only once, so the cell is empty.
        let _ = self.outcome.set(outcome);
    }

    /// Ends the transfer with `fault`. Does nothing if it has ended before.
    pub fn fail(&self, fault: Fault) {
        self.settle(Outcome::Failed(fault));
    }

    /// Ends the transfer with a `fault` of its source, unless the whole body was read: what a source does after its last byte does no harm.
    pub fn fail_source(&self, fault: Fault) {
        if !self.progress.lock().is_source_done {
            self.fail(fault);
        }
    }

    /// Returns the fault of a destination that another node has found to stand still.
    #[must_use]
    pub fn destination_stalled(&self) -> Fault {
        Fault::Stalled { side: Side::Destination, limit: self.limits.idle }
    }

    /// Waits for the outcome.
    pub async fn outcome(&self) -> &Outcome {
        self.outcome.wait().await
    }

    /// Waits until the transfer has failed. Never completes if it succeeds.
    pub async fn failed(&self) -> &Fault {
        match self.outcome().await {
            Outcome::Failed(fault) => fault,
            _ => std::future::pending().await,
        }
    }

    /// Returns the outcome, if the transfer has ended.
    #[must_use]
    pub fn ending(&self) -> Option<&Outcome> {
        self.outcome.get()
    }

    /// Returns the fault, if the transfer has failed.
    #[must_use]
    pub fn fault(&self) -> Option<&Fault> {
        match self.ending() {
            Some(Outcome::Failed(fault)) => Some(fault),
            _ => None,
        }
    }

    /// Returns a proof that the relay has passed on the whole body, if it has. The destination may not have received it yet.
    #[must_use]
    pub fn whole_body(&self) -> Option<WholeBody> {
        (self.progress.lock().awaited == Awaited::Delivery).then_some(WholeBody(()))
    }

    fn set_source_done(&self) {
        self.progress.lock().is_source_done = true;
        self.release();
    }

    /// Frees the path of the transfer: its body was read, or its source has left. Does nothing if it is free already, or the transfer has none.
    pub fn release(&self) {
        let Some(on_release) = &self.on_release else { return };
        let on_release = on_release.lock().take();
        if let Some(on_release) = on_release {
            on_release();
        }
    }

    /// Returns whether the transfer still occupies a path.
    #[must_use]
    pub fn occupies_path(&self) -> bool {
        self.on_release.as_ref().is_some_and(|on_release| on_release.lock().is_some())
    }

    /// Records that bytes have moved, so that the idle limit counts from now.
    pub fn touch(&self) {
        self.progress.lock().last_moved = Instant::now();
    }

    /// Waits until no byte has moved for the idle limit, or until the source has been too slow, and returns the fault.
    ///
    /// `unacknowledged` returns the bytes that the kernel still holds for the destination. While they decrease, bytes move,
    /// although no write shows it. Only the sides of `judged` can stall.
    pub async fn stalled(&self, judged: Judged, unacknowledged: impl Fn() -> u64) -> Fault {
        tokio::select! {
            fault = self.idle_timeout(judged, unacknowledged) => fault,
            fault = self.upload_too_slow() => fault,
        }
    }

    async fn idle_timeout(&self, judged: Judged, unacknowledged: impl Fn() -> u64) -> Fault {
        loop {
            let last_moved = self.progress.lock().last_moved;
            let Some(awaited) = self.idle_since(last_moved, &unacknowledged).await else { continue };
            let side = if awaited == Awaited::Source { Side::Source } else { Side::Destination };
            if !matches!(
                (judged, side),
                (Judged::Source, Side::Destination) | (Judged::Destination, Side::Source)
            ) {
                return Fault::Stalled { side, limit: self.limits.idle };
            }
            self.touch();
        }
    }

    /// Waits until no byte has moved for the idle limit, and returns what the transfer waits for. `None` as soon as it shows that a byte has moved after
    /// `last_moved`.
    async fn idle_since(&self, last_moved: Instant, unacknowledged: &impl Fn() -> u64) -> Option<Awaited> {
        let between_looks = self.limits.idle / LOOKS;
        sleep_until(last_moved + between_looks).await;
        let mut awaited = self.awaited_since(last_moved)?;
        let mut held = unacknowledged();
        // What the kernel still holds may have been more until now.
        let since = if held > 0 { Instant::now() } else { last_moved };
        let deadline = since + self.limits.idle;
        while Instant::now() < deadline {
            sleep_until(deadline.min(Instant::now() + between_looks)).await;
            awaited = self.awaited_since(last_moved)?;
            let held_before = std::mem::replace(&mut held, unacknowledged());
            if held_before > held {
                self.touch();
                return None;
            }
        }
        Some(awaited)
    }

    /// Returns what the transfer waits for, if no byte has moved since `last_moved`. Waiting for the rate limit counts as a move.
    fn awaited_since(&self, last_moved: Instant) -> Option<Awaited> {
        let mut progress = self.progress.lock();
        if progress.is_paced {
            progress.last_moved = Instant::now();
        }
        (progress.last_moved == last_moved).then_some(progress.awaited)
    }

    async fn upload_too_slow(&self) -> Fault {
        let (Some(upload), Some(minimum)) = (&self.upload, self.limits.stream.min_upload_rate) else {
            return std::future::pending().await;
        };
        loop {
            let (rate, until_change) = {
                let (mut upload, now) = (upload.lock(), self.started.elapsed());
                (upload.rate(now), upload.until_change(now))
            };
            if let Some(rate) = rate.filter(|rate| *rate < minimum.get()) {
                return Fault::TooSlow { rate, limit: minimum.get() };
            }
            tokio::time::sleep(until_change).await;
        }
    }

    fn set_awaited(&self, awaited: Awaited) {
        self.progress.lock().awaited = awaited;
        self.set_waiting_for_source(awaited == Awaited::Source);
    }

    /// Records that the bytes read so far wait for the destination, so that a stall is attributed to neither the source nor
    /// the rate limit.
    pub fn awaits_destination(&self) {
        if self.limits.stream.max_rate.is_some() {
            self.set_paced(false);
        }
        // To gather a batch, the relay was polled until the source had no more bytes, so it has set this to `Source`.
        let mut progress = self.progress.lock();
        if progress.awaited == Awaited::Source {
            progress.awaited = Awaited::Destination;
        }
        drop(progress);
        self.set_waiting_for_source(false);
    }

    fn set_waiting_for_source(&self, is_waiting: bool) {
        if let Some(upload) = &self.upload {
            upload.lock().set_waiting(is_waiting, self.started.elapsed());
        }
    }

    fn record_received(&self, bytes: u64) {
        if let Some(upload) = &self.upload {
            upload.lock().record(bytes, self.started.elapsed());
        }
    }

    /// Sets whether the relay waits for the rate limit. The idle limit does not count that time.
    fn set_paced(&self, is_paced: bool) {
        let mut progress = self.progress.lock();
        if std::mem::replace(&mut progress.is_paced, is_paced) {
            progress.last_moved = Instant::now();
        }
    }

    fn record_passed_on(&self, bytes: usize) {
        let mut progress = self.progress.lock();
        progress.last_moved = Instant::now();
        if !progress.is_settled {
            progress.bytes += bytes as u64;
            self.body_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }
}
