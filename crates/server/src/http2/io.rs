//! The transport that h2 reads from and writes to. It passes every byte to [`Traffic`], and replaces h2's flow control of bodies by that of
//! [`Windows`].
//!
//! *Invariant.* h2 gets no bytes beyond the current turn, and none at all once the client has violated a limit. Frames that h2 has not
//! written come between those of h2.
//!
//! *Bounds.* The read-ahead buffer holds the bytes read to detect the version of HTTP, or the rest of one read of h2. Frames of our own are one
//! update for each window.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use rendezvous_codec::frames::{Frame, HEADER_BYTES, Position};

use super::traffic::Traffic;
use super::windows::{Windows, is_substituted, substitute};
use crate::wire::Wire;

pub(super) struct Io {
    wire: Arc<Wire>,
    /// Bytes that were read and not given to h2: those read to detect the version of HTTP, and those beyond the current turn.
    read_ahead: BytesMut,
    traffic: Arc<Traffic>,
    windows: Arc<Windows>,
    /// Frames that h2 has not written, to be sent before its next frame.
    own: Vec<u8>,
}

impl Io {
    /// Wraps `wire` and takes over its read-ahead buffer.
    pub(super) fn new(wire: Arc<Wire>, traffic: Arc<Traffic>, windows: Arc<Windows>) -> Self {
        let read_ahead = wire.input().lock().take_read_ahead();
        Self { wire, read_ahead, traffic, windows, own: Vec::new() }
    }

    /// Writes the frames that h2 has not written, if h2 is between two frames.
    fn poll_write_own(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.own.is_empty() && self.traffic.position() == Position::Boundary {
            self.windows.take_updates(&mut self.own);
        }
        while !self.own.is_empty() {
            match ready!(self.wire.socket().poll_write(cx, &[IoSlice::new(&self.own)]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => drop(self.own.drain(..written)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Returns what to do with h2's next bytes. They begin with `bytes`, which has the whole of each frame that is substituted.
    fn next_step(&self, bytes: &[u8]) -> Step {
        let mut at = match self.traffic.position() {
            Position::Boundary => 0,
            // What follows is known once this is written.
            Position::Header(missing) => return Step::WriteSome(missing),
            Position::Payload(missing) => missing,
        };
        while let Some(header) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
            let frame = Frame::of_header(header);
            let length = HEADER_BYTES + frame.payload;
            if is_substituted(frame) {
                return if at == 0 { Step::Substitute(length) } else { Step::WriteSome(at) };
            }
            at += length;
        }
        Step::WriteAll
    }
}

/// What to do with h2's next bytes.
enum Step {
    WriteAll,
    /// Write this many bytes: then comes a frame that is substituted, or what comes is not known yet.
    WriteSome(usize),
    /// Substitute the next frame, of this length.
    Substitute(usize),
}

/// Returns the first `limit` bytes of `buffers`.
fn limited<'a>(buffers: &'a [IoSlice<'_>], mut limit: usize) -> Vec<IoSlice<'a>> {
    let first = |buffer: &'a IoSlice<'_>| {
        let bytes = buffer.get(..limit.min(buffer.len())).unwrap_or_default();
        limit -= bytes.len();
        IoSlice::new(bytes)
    };
    buffers.iter().map(first).collect()
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.traffic.is_violated() {
            return Poll::Pending;
        }
        if self.traffic.is_turn_over() {
            // The task of the connection sweeps the bodies and begins the next turn before it polls h2 again.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let given = buffer.filled().len();
        if self.read_ahead.is_empty() {
            ready!(self.wire.socket().poll_read(cx, buffer))?;
            let fresh = buffer.filled().get(given..).unwrap_or_default();
            let passed = self.traffic.received(fresh);
            self.read_ahead.extend_from_slice(fresh.get(passed..).unwrap_or_default());
            buffer.set_filled(given + passed);
        } else {
            let count = self.read_ahead.len().min(buffer.remaining());
            let passed = self.traffic.received(self.read_ahead.get(..count).unwrap_or_default());
            buffer.put_slice(self.read_ahead.get(..passed).unwrap_or_default());
            self.read_ahead.advance(passed);
            if self.read_ahead.is_empty() {
                // Frees its memory.
                self.read_ahead = BytesMut::new();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_write_own(cx))?;
        let first = buffers.iter().find(|buffer| !buffer.is_empty()).map_or(&[][..], |buffer| buffer);
        let written = match self.next_step(first) {
            Step::WriteAll => ready!(self.wire.socket().poll_write(cx, buffers))?,
            Step::WriteSome(limit) => ready!(self.wire.socket().poll_write(cx, &limited(buffers, limit)))?,
            Step::Substitute(length) => {
                substitute(first.get(..length).unwrap_or_default(), &mut self.own);
                length.min(first.len())
            }
        };
        self.traffic.wrote(buffers, written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_own(cx))?;
        ready!(self.wire.socket().poll_flush(cx))?;
        self.traffic.flushed(self.wire.socket().sent());
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
