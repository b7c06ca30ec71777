//! What passes over an HTTP/2 connection, seen beneath the library.
//!
//! h2 does not report three things that the truth and the safety of a connection depend on: when the last frame of a
//! response is with the kernel, that a client has reset a stream whose response h2 counts as ended, and how many frames
//! a client sends that cost work and move nothing. [`Traffic`] reads them off the frame heads of both directions.
//!
//! Only the task of the connection reads and writes it; the lock is there because its HTTP/2 streams share it.
//!
//! *Bounds.* One entry for each response under way, and none behind its end.

use std::collections::HashMap;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rendezvous_codec::frames::{Frame, FrameFollower, FrameKind};
use tokio::sync::{SetOnce, watch};
use tokio::time::{Instant, sleep};

use crate::wire::input::HTTP2_PREFACE;

/// Idle frames that a client may send within each [`CALM`].
const MAX_IDLE_FRAMES: u32 = 1000;
/// The same for a trusted proxy, whose connection carries the requests of many clients.
const MAX_IDLE_FRAMES_OF_PROXY: u32 = 50 * MAX_IDLE_FRAMES;
/// How long it takes to forget the idle frames that were received.
const CALM: Duration = Duration::from_secs(10);
/// Bytes of a DATA frame below which the library's bookkeeping weighs more than the data.
const SMALL_FRAME: usize = 256;
/// Bytes of other frames that the library is given before what it holds is taken out of it: they fill the buffers that DATA frames
/// were read into, and that are held with those.
const OTHER_BYTES_A_TURN: usize = 16 * 1024;
/// Small DATA frames that the library is given before they are taken out of it again.
const SMALL_FRAMES_A_TURN: usize = 64;

/// Both directions of a connection.
#[derive(Debug)]
pub(super) struct Traffic {
    state: Mutex<State>,
    max_idle_frames: u32,
    flooded: SetOnce<()>,
}

#[derive(Debug)]
struct State {
    preface_left: usize,
    incoming: FrameFollower,
    idle_frames: u32,
    counted_since: Instant,
    turn: Turn,
    outgoing: FrameFollower,
    responses: HashMap<u32, watch::Sender<Progress>>,
    /// HTTP/2 streams whose last frame was written, but may be held by TLS.
    written: Vec<u32>,
    ended: bool,
}

/// What the library was given since what it holds was taken out of it.
#[derive(Debug, Default)]
struct Turn {
    small_frames: usize,
    other_bytes: usize,
    /// The last frame of a body. h2 forgets that a body is whole when its connection ends or its stream is reset behind it.
    has_body_end: bool,
}

impl Turn {
    fn is_over(&self) -> bool {
        self.has_body_end
            || self.small_frames >= SMALL_FRAMES_A_TURN
            || self.other_bytes >= OTHER_BYTES_A_TURN
    }
}

/// How far a response has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Its last frame is still to be written.
    UnderWay,
    /// Its last frame is with the kernel, which had been given so many bytes of the connection then.
    InKernel(u64),
    /// The client has reset the stream. `sent` is as in `InKernel`, if that came before.
    Reset { sent: Option<u64> },
}

/// Watches one response to its end.
#[derive(Debug)]
pub(super) struct ResponseWatch {
    traffic: Arc<Traffic>,
    stream: u32,
    progress: watch::Receiver<Progress>,
}

/// What a client may send that moves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tolerance {
    /// As much as one client has reason to.
    Client,
    /// As much as many clients have reason to.
    Proxy,
}

impl Traffic {
    pub(super) fn new(tolerance: Tolerance) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                preface_left: HTTP2_PREFACE.len(),
                incoming: FrameFollower::default(),
                idle_frames: 0,
                counted_since: Instant::now(),
                turn: Turn::default(),
                outgoing: FrameFollower::default(),
                responses: HashMap::new(),
                written: Vec::new(),
                ended: false,
            }),
            max_idle_frames: match tolerance {
                Tolerance::Client => MAX_IDLE_FRAMES,
                Tolerance::Proxy => MAX_IDLE_FRAMES_OF_PROXY,
            },
            flooded: SetOnce::new(),
        })
    }

    /// Watches the response on this HTTP/2 stream, which is about to begin.
    pub(super) fn watch(self: &Arc<Self>, stream: u32) -> ResponseWatch {
        let (sender, progress) = watch::channel(Progress::UnderWay);
        let mut state = self.state.lock();
        if !state.ended {
            state.responses.insert(stream, sender);
        }
        ResponseWatch { traffic: Arc::clone(self), stream, progress }
    }

    /// The first `count` bytes of `buffers` were written.
    pub(super) fn wrote(&self, buffers: &[IoSlice<'_>], count: usize) {
        let State { outgoing, responses, written, .. } = &mut *self.state.lock();
        let mut left = count;
        for buffer in buffers {
            let here = buffer.len().min(left);
            left -= here;
            outgoing.follow(buffer.get(..here).unwrap_or_default(), |frame| {
                if frame.ends_stream() && responses.contains_key(&frame.stream) {
                    written.push(frame.stream);
                }
            });
        }
    }

    /// All that was written is with the kernel, which has been given `sent` bytes of the connection.
    pub(super) fn flushed(&self, sent: u64) {
        let State { written, responses, .. } = &mut *self.state.lock();
        for stream in written.drain(..) {
            if let Some(response) = responses.get(&stream) {
                response.send_if_modified(|progress| progress.mark_in_kernel(sent));
            }
        }
    }

    /// The connection has ended: what is not with the kernel yet never will be.
    pub(super) fn end(&self) {
        let state = &mut *self.state.lock();
        state.ended = true;
        state.responses.clear();
        state.written.clear();
    }

    /// `bytes` came from the client. Returns how many of them the library may be given in this turn; the rest is not
    /// counted as received.
    pub(super) fn received(&self, bytes: &[u8]) -> usize {
        let state = &mut *self.state.lock();
        let preface = bytes.len().min(state.preface_left);
        state.preface_left -= preface;
        let mut passed = preface;
        while !state.turn.is_over() {
            let frames = bytes.get(passed..).unwrap_or_default();
            let (count, frame) = state.incoming.follow_one(frames);
            passed += count;
            match frame {
                Some(frame) => self.count(state, frame),
                None => break,
            }
        }
        passed
    }

    fn count(&self, state: &mut State, frame: Frame) {
        if frame.kind != FrameKind::Data {
            state.turn.other_bytes += frame.payload;
        }
        match frame.kind {
            FrameKind::Data => {
                state.turn.has_body_end |= frame.ends_stream();
                state.turn.small_frames += usize::from(frame.payload < SMALL_FRAME);
            }
            FrameKind::Control => self.count_idle_frame(state),
            FrameKind::Reset => match state.responses.get(&frame.stream) {
                // The request was answered: to take no more of the answer is the client's right, and was no work in vain.
                Some(response) => {
                    response.send_if_modified(Progress::mark_reset);
                }
                None => self.count_idle_frame(state),
            },
            FrameKind::Headers | FrameKind::Other => {}
        }
    }

    fn count_idle_frame(&self, state: &mut State) {
        if state.counted_since.elapsed() >= CALM {
            state.idle_frames = 0;
            state.counted_since = Instant::now();
        }
        state.idle_frames += 1;
        if state.idle_frames > self.max_idle_frames {
            // Set once; later attempts change nothing.
            let _ = self.flooded.set(());
        }
    }

    /// The library has been given all that it may have before [`Traffic::begin_turn`].
    pub(super) fn is_turn_over(&self) -> bool {
        self.state.lock().turn.is_over()
    }

    /// What the library held was taken out of it.
    pub(super) fn begin_turn(&self) {
        self.state.lock().turn = Turn::default();
    }

    /// The client has sent too many frames that cost work and move nothing.
    pub(super) fn is_flooded(&self) -> bool {
        self.flooded.get().is_some()
    }

    /// Waits until the client has sent too many of them.
    pub(super) async fn flooded(&self) {
        self.flooded.wait().await;
    }
}

impl Progress {
    /// The last frame is with the kernel. True where that is news.
    fn mark_in_kernel(&mut self, sent: u64) -> bool {
        let is_news = *self == Self::UnderWay;
        if is_news {
            *self = Self::InKernel(sent);
        }
        is_news
    }

    /// The client has reset the stream. True where that is news.
    fn mark_reset(&mut self) -> bool {
        let sent = match *self {
            Self::UnderWay => None,
            Self::InKernel(sent) => Some(sent),
            Self::Reset { .. } => return false,
        };
        *self = Self::Reset { sent };
        true
    }
}

impl ResponseWatch {
    /// Waits until the last frame is with the kernel, and returns how many bytes the kernel had been given then. `None`
    /// where the client has reset the stream before, or the connection has ended.
    pub(super) async fn in_kernel(&mut self) -> Option<u64> {
        let progress = self.progress.wait_for(|progress| *progress != Progress::UnderWay).await.ok()?;
        match *progress {
            Progress::InKernel(sent) => Some(sent),
            Progress::UnderWay => None,
            Progress::Reset { sent } => sent,
        }
    }

    /// Waits until the client has reset the stream, or the connection has ended `patience` ago: what the kernel was given may
    /// still be acknowledged behind its end.
    pub(super) async fn given_up(&mut self, patience: Duration) {
        if self.progress.wait_for(|progress| matches!(progress, Progress::Reset { .. })).await.is_err() {
            sleep(patience).await;
        }
    }
}

impl Drop for ResponseWatch {
    fn drop(&mut self) {
        self.traffic.state.lock().responses.remove(&self.stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of an HTTP/2 stream (RFC 9113, section 4.1) with a payload of zeros.
    fn frame(stream: u8, kind: u8, length: u8) -> Vec<u8> {
        let head = [0, 0, length, kind, 0, 0, 0, 0, stream];
        [&head[..], &vec![0; usize::from(length)]].concat()
    }

    fn traffic() -> Arc<Traffic> {
        let traffic = Traffic::new(Tolerance::Client);
        assert_eq!(traffic.received(HTTP2_PREFACE), HTTP2_PREFACE.len());
        traffic
    }

    #[test]
    fn frames_that_move_nothing_flood_a_connection_and_a_reset_of_an_answer_is_none() {
        let (reset, ping, window_update) = (3, 6, 8);
        for (kind, stream, length, floods) in
            [(reset, 1, 4, true), (reset, 3, 4, false), (ping, 0, 8, true), (window_update, 1, 4, false)]
        {
            let traffic = traffic();
            let _answer = traffic.watch(3);
            for _ in 0..MAX_IDLE_FRAMES {
                traffic.received(&frame(stream, kind, length));
            }
            assert!(!traffic.is_flooded(), "{kind} on {stream}");
            traffic.received(&frame(stream, kind, length));
            assert_eq!(traffic.is_flooded(), floods, "{kind} on {stream}");
        }
    }

    #[test]
    fn a_turn_ends_with_the_last_small_frame_that_it_has_room_for() {
        let traffic = traffic();
        let small = frame(1, 0, 1);
        let bytes = small.repeat(SMALL_FRAMES_A_TURN + 5);
        assert!(!traffic.is_turn_over());
        let passed = traffic.received(&bytes);
        assert_eq!(passed, small.len() * SMALL_FRAMES_A_TURN);
        assert_eq!(traffic.received(&bytes[passed..]), 0);
        assert!(traffic.is_turn_over());
        traffic.begin_turn();
        assert!(!traffic.is_turn_over());
        assert_eq!(traffic.received(&bytes[passed..]), bytes.len() - passed);
    }

    #[tokio::test]
    async fn a_response_is_watched_to_its_last_frame_or_its_reset() {
        let traffic = traffic();
        let end = [0, 0, 0, 0, 1, 0, 0, 0, 1];
        let write = |bytes: &[u8]| traffic.wrote(&[IoSlice::new(bytes)], bytes.len());

        let mut watch = traffic.watch(1);
        write(&end);
        traffic.flushed(70);
        assert_eq!(watch.in_kernel().await, Some(70));
        traffic.received(&frame(1, 3, 4));
        watch.given_up(CALM).await;
        assert_eq!(watch.in_kernel().await, Some(70), "what was sent before the reset stays sent");

        let mut watch = traffic.watch(3);
        traffic.received(&frame(3, 3, 4));
        assert_eq!(watch.in_kernel().await, None);

        let mut watch = traffic.watch(5);
        traffic.end();
        assert_eq!(watch.in_kernel().await, None);
        assert_eq!(traffic.watch(7).in_kernel().await, None);
    }
}
