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
    /// Whether the peer may send urgent data. A read ends before such data, although more bytes are there.
    has_urgent_data: bool,
}

impl Tcp {
    pub(super) fn new(stream: TcpStream, has_urgent_data: bool) -> Self {
        Self { stream, sent: AtomicU64::new(0), has_urgent_data }
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
            match self.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// Reads what is available without waiting. If that leaves room, there was no more: tokio learns that too, so that the next read waits without
    /// asking the kernel.
    pub(super) fn try_read_buf(&self, buffer: &mut impl BufMut) -> io::Result<usize> {
        if self.has_urgent_data {
            return self.stream.try_read_buf(buffer);
        }
        let room = buffer.chunk_mut().len();
        let mut last = None;
        let read = self.stream.try_io(Interest::READABLE, || {
            let read = self.stream.try_read_buf(buffer)?;
            last = (1..room).contains(&read).then_some(read);
            if last.is_some() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(read) }
        });
        last.map_or(read, Ok)
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
