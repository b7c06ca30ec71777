//! What passes over an HTTP/2 connection, seen from beneath the library: when the last frame of a stream is with the kernel, and
//! whether the client keeps us busy with frames that move nothing.

use std::collections::HashMap;
use std::io::IoSlice;
use std::time::Duration;

use h2::StreamId;
use parking_lot::Mutex;
use tokio::sync::{SetOnce, oneshot};
use tokio::time::Instant;

use crate::wire::frames::{FrameFollower, FrameKind};
use crate::wire::inbound::HTTP2_PREFACE;

/// Control frames that a client may send at once, and then within each [`CALM`].
const MAX_CONTROL_FRAMES: u32 = 1000;
/// How long it takes to forget the control frames that came.
const CALM: Duration = Duration::from_secs(10);

/// Both directions of a connection.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    incoming: Mutex<Incoming>,
    outgoing: Mutex<Outgoing>,
    flooded: SetOnce<()>,
}

#[derive(Debug)]
struct Incoming {
    preface_left: usize,
    follower: FrameFollower,
    control_frames: u32,
    counted_since: Instant,
}

#[derive(Debug, Default)]
struct Outgoing {
    follower: FrameFollower,
    /// Who waits for the last frame of a stream.
    watched: HashMap<u32, oneshot::Sender<u64>>,
    /// Those whose frame was written, but may be held by TLS.
    written: Vec<oneshot::Sender<u64>>,
}

impl Default for Incoming {
    fn default() -> Self {
        Self {
            preface_left: HTTP2_PREFACE.len(),
            follower: FrameFollower::default(),
            control_frames: 0,
            counted_since: Instant::now(),
        }
    }
}

impl Traffic {
    /// Tells, once the last frame of `stream` is with the kernel, how many bytes the connection had carried then.
    pub(super) fn watch(&self, stream: StreamId) -> oneshot::Receiver<u64> {
        let (tell, told) = oneshot::channel();
        let watched = &mut self.outgoing.lock().watched;
        // Those whose stream was reset meanwhile.
        watched.retain(|_, tell| !tell.is_closed());
        watched.insert(stream.as_u32(), tell);
        told
    }

    /// The first `count` bytes of `buffers` were written.
    pub(super) fn went(&self, buffers: &[IoSlice<'_>], count: usize) {
        let Outgoing { follower, watched, written } = &mut *self.outgoing.lock();
        let mut left = count;
        for buffer in buffers {
            let here = buffer.len().min(left);
            left -= here;
            follower.follow(buffer.get(..here).unwrap_or_default(), |frame| {
                if frame.ends_stream() {
                    written.extend(watched.remove(&frame.stream));
                }
            });
        }
    }

    /// All that was written is with the kernel, which has got `sent` bytes of the connection.
    pub(super) fn flushed(&self, sent: u64) {
        for tell in self.outgoing.lock().written.drain(..) {
            // Who has gone does not wait.
            let _ = tell.send(sent);
        }
    }

    /// The connection has ended: what is not with the kernel yet never will be.
    pub(super) fn end(&self) {
        let outgoing = &mut *self.outgoing.lock();
        outgoing.watched.clear();
        outgoing.written.clear();
    }

    /// These bytes came from the client.
    pub(super) fn came(&self, bytes: &[u8]) {
        let incoming = &mut *self.incoming.lock();
        let preface = bytes.len().min(incoming.preface_left);
        incoming.preface_left -= preface;
        let mut control_frames = 0;
        incoming.follower.follow(bytes.get(preface..).unwrap_or_default(), |frame| {
            control_frames += u32::from(frame.kind == FrameKind::Control);
        });
        if control_frames == 0 {
            return;
        }
        if incoming.counted_since.elapsed() >= CALM {
            incoming.control_frames = 0;
            incoming.counted_since = Instant::now();
        }
        incoming.control_frames += control_frames;
        if incoming.control_frames > MAX_CONTROL_FRAMES {
            // Said once; to say it again changes nothing.
            let _ = self.flooded.set(());
        }
    }

    /// The client has sent too many frames that move nothing.
    pub(super) fn is_flooded(&self) -> bool {
        self.flooded.get().is_some()
    }

    /// Waits until it has.
    pub(super) async fn flooded(&self) {
        self.flooded.wait().await;
    }
}
