//! One TCP connection, as its kernel knows it: whether its peer has left, what is unread, what is
//! unacknowledged.
//!
//! *Who vanishes* sends neither FIN nor RST, and is found by a silence longer than a limit, in one of three ways. Where
//! nothing is unacknowledged, by the kernel's keepalives; where bytes are in flight, by the kernel's user timeout: both break
//! the connection, so that it looks reset. Where bytes wait because the peer has no room for them, the user timeout would
//! break the connection of any peer that pauses for long, though it answers: there it is lifted, and [`Socket::vanished`]
//! looks whether there are answers.
//!
//! All methods take `&self`, so that one task may watch a connection while another reads or writes it. Only
//! one task polls each direction. This module is the one home of what differs between systems: beside Linux,
//! delivery means that the bytes have left the server's buffers, and a peer's leave shows only where nothing
//! it sent is unread.

mod session;
mod tcp;

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use rustix::net;
use tokio::io::{Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::consume_budget;
use tokio::task::coop::unconstrained;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use session::Session;
use tcp::Tcp;

/// First and longest pause between two looks at what is unacknowledged.
const ACK_PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(64));
/// For a client to read what its kernel has acknowledged.
const UNTIL_READ: Duration = Duration::from_millis(200);
/// A record of application data (RFC 8446, section 5.1) that nobody has encrypted.
const BROKEN_RECORD: &[u8] = &[
    23, 3, 3, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0,
];
/// Taken at a time when input is thrown away, in bytes.
const DISCARD_BUFFER: usize = 16 * 1024;
/// Keepalives in a row, in the second half of the time that a peer may be silent.
const KEEPALIVES: u32 = 4;

/// Has the kernel break a connection whose peer's kernel leaves everything unanswered for `limit`, at least 3 s. Set on a
/// listener, it holds for every connection that is made from then on.
///
/// # Errors
/// Those of setsockopt(2).
pub fn limit_silence(socket: impl AsFd, limit: Duration) -> io::Result<()> {
    net::sockopt::set_socket_keepalive(&socket, true)?;
    net::sockopt::set_tcp_keepidle(&socket, whole_seconds(limit / 2))?;
    net::sockopt::set_tcp_keepintvl(&socket, whole_seconds(limit / 2 / KEEPALIVES))?;
    net::sockopt::set_tcp_keepcnt(&socket, KEEPALIVES)?;
    system::limit_unacknowledged(socket.as_fd(), Some(limit))
}

/// Has what is written to the connections of a listener sent at once (TCP(7), `TCP_NODELAY`): they inherit it.
///
/// # Errors
/// The system says no.
pub fn set_nodelay(listener: impl AsFd) -> io::Result<()> {
    Ok(net::sockopt::set_tcp_nodelay(listener, true)?)
}

/// Has urgent data (TCP(7), `SO_OOBINLINE`) stay where it was sent among all other data, on the connections of a listener: they
/// inherit it. HTTP does not know it, so a byte of a message must not be taken out for it.
///
/// # Errors
/// The system says no.
pub fn keep_urgent_data_inline(listener: impl AsFd) -> io::Result<()> {
    Ok(net::sockopt::set_socket_oobinline(listener, true)?)
}

/// As keepalive counts: rounded down, so that the questions come early enough, but at least one.
fn whole_seconds(time: Duration) -> Duration {
    Duration::from_secs(time.as_secs().max(1))
}

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
    tcp: Arc<Tcp>,
    /// TLS over it, if it speaks that.
    session: Option<Box<Session>>,
    /// Any end of this connection is an RST.
    armed: AtomicBool,
    /// For how long the peer's kernel may leave everything unanswered.
    silence: Duration,
}

impl Socket {
    /// Takes the connection, whose kernel has been told the limit of `silence` by [`limit_silence`].
    #[must_use]
    pub fn new(stream: TcpStream, silence: Duration) -> Self {
        Self { tcp: Arc::new(Tcp::new(stream)), session: None, armed: AtomicBool::new(false), silence }
    }

    /// As [`Socket::new`], and shakes hands over it.
    ///
    /// # Errors
    /// The client does not speak TLS, none that is accepted here, or leaves.
    pub async fn secure(stream: TcpStream, silence: Duration, acceptor: &TlsAcceptor) -> io::Result<Self> {
        let tcp = Arc::new(Tcp::new(stream));
        let session = Session::accept(Arc::clone(&tcp), acceptor).await?;
        Ok(Self { tcp, session: Some(Box::new(session)), armed: AtomicBool::new(false), silence })
    }

    /// What is read is what the client's kernel sent, so that this one can move it.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.session.is_none()
    }

    /// Reads into `buffer`; no bytes added means end of file.
    pub fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_read_buf(cx, buffer).map_ok(drop)
    }

    /// Reads into the room that `buffer` has without growing, and says how many bytes; 0 is the end of file.
    pub fn poll_read_buf(&self, cx: &mut Context<'_>, buffer: &mut impl BufMut) -> Poll<io::Result<usize>> {
        match &self.session {
            None => self.tcp.poll_read_buf(cx, buffer),
            Some(session) => session.poll_read_buf(cx, buffer),
        }
    }

    /// Reads what is there without waiting; `Ok(0)` is end of file. Only where nobody else reads.
    ///
    /// # Errors
    /// `WouldBlock` where nothing is there.
    pub fn try_read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        match &self.session {
            None => self.tcp.stream().try_read_buf(buffer),
            Some(session) => match at_once(|cx| session.poll_read_buf(cx, buffer)) {
                Poll::Ready(read) => read,
                Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            },
        }
    }

    /// Writes some of `buffers`. What it has taken may wait for [`Socket::poll_flush`].
    pub fn poll_write(&self, cx: &mut Context<'_>, buffers: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match &self.session {
            None => self.tcp.poll_write(cx, buffers),
            Some(session) => session.poll_write(cx, buffers),
        }
    }

    /// Gives all that was written to the kernel.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.session {
            None => Poll::Ready(Ok(())),
            Some(session) => session.poll_flush(cx),
        }
    }

    /// Writes all of `buffers`.
    ///
    /// # Errors
    /// The connection is broken.
    pub async fn write_all(&self, buffers: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.write_by(buffers, Tcp::poll_write, None).await
    }

    /// As [`Socket::write_all`], while the peer takes some of it within `patience`. What `is_last` that this connection is to
    /// carry waits for its end, for at most 0.2 s: where the system can, FIN goes out in the same segment.
    ///
    /// # Errors
    /// The connection is broken, or `TimedOut`.
    pub async fn write_within(
        &self,
        buffers: &mut [IoSlice<'_>],
        is_last: bool,
        patience: Duration,
    ) -> io::Result<()> {
        let plainly = if is_last { Tcp::poll_write_more } else { Tcp::poll_write };
        self.write_by(buffers, plainly, Some(patience)).await
    }

    async fn write_by(
        &self,
        mut buffers: &mut [IoSlice<'_>],
        plainly: fn(&Tcp, &mut Context<'_>, &[IoSlice<'_>]) -> Poll<io::Result<usize>>,
        patience: Option<Duration>,
    ) -> io::Result<()> {
        // Takes empty buffers off the front, whose write would look like a full connection.
        IoSlice::advance_slices(&mut buffers, 0);
        while !buffers.is_empty() {
            let writing = poll_fn(|cx| match &self.session {
                None => plainly(&self.tcp, cx, buffers),
                Some(session) => session.poll_write(cx, buffers),
            });
            match within(patience, writing).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => IoSlice::advance_slices(&mut buffers, written),
            }
        }
        within(patience, poll_fn(|cx| self.poll_flush(cx))).await
    }

    /// Calls `read` on the descriptor when there is something to read, until it is not `WouldBlock`. Past TLS.
    ///
    /// # Errors
    /// Those of `read`.
    pub async fn when_readable<T>(&self, read: impl Fn(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        let stream = self.tcp.stream();
        stream.async_io(Interest::READABLE, || read(stream.as_fd())).await
    }

    /// Calls `write` on the descriptor when there is room to write, until it is not `WouldBlock`. Past TLS.
    ///
    /// # Errors
    /// Those of `write`.
    pub async fn when_writable<T>(&self, write: impl Fn(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        let stream = self.tcp.stream();
        stream.async_io(Interest::WRITABLE, || write(stream.as_fd())).await
    }

    /// Writes `bytes` if the kernel takes them all at once. Only where nobody else writes.
    pub fn try_write(&self, bytes: &[u8]) {
        // A probe that does not go out leaves things as they were.
        if at_once(|cx| self.poll_write(cx, &[IoSlice::new(bytes)])).is_ready() {
            let _ = at_once(|cx| self.poll_flush(cx));
        }
    }

    /// Sends FIN behind what was written, and before it what TLS says at a good end. False where the connection is
    /// broken already.
    pub async fn shutdown_write(&self) -> bool {
        match &self.session {
            None => self.tcp.shutdown_write().is_ok(),
            Some(session) => poll_fn(|cx| session.poll_shutdown(cx)).await.is_ok(),
        }
    }

    /// Waits until the peer has closed its sending side, or has reset. Data that is unread does not hide it.
    pub fn departed(&self) -> impl Future<Output = Departure> + Send {
        system::departed(self.tcp.stream())
    }

    /// What [`Socket::departed`] waits for, if it is so already. Only on Linux.
    #[must_use]
    pub fn departure(&self) -> Option<Departure> {
        system::departure(self.tcp.stream())
    }

    /// Waits for a reset, also behind a FIN. One that a read or a write has returned before may never be seen here, so whoever uses
    /// the connection meanwhile asks [`Socket::departure`] behind that.
    pub async fn reset(&self) {
        // An error of `ready` itself means that the runtime ends.
        let _ = self.tcp.stream().ready(Interest::ERROR).await;
    }

    /// Waits until a peer that had no room for more has vanished; without bytes that wait for room, for ever. Whoever
    /// writes more than any peer must have room for awaits it meanwhile: it also sees to it that the kernel is patient with a
    /// peer that has no room, but answers.
    ///
    /// The kernel asks for room ever more rarely, at last every two minutes, and three questions must have gone unanswered:
    /// so after a long pause this takes some minutes, whatever the limit.
    pub async fn vanished(&self) {
        system::vanished(self.tcp.stream(), self.silence).await;
    }

    /// Bytes received by the kernel and not yet read; 0 where that can not be told.
    #[must_use]
    pub fn unread(&self) -> usize {
        let unread = rustix::io::ioctl_fionread(self.tcp.stream());
        unread.ok().and_then(|bytes| bytes.try_into().ok()).unwrap_or(0)
    }

    /// Bytes given to the kernel by [`Socket::poll_write`] since the connection began, those of TLS itself among them.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.tcp.sent()
    }

    /// What was received by the kernel and not yet read, and is left there. `None` where urgent data hides some of it. Past
    /// TLS.
    #[must_use]
    pub fn peek(&self) -> Option<Vec<u8>> {
        let unread = self.unread();
        let mut bytes = Vec::with_capacity(unread.max(1));
        let room = rustix::buffer::spare_capacity(&mut bytes);
        // On a connection that is broken there is nothing.
        let _ = net::recv(self.tcp.stream(), room, net::RecvFlags::PEEK | net::RecvFlags::DONTWAIT);
        (bytes.len() >= unread).then_some(bytes)
    }

    /// Bytes (and FIN) written and not yet acknowledged by the peer's kernel; 0 where that can not be told.
    #[must_use]
    pub fn unacknowledged(&self) -> usize {
        system::unacknowledged(self.tcp.stream())
    }

    /// Ends what is written, and waits until the peer's kernel has acknowledged every byte before the end. False if
    /// the connection broke first.
    ///
    /// The end itself is not waited for: a peer that is in no hurry acknowledges a lone FIN 40 ms later. What TLS says
    /// before the FIN comes only when all else was acknowledged: a peer that closes without reading it answers with a
    /// reset, which tells nothing of what came before. `acknowledged` is told whenever bytes have been acknowledged.
    pub async fn deliver(&self, acknowledged: impl Fn()) -> bool {
        if !self.is_plain() {
            let delivered = self.delivered_to(self.sent(), acknowledged).await;
            self.shutdown_write().await;
            return delivered;
        }
        // A FIN that was queued counts as one unacknowledged byte, the last; on a broken connection there is
        // none.
        let fin = u64::from(self.shutdown_write().await);
        let left = || (self.unacknowledged() as u64).saturating_sub(fin);
        // Nobody uses the connection meanwhile, so a reset is not taken away.
        self.until_acknowledged(left, || false, acknowledged).await
    }

    /// Waits until the peer's kernel has acknowledged all that was sent before [`Socket::sent`] went over `sent`. False
    /// if the connection broke first. `acknowledged` is told whenever bytes have been acknowledged.
    pub async fn delivered_to(&self, sent: u64, acknowledged: impl Fn()) -> bool {
        let is_reset = || self.departure() == Some(Departure::Reset);
        self.until_acknowledged(|| self.unacknowledged_of(sent), is_reset, acknowledged).await
    }

    /// Whether the peer's kernel has acknowledged all that was sent before [`Socket::sent`] went over `sent`.
    #[must_use]
    pub fn is_acknowledged(&self, sent: u64) -> bool {
        self.unacknowledged_of(sent) == 0
    }

    fn unacknowledged_of(&self, sent: u64) -> u64 {
        // Asked in this order, bytes that are sent meanwhile count as before `sent`: never too few are waited for.
        let sent_later = self.sent() - sent;
        (self.unacknowledged() as u64).saturating_sub(sent_later)
    }

    async fn until_acknowledged(
        &self,
        left: impl Fn() -> u64,
        is_reset: impl Fn() -> bool,
        acknowledged: impl Fn(),
    ) -> bool {
        let mut before = left();
        let mut pause = ACK_PAUSES.0;
        while before > 0 {
            let broken = tokio::select! {
                () = self.reset() => true,
                () = sleep(pause) => is_reset(),
            };
            let now = left();
            if now > 0 && broken {
                return false;
            }
            if std::mem::replace(&mut before, now) > now {
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
        let _ = self.tcp.stream().set_zero_linger();
        self.armed.store(true, Ordering::Relaxed);
    }

    /// Ends what is written in the middle of a message: any end of this connection is an RST from now on. What was written before has
    /// `patience` to arrive, because a reset takes what has not.
    ///
    /// Over TLS some clients take a reset for a good end. None takes a record for one that it cannot decrypt, so such a record comes before,
    /// where all else is with the kernel already; and a little later, because some clients then throw away what they have not read.
    pub async fn cut(&self, patience: Duration) {
        self.arm_reset();
        let arrival = || timeout(patience, self.delivered_to(self.sent(), || {}));
        let has_arrived = arrival().await == Ok(true);
        let Some(session) = self.session.as_ref().filter(|_| has_arrived) else { return };
        sleep(UNTIL_READ).await;
        let is_flushed = matches!(at_once(|cx| session.poll_flush(cx)), Poll::Ready(Ok(())));
        if is_flushed && at_once(|cx| self.tcp.poll_write(cx, &[IoSlice::new(BROKEN_RECORD)])).is_ready() {
            // Past it, the reset comes without.
            let _ = arrival().await;
        }
    }

    /// Takes [`Socket::arm_reset`] back: the body is whole.
    pub fn disarm_reset(&self) {
        if self.armed.swap(false, Ordering::Relaxed) {
            let _ = net::sockopt::set_socket_linger(self.tcp.stream(), None);
        }
    }

    /// Sends FIN, and throws away what comes until the peer closes, for at most `limit`: a peer that still sends must
    /// not be answered by an RST, which would take the answer away before it was read.
    pub async fn linger(&self, limit: Duration) {
        let mut scratch = BytesMut::with_capacity(DISCARD_BUFFER);
        let drained = async {
            self.shutdown_write().await;
            loop {
                // Nothing else here gives way, also not to the limit, while there is something to read.
                consume_budget().await;
                scratch.clear();
                match self.try_read(&mut scratch) {
                    Ok(1..) => {}
                    // Not by `poll_read_buf`: the task that has read the body may still poll that, and only the last to
                    // do so is woken.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if self.tcp.stream().readable().await.is_err() {
                            return;
                        }
                    }
                    Ok(0) | Err(_) => return,
                }
            }
        };
        // Past the limit nobody is owed anything.
        let _ = timeout(limit, drained).await;
    }
}

async fn within<T>(
    patience: Option<Duration>,
    writing: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    match patience {
        Some(patience) => timeout(patience, writing).await?,
        None => writing.await,
    }
}

/// What `poll` says of the connection now, and of nothing else: a task that has used up its share of the runtime's time would be
/// told that nothing is there, and wait in vain for what is.
fn at_once<T>(poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
    pin!(unconstrained(poll_fn(poll))).poll(&mut Context::from_waker(Waker::noop()))
}

#[cfg(target_os = "linux")]
mod system {
    use std::io::{self, IoSlice};
    use std::os::fd::{AsFd, BorrowedFd};
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg, sockopt};
    use tokio::io::Interest;
    use tokio::net::TcpStream;
    use tokio::time::sleep;

    use super::Departure;

    /// Looks at a connection within the time that its peer may be silent.
    const LOOKS: u32 = 4;
    /// Questions for room that are unanswered, in a row, when a peer has vanished: a few may be lost on their way.
    const UNANSWERED: u8 = 3;

    /// tokio's interest in "priority" data, which we never ask the kernel for, is also an interest in a
    /// closed read side, and unlike an interest in reading it is not satisfied by data: so this waits for
    /// EPOLLRDHUP.
    ///
    /// A read or a write that fails takes the error of a reset away, and tokio may not have seen it before. So the kernel is asked which
    /// of the two it was.
    pub(super) async fn departed(stream: &TcpStream) -> Departure {
        match stream.ready(Interest::PRIORITY | Interest::ERROR).await {
            Ok(ready) if !ready.is_error() => departure(stream).unwrap_or(Departure::Closed),
            _ => Departure::Reset,
        }
    }

    pub(super) fn departure(stream: &TcpStream) -> Option<Departure> {
        let mut polled = [PollFd::new(stream, PollFlags::RDHUP)];
        // Asked so, it does not wait; where it fails, nothing is seen.
        let _ = poll(&mut polled, Some(&Timespec::default()));
        let [seen] = polled.map(|polled| polled.revents());
        // Both sides are closed behind a reset, and no other peer has been sent a FIN here while it is asked for.
        if seen.intersects(PollFlags::ERR | PollFlags::HUP) {
            Some(Departure::Reset)
        } else {
            seen.contains(PollFlags::RDHUP).then_some(Departure::Closed)
        }
    }

    pub(super) fn write_more(socket: BorrowedFd<'_>, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let flags = SendFlags::MORE | SendFlags::NOSIGNAL;
        Ok(sendmsg(socket, buffers, &mut SendAncillaryBuffer::default(), flags)?)
    }

    pub(super) fn unacknowledged(stream: &TcpStream) -> usize {
        tcp_outq::unacknowledged(stream).unwrap_or(0)
    }

    /// For how long bytes may be unacknowledged, whether they are in flight or the peer has no room for them.
    pub(super) fn limit_unacknowledged(socket: BorrowedFd<'_>, limit: Option<Duration>) -> io::Result<()> {
        let milliseconds = limit.map_or(0, |limit| u32::try_from(limit.as_millis()).unwrap_or(u32::MAX));
        Ok(sockopt::set_tcp_user_timeout(socket, milliseconds)?)
    }

    pub(super) async fn vanished(stream: &TcpStream, silence: Duration) {
        loop {
            sleep(silence / LOOKS).await;
            let standstill = tcp_outq::standstill(stream);
            // Where it can not be told, a peer that is kept for too long is better than one that is cut without need.
            let limit = matches!(standstill, Ok(None)).then_some(silence);
            // Fails only on a connection that is broken already.
            let _ = limit_unacknowledged(stream.as_fd(), limit);
            if let Ok(Some(standstill)) = standstill
                && standstill.unanswered >= UNANSWERED
                && standstill.silent >= silence
            {
                return;
            }
        }
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

    pub(super) fn departure(_: &TcpStream) -> Option<Departure> {
        None
    }

    pub(super) fn write_more(socket: BorrowedFd<'_>, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::writev(socket, buffers)?)
    }

    pub(super) fn unacknowledged(_: &TcpStream) -> usize {
        0
    }

    pub(super) fn limit_unacknowledged(_: BorrowedFd<'_>, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    pub(super) async fn vanished(_: &TcpStream, _: Duration) {
        std::future::pending().await
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::Read;

    use rustix::net::sockopt;
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, RootCertStore, ServerConfig};
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;
    use tokio::task::coop::has_budget_remaining;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;

    use super::*;

    #[tokio::test]
    async fn what_is_there_is_read_also_by_a_task_that_has_used_up_its_time() {
        let (socket, mut client) = secure_pair().await;
        client.write_all(b"hello").await.unwrap();
        socket.tcp.stream().readable().await.unwrap();
        while has_budget_remaining() {
            consume_budget().await;
        }
        let mut read = BytesMut::with_capacity(16);
        assert_eq!(socket.try_read(&mut read).unwrap(), 5);
    }

    #[tokio::test]
    async fn what_is_on_its_way_when_a_reset_is_taken_away_is_not_delivered() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let socket = Socket::new(listener.accept().await.unwrap().0, Duration::from_mins(1));
        // More than its kernel takes.
        while socket.unacknowledged() == 0 {
            socket.try_write(&vec![7; 100_000]);
        }
        client.set_zero_linger().unwrap();
        drop(client);
        assert!(sockopt::socket_error(socket.tcp.stream()).unwrap().is_err(), "the reset is taken away");
        assert_eq!(socket.departed().await, Departure::Reset);
        assert!(!timeout(Duration::from_secs(5), socket.delivered_to(socket.sent(), || {})).await.unwrap());
    }

    /// Both ends of a connection that speaks TLS.
    async fn secure_pair() -> (Socket, TlsStream<TcpStream>) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let server = ServerConfig::builder().with_no_client_auth();
        let server = server.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let accepted = listener.accept().await.unwrap().0;
        let acceptor = TlsAcceptor::from(Arc::new(server));
        let name = ServerName::try_from("localhost").unwrap();
        let shaken = tokio::join!(
            Socket::secure(accepted, Duration::from_mins(1), &acceptor),
            TlsConnector::from(Arc::new(client)).connect(name, connected)
        );
        (shaken.0.unwrap(), shaken.1.unwrap())
    }

    /// Both ends of a connection that was accepted by a listener with this limit.
    fn pair(limit: Duration) -> (std::net::TcpStream, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        limit_silence(&listener, limit).unwrap();
        let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, client)
    }

    #[test]
    fn the_limit_of_silence_is_inherited_by_what_a_listener_accepts() {
        for (limit, idle, interval) in [(3, 1, 1), (5, 2, 1), (120, 60, 15), (43_200, 21_600, 5_400)] {
            let (accepted, _client) = pair(Duration::from_secs(limit));
            assert!(sockopt::socket_keepalive(&accepted).unwrap());
            assert_eq!(sockopt::tcp_keepidle(&accepted).unwrap(), Duration::from_secs(idle));
            assert_eq!(sockopt::tcp_keepintvl(&accepted).unwrap(), Duration::from_secs(interval));
            assert_eq!(sockopt::tcp_keepcnt(&accepted).unwrap(), KEEPALIVES);
            assert_eq!(u64::from(sockopt::tcp_user_timeout(&accepted).unwrap()), limit * 1000);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_kernel_is_patient_with_a_peer_that_has_no_room_and_only_then() {
        let limit = Duration::from_secs(3);
        let (accepted, mut client) = pair(limit);
        accepted.set_nonblocking(true).unwrap();
        let socket = Socket::new(TcpStream::from_std(accepted).unwrap(), limit);
        let stream = socket.tcp.stream();
        let is_limited = || sockopt::tcp_user_timeout(stream).unwrap() == 3000;
        // The clock runs as fast as it can: this is a bound on looks.
        let bound = Duration::from_mins(10);
        let mut written = 0;
        let filled = async {
            while is_limited() {
                written += stream.try_write(&[7; 8192]).unwrap_or(0);
                sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = socket.vanished() => panic!("it answers"),
            filled = timeout(bound, filled) => filled.unwrap(),
        }
        client.read_exact(&mut vec![0; written]).unwrap();
        let emptied = async {
            while !is_limited() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = socket.vanished() => panic!("it answers"),
            emptied = timeout(bound, emptied) => emptied.unwrap(),
        }
    }
}
