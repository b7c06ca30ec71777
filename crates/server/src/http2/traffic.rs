//! Watches the frames of an HTTP/2 connection, below h2.
//!
//! h2 does not report three facts that delivery and overload protection depend on: when the last frame of a response is in the kernel, that a
//! client has reset an HTTP/2 stream whose response h2 counts as ended, and how many *idle frames* a client sends: frames that cause work and
//! carry nothing. [`Traffic`] derives them from the frame headers of both directions, and passes those to [`Windows`].
//!
//! *Invariant.* A response counts as in the kernel only once its last frame was written and everything written was flushed through TLS.
//!
//! *Concurrency.* Only the task of the connection uses it; the lock is there because the futures of its requests share it.
//!
//! *Bounds.* One entry for each response that is being sent.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use h2::Reason;
use parking_lot::Mutex;
use rendezvous_codec::frames::{Frame, FrameKind, FrameScanner, Position};
use tokio::sync::{SetOnce, watch};
use tokio::time::{Instant, sleep};

use super::windows::Windows;
use crate::wire::input::HTTP2_PREFACE;

/// Idle frames that a client may send within each [`IDLE_FRAME_PERIOD`].
const MAX_IDLE_FRAMES: u32 = 1000;
/// The same for a trusted proxy, whose connection carries the requests of many clients.
const MAX_IDLE_FRAMES_OF_PROXY: u32 = 50 * MAX_IDLE_FRAMES;
/// After this time the count of idle frames starts again at zero.
const IDLE_FRAME_PERIOD: Duration = Duration::from_secs(10);
/// Payload of a DATA frame without padding, in bytes, below which h2's bookkeeping takes more memory than the data.
const SMALL_FRAME: usize = 256;
/// Bytes of other frames in one turn: h2 reads them into the same buffers as DATA frames, which keep those buffers
/// allocated.
const OTHER_BYTES_PER_TURN: usize = 16 * 1024;
/// Bytes of bodies in one turn. Their readers wait until it ends.
const BODY_BYTES_PER_TURN: usize = 256 * 1024;
/// Small DATA frames in one turn.
const SMALL_FRAMES_PER_TURN: usize = 64;

/// The frames of both directions of a connection.
#[derive(Debug)]
pub(super) struct Traffic {
    state: Mutex<State>,
    max_idle_frames: u32,
    windows: Arc<Windows>,
    /// Set once the client has broken a limit.
    violation: SetOnce<Reason>,
}

#[derive(Debug)]
struct State {
    /// Bytes of the preface that were not received.
    preface_left: usize,
    incoming: FrameScanner,
    /// h2 has decoded all that it was given. It has not while it waits to write an answer to a frame before.
    is_decoded: bool,
    idle_frames: u32,
    counted_since: Instant,
    /// PINGs that the client has not acknowledged. Their acknowledgements are no idle frames.
    pings: u32,
    turn: Turn,
    outgoing: FrameScanner,
    /// The responses that are being sent, by HTTP/2 stream.
    responses: HashMap<u32, watch::Sender<Progress>>,
    /// HTTP/2 streams whose last frame was written, but may still be in a buffer of TLS.
    written: Vec<u32>,
    ended: bool,
}

/// What h2 was given since the last sweep of the request bodies.
#[derive(Debug, Default)]
struct Turn {
    body_bytes: usize,
    small_frames: usize,
    other_bytes: usize,
    /// Set by the last frame of a body: h2 forgets that a body is complete when the connection ends or the HTTP/2 stream is reset after it.
    has_body_end: bool,
}

impl Turn {
    fn is_over(&self) -> bool {
        self.has_body_end
            || self.body_bytes >= BODY_BYTES_PER_TURN
            || self.small_frames >= SMALL_FRAMES_PER_TURN
            || self.other_bytes >= OTHER_BYTES_PER_TURN
    }
}

/// The progress of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Its last frame is not in the kernel yet.
    Sending,
    /// Its last frame is in the kernel. The number is [`rendezvous_net::socket::Socket::sent`] at that time.
    InKernel(u64),
    /// The client has reset the HTTP/2 stream. `sent` is the number of `InKernel`, if that was reached before.
    Reset { sent: Option<u64> },
}

/// Watches one response until it is complete.
#[derive(Debug)]
pub(super) struct ResponseWatch {
    traffic: Arc<Traffic>,
    stream: u32,
    progress: watch::Receiver<Progress>,
}

/// How many idle frames the peer may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tolerance {
    /// [`MAX_IDLE_FRAMES`].
    Client,
    /// [`MAX_IDLE_FRAMES_OF_PROXY`].
    Proxy,
}

impl Traffic {
    pub(super) fn new(tolerance: Tolerance, windows: Arc<Windows>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                preface_left: HTTP2_PREFACE.len(),
                incoming: FrameScanner::default(),
                is_decoded: true,
                idle_frames: 0,
                counted_since: Instant::now(),
                pings: 0,
                turn: Turn::default(),
                outgoing: FrameScanner::default(),
                responses: HashMap::new(),
                written: Vec::new(),
                ended: false,
            }),
            max_idle_frames: match tolerance {
                Tolerance::Client => MAX_IDLE_FRAMES,
                Tolerance::Proxy => MAX_IDLE_FRAMES_OF_PROXY,
            },
            windows,
            violation: SetOnce::new(),
        })
    }

    /// Watches the response on HTTP/2 stream `stream`. Must be called before the response is sent.
    pub(super) fn watch(self: &Arc<Self>, stream: u32) -> ResponseWatch {
        let (sender, progress) = watch::channel(Progress::Sending);
        let mut state = self.state.lock();
        if !state.ended {
            state.responses.insert(stream, sender);
        }
        ResponseWatch { traffic: Arc::clone(self), stream, progress }
    }

    /// Records that the first `count` bytes of `buffers` were written.
    pub(super) fn wrote(&self, buffers: &[IoSlice<'_>], count: usize) {
        let State { outgoing, responses, written, .. } = &mut *self.state.lock();
        let mut left = count;
        for buffer in buffers {
            let length = buffer.len().min(left);
            left -= length;
            outgoing.scan(buffer.get(..length).unwrap_or_default(), |frame| {
                self.windows.sent(frame);
                if frame.ends_stream() && responses.contains_key(&frame.stream) {
                    written.push(frame.stream);
                }
            });
        }
    }

    /// Returns where h2's frames to the client are, behind all that was written.
    pub(super) fn position(&self) -> Position {
        self.state.lock().outgoing.position()
    }

    /// Records that everything written is in the kernel, `sent` bytes since the connection began.
    pub(super) fn flushed(&self, sent: u64) {
        let State { written, responses, .. } = &mut *self.state.lock();
        for stream in written.drain(..) {
            if let Some(response) = responses.get(&stream) {
                response.send_if_modified(|progress| progress.mark_in_kernel(sent));
            }
        }
    }

    /// Records that the connection has ended: no further frame reaches the kernel.
    pub(super) fn end(&self) {
        let state = &mut *self.state.lock();
        state.ended = true;
        state.responses.clear();
        state.written.clear();
    }

    /// Records `bytes` from the client, up to the end of the turn. Returns how many of them h2 may be given now.
    pub(super) fn received(&self, bytes: &[u8]) -> usize {
        let state = &mut *self.state.lock();
        let preface = bytes.len().min(state.preface_left);
        state.preface_left -= preface;
        let mut passed = preface;
        while !state.turn.is_over() && !self.is_violated() {
            let frames = bytes.get(passed..).unwrap_or_default();
            let (count, frame) = state.incoming.scan_one(frames);
            passed += count;
            match frame {
                Some(frame) => self.count(state, frame),
                None => break,
            }
        }
        state.is_decoded &= passed == 0;
        passed
    }

    /// Records that h2 asks for more bytes, so that it has decoded all that it was given.
    pub(super) fn asked(&self) {
        self.state.lock().is_decoded = true;
    }

    /// Whether h2 has decoded all that it was given.
    pub(super) fn is_decoded(&self) -> bool {
        self.state.lock().is_decoded
    }

    fn count(&self, state: &mut State, frame: Frame) {
        if frame.kind != FrameKind::Data {
            state.turn.other_bytes += frame.payload;
        }
        match self.windows.received(frame) {
            Ok(ends_body) => state.turn.has_body_end |= ends_body,
            Err(reason) => self.violate(reason),
        }
        match frame.kind {
            FrameKind::Data => {
                state.turn.body_bytes += frame.payload;
                state.turn.small_frames += usize::from(frame.payload - frame.padding < SMALL_FRAME);
            }
            FrameKind::Ping if frame.is_acknowledgement() && state.pings > 0 => state.pings -= 1,
            FrameKind::Priority | FrameKind::Settings | FrameKind::Ping => self.count_idle_frame(state),
            FrameKind::Reset => match state.responses.get(&frame.stream) {
                // Not idle: a client may stop reading a response.
                Some(response) => {
                    response.send_if_modified(Progress::mark_reset);
                }
                None => self.count_idle_frame(state),
            },
            FrameKind::Headers | FrameKind::Continuation | FrameKind::WindowUpdate | FrameKind::Other => {}
        }
    }

    fn count_idle_frame(&self, state: &mut State) {
        if state.counted_since.elapsed() >= IDLE_FRAME_PERIOD {
            state.idle_frames = 0;
            state.counted_since = Instant::now();
        }
        state.idle_frames += 1;
        if state.idle_frames > self.max_idle_frames {
            self.violate(Reason::ENHANCE_YOUR_CALM);
        }
    }

    fn violate(&self, reason: Reason) {
        // Only the first reason counts.
        let _ = self.violation.set(reason);
    }

    /// Records that a PING is sent.
    pub(super) fn expect_pong(&self) {
        self.state.lock().pings += 1;
    }

    /// Whether h2 must be given nothing more before [`Traffic::begin_turn`].
    pub(super) fn is_turn_over(&self) -> bool {
        self.state.lock().turn.is_over()
    }

    /// Begins a turn, after the request bodies were swept, unless h2 still has frames of the last one.
    pub(super) fn begin_turn(&self) {
        let state = &mut *self.state.lock();
        if state.is_decoded {
            state.turn = Turn::default();
        }
    }

    /// Whether the client has sent too many idle frames, requests or bytes of a body.
    pub(super) fn is_violated(&self) -> bool {
        self.violation.get().is_some()
    }

    /// Waits until the client has sent too many idle frames, requests or bytes of a body. Returns the error code for it.
    pub(super) async fn violated(&self) -> Reason {
        *self.violation.wait().await
    }
}

impl Progress {
    /// Records that the last frame is in the kernel. Returns whether this is a change.
    fn mark_in_kernel(&mut self, sent: u64) -> bool {
        let is_change = *self == Self::Sending;
        if is_change {
            *self = Self::InKernel(sent);
        }
        is_change
    }

    /// Records that the client has reset the HTTP/2 stream. Returns whether this is a change.
    fn mark_reset(&mut self) -> bool {
        let sent = match *self {
            Self::Sending => None,
            Self::InKernel(sent) => Some(sent),
            Self::Reset { .. } => return false,
        };
        *self = Self::Reset { sent };
        true
    }
}

impl ResponseWatch {
    /// Waits until the last frame is in the kernel, and returns how many bytes of the connection the kernel had taken then.
    /// `None` if the client has reset the HTTP/2 stream before, or the connection has ended.
    pub(super) async fn in_kernel(&mut self) -> Option<u64> {
        let progress = self.progress.wait_for(|progress| *progress != Progress::Sending).await.ok()?;
        match *progress {
            Progress::InKernel(sent) => Some(sent),
            Progress::Sending => None,
            Progress::Reset { sent } => sent,
        }
    }

    /// Waits until the client has reset the HTTP/2 stream, or `grace` has passed since the end of the connection, because bytes in the kernel
    /// may still be acknowledged after it.
    pub(super) async fn given_up(&mut self, grace: Duration) {
        if self.progress.wait_for(|progress| matches!(progress, Progress::Reset { .. })).await.is_err() {
            sleep(grace).await;
        }
    }
}

impl Drop for ResponseWatch {
    fn drop(&mut self) {
        self.traffic.state.lock().responses.remove(&self.stream);
    }
}
