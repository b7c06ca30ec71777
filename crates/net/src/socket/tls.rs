//! The TLS session of one connection.
//!
//! *Invariant.* A session that is dropped sends no `close_notify`, so that the client detects the truncation (RFC 8446,
//! section 6.1); only [`TlsSession::poll_shutdown`] sends it.
//!
//! *Concurrency.* The lock lets one task read while another writes; it is never held across an await.
//!
//! *Bounds.* rustls's own buffers, and [`READ_SIZE`] bytes of ciphertext while some is left to decrypt.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_util::io::poll_read_buf;

use super::tcp::Tcp;

/// Bytes read from the kernel at a time: several records. rustls by itself would read 4 KiB.
const READ_SIZE: usize = 64 * 1024;
/// The label of channel bindings (RFC 9266, section 4).
const BINDING: &[u8] = b"EXPORTER-Channel-Binding";

pub(super) struct TlsSession(Mutex<TlsStream<Transport>>);

impl std::fmt::Debug for TlsSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsSession")
    }
}

impl TlsSession {
    pub(super) async fn accept(tcp: Arc<Tcp>, acceptor: &TlsAcceptor) -> io::Result<Self> {
        let stream = acceptor.accept(Transport { tcp, read_ahead: BytesMut::new() }).await?;
        Ok(Self(Mutex::new(stream.into())))
    }

    pub(super) async fn connect(
        tcp: Arc<Tcp>,
        connector: &TlsConnector,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let stream = connector.connect(name, Transport { tcp, read_ahead: BytesMut::new() }).await?;
        Ok(Self(Mutex::new(stream.into())))
    }

    pub(super) fn channel_binding(&self) -> io::Result<[u8; 32]> {
        let secret = [0; 32];
        let exported = match &*self.0.lock() {
            TlsStream::Server(stream) => {
                stream.get_ref().1.export_keying_material(secret, BINDING, Some(&[]))
            }
            TlsStream::Client(stream) => {
                stream.get_ref().1.export_keying_material(secret, BINDING, Some(&[]))
            }
        };
        exported.map_err(io::Error::other)
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

/// The connection as rustls uses it: a source and sink of ciphertext.
struct Transport {
    tcp: Arc<Tcp>,
    /// Ciphertext that rustls has not read yet. Allocated only while it is not empty.
    read_ahead: BytesMut,
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { tcp, read_ahead } = &mut *self;
        if read_ahead.is_empty() {
            read_ahead.reserve(READ_SIZE);
            let read = tcp.poll_read_buf(cx, read_ahead);
            if !matches!(read, Poll::Ready(Ok(1..))) {
                *read_ahead = BytesMut::new();
            }
            ready!(read)?;
        }
        let count = read_ahead.len().min(buffer.remaining());
        buffer.put_slice(read_ahead.get(..count).unwrap_or_default());
        read_ahead.advance(count);
        if read_ahead.is_empty() {
            *read_ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Transport {
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
