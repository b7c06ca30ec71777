//! The TCP connection of a [`super::Socket`], which its TLS session shares.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::BufMut;
use rustix::net;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::system;

#[derive(Debug)]
pub(super) struct Tcp {
    stream: TcpStream,
    /// Bytes written since the connection was accepted.
    sent: AtomicU64,
}

impl Tcp {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, sent: AtomicU64::new(0) }
    }

    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(super) fn poll_read_buf(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut impl BufMut,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            // A short read does not clear the readiness: a read also ends before urgent data.
            match self.stream.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, || self.stream.try_write_vectored(buffers))
    }

    /// As `poll_write`, with the hint that more follows at once: the kernel may wait for it.
    pub(super) fn poll_write_more(
        &self,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_with(cx, || {
            self.stream.try_io(Interest::WRITABLE, || system::write_more(self.stream.as_fd(), buffers))
        })
    }

    fn poll_write_with(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn() -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match write() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(written) => {
                    self.sent.fetch_add(written as u64, Ordering::Relaxed);
                    return Poll::Ready(Ok(written));
                }
            }
        }
    }

    pub(super) fn shutdown_write(&self) -> io::Result<()> {
        Ok(net::shutdown(&self.stream, net::Shutdown::Write)?)
    }
}
