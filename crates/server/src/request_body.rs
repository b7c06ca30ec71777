//! The source's body, by whichever version of HTTP it comes: data, an end, or a fault.

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

/// Read at a time from a source's socket, in bytes. Held only while the body is relayed.
const BUFFER: usize = 256 * 1024;
/// Read the first time: a body of at most this goes out in one write with its head. And of any other body, because what was read behind it
/// is held until the next request.
const SMALL_BUFFER: usize = 64 * 1024;

/// The body of a request. Untouched until somebody reads it: of a source, when the sides have paired.
pub enum RequestBody {
    /// It is read from its connection here, in the reader's task: HTTP/1.
    Socket(SocketBody),
    /// It is one HTTP/2 stream among others of a connection, which another task reads.
    Stream(BoxStream<'static, Result<Bytes, Fault>>),
}

/// A body that is read straight from its connection.
pub struct SocketBody {
    wire: Arc<Wire>,
    /// What is still to be written of the `100 Continue` that the client waits for.
    interim: &'static [u8],
    /// Read at a time, from the second time on.
    room: usize,
    progress: Progress,
}

enum Progress {
    Untouched,
    Reading {
        decoder: BodyDecoder,
        buffer: BytesMut,
        /// The next read.
        room: usize,
    },
    /// The connection has its input back.
    Ended,
}

/// The core's types, for these bodies.
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

    /// From inside TLS the kernel cannot tell how much of the body is still to come.
    fn departure(&self) -> Option<Departure> {
        let wire = Arc::clone(self.wire().filter(|wire| wire.socket().is_plain())?);
        Some(Box::pin(async move {
            wire.socket().departed().await;
        }))
    }

    fn presence(&self) -> Option<PresenceCheck> {
        let wire = Arc::clone(self.wire()?);
        let before_body = wire.socket().departure().is_some();
        Some(PresenceCheck { before_body, answer: Box::pin(async move { wire.is_still_there().await }) })
    }
}

impl RequestBody {
    /// The connection that it comes by, where it has that for itself: not as one HTTP/2 stream among others.
    fn wire(&self) -> Option<&Arc<Wire>> {
        match self {
            Self::Socket(body) => Some(&body.wire),
            Self::Stream(_) => None,
        }
    }
}

impl SocketBody {
    /// The body of a stream: that of the request at hand. With `expects_continue`, its client is sent a `100 Continue` when it is read.
    #[must_use]
    pub fn new(wire: Arc<Wire>, expects_continue: bool) -> Self {
        let interim = if expects_continue { CONTINUE } else { b"" };
        Self { wire, interim, room: BUFFER, progress: Progress::Untouched }
    }

    /// As [`SocketBody::new`], of a request that is answered by itself.
    #[must_use]
    pub fn small(wire: Arc<Wire>, expects_continue: bool) -> Self {
        Self { room: SMALL_BUFFER, ..Self::new(wire, expects_continue) }
    }

    /// The connection, and how many bytes of the body are still in its kernel or to come. `None` where they have
    /// to pass through the program: those that were read already, chunks, and TLS.
    #[must_use]
    pub fn in_kernel(&self) -> Option<(Arc<Wire>, u64)> {
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

    /// So many bytes of the body have been taken from the kernel past this.
    pub fn skip(&mut self, bytes: u64) {
        if let Progress::Reading { decoder: BodyDecoder::Length(left), .. } = &mut self.progress {
            *left = left.saturating_sub(bytes);
        }
        self.end_if_done();
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        loop {
            let data = match &mut self.progress {
                Progress::Untouched => {
                    let (decoder, buffer) = self.wire.input().lock().take_body();
                    self.progress = Progress::Reading { decoder, buffer, room: SMALL_BUFFER };
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

    /// Gives the connection back what was read behind the body.
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
        let Progress::Reading { decoder, buffer, room } = &mut self.progress else {
            return Poll::Ready(Ok(0));
        };
        // What follows a body of a known length stays in the kernel.
        let most = match decoder {
            BodyDecoder::Length(left) => (*room).min(usize::try_from(*left).unwrap_or(usize::MAX)),
            BodyDecoder::Chunked(_) => *room,
        };
        buffer.reserve(most);
        let read = ready!(socket.poll_read_buf(cx, &mut buffer.limit(most)));
        *room = self.room;
        Poll::Ready(read)
    }
}
