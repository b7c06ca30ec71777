//! The connection as h2 sees it: every byte passes [`Traffic`].

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
    /// Bytes that were read and not yet given to h2: those before the version was known, and what a turn had no room for.
    ahead: BytesMut,
    traffic: Arc<Traffic>,
}

impl Io {
    /// Wraps `wire` and takes over its read-ahead buffer.
    pub(super) fn new(wire: Arc<Wire>, traffic: Arc<Traffic>) -> Self {
        let ahead = wire.input().lock().take_ahead();
        Self { wire, ahead, traffic }
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
            // Whoever polls h2 takes out of it what it holds before it reads on.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let given = buffer.filled().len();
        if self.ahead.is_empty() {
            ready!(self.wire.socket().poll_read(cx, buffer))?;
            let fresh = buffer.filled().get(given..).unwrap_or_default();
            let passed = self.traffic.received(fresh);
            self.ahead.extend_from_slice(fresh.get(passed..).unwrap_or_default());
            buffer.set_filled(given + passed);
        } else {
            let count = self.ahead.len().min(buffer.remaining());
            let passed = self.traffic.received(self.ahead.get(..count).unwrap_or_default());
            buffer.put_slice(self.ahead.get(..passed).unwrap_or_default());
            self.ahead.advance(passed);
            if self.ahead.is_empty() {
                // Its memory, too.
                self.ahead = BytesMut::new();
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
