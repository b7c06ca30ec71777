//! One TCP connection, with or without TLS: reading, writing, and queries of the kernel's state of it.
//!
//! Owns the descriptor and the TLS session. `delivery` ends connections, `options` sets the options that connections inherit
//! from their listener, `linux` and `portable` have the code that differs between systems.
//!
//! *Invariant.* A peer that has disappeared without FIN or RST is detected once it has been silent for the peer timeout, in
//! one of three ways:
//!
//! - nothing is unacknowledged: the kernel's keepalive resets the connection;
//! - bytes are in flight: the kernel's user timeout (`TCP_USER_TIMEOUT`) resets the connection;
//! - bytes wait for a peer whose receive window is closed: the user timeout would also reset the connection of a peer that
//!   pauses for long and answers window probes. So it is switched off meanwhile, and [`Socket::unresponsive`] checks the
//!   probes.
//!
//! *Concurrency.* All methods take `&self`, so that one task may watch a connection while another reads or writes it. Only
//! one task may poll each direction.
//!
//! *Bounds.* No buffers but those of the TLS session.
//!
//! On systems other than Linux, acknowledged means that bytes have left the server's buffers, and a peer's departure is
//! detected only after everything that it sent has been read.

mod delivery;
#[cfg(target_os = "linux")]
mod linux;
mod options;
#[cfg(not(target_os = "linux"))]
mod portable;
mod tcp;
#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
mod tls;

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use rustix::net;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop::unconstrained;
use tokio::time::timeout;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub use options::{keep_urgent_data_inline, set_nodelay, set_peer_timeout};

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(not(target_os = "linux"))]
use portable as system;
use tcp::Tcp;
use tls::TlsSession;

/// How a peer left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Departure {
    /// The peer has closed its sending side (FIN). It may still read.
    Closed,
    /// The connection is broken (RST, or an error).
    Reset,
}

/// An accepted connection.
#[derive(Debug)]
pub struct Socket {
    tcp: Arc<Tcp>,
    /// `None` on a plain connection.
    tls: Option<Box<TlsSession>>,
    /// Set by [`Socket::arm_reset`].
    resets_on_close: AtomicBool,
    /// How long the peer's kernel may leave packets unanswered.
    peer_timeout: Duration,
}

impl Socket {
    /// Wraps a plain connection. `peer_timeout` is that of its listener, see [`set_peer_timeout`].
    #[must_use]
    pub fn new(stream: TcpStream, peer_timeout: Duration) -> Self {
        Self::plain(Tcp::new(stream, true), peer_timeout)
    }

    /// Wraps a plain connection as [`Socket::new`] does. Its peer sends no urgent data (RFC 6093), which saves system calls: with such data, reads
    /// would wait for bytes that are there.
    #[must_use]
    pub fn without_urgent_data(stream: TcpStream, peer_timeout: Duration) -> Self {
        Self::plain(Tcp::new(stream, false), peer_timeout)
    }

    fn plain(tcp: Tcp, peer_timeout: Duration) -> Self {
        Self { tcp: Arc::new(tcp), tls: None, resets_on_close: AtomicBool::new(false), peer_timeout }
    }

    /// Wraps a connection as [`Socket::new`] does, and performs the TLS handshake.
    ///
    /// # Errors
    /// The handshake fails, or the client disconnects.
    pub async fn secure(
        stream: TcpStream,
        peer_timeout: Duration,
        acceptor: &TlsAcceptor,
    ) -> io::Result<Self> {
        let tcp = Arc::new(Tcp::new(stream, true));
        let tls = TlsSession::accept(Arc::clone(&tcp), acceptor).await?;
        Ok(Self { tcp, tls: Some(Box::new(tls)), resets_on_close: AtomicBool::new(false), peer_timeout })
    }

    /// Wraps a connection that this process has opened as [`Socket::new`] does, and performs the TLS handshake as its client.
    ///
    /// # Errors
    /// The handshake fails, or the server disconnects.
    pub async fn secure_as_client(
        stream: TcpStream,
        peer_timeout: Duration,
        connector: &TlsConnector,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let tcp = Arc::new(Tcp::new(stream, true));
        let tls = TlsSession::connect(Arc::clone(&tcp), connector, name).await?;
        Ok(Self { tcp, tls: Some(Box::new(tls)), resets_on_close: AtomicBool::new(false), peer_timeout })
    }

    /// Returns bytes that only both ends of this TLS connection know (`tls-exporter` of RFC 9266); `None` without TLS.
    ///
    /// # Errors
    /// Those of the TLS library.
    pub fn channel_binding(&self) -> io::Result<Option<[u8; 32]>> {
        self.tls.as_ref().map(|tls| tls.channel_binding()).transpose()
    }

    /// Returns whether the connection is without TLS, so that the kernel can move its bytes.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.tls.is_none()
    }

    /// Reads into `buffer`; no bytes added means end of file.
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_read_buf(cx, buffer).map_ok(drop)
    }

    /// Reads into the spare capacity of `buffer` and returns the number of bytes; 0 is the end of file.
    pub fn poll_read_buf(&self, cx: &mut Context<'_>, buffer: &mut impl BufMut) -> Poll<io::Result<usize>> {
        match &self.tls {
            None => self.tcp.poll_read_buf(cx, buffer),
            Some(tls) => tls.poll_read_buf(cx, buffer),
        }
    }

    /// Reads what is available without waiting; `Ok(0)` is the end of file. Must not be called while another task reads.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is available, and those of the connection.
    pub fn try_read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        match &self.tls {
            None => self.tcp.try_read_buf(buffer),
            Some(tls) => match poll_once(|cx| tls.poll_read_buf(cx, buffer)) {
                Poll::Ready(read) => read,
                Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            },
        }
    }

    /// Writes some of `buffers`. TLS may hold the bytes that were taken until [`Socket::poll_flush`].
    pub fn poll_write(&self, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match &self.tls {
            None => self.tcp.poll_write(cx, buffers),
            Some(tls) => tls.poll_write(cx, buffers),
        }
    }

    /// Passes everything that was written to the kernel.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.tls {
            None => Poll::Ready(Ok(())),
            Some(tls) => tls.poll_flush(cx),
        }
    }

    /// Writes all of `buffers`, without a time limit.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn write_all(&self, buffers: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.write_with(buffers, Tcp::poll_write, None).await
    }

    /// Writes all of `buffers`, as long as the peer takes some bytes within each period of `limit`.
    ///
    /// `is_last`: the connection is closed after these bytes. On Linux, the kernel then holds them back for at most 0.2 s, to
    /// send FIN in the same segment.
    ///
    /// # Errors
    /// The connection is broken, or `TimedOut`.
    pub async fn write_within(
        &self,
        buffers: &mut [IoSlice<'_>],
        is_last: bool,
        limit: Duration,
    ) -> io::Result<()> {
        let write_plain = if is_last { Tcp::poll_write_more } else { Tcp::poll_write };
        self.write_with(buffers, write_plain, Some(limit)).await
    }

    async fn write_with(
        &self,
        mut buffers: &mut [IoSlice<'_>],
        write_plain: fn(&Tcp, &mut Context<'_>, &[IoSlice<'_>]) -> Poll<io::Result<usize>>,
        limit: Option<Duration>,
    ) -> io::Result<()> {
        // Removes empty buffers from the front: a write of only those returns 0, which would be taken for an error.
        IoSlice::advance_slices(&mut buffers, 0);
        while !buffers.is_empty() {
            let writing = poll_fn(|cx| match &self.tls {
                None => write_plain(&self.tcp, cx, buffers),
                Some(tls) => tls.poll_write(cx, buffers),
            });
            match within(limit, writing).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => IoSlice::advance_slices(&mut buffers, written),
            }
        }
        within(limit, poll_fn(|cx| self.poll_flush(cx))).await
    }

    /// Limits the bytes that the kernel holds for a peer that does not read them (`SO_SNDBUF` of socket(7)). The kernel then does not
    /// adapt them to the distance any more, so the connection becomes slow over a long one.
    pub fn limit_send_buffer(&self, bytes: usize) {
        // A limit that the kernel refuses would only let it hold more.
        let _ = net::sockopt::set_socket_send_buffer_size(self.tcp.stream(), bytes);
    }

    /// Calls `read` on the descriptor when it is readable, until the result is not `WouldBlock`. Bypasses TLS.
    ///
    /// # Errors
    /// Those of `read`.
    pub(crate) async fn when_readable<T>(
        &self,
        read: impl Fn(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let stream = self.tcp.stream();
        stream.async_io(Interest::READABLE, || read(stream.as_fd())).await
    }

    /// Calls `write` on the descriptor when it is writable, until the result is not `WouldBlock`. Bypasses TLS.
    ///
    /// # Errors
    /// Those of `write`.
    pub(crate) async fn when_writable<T>(
        &self,
        write: impl Fn(BorrowedFd<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let stream = self.tcp.stream();
        stream.async_io(Interest::WRITABLE, || write(stream.as_fd())).await
    }

    /// Writes `bytes` as far as the kernel takes them without waiting. Must not be called while another task writes.
    pub fn try_write(&self, bytes: &[u8]) {
        // Errors are ignored: the next read or write returns them again.
        if poll_once(|cx| self.poll_write(cx, &[IoSlice::new(bytes)])).is_ready() {
            let _ = poll_once(|cx| self.poll_flush(cx));
        }
    }

    /// Sends FIN after what was written, over TLS preceded by `close_notify`. Returns false if the connection is broken.
    pub async fn shutdown_write(&self) -> bool {
        let mut socket = self;
        poll_fn(|cx| Pin::new(&mut socket).poll_shutdown(cx)).await.is_ok()
    }

    /// Ends both directions at once, as if the peer had closed: whoever reads, writes or watches the connection notices. What was received
    /// can still be read.
    pub fn disconnect(&self) {
        // Fails only on a connection that is broken already.
        let _ = net::shutdown(self.tcp.stream(), net::Shutdown::Both);
    }

    /// Waits until the peer has closed its sending side or reset the connection, also while data is unread.
    pub fn departed(&self) -> impl Future<Output = Departure> + Send {
        system::departed(self.tcp.stream())
    }

    /// Returns what [`Socket::departed`] would resolve to, if it would resolve now. Always `None` on systems other than Linux.
    #[must_use]
    pub fn departure(&self) -> Option<Departure> {
        system::departure(self.tcp.stream())
    }

    /// Waits for a reset, also after a FIN.
    ///
    /// May miss a reset whose error another read or write has returned already. A caller that uses the connection while
    /// it waits checks [`Socket::departure`] after each use.
    pub async fn reset_by_peer(&self) {
        // `ready` itself fails only when the runtime shuts down.
        let _ = self.tcp.stream().ready(Interest::ERROR).await;
    }

    /// Waits until a peer whose receive window is closed has been unresponsive for the peer timeout. Does not complete while no
    /// bytes wait for the window, nor on systems other than Linux.
    ///
    /// A caller that writes more than the send buffer holds must poll this meanwhile: it also switches the user timeout off
    /// for a peer that has closed its window and still answers.
    ///
    /// Three window probes must have remained unanswered. The kernel sends them at growing intervals, up to two minutes, so after
    /// a long pause this takes some minutes, even with a short peer timeout.
    pub async fn unresponsive(&self) {
        system::unresponsive(self.tcp.stream(), self.peer_timeout).await;
    }

    /// Returns how many received bytes were not read from the kernel; 0 if that is unknown.
    #[must_use]
    pub fn unread(&self) -> usize {
        let unread = rustix::io::ioctl_fionread(self.tcp.stream());
        unread.ok().and_then(|bytes| bytes.try_into().ok()).unwrap_or(0)
    }

    /// Returns whether the peer has neither sent anything that was not read from the kernel nor ended the connection.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.peek_byte().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Returns whether the kernel has bytes that were not read.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        self.peek_byte().is_ok_and(|bytes| bytes > 0)
    }

    fn peek_byte(&self) -> io::Result<usize> {
        let (stream, flags) = (self.tcp.stream(), net::RecvFlags::PEEK | net::RecvFlags::DONTWAIT);
        let was_asked = Cell::new(false);
        let peek = || {
            was_asked.set(true);
            Ok(net::recv(stream, &mut [0; 1], flags)?.1)
        };
        // So tokio learns that nothing is there, and the next read does not ask the kernel in vain. If tokio takes that for known, the kernel may know
        // better.
        let peeked = stream.try_io(Interest::READABLE, peek);
        if was_asked.get() { peeked } else { peek() }
    }

    /// Returns how many bytes were written to the kernel since the connection was accepted: with TLS, of ciphertext.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.tcp.sent()
    }

    /// Returns a copy of the bytes that the kernel has received and that were not read. `None` if urgent data hides some of them.
    /// Bypasses TLS.
    #[must_use]
    pub fn peek(&self) -> Option<Vec<u8>> {
        let unread = self.unread();
        let mut bytes = Vec::with_capacity(unread.max(1));
        let spare = rustix::buffer::spare_capacity(&mut bytes);
        // Fails on a broken connection, which has nothing to read.
        let _ = net::recv(self.tcp.stream(), spare, net::RecvFlags::PEEK | net::RecvFlags::DONTWAIT);
        (bytes.len() >= unread).then_some(bytes)
    }

    /// Returns how many bytes (FIN counts as one) the peer's kernel has not acknowledged; 0 if that is unknown.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        system::unacknowledged(self.tcp.stream())
    }
}

/// For code that reads and writes any kind of connection.
impl AsyncRead for &Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Socket::poll_read(&self, cx, buffer)
    }
}

impl AsyncWrite for &Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Socket::poll_write(&self, cx, &[IoSlice::new(bytes)])
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Socket::poll_flush(&self, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.tls {
            None => Poll::Ready(self.tcp.shutdown_write()),
            Some(tls) => tls.poll_shutdown(cx),
        }
    }
}

async fn within<T>(limit: Option<Duration>, writing: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match limit {
        Some(limit) => timeout(limit, writing).await?,
        None => writing.await,
    }
}

/// Polls once, outside tokio's cooperative budget: a task that has used up its budget would get `Pending` though data is
/// available.
fn poll_once<T>(poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    pin!(unconstrained(poll_fn(poll))).poll(&mut Context::from_waker(Waker::noop()))
}
