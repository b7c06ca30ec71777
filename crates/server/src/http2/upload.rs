//! The body of an HTTP/2 request, between h2 and its reader.
//!
//! ```text
//!   h2 ── one frame for each read ─────────────────► Upload ──► relay, or a JSON handler
//!    └── all frames, at the end of a turn ─ sweep ──┘
//! ```
//!
//! A reader takes frames directly from h2. But a request may wait for long, and h2 keeps an entry of about 250 bytes for each DATA frame
//! that was not taken, however small the frame is. It also forgets that a body was complete if the client then resets the HTTP/2 stream or
//! disconnects. So a turn ([`super::traffic`]) has few small frames and at most one end of a body, and after it [`Uploads::sweep`] takes
//! the frames out of h2 and joins small ones.
//!
//! *Invariant.* The flow-control window is returned to the client only for bytes that the reader has taken.
//!
//! *Concurrency.* An [`Upload`] is shared by the task that reads it and the task of its connection. Its lock is taken before
//! the locks of h2 and of [`Windows`].
//!
//! *Bounds.* The window of the HTTP/2 stream limits the bytes, and [`JOIN_LIMIT`] the unused capacity of buffers. What bodies hold that nobody
//! reads yet is reserved in the budget of all connections; a body for which nothing is left is refused.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use h2::RecvStream;
use parking_lot::Mutex;
use rendezvous_core::budget::{Budget, Reservation};
use rendezvous_core::outcome::Fault;

use super::windows::{BodyWindow, MIN_WINDOW, Windows};

/// Frames smaller than this are joined into pieces of at most this size, in bytes.
const JOIN_LIMIT: usize = 4 * 1024;

/// The bodies of all requests of a connection.
#[derive(Debug)]
pub(super) struct Uploads {
    windows: Arc<Windows>,
    /// For bodies that nobody reads yet.
    memory: Arc<Budget>,
    all: Mutex<Vec<Weak<Mutex<Incoming>>>>,
}

/// A request body. Clones share it; only one of them may read.
#[derive(Debug, Clone)]
pub(super) struct Upload(Arc<Mutex<Incoming>>);

#[derive(Debug)]
struct Incoming {
    body: RecvStream,
    window: BodyWindow,
    /// Pieces that a sweep has taken, in order. `joined` comes after them.
    swept: VecDeque<Bytes>,
    /// Small frames that may still be joined with the next one.
    joined: BytesMut,
    /// The end of the body, once it was received.
    end: Option<Result<(), Fault>>,
    /// The task that waits for more.
    reader: Option<Waker>,
    /// For the pieces that nobody reads yet. `None` once the budget is exhausted.
    memory: Option<Reservation>,
    /// The task that waits until `memory` is `None`.
    waiter: Option<Waker>,
}

impl Uploads {
    /// `memory` is the budget of all connections for bodies that nobody reads yet.
    pub(super) fn new(windows: Arc<Windows>, memory: Arc<Budget>) -> Self {
        Self { windows, memory, all: Mutex::default() }
    }

    /// Adds `body`, to be swept until it is dropped.
    pub(super) fn add(&self, body: RecvStream) -> Upload {
        let incoming = Incoming {
            window: self.windows.of_body(body.stream_id().as_u32()),
            body,
            swept: VecDeque::new(),
            joined: BytesMut::new(),
            end: None,
            reader: None,
            memory: Some(self.memory.nothing()),
            waiter: None,
        };
        let upload = Arc::new(Mutex::new(incoming));
        let uploads = &mut *self.all.lock();
        uploads.retain(|upload| upload.strong_count() > 0);
        uploads.push(Arc::downgrade(&upload));
        Upload(upload)
    }

    /// Takes the buffered frames of all bodies out of h2.
    pub(super) fn sweep(&self) {
        for upload in self.all.lock().iter().filter_map(Weak::upgrade) {
            upload.lock().sweep();
        }
    }
}

impl Upload {
    /// Whether the whole body has arrived, without an error.
    pub(super) fn has_arrived(&self) -> bool {
        let incoming = &mut *self.0.lock();
        incoming.sweep();
        incoming.end == Some(Ok(()))
    }

    /// Waits until the memory for bodies that nobody reads yet is exhausted.
    pub(super) async fn exhausted(&self) {
        poll_fn(|cx| {
            let incoming = &mut *self.0.lock();
            if incoming.memory.is_none() {
                return Poll::Ready(());
            }
            incoming.waiter = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Discards the rest of the body, until the client has sent all of it or has reset the HTTP/2 stream.
    pub(super) async fn discard(&mut self) {
        while let Some(Ok(_)) = poll_fn(|cx| self.0.lock().poll_take(cx)).await {}
    }
}

impl Incoming {
    /// Returns the next bytes of the body; `None` at its end.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        let taken = match self.take_swept() {
            Some(data) => Some(Ok(data)),
            None => match &self.end {
                Some(end) => end.clone().err().map(Err),
                None => match self.poll_h2(cx) {
                    Poll::Ready(taken) => taken,
                    Poll::Pending => {
                        self.window.awaited();
                        if !self.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
                            self.reader = Some(cx.waker().clone());
                        }
                        return Poll::Pending;
                    }
                },
            },
        };
        if let Some(Ok(data)) = &taken {
            // Fails only for more than was received, which does not happen, or after the end of the HTTP/2 stream.
            let _ = self.body.flow_control().release_capacity(data.len());
            self.window.taken(data.len());
        }
        Poll::Ready(taken)
    }

    fn poll_h2(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        self.body.poll_data(cx).map(|taken| {
            let taken = taken.map(|taken| {
                taken.map_err(|error| {
                    if error.is_library() {
                        Fault::SourceBroke(error.to_string())
                    } else {
                        Fault::SourceDisconnected
                    }
                })
            });
            match &taken {
                Some(Ok(_)) => {}
                Some(Err(fault)) => self.end = Some(Err(fault.clone())),
                // Trailers are not passed on.
                None => self.end = Some(Ok(())),
            }
            taken
        })
    }

    fn sweep(&mut self) {
        let reader = self.reader.take();
        // A body that is not being read may wait for long: it must not keep h2's read buffers allocated.
        let is_waiting = reader.is_none();
        let mut has_progress = false;
        // h2 wakes the task that polled last, which must remain the reader.
        let cx = &mut Context::from_waker(reader.as_ref().unwrap_or(Waker::noop()));
        while self.end.is_none()
            && let Poll::Ready(taken) = self.poll_h2(cx)
        {
            has_progress = true;
            if let Some(Ok(data)) = taken {
                self.join(data, is_waiting);
            }
        }
        match reader {
            Some(reader) if has_progress => reader.wake(),
            reader => self.reader = reader,
        }
        if is_waiting && has_progress {
            self.reserve();
        }
    }

    /// Reserves memory for the pieces that nobody reads yet. What is more than the smallest window is in the reservation of the window.
    fn reserve(&mut self) {
        let bytes = self.swept.iter().map(Bytes::len).sum::<usize>() + self.joined.len();
        let bytes = (bytes as u64).min(MIN_WINDOW.into());
        self.memory.take_if(|memory| memory.resize(bytes).is_err());
        if self.memory.is_none()
            && let Some(waiter) = self.waiter.take()
        {
            waiter.wake();
        }
    }

    fn join(&mut self, data: Bytes, is_copied: bool) {
        if self.joined.len() + data.len() > JOIN_LIMIT {
            self.close_joined();
        }
        if data.len() < JOIN_LIMIT {
            self.joined.extend_from_slice(&data);
        } else {
            self.swept.push_back(if is_copied { Bytes::copy_from_slice(&data) } else { data });
        }
    }

    fn close_joined(&mut self) {
        if !self.joined.is_empty() {
            self.swept.push_back(std::mem::take(&mut self.joined).freeze());
        }
    }

    fn take_swept(&mut self) -> Option<Bytes> {
        if self.swept.is_empty() {
            self.close_joined();
        }
        let taken = self.swept.pop_front();
        if let Some(memory) = self.memory.as_mut().filter(|_| self.swept.is_empty() && self.joined.is_empty())
        {
            // It shrinks, which always succeeds.
            let _ = memory.resize(0);
        }
        taken
    }
}

impl Stream for Upload {
    type Item = Result<Bytes, Fault>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        self.0.lock().poll_take(cx)
    }
}
