//! The source's body, by whichever version of HTTP it comes: data, an end, or a fault.

use std::io::{self, IoSlice};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use crate::outcome::Fault;
use crate::wire::body::{Arrival, BodyDecoder};
use crate::wire::{CONTINUE, Wire};

/// Read at a time from a source's socket, in bytes. Held only while the body is relayed.
const BUFFER: usize = 256 * 1024;
/// Read the first time: a body of at most this goes out in one write with its head. And of any other body, because what was read behind it
/// is held until the next request.
const SMALL_BUFFER: usize = 64 * 1024;

/// The body of a request. Untouched until somebody reads it: of a source, when the sides have paired.
pub enum SourceBody {
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

impl SourceBody {
    /// The next data, `None` at the proper end of the body.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
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

    /// The connection that it comes by, where it has that for itself: not as one HTTP/2 stream among others.
    #[must_use]
    pub fn wire(&self) -> Option<&Arc<Wire>> {
        match self {
            Self::Socket(body) => Some(&body.wire),
            Self::Stream(_) => None,
        }
    }

    /// The same, where the kernel can tell how much of the body is still to come: not from inside TLS.
    #[must_use]
    pub fn watched(&self) -> Option<&Arc<Wire>> {
        self.wire().filter(|wire| wire.socket().is_plain())
    }

    /// Nothing of the body is still to come, as far as can be told: what has not been read is in the kernel.
    #[must_use]
    pub fn has_arrived(&self) -> bool {
        match self {
            Self::Socket(body) => body.wire.socket().is_plain() && body.has_arrived(),
            Self::Stream(_) => false,
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
