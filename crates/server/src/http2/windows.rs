//! Flow control of request bodies: how much each client may send before a reader takes it (RFC 9113, section 5.2).
//!
//! A body that waits for its destination needs a small window, because all of it stays in memory. A body that is passed on needs a window as
//! large as what is under way over its distance. h2 has one size for all HTTP/2 streams of a connection. So h2 is configured to grant the
//! largest windows of the protocol ([`UNLIMITED`]), and its frames that grant them never reach the client: [`super::io`] sends
//! what [`substitute`] makes of them, and the frames of [`Windows::take_updates`] in between.
//!
//! ```text
//!   client ── DATA ──► Traffic ────► h2 ────► Upload ──► reader
//!      ▲                  │ received              │ taken, awaited
//!      │                  ▼                       ▼
//!      └─ WINDOW_UPDATE ─ Io ◄── due ──────── Windows ◄── round trips of the settings and of PINGs
//! ```
//!
//! A window starts with [`MIN_WINDOW`]. If half of it has arrived within two round trips, and the reader waits for more, then the window may be the
//! limit, and grows, to [`MAX_WINDOW`] at most. So neither a slow source nor a slow destination earns a large one. The window of the
//! connection stays as large as possible: no HTTP/2 stream can use up that of another.
//!
//! *Invariant.* A body never has more bytes here and under way than its window. A client that sends more breaks its connection.
//!
//! *Concurrency.* The task of the connection receives and grants. The tasks of the readers take. One lock, held for a few assignments.
//!
//! *Bounds.* What windows have in excess of [`MIN_WINDOW`] is reserved in the budget of all connections. There is one window for each request
//! with a body that h2 has not ended.

mod frames;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::future::pending;
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use h2::{Ping, PingPong, Reason};
use parking_lot::Mutex;
use rendezvous_codec::frames::{Frame, FrameKind};
use rendezvous_core::budget::{Budget, Reservation};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use self::frames::put_window_update;
pub(super) use self::frames::{is_substituted, substitute};

/// The window of an HTTP/2 stream at its start, in bytes, and that of a stream that waits.
pub(super) const MIN_WINDOW: u32 = 64 * 1024 - 1;
/// The largest window of an HTTP/2 stream, in bytes. It passes 168 MB/s over a round trip of 50 ms.
const MAX_WINDOW: u32 = 8 * 1024 * 1024;
/// The windows that h2 is configured to grant: the largest of the protocol (RFC 9113, section 6.9.1).
pub(super) const UNLIMITED: u32 = (1 << 31) - 1;
/// A window grows by this factor. Two would not keep up with the slow start of TCP, which doubles in each round trip.
const GROWTH: u32 = 4;
/// Half of a window must arrive within this number of round trips, or the window is not the limit.
const ROUND_TRIPS: u32 = 2;
/// Longer round trips count as this one: a client could delay its acknowledgement.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(1);
/// The least time between two PINGs.
const PING_PAUSE: Duration = Duration::from_secs(10);
/// Bytes that may be granted before a `WINDOW_UPDATE` is sent: half of a small window, as usual; of a large one this many, because the rest of
/// the window is all that can be under way.
const MAX_UPDATE_THRESHOLD: u32 = 256 * 1024;
/// The most windows of a connection, for each concurrent HTTP/2 stream, and at least [`MIN_LIMIT`]. h2 accepts fewer.
const WINDOWS_PER_STREAM: usize = 4;
/// A client may begin many requests before it knows how many it may have.
const MIN_LIMIT: usize = 1024;
/// The most bytes of all windows of a connection: a quarter of the connection's own window, so that no HTTP/2 stream has to wait for it.
const MAX_WINDOWS: u64 = 1 << 29;

/// The windows of all request bodies of a connection.
#[derive(Debug)]
pub(super) struct Windows {
    state: Mutex<State>,
    /// The most windows at a time: more than h2 accepts, because requests that it refuses count until their reset is written. A client with
    /// more breaks its connection.
    limit: usize,
    memory: Arc<Budget>,
    /// The task of the connection, which writes updates.
    writer: AtomicWaker,
    /// Asks for a PING, because the round trip may have become longer.
    ping_is_useful: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// By HTTP/2 stream.
    windows: HashMap<u32, Window>,
    /// The HTTP/2 stream that the client has begun last.
    last_stream: u32,
    settings: Settings,
    /// The last round trip that was measured.
    round_trip: Option<Duration>,
    /// The windows that an update is due for.
    due: BTreeSet<u32>,
    /// The HTTP/2 streams with a body for which a frame has arrived.
    arrived: BTreeSet<u32>,
}

/// The settings of this side. Before the client has acknowledged them, h2 itself holds it to [`MIN_WINDOW`], so that nothing can be granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Settings {
    #[default]
    Unsent,
    Sent(Instant),
    Acknowledged,
}

/// The window of one request body. Dropping it ends flow control for its HTTP/2 stream.
#[derive(Debug)]
pub(super) struct BodyWindow {
    windows: Arc<Windows>,
    stream: u32,
}

#[derive(Debug)]
struct Window {
    /// Bytes that may be here and under way.
    size: u32,
    /// Bytes that the client may still send.
    left: u32,
    /// Bytes received that the reader has not taken.
    held: u32,
    /// The client has sent its last byte.
    has_ended: bool,
    /// A request reads it, or waits to.
    is_accepted: bool,
    /// Since when `received` is counted.
    counted_since: Instant,
    /// Bytes received, with padding.
    received: u32,
    /// For the part of `size` in excess of [`MIN_WINDOW`].
    memory: Reservation,
}

impl Window {
    fn new(memory: Reservation) -> Self {
        Self {
            size: MIN_WINDOW,
            left: MIN_WINDOW,
            held: 0,
            has_ended: false,
            is_accepted: false,
            counted_since: Instant::now(),
            received: 0,
            memory,
        }
    }

    fn receive(&mut self, frame: Frame) -> Result<(), Reason> {
        let [payload, padding] =
            [frame.payload, frame.padding].map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX));
        self.left = self.left.checked_sub(payload).ok_or(Reason::FLOW_CONTROL_ERROR)?;
        // Nobody takes padding.
        self.held += payload - padding;
        self.received = self.received.saturating_add(payload);
        self.has_ended |= frame.ends_stream();
        Ok(())
    }

    /// Bytes that may be granted.
    fn grantable(&self) -> u32 {
        if self.has_ended { 0 } else { self.size.saturating_sub(self.left + self.held) }
    }

    /// Whether a `WINDOW_UPDATE` is due.
    fn is_due(&self) -> bool {
        self.grantable() >= (self.size / 2).min(MAX_UPDATE_THRESHOLD)
    }

    /// Once half of the window has arrived, returns how long that took, and counts anew. `None` before, and for the largest window.
    fn time_of_half(&mut self) -> Option<Duration> {
        if self.size == MAX_WINDOW || self.received < self.size / 2 {
            return None;
        }
        self.received = 0;
        let now = Instant::now();
        Some(now - std::mem::replace(&mut self.counted_since, now))
    }

    /// Grows, if there is memory for it.
    fn grow(&mut self) {
        let size = (self.size * GROWTH).min(MAX_WINDOW);
        if self.memory.grow_optionally(u64::from(size - MIN_WINDOW)).is_ok() {
            self.size = size;
        }
    }
}

impl Windows {
    /// `max_streams` is the number of concurrent HTTP/2 streams of the connection.
    pub(super) fn new(max_streams: u32, memory: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            limit: (WINDOWS_PER_STREAM * max_streams as usize).max(MIN_LIMIT),
            memory,
            writer: AtomicWaker::new(),
            ping_is_useful: Notify::new(),
        })
    }

    /// Records a frame from the client. Returns whether it ends a body.
    ///
    /// # Errors
    /// The error code with which the connection ends, if it has more bytes than its window, or there are too many windows.
    pub(super) fn received(&self, frame: Frame) -> Result<bool, Reason> {
        let state = &mut *self.state.lock();
        if state.windows.contains_key(&frame.stream) {
            state.arrived.insert(frame.stream);
        }
        match frame.kind {
            FrameKind::Headers if frame.stream > state.last_stream => {
                state.last_stream = frame.stream;
                if !frame.ends_stream() {
                    if state.windows.len() >= self.limit {
                        return Err(Reason::ENHANCE_YOUR_CALM);
                    }
                    state.windows.insert(frame.stream, Window::new(self.memory.empty_reservation()));
                }
            }
            // Trailers.
            FrameKind::Headers => {
                if let Some(window) = state.windows.get_mut(&frame.stream) {
                    window.has_ended = true;
                }
            }
            FrameKind::Data => {
                // h2 discards what comes on an HTTP/2 stream that has ended here.
                if let Some(window) = state.windows.get_mut(&frame.stream) {
                    window.receive(frame)?;
                    self.update_if_due(state, frame.stream);
                }
            }
            FrameKind::Settings if frame.is_acknowledgement() => {
                if let Settings::Sent(sent) = std::mem::replace(&mut state.settings, Settings::Acknowledged) {
                    state.set_round_trip(sent.elapsed());
                }
                let streams: Vec<_> = state.windows.keys().copied().collect();
                for stream in streams {
                    self.update_if_due(state, stream);
                }
            }
            FrameKind::Reset => state.reset(frame.stream),
            _ => {}
        }
        let has_ended = |window: &Window| window.has_ended && frame.ends_stream();
        Ok(state.windows.get(&frame.stream).is_some_and(has_ended))
    }

    /// Records a frame from h2 to the client.
    pub(super) fn sent(&self, frame: Frame) {
        match frame.kind {
            FrameKind::Settings if !frame.is_acknowledgement() => {
                self.state.lock().settings = Settings::Sent(Instant::now());
            }
            FrameKind::Reset => self.state.lock().reset(frame.stream),
            _ if frame.ends_stream() => self.state.lock().answered(frame.stream),
            _ => {}
        }
    }

    /// Returns the window of the body on HTTP/2 stream `stream`, which h2 has accepted.
    pub(super) fn of_body(self: &Arc<Self>, stream: u32) -> BodyWindow {
        if let Some(window) = self.state.lock().windows.get_mut(&stream) {
            window.is_accepted = true;
        }
        BodyWindow { windows: Arc::clone(self), stream }
    }

    /// Returns the HTTP/2 streams with a body for which a frame has arrived since the last call. If h2 may not have decoded all of them, they
    /// are returned again by the next call.
    pub(super) fn take_arrived(&self, is_decoded: bool) -> BTreeSet<u32> {
        let arrived = &mut self.state.lock().arrived;
        if is_decoded { std::mem::take(arrived) } else { arrived.clone() }
    }

    /// Appends the updates that are due.
    pub(super) fn take_updates(&self, frames: &mut Vec<u8>) {
        let State { windows, due, .. } = &mut *self.state.lock();
        for stream in std::mem::take(due) {
            let Some(window) = windows.get_mut(&stream) else { continue };
            let increment = window.grantable();
            if increment > 0 {
                window.left += increment;
                put_window_update(frames, stream, increment);
            }
        }
    }

    /// Registers the task that calls [`Windows::take_updates`], to be woken when there are some.
    pub(super) fn set_writer(&self, waker: &Waker) {
        self.writer.register(waker);
    }

    /// Measures round trips when that is useful. Never completes. `expect_pong` is called before each PING.
    pub(super) async fn measure(&self, mut ping_pong: PingPong, expect_pong: impl Fn()) -> Infallible {
        loop {
            self.ping_is_useful.notified().await;
            expect_pong();
            let sent = Instant::now();
            if ping_pong.ping(Ping::opaque()).await.is_err() {
                // The connection has ended.
                return pending().await;
            }
            self.state.lock().set_round_trip(sent.elapsed());
            sleep(PING_PAUSE).await;
        }
    }

    fn update_if_due(&self, state: &mut State, stream: u32) {
        if state.settings == Settings::Acknowledged
            && state.windows.get(&stream).is_some_and(Window::is_due)
            && state.due.insert(stream)
        {
            self.writer.wake();
        }
    }
}

impl State {
    fn set_round_trip(&mut self, measured: Duration) {
        self.round_trip = Some(measured.min(MAX_ROUND_TRIP));
    }

    /// Forgets the window of a request that h2 has answered and never accepted.
    fn answered(&mut self, stream: u32) {
        if self.windows.get(&stream).is_some_and(|window| !window.is_accepted) {
            self.windows.remove(&stream);
        }
    }

    /// Ends the window of an HTTP/2 stream that was reset: no frame may be sent on it any more (RFC 9113, section 5.1).
    fn reset(&mut self, stream: u32) {
        self.answered(stream);
        self.due.remove(&stream);
        if let Some(window) = self.windows.get_mut(&stream) {
            window.has_ended = true;
        }
    }
}

impl BodyWindow {
    /// Records that the reader has taken this many bytes.
    pub(super) fn taken(&self, bytes: usize) {
        let state = &mut *self.windows.state.lock();
        if let Some(window) = state.windows.get_mut(&self.stream) {
            window.held = window.held.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
            self.windows.update_if_due(state, self.stream);
        }
    }

    /// Records that the reader waits for more.
    pub(super) fn awaited(&self) {
        let state = &mut *self.windows.state.lock();
        let Some(window) = state.windows.get_mut(&self.stream) else { return };
        let Some(time) = window.time_of_half() else { return };
        if state.round_trip.is_some_and(|round_trip| time <= ROUND_TRIPS * round_trip) {
            let all: u64 = state.windows.values().map(|window| u64::from(window.size)).sum();
            if let Some(window) = state.windows.get_mut(&self.stream)
                && all + u64::from(MAX_WINDOW) <= MAX_WINDOWS
            {
                window.grow();
            }
            self.windows.update_if_due(state, self.stream);
        } else {
            self.windows.ping_is_useful.notify_one();
        }
    }
}

impl Drop for BodyWindow {
    fn drop(&mut self) {
        let State { windows, due, .. } = &mut *self.windows.state.lock();
        windows.remove(&self.stream);
        due.remove(&self.stream);
    }
}
