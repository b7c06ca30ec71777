//! The gate between a connection's bytes and hyper: every head is scanned strictly before hyper may see it.
//!
//! ```text
//!        ┌───────────────── the message is over ──────────────────┐
//!        ▼                                                         │
//!   Head(scanner) ── whole ──► Pass(head) ──► Body(end) ───────────┘
//!        │                         └─ PUT ──► Held ── the sides have paired ──► Last: all that follows is its body
//!        │                                     Body, Last ── broken framing ──► Broken: an error
//!        └── refused ──► StandIn: a request that the service answers with the refusal, and nothing more
//! ```
//!
//! hyper gets nothing of a source's body before the sides have paired: so it can be told here whether the
//! source has left, and nothing of it can reach anybody. Every answer to a `PUT` closes its connection, so
//! nothing is kept back behind its body; that is what lets the bodies of streams pass uncopied. Memory: at most one
//! head, or 64 KiB of a waiting source's body.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::ReadBuf;
use tokio::time::{Instant, Sleep, sleep_until};

use super::chunked::{BadChunk, ChunkTracker, Stripped};
use super::head::{Framing, Head, HeadScanner, MAX_HEAD_BYTES};
use crate::outcome::Refusal;
use crate::socket::Socket;

/// What hyper is given in place of a head that it must not see.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nHost: refused\r\nConnection: close\r\n\r\n";
/// What an HTTP/2 connection begins with (RFC 9113, section 3.4).
pub const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Room that is made for a read.
const READ_SIZE: usize = 4 * 1024;
/// What is read of a waiting source's body, to see whether it is whole.
const MAX_LOOK_AHEAD: usize = 64 * 1024;

/// What comes next on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peek {
    /// A head, and its bytes.
    Head(Head, Bytes),
    /// A head that was refused: hyper is given a stand-in for it.
    Refused,
    /// The preface of HTTP/2: all that follows is that.
    Http2,
    /// Nothing more.
    End,
}

/// What comes next on a connection, its head left where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comes {
    Request,
    Http2,
    End,
}

/// The input of one connection.
#[derive(Debug)]
pub struct Inbound {
    stage: Stage,
    /// Read from the socket and not yet given to hyper.
    ahead: BytesMut,
    head_timeout: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    /// Nothing was asked yet.
    is_fresh: bool,
    /// In a box, because most connections have none.
    refusal: Option<Box<Refusal>>,
}

#[derive(Debug)]
enum Stage {
    Head(HeadScanner),
    /// So much of a head is still to be given.
    Pass {
        left: usize,
        head: Head,
    },
    Body(BodyEnd),
    Broken(BadChunk),
    /// A `PUT` that waits for its peer, and who wants to read its body.
    Held {
        head: Head,
        reader: Option<Waker>,
        /// All answers to earlier requests are with the kernel.
        is_next: bool,
    },
    /// All that follows is the body of a `PUT`, which is followed too: hyper is lenient where it is chunked.
    Last {
        head: Head,
        end: BodyEnd,
    },
    /// So much of the stand-in is still to be given.
    StandIn(&'static [u8]),
}

/// How much of a body is to come.
#[derive(Debug)]
enum BodyEnd {
    After(u64),
    Chunked(ChunkTracker),
}

impl Inbound {
    /// The input of a fresh connection, whose heads may take `head_timeout` each.
    #[must_use]
    pub fn new(head_timeout: Duration) -> Self {
        Self {
            stage: Stage::Head(HeadScanner::default()),
            ahead: BytesMut::new(),
            head_timeout,
            timer: None,
            is_fresh: true,
            refusal: None,
        }
    }

    /// Why the last request was refused before hyper saw it, if it was.
    pub fn take_refusal(&mut self) -> Option<Refusal> {
        self.refusal.take().map(|refusal| *refusal)
    }

    /// Refuses whatever the client asks first.
    pub fn refuse_first(&mut self, refusal: Refusal) {
        self.refusal = Some(Box::new(refusal));
    }

    /// Nothing that belongs to the request at hand is still to come, as far as can be told from here.
    #[must_use]
    pub fn is_between_requests(&self) -> bool {
        self.ahead.is_empty()
            && match &self.stage {
                Stage::Head(_) => true,
                Stage::Held { head, .. } | Stage::Last { head, .. } => head.framing == Framing::Empty,
                Stage::Pass { .. } | Stage::Body(_) | Stage::Broken(_) | Stage::StandIn(_) => false,
            }
    }

    /// Whether the `PUT` that waits may be sent a `100 Continue` past hyper now; `None` where never, because it waits no more,
    /// or its client does not speak HTTP/1.1.
    #[must_use]
    pub fn may_probe(&self) -> Option<bool> {
        match &self.stage {
            Stage::Held { head, is_next, .. } if head.is_http11 => Some(*is_next),
            _ => None,
        }
    }

    /// Whether the `PUT` at hand speaks HTTP/1.1, and not 1.0.
    #[must_use]
    pub fn is_http11(&self) -> bool {
        matches!(&self.stage, Stage::Held { head, .. } | Stage::Last { head, .. } if head.is_http11)
    }

    /// All that hyper has written is with the kernel.
    pub fn flushed(&mut self) {
        if let Stage::Held { is_next, .. } = &mut self.stage {
            *is_next = true;
        }
    }

    /// Reads a head and leaves it where it is: [`Inbound::take_head`] or hyper takes it.
    pub fn poll_peek(&mut self, socket: &Socket, cx: &mut Context<'_>) -> Poll<io::Result<Peek>> {
        match ready!(self.poll_head(socket, cx))? {
            Comes::Request => {}
            Comes::Http2 => return Poll::Ready(Ok(Peek::Http2)),
            Comes::End => return Poll::Ready(Ok(Peek::End)),
        }
        Poll::Ready(Ok(match &self.stage {
            Stage::Pass { head, .. } => {
                Peek::Head(*head, Bytes::copy_from_slice(self.ahead.get(..head.length).unwrap_or_default()))
            }
            _ => Peek::Refused,
        }))
    }

    /// Takes the head that was peeked at: hyper will not see it.
    pub fn take_head(&mut self) {
        if let Stage::Pass { left, head } = &self.stage {
            self.ahead.advance(*left);
            // Whoever takes it here has written its answers before.
            self.stage = after_head(*head, true);
            self.shrink();
        }
    }

    /// The sides have paired: hyper may read the body.
    pub fn release(&mut self) {
        if let Stage::Held { head, reader, .. } = &mut self.stage {
            let reader = reader.take();
            self.stage = Stage::Last { head: *head, end: BodyEnd::of(head.framing) };
            if let Some(reader) = reader {
                reader.wake();
            }
        }
    }

    /// Takes what has been read and not been given to anybody. The rest is in the socket.
    #[must_use]
    pub fn take_ahead(&mut self) -> BytesMut {
        std::mem::take(&mut self.ahead)
    }

    /// The sides have paired, and the body does not go through hyper: takes what has been read ahead of it. The rest
    /// is in the socket.
    #[must_use]
    pub fn take_body(&mut self) -> BytesMut {
        // Nobody looks ahead any more, or bytes would be taken from under the one who reads.
        self.release();
        self.take_ahead()
    }

    /// Gives hyper what it may see. No bytes added means end of file.
    pub fn poll_read(
        &mut self,
        socket: &Socket,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match &mut self.stage {
                Stage::Head(_) => {
                    if ready!(self.poll_head(socket, cx))? != Comes::Request {
                        return Poll::Ready(Ok(()));
                    }
                }
                Stage::Pass { left, head } => {
                    *left -= give(&mut self.ahead, *left, buffer);
                    if *left == 0 {
                        self.stage = after_head(*head, false);
                        self.shrink();
                    }
                    return Poll::Ready(Ok(()));
                }
                Stage::Body(end) => {
                    if self.ahead.is_empty() && ready!(poll_fill(&mut self.ahead, socket, cx))? == 0 {
                        return Poll::Ready(Ok(()));
                    }
                    let given = buffer.filled().len();
                    let room = self.ahead.len().min(buffer.remaining());
                    buffer.put_slice(self.ahead.get(..room).unwrap_or_default());
                    match end.pass(buffer, given) {
                        Ok(mine) => {
                            self.ahead.advance(mine);
                            if end.is_reached() {
                                self.stage = Stage::Head(HeadScanner::default());
                            }
                        }
                        Err(bad) => self.stage = Stage::Broken(bad),
                    }
                    if buffer.filled().len() > given {
                        return Poll::Ready(Ok(()));
                    }
                }
                Stage::Broken(bad) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, *bad)));
                }
                Stage::Held { reader, .. } => {
                    *reader = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                Stage::Last { end, .. } => {
                    let given = buffer.filled().len();
                    if self.ahead.is_empty() {
                        ready!(socket.poll_read(cx, buffer))?;
                    } else {
                        give(&mut self.ahead, usize::MAX, buffer);
                        if self.ahead.is_empty() {
                            self.ahead = BytesMut::new();
                        }
                    }
                    let is_end = buffer.filled().len() == given;
                    if let Err(bad) = end.pass(buffer, given) {
                        self.stage = Stage::Broken(bad);
                    }
                    if is_end || buffer.filled().len() > given {
                        return Poll::Ready(Ok(()));
                    }
                }
                Stage::StandIn(left) => {
                    let (now, later) = left.split_at(left.len().min(buffer.remaining()));
                    buffer.put_slice(now);
                    *left = later;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// Reads a head, and sets the stage that it leads to.
    fn poll_head(&mut self, socket: &Socket, cx: &mut Context<'_>) -> Poll<io::Result<Comes>> {
        let Stage::Head(scanner) = &mut self.stage else { return Poll::Ready(Ok(Comes::Request)) };
        loop {
            let begun = !self.ahead.is_empty();
            let verdict = match self.refusal.clone() {
                // Also for a connection that is refused, so that the refusal is sent as HTTP/2.
                _ if self.is_fresh && self.ahead.starts_with(HTTP2_PREFACE) => {
                    self.timer = None;
                    return Poll::Ready(Ok(Comes::Http2));
                }
                _ if self.is_fresh && HTTP2_PREFACE.starts_with(&self.ahead) => Ok(None),
                Some(refusal) if begun => Err(*refusal),
                _ => scanner.scan(&self.ahead),
            };
            match verdict {
                Ok(Some(head)) => {
                    self.timer = None;
                    self.is_fresh = false;
                    self.stage = Stage::Pass { left: head.length, head };
                    return Poll::Ready(Ok(Comes::Request));
                }
                Ok(None) => {}
                Err(refusal) => {
                    self.stand_in(refusal);
                    return Poll::Ready(Ok(Comes::Request));
                }
            }
            match poll_fill(&mut self.ahead, socket, cx)? {
                Poll::Ready(0) => return Poll::Ready(Ok(Comes::End)),
                Poll::Ready(_) if begun => {}
                // The clock of a head starts with its first byte; until then it was the idle connection's.
                Poll::Ready(_) => self.timer = None,
                Poll::Pending => {
                    let limit = self.head_timeout;
                    let timer =
                        self.timer.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + limit)));
                    ready!(timer.as_mut().poll(cx));
                    if !begun {
                        return Poll::Ready(Ok(Comes::End));
                    }
                    self.stand_in(Refusal::RequestTimeout(limit));
                    return Poll::Ready(Ok(Comes::Request));
                }
            }
        }
    }

    fn stand_in(&mut self, refusal: Refusal) {
        self.timer = None;
        self.ahead = BytesMut::new();
        self.refusal = Some(Box::new(refusal));
        self.stage = Stage::StandIn(STAND_IN);
    }

    /// Whether nothing of the body that hyper reads is still to come, as far as can be told: what it has not read is here.
    #[must_use]
    pub fn body_has_arrived(&self, socket: &Socket) -> bool {
        match &self.stage {
            Stage::Last { end: BodyEnd::After(left), .. } => {
                (self.ahead.len() + socket.unread()) as u64 >= *left
            }
            Stage::Last { end: BodyEnd::Chunked(tracker), .. } => {
                socket.peek().is_none_or(|unread| tracker.ends_in(&[&self.ahead, &unread]))
            }
            _ => true,
        }
    }

    /// A side that waits must not hold a buffer for more than what is in it.
    fn shrink(&mut self) {
        self.ahead = BytesMut::from(&*self.ahead);
    }

    /// Whether the whole body of the `PUT` that waits has arrived; `None` where it waits no more. Reads at most 64 KiB: where
    /// that does not tell, the body counts as whole.
    pub fn holds_whole_body(&mut self, socket: &Socket) -> Option<bool> {
        let Stage::Held { head, .. } = &self.stage else { return None };
        let framing = head.framing;
        Some(match framing {
            Framing::Empty => true,
            Framing::Length(length) => {
                // Some of it may be inside TLS, where it does not count as unread.
                let may_be_more = !socket.is_plain() && !self.look_ahead(socket);
                may_be_more || (self.ahead.len() + socket.unread()) as u64 >= length
            }
            Framing::Chunked => {
                let may_be_more = !self.look_ahead(socket);
                let mut tracker = ChunkTracker::default();
                tracker.follow(&self.ahead).is_ok() && (tracker.is_done() || may_be_more)
            }
        })
    }

    /// Whether the `PUT` that waits has a body whose length is declared and that is whole with `unread` more bytes. Reads nothing.
    #[must_use]
    pub fn is_whole_with(&self, unread: usize) -> bool {
        let Stage::Held { head, .. } = &self.stage else { return false };
        matches!(head.framing, Framing::Length(length) if (self.ahead.len() + unread) as u64 >= length)
    }

    /// Reads what has come, up to 64 KiB. True where that is all.
    fn look_ahead(&mut self, socket: &Socket) -> bool {
        while self.ahead.len() < MAX_LOOK_AHEAD {
            self.ahead.reserve(READ_SIZE);
            if !matches!(socket.try_read(&mut self.ahead), Ok(1..)) {
                return true;
            }
        }
        false
    }
}

impl BodyEnd {
    fn of(framing: Framing) -> Self {
        match framing {
            Framing::Empty => Self::After(0),
            Framing::Length(length) => Self::After(length),
            Framing::Chunked => Self::Chunked(ChunkTracker::default()),
        }
    }

    /// Leaves of what `buffer` has got since it held `given` bytes what hyper is to see: the body, without chunk extensions
    /// and trailers, which hyper limits otherwise. Returns how many of the bytes belonged to the body.
    fn pass(&mut self, buffer: &mut ReadBuf<'_>, given: usize) -> Result<usize, BadChunk> {
        let fresh = buffer.filled_mut().get_mut(given..).unwrap_or_default();
        let passed = match self {
            Self::After(left) => {
                let mine = fresh.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= mine as u64;
                Ok(Stripped { mine, kept: mine })
            }
            Self::Chunked(tracker) => tracker.strip(fresh),
        };
        let kept = passed.map_or_else(|bad| bad.after, |passed| passed.kept);
        buffer.set_filled(given + kept);
        passed.map(|passed| passed.mine)
    }

    fn is_reached(&self) -> bool {
        match self {
            Self::After(left) => *left == 0,
            Self::Chunked(tracker) => tracker.is_done(),
        }
    }
}

fn after_head(head: Head, is_next: bool) -> Stage {
    match head.framing {
        _ if head.is_put => Stage::Held { head, reader: None, is_next },
        Framing::Empty => Stage::Head(HeadScanner::default()),
        framing => Stage::Body(BodyEnd::of(framing)),
    }
}

fn give(ahead: &mut BytesMut, most: usize, buffer: &mut ReadBuf<'_>) -> usize {
    let count = ahead.len().min(most).min(buffer.remaining());
    buffer.put_slice(ahead.get(..count).unwrap_or_default());
    ahead.advance(count);
    count
}

fn poll_fill(ahead: &mut BytesMut, socket: &Socket, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let room = READ_SIZE.min(MAX_HEAD_BYTES.saturating_sub(ahead.len()).max(1));
    ahead.reserve(room);
    socket.poll_read_buf(cx, &mut ahead.limit(room))
}
