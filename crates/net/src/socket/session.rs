//! TLS over one connection.
//!
//! A connection that is dropped ends without a word of TLS, so that whoever reads it knows that it was cut; only
//! [`Session::poll_shutdown`] says that the end is a good one.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::io::poll_read_buf;

use super::tcp::Tcp;

/// Read from the kernel at a time, in bytes: some records. rustls itself would ask for 4 KiB.
const READ_SIZE: usize = 64 * 1024;

pub(super) struct Session(Mutex<TlsStream<Ciphertext>>);

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

impl Session {
    pub(super) async fn accept(tcp: Arc<Tcp>, acceptor: &TlsAcceptor) -> io::Result<Self> {
        let stream = acceptor.accept(Ciphertext { tcp, ahead: BytesMut::new() }).await?;
        Ok(Self(Mutex::new(stream)))
    }

    pub(super) fn poll_read_buf(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut impl BufMut,
    ) -> Poll<io::Result<usize>> {
        poll_read_buf(Pin::new(&mut *self.0.lock()), cx, buffer)
    }

    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0.lock()).poll_write_vectored(cx, buffers)
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_flush(cx)
    }

    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.lock()).poll_shutdown(cx)
    }
}

/// What TLS reads and writes.
struct Ciphertext {
    tcp: Arc<Tcp>,
    /// Read from the kernel and not yet by TLS. Held only while there is something in it.
    ahead: BytesMut,
}

impl AsyncRead for Ciphertext {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { tcp, ahead } = &mut *self;
        if ahead.is_empty() {
            ahead.reserve(READ_SIZE);
            let read = tcp.poll_read_buf(cx, ahead);
            if !matches!(read, Poll::Ready(Ok(1..))) {
                *ahead = BytesMut::new();
            }
            ready!(read)?;
        }
        let count = ahead.len().min(buffer.remaining());
        buffer.put_slice(ahead.get(..count).unwrap_or_default());
        ahead.advance(count);
        if ahead.is_empty() {
            *ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Ciphertext {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.tcp.poll_write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.tcp.poll_write(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.tcp.shutdown_write())
    }
}
