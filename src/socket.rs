//! One TCP connection, as its kernel knows it: whether its peer has left, what is unread, what is
//! unacknowledged.
//!
//! All methods take `&self`, so that a handler may watch a connection while hyper reads and writes it. Only
//! one task polls each direction. This module is the one home of what differs between systems: beside Linux,
//! delivery means that the bytes have left the server's buffers, and a peer's leave shows only where nothing
//! it sent is unread.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use rustix::net;
use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

/// First and longest pause between two looks at what is unacknowledged.
const ACK_PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(64));
/// Taken at a time when input is thrown away, in bytes.
const DISCARD_BUFFER: usize = 16 * 1024;

/// How a peer left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// It sends no more (FIN). It may still read.
    Closed,
    /// The connection is broken (RST, or an error).
    Reset,
}

/// An accepted connection.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    /// Any end of this connection is an RST.
    armed: AtomicBool,
}

impl Socket {
    /// Takes the connection.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, armed: AtomicBool::new(false) }
    }

    /// Reads into `buffer`; no bytes added means end of file.
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_read_buf(cx, buffer).map_ok(drop)
    }

    /// Reads into the room that `buffer` has without growing, and says how many bytes; 0 is the end of file.
    pub fn poll_read_buf(&self, cx: &mut Context<'_>, buffer: &mut impl BufMut) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_read_ready(cx))?;
            let room = buffer.chunk_mut().len();
            let mut read = Ok(0);
            // A short read has emptied the kernel's buffer. Said as `WouldBlock` inside `try_io`, it saves
            // the system call that would find that out, and can not miss what comes in between.
            let emptied = self.stream.try_io(Interest::READABLE, || {
                read = self.stream.try_read_buf(buffer);
                match read {
                    Ok(count) if 0 < count && count < room => Err(io::ErrorKind::WouldBlock.into()),
                    _ => Ok(()),
                }
            });
            match (read, emptied) {
                (Ok(0), Err(_)) => {}
                (Err(error), _) if error.kind() == io::ErrorKind::WouldBlock => {}
                (read, _) => return Poll::Ready(read),
            }
        }
    }

    /// Reads what is there without waiting; `Ok(0)` is end of file.
    ///
    /// # Errors
    /// `WouldBlock` where nothing is there.
    pub fn try_read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        self.stream.try_read_buf(buffer)
    }

    /// Writes some of `buffers`.
    pub fn poll_write(&self, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write_vectored(buffers) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    /// Writes all of `buffers`.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn write_all(&self, buffers: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.write_by(buffers, |socket, rest| Ok(rustix::io::writev(socket, rest)?)).await
    }

    /// Writes all of `buffers`, the last that this connection is to carry: where the system can, the end of the
    /// connection goes out in the same segment, so they wait for it, for at most 0.2 s.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn write_last(&self, buffers: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.write_by(buffers, system::write_more).await
    }

    async fn write_by(
        &self,
        mut buffers: &mut [IoSlice<'_>],
        write: fn(BorrowedFd<'_>, &[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<()> {
        // Takes empty buffers off the front, whose write would look like a full connection.
        IoSlice::advance_slices(&mut buffers, 0);
        while !buffers.is_empty() {
            match self.when_writable(|socket| write(socket, buffers)).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => IoSlice::advance_slices(&mut buffers, written),
            }
        }
        Ok(())
    }

    /// Calls `read` on the descriptor when there is something to read, until it is not `WouldBlock`.
    ///
    /// # Errors
    /// Those of `read`.
    pub async fn when_readable<T>(&self, read: impl Fn(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        self.stream.async_io(Interest::READABLE, || read(self.stream.as_fd())).await
    }

    /// Calls `write` on the descriptor when there is room to write, until it is not `WouldBlock`.
    ///
    /// # Errors
    /// Those of `write`.
    pub async fn when_writable<T>(&self, write: impl Fn(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        self.stream.async_io(Interest::WRITABLE, || write(self.stream.as_fd())).await
    }

    /// Writes `bytes` if the kernel takes them all at once. Only where nobody else writes.
    pub fn try_write(&self, bytes: &[u8]) {
        // A probe that does not go out leaves things as they were.
        let _ = self.stream.try_write(bytes);
    }

    /// Sends FIN behind what was written. False where the connection is broken already.
    pub fn shutdown_write(&self) -> bool {
        net::shutdown(&self.stream, net::Shutdown::Write).is_ok()
    }

    /// Waits until the peer has closed its sending side, or has reset. Data that is unread does not hide it.
    pub async fn departed(&self) -> Departure {
        system::departed(&self.stream).await
    }

    /// Waits for a reset, also behind a FIN.
    pub async fn reset(&self) {
        // An error of `ready` itself means that the runtime ends.
        let _ = self.stream.ready(Interest::ERROR).await;
    }

    /// Bytes received by the kernel and not yet read; 0 where that can not be told.
    #[must_use]
    pub fn unread(&self) -> usize {
        let unread = rustix::io::ioctl_fionread(&self.stream);
        unread.ok().and_then(|bytes| bytes.try_into().ok()).unwrap_or(0)
    }

    /// What was received by the kernel and not yet read, and is left there.
    #[must_use]
    pub fn peek(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.unread().max(1));
        let room = rustix::buffer::spare_capacity(&mut bytes);
        // On a connection that is broken there is nothing.
        let _ = net::recv(&self.stream, room, net::RecvFlags::PEEK | net::RecvFlags::DONTWAIT);
        bytes
    }

    /// Bytes (and FIN) written and not yet acknowledged by the peer's kernel; 0 where that can not be told.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        system::unacknowledged(&self.stream)
    }

    /// Sends FIN, and waits until the peer's kernel has acknowledged every byte before it. False if the
    /// connection broke first.
    ///
    /// The FIN itself is not waited for: a peer that is in no hurry acknowledges it 40 ms later.
    /// `acknowledged` is told whenever bytes have been acknowledged.
    pub async fn deliver(&self, acknowledged: impl Fn()) -> bool {
        // A FIN that was queued counts as one unacknowledged byte, the last; on a broken connection there is
        // none.
        let fin = usize::from(self.shutdown_write());
        let mut left = self.unacknowledged();
        let mut pause = ACK_PAUSES.0;
        while left > fin {
            let broken = tokio::select! {
                () = self.reset() => true,
                () = sleep(pause) => false,
            };
            let now_left = self.unacknowledged();
            if now_left > fin && broken {
                return false;
            }
            if std::mem::replace(&mut left, now_left) > now_left {
                acknowledged();
            }
            pause = (pause * 2).min(ACK_PAUSES.1);
        }
        true
    }

    /// From now on any end of this connection, even a crash of the server, is an RST: a body that ends where
    /// the connection ends must not end cleanly before it is whole.
    pub fn arm_reset(&self) {
        // Fails only on a connection that is broken already.
        let _ = self.stream.set_zero_linger();
        self.armed.store(true, Ordering::Relaxed);
    }

    /// Takes [`Socket::arm_reset`] back: the body is whole.
    pub fn disarm_reset(&self) {
        if self.armed.swap(false, Ordering::Relaxed) {
            let _ = net::sockopt::set_socket_linger(&self.stream, None);
        }
    }

    /// Throws away what comes until the peer closes, for at most `limit`: a peer that still sends must not be
    /// answered by an RST, which would take the answer away before it was read.
    pub async fn discard(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let mut scratch = BytesMut::with_capacity(DISCARD_BUFFER);
        let drained = async {
            loop {
                scratch.clear();
                match self.stream.try_read_buf(&mut scratch) {
                    Ok(0) => return,
                    Ok(_) => tokio::task::consume_budget().await,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if self.stream.readable().await.is_err() {
                            return;
                        }
                    }
                    Err(_) => return,
                }
            }
        };
        // Past the limit nobody is owed anything.
        let _ = tokio::time::timeout_at(deadline, drained).await;
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::io::{self, IoSlice};
    use std::os::fd::BorrowedFd;

    use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
    use tokio::io::Interest;
    use tokio::net::TcpStream;

    use super::Departure;

    /// tokio's interest in "priority" data, which we never ask the kernel for, is also an interest in a
    /// closed read side, and unlike an interest in reading it is not satisfied by data: so this waits for
    /// EPOLLRDHUP.
    pub(super) async fn departed(stream: &TcpStream) -> Departure {
        match stream.ready(Interest::PRIORITY | Interest::ERROR).await {
            Ok(ready) if !ready.is_error() => Departure::Closed,
            _ => Departure::Reset,
        }
    }

    pub(super) fn write_more(socket: BorrowedFd<'_>, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        Ok(sendmsg(socket, buffers, &mut SendAncillaryBuffer::default(), flags)?)
    }

    pub(super) fn unacknowledged(stream: &TcpStream) -> usize {
        tcp_outq::unacknowledged(stream).unwrap_or(0)
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::io::{self, IoSlice};
    use std::os::fd::BorrowedFd;
    use std::time::Duration;

    use tokio::net::TcpStream;

    use super::Departure;

    /// Between two looks at a connection whose unread data hides what comes behind.
    const LOOK_AGAIN: Duration = Duration::from_millis(500);

    pub(super) async fn departed(stream: &TcpStream) -> Departure {
        loop {
            match stream.peek(&mut [0]).await {
                Ok(0) => return Departure::Closed,
                Ok(_) => tokio::time::sleep(LOOK_AGAIN).await,
                Err(_) => return Departure::Reset,
            }
        }
    }

    pub(super) fn write_more(socket: BorrowedFd<'_>, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::writev(socket, buffers)?)
    }

    pub(super) fn unacknowledged(_: &TcpStream) -> usize {
        0
    }
}
