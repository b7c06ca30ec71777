//! One connection below HTTP: its socket and its input, and the detection of a waiting side that has left.
//!
//! *Invariants.* A source *leaves* by a reset, or by a FIN before its body is complete. A FIN after a complete body is legal (RFC 9112,
//! section 9.6), so such a source is probed with an interim response where that is possible. A destination leaves by a reset or a FIN.
//!
//! *Concurrency.* The task of the connection owns a [`Wire`]. The other side's task checks it too: with the table locked, through
//! [`Presence`], and while it relays. The lock of the input is never held across an await.
//!
//! *Bounds.* Those of [`input`].

pub(crate) mod input;

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rendezvous_core::rendezvous::Presence;
use rendezvous_net::socket::{Departure, Socket};
use rendezvous_protocol::Side;
use tokio::time::sleep;

use input::Input;

/// The interim response that a client with `Expect: 100-continue` waits for. It also probes a client that has closed its sending
/// side: a client that still reads ignores it (RFC 9110, section 15.2), and the kernel of a client that has exited resets the
/// connection. It is sent to no other client: several clients and proxies take it for the final response.
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Interval of the checks for whether a source has acknowledged everything: a little longer than the delayed acknowledgement of
/// its kernel (40 ms on Linux).
const ACK_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// One connection.
#[derive(Debug)]
pub(crate) struct Wire {
    socket: Socket,
    /// Locked by the task that reads the connection, never across an await.
    input: Mutex<Input>,
}

impl Wire {
    /// Wraps a new connection, from which nothing was read yet.
    #[must_use]
    pub(crate) fn new(socket: Socket) -> Arc<Self> {
        Arc::new(Self { socket, input: Mutex::default() })
    }

    /// Returns the socket.
    #[must_use]
    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Returns the input.
    #[must_use]
    pub(crate) fn input(&self) -> &Mutex<Input> {
        &self.input
    }

    /// Waits until a waiting source has left.
    ///
    /// A reset counts, and so does a FIN inside the body. A FIN after a complete body is legal (RFC 9112, section 9.6), but
    /// most often its client has exited, so the client is probed. A FIN that is stuck in the client behind a full receive buffer
    /// cannot be detected yet; until then the source keeps its seat.
    pub(crate) async fn source_left(&self) {
        if self.socket.departed().await == Departure::Reset {
            return;
        }
        let whole = self.input.lock().holds_whole_body(&self.socket);
        match whole {
            Some(false) => {}
            Some(true) if self.is_reset() => {}
            Some(true) => {
                tokio::select! {
                    () = self.socket.reset_by_peer() => {}
                    () = Box::pin(self.probe_source()) => {}
                }
            }
            // The sides have paired meanwhile, so the source does not wait any more.
            None => pending().await,
        }
    }

    /// Whether a waiting source is known to have left, without a probe: see [`Wire::source_left`].
    #[must_use]
    pub(crate) fn source_has_left(&self) -> bool {
        match self.socket.departure() {
            None => false,
            Some(Departure::Reset) => true,
            Some(Departure::Closed) => {
                let whole = self.input.lock().holds_whole_body(&self.socket);
                // The rest of the body may be in the kernel while tokio does not report it as readable yet. On HTTP/2 there is no
                // body here (`None`), and a FIN ends the connection.
                whole.is_none() || whole == Some(false) && self.socket.unread() == 0
            }
        }
    }

    /// Probes a source once it has acknowledged everything sent before. Returns if the client has reset the connection, and otherwise
    /// never.
    async fn probe_source(&self) {
        while !self.try_probe() {
            sleep(ACK_CHECK_INTERVAL).await;
        }
        if !self.is_reset() {
            pending::<()>().await;
        }
    }

    /// Whether the client has reset the connection. Must be checked after each read or write of a connection whose reset is waited for,
    /// because those consume its error.
    fn is_reset(&self) -> bool {
        self.socket.departure() == Some(Departure::Reset)
    }

    /// Sends a probe if that is allowed, and only into an empty send buffer: a partial write would corrupt the response. Returns false if
    /// the caller has to try again later.
    fn try_probe(&self) -> bool {
        if !self.may_be_probed() {
            return true;
        }
        let is_idle = self.socket.unacknowledged() == 0;
        if is_idle {
            self.socket.try_write(CONTINUE);
        }
        is_idle
    }

    /// Whether an interim response may be sent to a source: only while it waits, and only over HTTP/1.1.
    fn may_be_probed(&self) -> bool {
        let input = self.input.lock();
        input.is_body_unread() && input.is_http11()
    }

    /// Whether a waiting source may have left: it has closed its sending side after a complete body, or its FIN may be stuck behind
    /// data that its kernel could not send yet.
    #[must_use]
    pub(crate) fn source_may_have_left(&self) -> bool {
        if self.socket.is_quiet() {
            return false;
        }
        let unread = self.socket.unread();
        let may_hide_fin =
            unread > 0 && !(self.socket.is_plain() && self.input.lock().is_complete_with(unread));
        may_hide_fin || self.socket.departure().is_some()
    }

    /// Whether a source is still connected, once its whole body was read so that unread data cannot hide its FIN. Probes a client that has
    /// closed its sending side, if it speaks HTTP/1.1.
    pub(crate) async fn is_source_present(&self) -> bool {
        if !self.can_detect_fin() {
            return false;
        }
        match self.socket.departure() {
            None => true,
            Some(Departure::Reset) => false,
            Some(Departure::Closed) if !self.input.lock().is_http11() => true,
            // An interim response must not be written into the middle of earlier bytes.
            Some(Departure::Closed) => {
                self.all_acknowledged().await && {
                    self.socket.try_write(CONTINUE);
                    self.all_acknowledged().await
                }
            }
        }
    }

    /// Discards the bytes after the body, which are never used and would hide a FIN. Returns false if there are too many of them.
    fn can_detect_fin(&self) -> bool {
        let mut input = self.input.lock();
        self.socket.departure().is_some()
            || !input.is_between_requests()
            || input.discard_trailing_bytes(&self.socket)
    }

    async fn all_acknowledged(&self) -> bool {
        self.socket.acknowledged_up_to(self.socket.sent(), || {}).await
    }

    /// Waits until a destination has left. One that only closes its sending side cannot be distinguished from one
    /// that has exited, and counts as having left.
    pub(crate) async fn destination_left(&self) {
        self.socket.departed().await;
    }

    /// Whether a destination has left: see [`Wire::destination_left`].
    #[must_use]
    pub(crate) fn destination_has_left(&self) -> bool {
        self.socket.departure().is_some()
    }
}

impl Presence for Wire {
    fn has_left(&self, side: Side) -> bool {
        match side {
            Side::Source => self.source_has_left(),
            Side::Destination => self.destination_has_left(),
        }
    }

    fn source_may_have_left(&self) -> bool {
        self.source_may_have_left()
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;
    use std::net::Shutdown;

    use rendezvous_codec::body::Framing;
    use rustix::net::sockopt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::timeout;

    use super::*;

    /// A waiting source that has closed its sending side after `body`, with a receive buffer that holds all of it.
    async fn half_closed(body: &[u8]) -> (Arc<Wire>, TcpStream) {
        let (wire, client, _) = half_closed_with_socket(body).await;
        (wire, client)
    }

    /// Like [`half_closed`], with a duplicate of the server's socket.
    async fn half_closed_with_socket(body: &[u8]) -> (Arc<Wire>, TcpStream, std::net::TcpStream) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        sockopt::set_socket_recv_buffer_size(&listener, 1 << 20).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let accepted = listener.accept().unwrap().0;
        accepted.set_nonblocking(true).unwrap();
        let shared = accepted.try_clone().unwrap();
        let minute = Duration::from_mins(1);
        let wire = Wire::new(Socket::new(TcpStream::from_std(accepted).unwrap(), minute));
        client.write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        client.write_all(body).await.unwrap();
        client.shutdown().await.unwrap();
        poll_fn(|cx| wire.input().lock().poll_head(wire.socket(), 16 * 1024, cx)).await.unwrap().unwrap();
        wire.input().lock().begin_body(Framing::Chunked, true);
        assert_eq!(wire.socket().departed().await, Departure::Closed);
        (wire, client, shared)
    }

    #[tokio::test]
    async fn a_half_closed_source_with_a_body_longer_than_the_read_ahead_is_probed() {
        let chunk = [b"186a0\r\n", &vec![7; 100_000][..], b"\r\n"].concat();
        for (body, has_left) in [
            (&b"1\r\nx\r\n"[..], true),
            (b"1\r\nx\r\n0\r\n\r\n", false),
            (&chunk, false),
            (&[&chunk, &b"0\r\n\r\n"[..]].concat(), false),
        ] {
            let (wire, mut client) = half_closed(body).await;
            assert_eq!(wire.source_has_left(), has_left, "{} bytes", body.len());
            if has_left {
                wire.source_left().await;
                continue;
            }
            let mut probe = [0; CONTINUE.len()];
            let probing = async {
                client.read_exact(&mut probe).await.unwrap();
                timeout(10 * ACK_CHECK_INTERVAL, client.read_u8()).await
            };
            tokio::select! {
                () = wire.source_left() => panic!("the source is connected"),
                more = probing => assert!(more.is_err(), "one probe is enough, as long as nothing happens"),
            }
            assert_eq!(probe, CONTINUE);
        }
    }

    /// The kernel has received both, and tokio has not polled it yet.
    #[tokio::test]
    async fn a_source_whose_body_and_end_cannot_be_read_yet_has_not_left() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap().0;
        accepted.set_nonblocking(true).unwrap();
        let minute = Duration::from_mins(1);
        let wire = Wire::new(Socket::new(TcpStream::from_std(accepted).unwrap(), minute));
        client.write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        poll_fn(|cx| wire.input().lock().poll_head(wire.socket(), 16 * 1024, cx)).await.unwrap().unwrap();
        wire.input().lock().begin_body(Framing::Chunked, true);
        // A read that finds nothing clears tokio's readiness until the next poll.
        assert_eq!(wire.input().lock().holds_whole_body(wire.socket()), Some(false));

        client.write_all(b"1\r\nx\r\n0\r\n\r\n").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(wire.socket().departure(), Some(Departure::Closed));
        assert!(!wire.source_has_left());
        // Checks that tokio still has not seen the data, without which the test proves nothing.
        assert_eq!(wire.input().lock().holds_whole_body(wire.socket()), Some(false));

        assert_eq!(wire.socket().departed().await, Departure::Closed);
        assert_eq!(wire.input().lock().holds_whole_body(wire.socket()), Some(true));
    }

    /// A failed read or write has consumed the error of the reset before tokio saw it.
    #[tokio::test]
    async fn a_reset_is_detected_after_its_error_was_consumed() {
        let (wire, client, socket) = half_closed_with_socket(b"1\r\nx\r\n0\r\n\r\n").await;
        client.set_zero_linger().unwrap();
        drop(client);
        assert!(sockopt::socket_error(&socket).unwrap().is_err(), "the error is consumed");
        timeout(Duration::from_secs(5), wire.source_left()).await.expect("the source has left");
    }

    #[tokio::test]
    async fn a_source_that_exits_after_a_body_longer_than_the_read_ahead_has_left() {
        for end in [&b""[..], b"\r\n0\r\n\r\n"] {
            let (wire, client) = half_closed(&[b"186a0\r\n", &vec![7; 100_000][..], end].concat()).await;
            drop(client);
            wire.source_left().await;
            assert!(wire.source_has_left());
        }
    }
}
