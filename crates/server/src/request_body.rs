//! A request body, for both HTTP/1 and HTTP/2: data, then an end or a fault.
//!
//! *Invariant.* Nothing is read before the first poll. Bytes read after the end of the body go back to the [`crate::wire::input`] of the
//! connection.
//!
//! *Concurrency.* The reader's task reads an HTTP/1 body directly from its connection. The task of the connection feeds an HTTP/2 body.
//!
//! *Bounds.* One buffer of [`BUFFER`] bytes, held only while the body is read.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rendezvous_codec::body::{Arrival, BodyDecoder};
use rendezvous_core::outcome::Fault;
use rendezvous_core::transfer::{Departure, PresenceCheck, SourceBody};
use rendezvous_core::{rendezvous, transfer};

use crate::wire::{CONTINUE, Wire};

/// Bytes read from a source's socket at a time. The buffer is held only while the body is relayed.
const BUFFER: usize = 256 * 1024;
/// Bytes of the first read, so that a body of at most this size is sent in one write with its head. Also bytes of every read of a body that
/// is not relayed, because the bytes read after it are held until the next request.
const SMALL_BUFFER: usize = 64 * 1024;

/// The body of a request. Nothing of it is read before the first poll; for a source, that is when the sides have paired.
pub(crate) enum RequestBody {
    /// HTTP/1: read from the connection in the reader's task.
    Socket(SocketBody),
    /// HTTP/2: fed by the task of the connection, which carries other HTTP/2 streams too.
    Stream(BoxStream<'static, Result<Bytes, Fault>>),
}

/// An HTTP/1 body, read directly from its connection.
pub(crate) struct SocketBody {
    wire: Arc<Wire>,
    /// The unwritten rest of the `100 Continue` that the client waits for.
    interim: &'static [u8],
    /// Bytes of each read, of the first at most [`SMALL_BUFFER`].
    read_size: usize,
    /// Whether it comes from the node that has the stream.
    is_from_node: bool,
    progress: Progress,
}

enum Progress {
    Untouched,
    Reading {
        decoder: BodyDecoder,
        buffer: BytesMut,
        /// Bytes of the next read.
        next_read: usize,
    },
    /// The body was read to its end, and the connection owns its input again.
    Ended,
}

/// The generic types of the core, for request bodies.
pub(crate) type Rendezvous = rendezvous::Rendezvous<RequestBody>;
pub(crate) type Seat<M> = rendezvous::Seat<M, RequestBody>;
pub(crate) type Pairing = rendezvous::Pairing<RequestBody>;
pub(crate) type Offer = transfer::Offer<RequestBody>;
pub(crate) type Relay = transfer::Relay<RequestBody>;

impl SourceBody for RequestBody {
    type Kernel = Arc<Wire>;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        loop {
            let data = match self {
                Self::Socket(body) => ready!(body.poll_data(cx)),
                Self::Stream(stream) => ready!(stream.poll_next_unpin(cx)),
            };
            if !matches!(&data, Some(Ok(data)) if data.is_empty()) {
                return Poll::Ready(data);
            }
        }
    }

    fn in_kernel(&self) -> Option<(Arc<Wire>, u64)> {
        match self {
            Self::Socket(body) => body.in_kernel(),
            Self::Stream(_) => None,
        }
    }

    fn skip(&mut self, bytes: u64) {
        if let Self::Socket(body) = self {
            body.skip(bytes);
        }
    }

    fn has_arrived(&self) -> bool {
        match self {
            Self::Socket(body) => body.wire.socket().is_plain() && body.has_arrived(),
            Self::Stream(_) => false,
        }
    }

    /// `None` over TLS, where the kernel cannot tell whether a FIN comes before the end of the body. Another node sends one only if it has died.
    fn departure(&self) -> Option<Departure> {
        let Self::Socket(body) = self else { return None };
        if !body.is_from_node && !body.wire.socket().is_plain() {
            return None;
        }
        let wire = Arc::clone(&body.wire);
        Some(Box::pin(async move {
            wire.socket().departed().await;
        }))
    }

    fn presence(&self) -> Option<PresenceCheck> {
        let wire = Arc::clone(self.wire()?);
        let before_body = wire.socket().departure().is_some();
        Some(PresenceCheck { before_body, answer: Box::pin(async move { wire.is_source_present().await }) })
    }
}

impl RequestBody {
    /// The connection of an HTTP/1 body. `None` for HTTP/2, which shares its connection.
    fn wire(&self) -> Option<&Arc<Wire>> {
        match self {
            Self::Socket(body) => Some(&body.wire),
            Self::Stream(_) => None,
        }
    }
}

impl SocketBody {
    /// Returns the body of the current request, to be relayed. With `expects_continue`, the first read is preceded by a `100 Continue`.
    #[must_use]
    pub(crate) fn new(wire: Arc<Wire>, expects_continue: bool) -> Self {
        let interim = if expects_continue { CONTINUE } else { b"" };
        Self { wire, interim, read_size: BUFFER, is_from_node: false, progress: Progress::Untouched }
    }

    /// Returns the body of the response of the node that has the stream, to be relayed.
    #[must_use]
    pub(crate) fn from_node(wire: Arc<Wire>) -> Self {
        Self { is_from_node: true, ..Self::new(wire, false) }
    }

    /// Like [`SocketBody::new`], for a small body that is not relayed.
    #[must_use]
    pub(crate) fn small(wire: Arc<Wire>, expects_continue: bool) -> Self {
        Self { read_size: SMALL_BUFFER, ..Self::new(wire, expects_continue) }
    }

    /// Like [`SocketBody::small`], for a body that fits into this many bytes with its framing.
    #[must_use]
    pub(crate) fn with_reads_of(bytes: usize, wire: Arc<Wire>) -> Self {
        Self { read_size: bytes, ..Self::new(wire, false) }
    }

    /// Returns the connection, and how many bytes of the body the kernel can move. `None` if the next bytes must be read: they
    /// are in the buffer already, chunked, or over TLS.
    #[must_use]
    pub(crate) fn in_kernel(&self) -> Option<(Arc<Wire>, u64)> {
        match &self.progress {
            Progress::Reading { decoder: BodyDecoder::Length(left), buffer, .. }
                if buffer.is_empty() && self.wire.socket().is_plain() =>
            {
                Some((Arc::clone(&self.wire), *left))
            }
            _ => None,
        }
    }

    fn has_arrived(&self) -> bool {
        let socket = self.wire.socket();
        let arrival = match &self.progress {
            Progress::Untouched => return self.wire.input().lock().holds_whole_body(socket) == Some(true),
            Progress::Ended => Arrival::Whole,
            Progress::Reading { decoder: decoder @ BodyDecoder::Length(_), buffer, .. } => {
                decoder.arrival(&[buffer], socket.unread())
            }
            Progress::Reading { decoder, buffer, .. } => match socket.peek() {
                Some(unread) => decoder.arrival(&[buffer, &unread], 0),
                None => Arrival::Whole,
            },
        };
        arrival != Arrival::Partial
    }

    /// Records that the kernel has moved `bytes` bytes of the body.
    pub(crate) fn skip(&mut self, bytes: u64) {
        if let Progress::Reading { decoder: BodyDecoder::Length(left), .. } = &mut self.progress {
            *left = left.saturating_sub(bytes);
        }
        self.end_if_done();
    }

    /// Polls for the next data of the body. `None` is its proper end.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        loop {
            let data = match &mut self.progress {
                Progress::Untouched => {
                    let (decoder, buffer) = self.wire.input().lock().take_body();
                    self.progress =
                        Progress::Reading { decoder, buffer, next_read: self.read_size.min(SMALL_BUFFER) };
                    continue;
                }
                Progress::Ended => return Poll::Ready(None),
                Progress::Reading { decoder, buffer, .. } => match decoder.decode(buffer) {
                    Ok(data) => data,
                    Err(bad) => return Poll::Ready(Some(Err(Fault::SourceBroke(bad.to_string())))),
                },
            };
            self.end_if_done();
            match data {
                Some(data) => return Poll::Ready(Some(Ok(data))),
                None if matches!(self.progress, Progress::Ended) => return Poll::Ready(None),
                None => match ready!(self.poll_fill(cx)) {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return Poll::Ready(Some(Err(Fault::SourceDisconnected))),
                },
            }
        }
    }

    /// At the end of the body, returns the bytes read after it to the connection.
    fn end_if_done(&mut self) {
        if let Progress::Reading { decoder, buffer, .. } = &self.progress
            && decoder.is_done()
        {
            self.wire.input().lock().end_body(buffer);
            self.progress = Progress::Ended;
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let socket = self.wire.socket();
        while !self.interim.is_empty() {
            let written = ready!(socket.poll_write(cx, &[IoSlice::new(self.interim)]))?;
            self.interim = self.interim.get(written..).unwrap_or_default();
            ready!(socket.poll_flush(cx))?;
        }
        let Progress::Reading { decoder, buffer, next_read } = &mut self.progress else {
            return Poll::Ready(Ok(0));
        };
        // The bytes after a body of known length stay in the kernel.
        let size = match decoder {
            BodyDecoder::Length(left) => (*next_read).min(usize::try_from(*left).unwrap_or(usize::MAX)),
            BodyDecoder::Chunked(_) => *next_read,
        };
        buffer.reserve(size);
        let read = ready!(socket.poll_read_buf(cx, &mut buffer.limit(size)));
        *next_read = self.read_size;
        Poll::Ready(read)
    }
}
