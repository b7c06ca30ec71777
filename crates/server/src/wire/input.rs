//! The input of an HTTP/1 connection: the one read-ahead buffer, and what comes next.
//!
//! ```text
//!   Head ── take_head, begin_body ──► Body ── take_body ──► Taken ── end_body ──► Head
//!     ▲                                 │
//!     └──────── there is no body ───────┘
//! ```
//!
//! A body stays in `Body` until somebody reads it: of a source that waits nothing is taken, so that nothing of it can reach anybody
//! before the sides have met, and that the buffer and the kernel tell whether the source has left.
//!
//! *Bounds.* The buffer holds one head and what was read behind it, or 64 KiB of the body of a source that waits.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use rendezvous_codec::body::{Arrival, BodyDecoder, Framing};
use rendezvous_codec::head::{HeadError, HeadScanner, MAX_HEAD_BYTES};
use rendezvous_net::socket::Socket;

/// What an HTTP/2 connection begins with (RFC 9113, section 3.4).
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes that are held of the body of a source that waits.
const MAX_READ_AHEAD: usize = 64 * 1024;
/// Room that is made for a read.
const READ_SIZE: usize = 4 * 1024;

/// The input of one connection.
#[derive(Debug)]
pub struct Input {
    stage: Stage,
    /// Read from the socket and not yet used.
    ahead: BytesMut,
    is_http11: bool,
}

#[derive(Debug)]
enum Stage {
    /// The next byte belongs to a head.
    Head(HeadScanner),
    /// The next byte belongs to the body of the request at hand, which nobody reads yet.
    Body {
        decoder: BodyDecoder,
        /// What the last look ahead has found: small chunks take a while to follow, and a client may have the server look often.
        look: Option<Look>,
    },
    /// Somebody reads the body of the request at hand, and has the buffer.
    Taken,
}

/// What so many bytes in the buffer and in the kernel say.
#[derive(Debug)]
struct Look {
    ahead: usize,
    unread: usize,
    arrival: Arrival,
}

impl Default for Input {
    fn default() -> Self {
        Self { stage: Stage::Head(HeadScanner::default()), ahead: BytesMut::new(), is_http11: false }
    }
}

impl Input {
    /// Whether bytes were read that nobody has used.
    #[must_use]
    pub fn has_read_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Whether anything has come behind the request at hand, whose body was read to its end.
    pub fn is_followed(&mut self, socket: &Socket) -> bool {
        if self.ahead.is_empty() {
            self.ahead.reserve(READ_SIZE);
            // What ends the connection shows again.
            let _ = socket.try_read(&mut self.ahead);
        }
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        // What is unread of TLS may be its own.
        !self.ahead.is_empty() || socket.is_plain() && socket.unread() > 0
    }

    /// Waits for the beginning of a head: empty lines are none (RFC 9112, section 2.2). False at the end of the connection.
    pub fn poll_beginning(&mut self, socket: &Socket, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.ahead.len() < MAX_HEAD_BYTES && self.ahead.chunks(2).all(|line| b"\r\n".starts_with(line))
        {
            if ready!(poll_fill(&mut self.ahead, socket, cx))? == 0 {
                return Poll::Ready(Ok(false));
            }
        }
        Poll::Ready(Ok(true))
    }

    /// Whether a fresh connection begins with the preface of HTTP/2. Takes nothing of it.
    pub fn poll_preface(&mut self, socket: &Socket, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.ahead.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(&self.ahead) {
            if ready!(poll_fill(&mut self.ahead, socket, cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Poll::Ready(Ok(self.ahead.starts_with(HTTP2_PREFACE)))
    }

    /// Takes the next head, complete but not parsed.
    pub fn poll_head(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Result<Bytes, HeadError>>> {
        if self.is_between_requests() && !matches!(self.stage, Stage::Head(_)) {
            self.stage = Stage::Head(HeadScanner::default());
        }
        let Stage::Head(scanner) = &mut self.stage else {
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        };
        loop {
            match scanner.scan(&self.ahead) {
                Ok(Some(length)) => {
                    let head = self.ahead.split_to(length).freeze();
                    // A side that waits must not hold the buffer of its head.
                    self.ahead = BytesMut::from(&*self.ahead);
                    return Poll::Ready(Ok(Ok(head)));
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(Ok(Err(error))),
            }
            if ready!(poll_fill(&mut self.ahead, socket, cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// The head that was taken announces this body.
    pub fn begin_body(&mut self, framing: Framing, is_http11: bool) {
        self.stage = Stage::Body { decoder: BodyDecoder::new(framing), look: None };
        self.is_http11 = is_http11;
    }

    /// Takes the body that nobody reads yet, with what was read ahead of it; the rest is in the socket.
    #[must_use]
    pub fn take_body(&mut self) -> (BodyDecoder, BytesMut) {
        let ahead = self.take_ahead();
        match std::mem::replace(&mut self.stage, Stage::Taken) {
            Stage::Body { decoder, .. } => (decoder, ahead),
            Stage::Head(_) | Stage::Taken => (BodyDecoder::new(Framing::NONE), ahead),
        }
    }

    /// The body was read to its end, and `rest` behind it.
    pub fn end_body(&mut self, rest: &[u8]) {
        self.stage = Stage::Head(HeadScanner::default());
        self.ahead = BytesMut::from(rest);
    }

    /// What comes next cannot be understood: nobody reads on.
    pub fn give_up(&mut self) {
        self.stage = Stage::Taken;
        self.ahead = BytesMut::new();
    }

    /// Takes what was read ahead.
    #[must_use]
    pub fn take_ahead(&mut self) -> BytesMut {
        std::mem::take(&mut self.ahead)
    }

    /// Whether nothing of the request at hand is still to be read.
    #[must_use]
    pub fn is_between_requests(&self) -> bool {
        match &self.stage {
            Stage::Head(_) => true,
            Stage::Body { decoder, .. } => decoder.is_done(),
            Stage::Taken => false,
        }
    }

    /// Whether the request at hand is one of HTTP/1.1.
    #[must_use]
    pub fn is_http11(&self) -> bool {
        self.is_http11
    }

    /// Whether nobody reads the body of the request at hand yet.
    #[must_use]
    pub fn is_body_untouched(&self) -> bool {
        matches!(self.stage, Stage::Body { .. })
    }

    /// Whether the whole body that nobody reads yet has arrived; `None` where somebody does. Reads at most 64 KiB of it: where
    /// that does not tell, the body counts as whole.
    pub fn holds_whole_body(&mut self, socket: &Socket) -> Option<bool> {
        let Stage::Body { decoder, look } = &mut self.stage else { return None };
        // Inside TLS, what is unread cannot be counted.
        let can_count = socket.is_plain() && matches!(decoder, BodyDecoder::Length(_));
        let may_be_more = !can_count && !look_ahead(&mut self.ahead, socket);
        let (ahead, unread) = (self.ahead.len(), socket.unread());
        let known = look.take().filter(|look| (look.ahead, look.unread) == (ahead, unread));
        let arrival = known.map_or_else(|| decoder.arrival(&[&self.ahead], unread), |look| look.arrival);
        *look = Some(Look { ahead, unread, arrival });
        Some(match arrival {
            Arrival::Whole => true,
            Arrival::Partial => may_be_more,
            Arrival::Broken => false,
        })
    }

    /// Whether the body that nobody reads yet is of a declared length and complete with `unread` more bytes, behind which nothing comes.
    /// Reads nothing.
    #[must_use]
    pub fn is_whole_with(&self, unread: usize) -> bool {
        let Stage::Body { decoder: BodyDecoder::Length(left), .. } = &self.stage else { return false };
        (self.ahead.len() + unread) as u64 == *left
    }

    /// Throws away what has come behind a body that was read to its end, but for its beginning: a FIN shows behind that. False where it is
    /// more than a head may have, and may hide a FIN for as long as its client likes.
    pub fn skip_what_follows(&mut self, socket: &Socket) -> bool {
        let (mut skipped, mut scratch) = (self.ahead.len(), BytesMut::with_capacity(MAX_HEAD_BYTES));
        while skipped <= MAX_HEAD_BYTES {
            scratch.clear();
            match socket.try_read(&mut scratch) {
                Ok(count @ 1..) => skipped += count,
                Ok(0) | Err(_) => return true,
            }
            if self.ahead.is_empty() {
                self.ahead.extend_from_slice(scratch.get(..1).unwrap_or_default());
            }
        }
        false
    }
}

/// Reads what has arrived, up to 64 KiB. True where that is all.
fn look_ahead(ahead: &mut BytesMut, socket: &Socket) -> bool {
    while ahead.len() < MAX_READ_AHEAD {
        ahead.reserve(READ_SIZE);
        if !matches!(socket.try_read(ahead), Ok(1..)) {
            return true;
        }
    }
    false
}

fn poll_fill(ahead: &mut BytesMut, socket: &Socket, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let room = READ_SIZE.min(MAX_HEAD_BYTES.saturating_sub(ahead.len()).max(1));
    ahead.reserve(room);
    socket.poll_read_buf(cx, &mut ahead.limit(room))
}
