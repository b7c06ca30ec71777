//! The transport that h2 reads from and writes to. It passes every byte to [`Traffic`].
//!
//! *Invariant.* h2 gets no bytes beyond the current turn, and none at all once the client has flooded the connection.
//!
//! *Bounds.* The read-ahead buffer holds the bytes read to detect the version of HTTP, or the rest of one read of h2.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::traffic::Traffic;
use crate::wire::Wire;

pub(super) struct Io {
    wire: Arc<Wire>,
    /// Bytes that were read and not given to h2: those read to detect the version of HTTP, and those beyond the current turn.
    read_ahead: BytesMut,
    traffic: Arc<Traffic>,
}

impl Io {
    /// Wraps `wire` and takes over its read-ahead buffer.
    pub(super) fn new(wire: Arc<Wire>, traffic: Arc<Traffic>) -> Self {
        let read_ahead = wire.input().lock().take_read_ahead();
        Self { wire, read_ahead, traffic }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.traffic.is_flooded() {
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
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(self.wire.socket().poll_write(cx, buffers))?;
        self.traffic.wrote(buffers, written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.wire.socket().poll_flush(cx))?;
        self.traffic.flushed(self.wire.socket().sent());
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
