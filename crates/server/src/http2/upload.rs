//! The body of an HTTP/2 request, between h2 and whoever reads it.
//!
//! ```text
//!   h2 ── a frame at a time, as it is read ─────────────► Upload ──► relay, or a JSON handler
//!    └── all frames, at the end of a turn ─────── sweep ──┘
//! ```
//!
//! A reader takes frames straight out of h2. But h2 keeps an entry of some 250 bytes for each DATA frame that nobody has
//! taken, however small the frame is, and a request may wait for long. And it forgets that a body was whole when the client
//! leaves behind it. So before h2 is given more than a few small frames, and more than the end of a body,
//! [`Uploads::sweep`] takes what it holds and joins it.
//!
//! *Concurrency.* An [`Upload`] is shared by the task that reads it and the task of its connection. Its lock is taken before
//! h2's own.
//!
//! *Bounds.* The window of the HTTP/2 stream, which is given back only for what is handed out, bounds the bytes, and
//! [`JOINED`] the room that is wasted.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use h2::RecvStream;
use parking_lot::Mutex;
use rendezvous_core::outcome::Fault;

/// Frames below this many bytes are joined to pieces of at most that many.
const JOINED: usize = 4 * 1024;

/// The bodies of a connection's requests.
#[derive(Debug, Default)]
pub(super) struct Uploads(Mutex<Vec<Weak<Mutex<Incoming>>>>);

/// A request body. Clones share it; one of them reads.
#[derive(Debug, Clone)]
pub(super) struct Upload(Arc<Mutex<Incoming>>);

#[derive(Debug)]
struct Incoming {
    body: RecvStream,
    /// What a sweep has taken, but for `joined`, which is behind them.
    swept: VecDeque<Bytes>,
    joined: BytesMut,
    /// The end, where it was seen.
    end: Option<Result<(), Fault>>,
    /// Who waits for more.
    reader: Option<Waker>,
}

impl Uploads {
    /// Keeps an eye on `body`.
    pub(super) fn add(&self, body: RecvStream) -> Upload {
        let incoming =
            Incoming { body, swept: VecDeque::new(), joined: BytesMut::new(), end: None, reader: None };
        let upload = Arc::new(Mutex::new(incoming));
        let uploads = &mut *self.0.lock();
        uploads.retain(|upload| upload.strong_count() > 0);
        uploads.push(Arc::downgrade(&upload));
        Upload(upload)
    }

    /// Takes out of h2 what it holds of all bodies.
    pub(super) fn sweep(&self) {
        for upload in self.0.lock().iter().filter_map(Weak::upgrade) {
            upload.lock().sweep();
        }
    }
}

impl Upload {
    /// All of the body has arrived, well.
    pub(super) fn has_arrived(&self) -> bool {
        let incoming = &mut *self.0.lock();
        incoming.sweep();
        incoming.end == Some(Ok(()))
    }

    /// Takes the rest of the body and throws it away. Ends when the client has sent all of it, or has reset the stream.
    pub(super) async fn discard(&mut self) {
        while let Some(Ok(_)) = poll_fn(|cx| self.0.lock().poll_take(cx)).await {}
    }
}

impl Incoming {
    /// The next of the body; `None` at its end.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        let taken = match self.take_swept() {
            Some(data) => Some(Ok(data)),
            None => match &self.end {
                Some(end) => end.clone().err().map(Err),
                None => match self.poll_h2(cx) {
                    Poll::Ready(taken) => taken,
                    Poll::Pending => {
                        if !self.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
                            self.reader = Some(cx.waker().clone());
                        }
                        return Poll::Pending;
                    }
                },
            },
        };
        if let Some(Ok(data)) = &taken {
            // Not more than was taken, and nothing at all of a stream that is over.
            let _ = self.body.flow_control().release_capacity(data.len());
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
        // A body that nobody reads yet may wait for long: it must not hold on to the buffers that h2 read it into.
        let is_waiting = reader.is_none();
        let mut is_news = false;
        // h2 wakes whoever asked last: that stays the reader.
        let cx = &mut Context::from_waker(reader.as_ref().unwrap_or(Waker::noop()));
        while self.end.is_none()
            && let Poll::Ready(taken) = self.poll_h2(cx)
        {
            is_news = true;
            if let Some(Ok(data)) = taken {
                self.join(data, is_waiting);
            }
        }
        match reader {
            Some(reader) if is_news => reader.wake(),
            reader => self.reader = reader,
        }
    }

    fn join(&mut self, data: Bytes, is_copied: bool) {
        if self.joined.len() + data.len() > JOINED {
            self.close_joined();
        }
        if data.len() < JOINED {
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
        self.swept.pop_front()
    }
}

impl Stream for Upload {
    type Item = Result<Bytes, Fault>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        self.0.lock().poll_take(cx)
    }
}
