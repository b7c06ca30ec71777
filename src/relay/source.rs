//! The source's body, whichever lane reads it: frames of data, an end, or a fault.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Body;

use crate::outcome::Fault;
use crate::wire::chunked::ChunkTracker;
use crate::wire::head::Framing;
use crate::wire::{CONTINUE, Wire};

/// Read at a time from a source's socket, in bytes. Held only while the body is relayed.
const BUFFER: usize = 256 * 1024;
/// Read the first time: a body of at most this goes out in one write with its head.
const FIRST_BUFFER: usize = 64 * 1024;

/// A request body that a library reads and decodes.
pub type BodyStream = UnsyncBoxBody<Bytes, Fault>;

/// The body of a `PUT`. Untouched until the sides have paired.
pub enum SourceBody {
    /// A library reads and decodes it; from this connection, where it has that for itself.
    Stream(BodyStream, Option<Arc<Wire>>),
    /// It is read from its connection here, in the destination's task.
    Socket(SocketBody),
}

/// A body that is read straight from its connection.
pub struct SocketBody {
    wire: Arc<Wire>,
    framing: BodyFraming,
    /// What is still to be written of the `100 Continue` that the client waits for.
    go_on: &'static [u8],
    started: bool,
    buffer: BytesMut,
}

enum BodyFraming {
    /// So many bytes are still to come.
    Length(u64),
    Chunked(ChunkTracker),
}

impl SourceBody {
    /// The next data, `None` at the proper end of the body.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        match self {
            Self::Socket(body) => body.poll_data(cx),
            Self::Stream(stream, _) => loop {
                let Some(frame) = ready!(Pin::new(&mut *stream).poll_frame(cx)?) else {
                    return Poll::Ready(None);
                };
                // Trailers are consumed, not passed on.
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    return Poll::Ready(Some(Ok(data)));
                }
            },
        }
    }

    /// The connection that it comes by, where it has that for itself: not as one HTTP/2 stream among others.
    #[must_use]
    pub fn wire(&self) -> Option<&Arc<Wire>> {
        match self {
            Self::Stream(_, wire) => wire.as_ref(),
            Self::Socket(body) => Some(&body.wire),
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
        match (self, self.watched()) {
            (_, None) => false,
            (Self::Stream(..), Some(wire)) => wire.inbound().lock().body_has_arrived(wire.socket()),
            (Self::Socket(body), Some(_)) => body.has_arrived(),
        }
    }
}

impl SocketBody {
    /// The body that follows the head of the request at hand.
    #[must_use]
    pub fn new(wire: Arc<Wire>, framing: Framing, expects_continue: bool) -> Self {
        let framing = match framing {
            Framing::Empty => BodyFraming::Length(0),
            Framing::Length(length) => BodyFraming::Length(length),
            Framing::Chunked => BodyFraming::Chunked(ChunkTracker::default()),
        };
        let go_on = if expects_continue { CONTINUE } else { b"" };
        Self { wire, framing, go_on, started: false, buffer: BytesMut::new() }
    }

    /// The connection, and how many bytes of the body are still in its kernel or to come. `None` where they have
    /// to pass through the program: those that were read already, chunks, and TLS.
    #[must_use]
    pub fn in_kernel(&self) -> Option<(Arc<Wire>, u64)> {
        match self.framing {
            BodyFraming::Length(left @ 1..)
                if self.started && self.buffer.is_empty() && self.wire.socket().is_plain() =>
            {
                Some((Arc::clone(&self.wire), left))
            }
            _ => None,
        }
    }

    fn has_arrived(&self) -> bool {
        match &self.framing {
            BodyFraming::Length(left) => (self.buffer.len() + self.wire.socket().unread()) as u64 >= *left,
            BodyFraming::Chunked(tracker) => {
                let unread = self.wire.socket().peek();
                unread.is_none_or(|unread| tracker.ends_in(&[&self.buffer, &unread]))
            }
        }
    }

    /// So many bytes of the body have been taken from the kernel past this.
    pub fn skip(&mut self, bytes: u64) {
        if let BodyFraming::Length(left) = &mut self.framing {
            *left = left.saturating_sub(bytes);
        }
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        loop {
            match &mut self.framing {
                BodyFraming::Length(0) => return Poll::Ready(None),
                BodyFraming::Length(left) if !self.buffer.is_empty() => {
                    let here = self.buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= here as u64;
                    return Poll::Ready(Some(Ok(self.buffer.split_to(here).freeze())));
                }
                BodyFraming::Length(_) => {}
                BodyFraming::Chunked(tracker) => match tracker.decode(&mut self.buffer) {
                    Ok(Some(data)) => return Poll::Ready(Some(Ok(data))),
                    Ok(None) if tracker.is_done() => return Poll::Ready(None),
                    Ok(None) => {}
                    Err(bad) => return Poll::Ready(Some(Err(Fault::SourceBroke(bad.to_string())))),
                },
            }
            match ready!(self.poll_fill(cx)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(Some(Err(Fault::SourceDisconnected))),
            }
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        while !self.go_on.is_empty() {
            let written = ready!(self.wire.socket().poll_write(cx, &[IoSlice::new(self.go_on)]))?;
            self.go_on = self.go_on.get(written..).unwrap_or_default();
        }
        let mut room = BUFFER;
        if !std::mem::replace(&mut self.started, true) {
            self.buffer = self.wire.inbound().lock().take_body();
            if !self.buffer.is_empty() {
                return Poll::Ready(Ok(self.buffer.len()));
            }
            room = FIRST_BUFFER;
        }
        if let BodyFraming::Length(left) = self.framing {
            room = room.min(usize::try_from(left).unwrap_or(usize::MAX));
        }
        self.buffer.reserve(room);
        self.wire.socket().poll_read_buf(cx, &mut (&mut self.buffer).limit(room))
    }
}
