//! The body of an HTTP/2 request, between h2 and whoever reads it.
//!
//! ```text
//!   h2 ── frames, as they come ──► Pump ──► Shared ──► Upload ── pieces, on demand ──► relay, or a JSON handler
//!                                            ▲            │
//!                                            └─ window ───┘ given back as pieces are taken
//! ```
//!
//! h2 keeps an entry of some 250 bytes for each DATA frame that nobody has taken, however small the frame is. So the
//! [`Pump`], which the request's own task drives, takes every frame at once and joins small ones; the flow-control
//! window is given back only for what [`Upload`] hands out.
//!
//! *Bounds.* The window of the HTTP/2 stream bounds the bytes in [`Shared`], and [`JOINED`] the room that is wasted.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use h2::{FlowControl, RecvStream};
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::Mutex;

use crate::outcome::Fault;

/// Frames below this many bytes are joined to pieces of at least that many.
const JOINED: usize = 4 * 1024;

/// Takes a body out of h2. Dropped before the body has ended, it breaks the body off.
pub(super) struct Pump {
    body: RecvStream,
    shared: Arc<Mutex<Shared>>,
}

/// A request body, as it is read.
pub(super) struct Upload {
    shared: Arc<Mutex<Shared>>,
    window: FlowControl,
    /// Bytes that are still to come, where they were declared. h2 makes sure that the declaration is true.
    left: Option<u64>,
}

#[derive(Debug, Default)]
struct Shared {
    /// What was taken, but for `joined`, which is behind them.
    pieces: VecDeque<Bytes>,
    joined: BytesMut,
    end: Option<Result<(), Fault>>,
    reader: Option<Waker>,
}

/// Both ends of `body`, of which `length` bytes are declared, if any.
pub(super) fn split(mut body: RecvStream, length: Option<u64>) -> (Pump, Upload) {
    let end = body.is_end_stream().then_some(Ok(()));
    let shared = Arc::new(Mutex::new(Shared { end, ..Shared::default() }));
    let window = body.flow_control().clone();
    (Pump { body, shared: Arc::clone(&shared) }, Upload { shared, window, left: length })
}

impl Pump {
    /// Takes what there is. Ready when the body has ended, well or not.
    pub(super) fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let shared = &mut *self.shared.lock();
        let mut is_news = false;
        while shared.end.is_none() {
            let Poll::Ready(taken) = self.body.poll_data(cx) else { break };
            is_news = true;
            match taken {
                Some(Ok(data)) => shared.add(data),
                // Trailers are not passed on.
                None => shared.end = Some(Ok(())),
                Some(Err(error)) if error.is_library() => {
                    shared.end = Some(Err(Fault::SourceBroke(error.to_string())));
                }
                Some(Err(_)) => shared.end = Some(Err(Fault::SourceDisconnected)),
            }
        }
        if is_news && let Some(reader) = shared.reader.take() {
            reader.wake();
        }
        if shared.end.is_some() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Takes the rest of the body and throws it away. Ends when the client has sent all of it, or has reset the stream.
    pub(super) async fn discard(&mut self) {
        loop {
            let is_over = poll_fn(|cx| {
                let is_over = self.poll_take(cx).is_ready();
                let taken = self.shared.lock().take_all();
                // Not more than was taken, and nothing at all of a stream that is over.
                let _ = self.body.flow_control().release_capacity(taken);
                if is_over || taken > 0 { Poll::Ready(is_over) } else { Poll::Pending }
            });
            if is_over.await {
                return;
            }
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        let shared = &mut *self.shared.lock();
        shared.end.get_or_insert(Err(Fault::SourceDisconnected));
        if let Some(reader) = shared.reader.take() {
            reader.wake();
        }
    }
}

impl Shared {
    fn add(&mut self, data: Bytes) {
        if data.len() >= JOINED {
            self.close_joined();
            self.pieces.push_back(data);
            return;
        }
        if self.joined.len() + data.len() > JOINED {
            self.close_joined();
        }
        self.joined.extend_from_slice(&data);
    }

    fn close_joined(&mut self) {
        if !self.joined.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.joined).freeze());
        }
    }

    /// Returns how many bytes that were.
    fn take_all(&mut self) -> usize {
        self.close_joined();
        self.pieces.drain(..).map(|piece| piece.len()).sum()
    }

    fn take(&mut self) -> Option<Bytes> {
        if self.pieces.is_empty() {
            self.close_joined();
        }
        self.pieces.pop_front()
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let data = {
            let shared = &mut *self.shared.lock();
            match (shared.take(), &shared.end) {
                (Some(data), _) => data,
                (None, Some(Ok(()))) => return Poll::Ready(None),
                (None, Some(Err(fault))) => return Poll::Ready(Some(Err(fault.clone()))),
                (None, None) => {
                    shared.reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
            }
        };
        // Not more than was taken, and nothing at all of a stream that is over.
        let _ = self.window.release_capacity(data.len());
        self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.shared.lock();
        shared.pieces.is_empty() && shared.joined.is_empty() && shared.end == Some(Ok(()))
    }

    fn size_hint(&self) -> SizeHint {
        let left = if self.is_end_stream() { Some(0) } else { self.left };
        left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
