//! The input of an HTTP/1 connection: its read-ahead buffer, and the kind of bytes that come next.
//!
//! ```text
//!   Head ── poll_head, begin_body ──► Body ── take_body ──► Taken ── end_body ──► Head
//!     ▲                                 │
//!     └────────── empty body ───────────┘
//! ```
//!
//! *Invariant.* A body stays in `Body` until the sides have paired: nothing is decoded or passed on before, and the buffer and the kernel
//! still show whether the source has left.
//!
//! *Concurrency.* Locked by one task at a time. In `Taken`, the reader of the body owns the buffer.
//!
//! *Bounds.* The buffer holds one head and the bytes read after it, or 64 KiB of the body of a waiting source. It grows as bytes arrive,
//! so a large limit on heads costs memory only for large heads.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use rendezvous_codec::body::{Arrival, BodyDecoder, Framing};
use rendezvous_codec::head::{HeadError, HeadScanner};
use rendezvous_net::socket::Socket;

/// The connection preface of HTTP/2 (RFC 9113, section 3.4).
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The largest read-ahead of the body of a waiting source, in bytes.
const MAX_READ_AHEAD: usize = 64 * 1024;
/// Bytes read from the socket at a time.
const READ_SIZE: usize = 4 * 1024;
/// The empty lines before a head after which it counts as begun, in bytes.
const MAX_EMPTY_LINES: usize = 4 * 1024;
/// The bytes after a body that are discarded to detect a FIN after them.
const MAX_TRAILING_BYTES: usize = 16 * 1024;

/// The input of one connection.
#[derive(Debug)]
pub(crate) struct Input {
    stage: Stage,
    /// Bytes that were read from the socket and not consumed.
    read_ahead: BytesMut,
    is_http11: bool,
}

#[derive(Debug)]
enum Stage {
    /// The next byte belongs to a head.
    Head(HeadScanner),
    /// The next byte belongs to the body of the current request, which is not being read yet.
    Body {
        decoder: BodyDecoder,
        /// The result of the last check: decoding many small chunks takes time, and a client can cause many checks.
        last_check: Option<ArrivalCheck>,
    },
    /// The body of the current request is being read, and its reader owns the buffer.
    Taken,
}

/// How much of the body had arrived, for these numbers of bytes in the buffer and in the kernel.
#[derive(Debug)]
struct ArrivalCheck {
    read_ahead: usize,
    unread: usize,
    arrival: Arrival,
}

impl Default for Input {
    fn default() -> Self {
        Self { stage: Stage::Head(HeadScanner::default()), read_ahead: BytesMut::new(), is_http11: false }
    }
}

impl Input {
    /// Whether the read-ahead buffer has bytes.
    #[must_use]
    pub(crate) fn has_read_ahead(&self) -> bool {
        !self.read_ahead.is_empty()
    }

    /// Whether bytes have arrived after the body of the current request, which was read to its end.
    pub(crate) fn has_trailing_bytes(&mut self, socket: &Socket) -> bool {
        if self.read_ahead.is_empty() && socket.is_plain() {
            return socket.has_unread();
        }
        // Over TLS, unread bytes may belong to a record without application data.
        if self.read_ahead.is_empty() {
            self.read_ahead.reserve(READ_SIZE);
            // An error or end of file shows again at the next read.
            let _ = socket.try_read(&mut self.read_ahead);
        }
        if self.read_ahead.is_empty() {
            self.read_ahead = BytesMut::new();
        }
        !self.read_ahead.is_empty()
    }

    /// Waits for the first byte of a head after empty lines (RFC 9112, section 2.2), or for too many of these. Returns false at the end of the connection.
    pub(crate) fn poll_head_start(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        while self.read_ahead.len() < MAX_EMPTY_LINES
            && self.read_ahead.chunks(2).all(|line| b"\r\n".starts_with(line))
        {
            if ready!(poll_fill(&mut self.read_ahead, socket, cx))? == 0 {
                return Poll::Ready(Ok(false));
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Returns whether a new connection begins with the HTTP/2 preface, which stays in the buffer.
    pub(crate) fn poll_preface(&mut self, socket: &Socket, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.read_ahead.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(&self.read_ahead) {
            if ready!(poll_fill(&mut self.read_ahead, socket, cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Poll::Ready(Ok(self.read_ahead.starts_with(HTTP2_PREFACE)))
    }

    /// Takes the next head of at most `limit` bytes, complete but not parsed. [`Input::begin_body`] must follow.
    pub(crate) fn poll_head(
        &mut self,
        socket: &Socket,
        limit: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Result<Bytes, HeadError>>> {
        if self.is_between_requests() && !matches!(self.stage, Stage::Head(_)) {
            self.stage = Stage::Head(HeadScanner::default());
        }
        let Stage::Head(scanner) = &mut self.stage else {
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        };
        loop {
            match scanner.scan(&self.read_ahead, limit) {
                Ok(Some(length)) => {
                    let head = self.read_ahead.split_to(length).freeze();
                    // Copied, so that a waiting side does not keep the buffer of its head allocated.
                    self.read_ahead = BytesMut::from(&*self.read_ahead);
                    return Poll::Ready(Ok(Ok(head)));
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(Ok(Err(error))),
            }
            if ready!(poll_fill(&mut self.read_ahead, socket, cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Sets the framing of the body that follows the head.
    pub(crate) fn begin_body(&mut self, framing: Framing, is_http11: bool) {
        self.stage = Stage::Body { decoder: BodyDecoder::new(framing), last_check: None };
        self.is_http11 = is_http11;
    }

    /// Takes the body to read it: its decoder and the read-ahead buffer. The rest of it is in the socket.
    #[must_use]
    pub(crate) fn take_body(&mut self) -> (BodyDecoder, BytesMut) {
        let read_ahead = self.take_read_ahead();
        match std::mem::replace(&mut self.stage, Stage::Taken) {
            Stage::Body { decoder, .. } => (decoder, read_ahead),
            Stage::Head(_) | Stage::Taken => (BodyDecoder::new(Framing::NONE), read_ahead),
        }
    }

    /// Gives the input back after the body was read to its end. `rest` is the bytes read after it.
    pub(crate) fn end_body(&mut self, rest: &[u8]) {
        self.stage = Stage::Head(HeadScanner::default());
        self.read_ahead = BytesMut::from(rest);
    }

    /// Discards the buffer and expects no further request: the input that follows cannot be framed.
    pub(crate) fn stop_reading(&mut self) {
        self.stage = Stage::Taken;
        self.read_ahead = BytesMut::new();
    }

    /// Takes the read-ahead buffer.
    #[must_use]
    pub(crate) fn take_read_ahead(&mut self) -> BytesMut {
        std::mem::take(&mut self.read_ahead)
    }

    /// Whether the current request was read to its end.
    #[must_use]
    pub(crate) fn is_between_requests(&self) -> bool {
        match &self.stage {
            Stage::Head(_) => true,
            Stage::Body { decoder, .. } => decoder.is_done(),
            Stage::Taken => false,
        }
    }

    /// Whether the current request uses HTTP/1.1.
    #[must_use]
    pub(crate) fn is_http11(&self) -> bool {
        self.is_http11
    }

    /// Whether the body of the current request is not being read yet.
    #[must_use]
    pub(crate) fn is_body_unread(&self) -> bool {
        matches!(self.stage, Stage::Body { .. })
    }

    /// Whether the whole body has arrived; `None` if it is being read already. Reads at most 64 KiB ahead. A body that neither ends nor breaks
    /// within them counts as whole.
    pub(crate) fn holds_whole_body(&mut self, socket: &Socket) -> Option<bool> {
        let Stage::Body { decoder, last_check } = &mut self.stage else { return None };
        // Over TLS, the number of unread body bytes is not known.
        let can_count = socket.is_plain() && matches!(decoder, BodyDecoder::Length(_));
        let may_be_more = !can_count && !fill_read_ahead(&mut self.read_ahead, socket);
        let (read_ahead, unread) = (self.read_ahead.len(), socket.unread());
        let known =
            last_check.take().filter(|check| (check.read_ahead, check.unread) == (read_ahead, unread));
        let arrival =
            known.map_or_else(|| decoder.arrival(&[&self.read_ahead], unread), |check| check.arrival);
        *last_check = Some(ArrivalCheck { read_ahead, unread, arrival });
        Some(match arrival {
            Arrival::Whole => true,
            Arrival::Partial => may_be_more,
            Arrival::Broken => false,
        })
    }

    /// Whether the body has a declared length and exactly `unread` more bytes complete it. Reads nothing.
    #[must_use]
    pub(crate) fn is_complete_with(&self, unread: usize) -> bool {
        let Stage::Body { decoder: BodyDecoder::Length(left), .. } = &self.stage else { return false };
        (self.read_ahead.len() + unread) as u64 == *left
    }

    /// Discards the bytes after a body that was read to its end, so that a FIN after them can be detected. Keeps the first one, because the
    /// connection must close after such bytes. Returns false if they are more than 16 KiB, and may still hide a FIN.
    pub(crate) fn discard_trailing_bytes(&mut self, socket: &Socket) -> bool {
        let (mut discarded, mut scratch) =
            (self.read_ahead.len(), BytesMut::with_capacity(MAX_TRAILING_BYTES));
        while discarded <= MAX_TRAILING_BYTES {
            scratch.clear();
            match socket.try_read(&mut scratch) {
                Ok(count @ 1..) => discarded += count,
                Ok(0) | Err(_) => return true,
            }
            if self.read_ahead.is_empty() {
                self.read_ahead.extend_from_slice(scratch.get(..1).unwrap_or_default());
            }
        }
        false
    }
}

/// Reads what has arrived until the buffer holds 64 KiB. Returns true if nothing more is available.
fn fill_read_ahead(read_ahead: &mut BytesMut, socket: &Socket) -> bool {
    while read_ahead.len() < MAX_READ_AHEAD {
        read_ahead.reserve(READ_SIZE);
        if !matches!(socket.try_read(read_ahead), Ok(1..)) {
            return true;
        }
    }
    false
}

fn poll_fill(read_ahead: &mut BytesMut, socket: &Socket, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    read_ahead.reserve(READ_SIZE);
    socket.poll_read_buf(cx, &mut read_ahead.limit(READ_SIZE))
}
