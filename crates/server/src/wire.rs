//! One connection below HTTP: its socket, and its input.

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
/// side: a client that still reads ignores it (RFC 9110, section 15.2), and the kernel of a client that has gone resets the
/// connection. Nobody else gets it unasked: several clients and proxies take it for the final response.
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// For a client to acknowledge what it was told: a little more than it may take its time for that.
const UNTIL_QUIET: Duration = Duration::from_millis(50);

/// One connection.
#[derive(Debug)]
pub struct Wire {
    socket: Socket,
    /// Locked by whoever reads the connection, and never across an await.
    input: Mutex<Input>,
}

impl Wire {
    /// A fresh connection.
    #[must_use]
    pub fn new(socket: Socket) -> Arc<Self> {
        Arc::new(Self { socket, input: Mutex::default() })
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The input.
    #[must_use]
    pub fn input(&self) -> &Mutex<Input> {
        &self.input
    }

    /// Waits until a source that waits has left.
    ///
    /// A reset is a departure, and so is a FIN inside the body. A FIN behind a whole body is legal (RFC 9112, section 9.6), but
    /// most often it is a client that was ended: so it is probed. A FIN that is stuck behind a full buffer is not seen before
    /// there is room for it; until then the source keeps its seat.
    pub async fn source_left(&self) {
        if self.socket.departed().await == Departure::Reset {
            return;
        }
        let whole = self.input.lock().holds_whole_body(&self.socket);
        match whole {
            Some(false) => {}
            Some(true) if self.has_reset() => {}
            Some(true) => {
                tokio::select! {
                    () = self.socket.reset() => {}
                    () = Box::pin(self.probe_when_quiet()) => {}
                }
            }
            // The sides have paired in this very moment.
            None => pending().await,
        }
    }

    /// Whether a source that waits is known to have left: what [`Wire::source_left`] waits for, as far as it needs no probe.
    #[must_use]
    pub fn source_has_left(&self) -> bool {
        match self.socket.departure() {
            None => false,
            Some(Departure::Reset) => true,
            Some(Departure::Closed) => {
                let whole = self.input.lock().holds_whole_body(&self.socket);
                // The kernel knows of what it has received before this program can read it. Of HTTP/2 no body is held here: behind a
                // FIN its connection ends.
                whole.is_none() || whole == Some(false) && self.socket.unread() == 0
            }
        }
    }

    /// Asks a source as soon as it has acknowledged what it was told before. Ends where it cannot be asked any more.
    async fn probe_when_quiet(&self) {
        while !self.probe() {
            sleep(UNTIL_QUIET).await;
        }
        if !self.has_reset() {
            pending::<()>().await;
        }
    }

    /// Whether the client has reset. To be asked behind each use of a connection on which somebody waits for that.
    fn has_reset(&self) -> bool {
        self.socket.departure() == Some(Departure::Reset)
    }

    /// Asks, where that may be and the kernel has room for all of it: a part of it would spoil the response. False where it
    /// is too early.
    fn probe(&self) -> bool {
        if !self.may_be_probed() {
            return true;
        }
        let is_quiet = self.socket.unacknowledged() == 0;
        if is_quiet {
            self.socket.try_write(CONTINUE);
        }
        is_quiet
    }

    /// Whether an interim response may be sent to a source: it still waits, and speaks HTTP/1.1.
    fn may_be_probed(&self) -> bool {
        let input = self.input.lock();
        input.is_body_untouched() && input.is_http11()
    }

    /// Whether a source that waits may have left: it has closed its sending side behind a whole body, or its FIN can be stuck behind
    /// what its kernel could not send yet.
    #[must_use]
    pub fn source_may_have_left(&self) -> bool {
        let unread = self.socket.unread();
        let hides_more = unread > 0 && !(self.socket.is_plain() && self.input.lock().is_whole_with(unread));
        hides_more || self.socket.departure().is_some()
    }

    /// Whether a source is still there once its whole body was read, so that nothing hides its FIN any more. A client that has
    /// closed its sending side is probed, if it speaks HTTP/1.1.
    pub async fn is_still_there(&self) -> bool {
        if !self.has_nothing_to_hide_behind() {
            return false;
        }
        match self.socket.departure() {
            None => true,
            Some(Departure::Reset) => false,
            Some(Departure::Closed) if !self.input.lock().is_http11() => true,
            // An interim response must not end up inside what was written before.
            Some(Departure::Closed) => {
                self.all_is_acknowledged().await && {
                    self.socket.try_write(CONTINUE);
                    self.all_is_acknowledged().await
                }
            }
        }
    }

    /// What follows the body is never used, and hides a FIN as the body did.
    fn has_nothing_to_hide_behind(&self) -> bool {
        let mut input = self.input.lock();
        self.socket.departure().is_some()
            || !input.is_between_requests()
            || input.skip_what_follows(&self.socket)
    }

    async fn all_is_acknowledged(&self) -> bool {
        self.socket.delivered_to(self.socket.sent(), || {}).await
    }

    /// Waits until a destination has left. One that only closes its sending side can not be told from one
    /// that is gone.
    pub async fn destination_left(&self) {
        self.socket.departed().await;
    }

    /// Whether a destination is known to have left: what [`Wire::destination_left`] waits for.
    #[must_use]
    pub fn destination_has_left(&self) -> bool {
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

    /// A source that waits and has closed its sending side behind `body`, in a buffer that takes all of it.
    async fn half_closed(body: &[u8]) -> (Arc<Wire>, TcpStream) {
        let (wire, client, _) = half_closed_and_shared(body).await;
        (wire, client)
    }

    /// As [`half_closed`], with the server's socket.
    async fn half_closed_and_shared(body: &[u8]) -> (Arc<Wire>, TcpStream, std::net::TcpStream) {
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
        poll_fn(|cx| wire.input().lock().poll_head(wire.socket(), cx)).await.unwrap().unwrap();
        wire.input().lock().begin_body(Framing::Chunked, true);
        assert_eq!(wire.socket().departed().await, Departure::Closed);
        (wire, client, shared)
    }

    #[tokio::test]
    async fn a_half_closed_source_whose_body_is_too_long_to_look_at_is_asked() {
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
            let mut asked = [0; CONTINUE.len()];
            tokio::select! {
                () = wire.source_left() => panic!("it is there"),
                read = client.read_exact(&mut asked) => assert_eq!(read.unwrap(), asked.len()),
            }
            assert_eq!(asked, CONTINUE);
        }
    }

    /// The kernel has received both, and tokio has not been told yet.
    #[tokio::test]
    async fn a_source_whose_body_and_end_cannot_be_read_yet_has_not_left() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let accepted = listener.accept().unwrap().0;
        accepted.set_nonblocking(true).unwrap();
        let minute = Duration::from_mins(1);
        let wire = Wire::new(Socket::new(TcpStream::from_std(accepted).unwrap(), minute));
        client.write_all(b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        poll_fn(|cx| wire.input().lock().poll_head(wire.socket(), cx)).await.unwrap().unwrap();
        wire.input().lock().begin_body(Framing::Chunked, true);
        // A look that finds nothing more: from here on tokio waits to be told.
        assert_eq!(wire.input().lock().holds_whole_body(wire.socket()), Some(false));

        client.write_all(b"1\r\nx\r\n0\r\n\r\n").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(wire.socket().departure(), Some(Departure::Closed));
        assert!(!wire.source_has_left());
        // Nothing has been read meanwhile, or this would be no test.
        assert_eq!(wire.input().lock().holds_whole_body(wire.socket()), Some(false));

        assert_eq!(wire.socket().departed().await, Departure::Closed);
        assert_eq!(wire.input().lock().holds_whole_body(wire.socket()), Some(true));
    }

    /// A failed read or write has returned the reset before tokio saw it.
    #[tokio::test]
    async fn a_reset_that_was_taken_away_is_not_missed() {
        let (wire, client, socket) = half_closed_and_shared(b"1\r\nx\r\n0\r\n\r\n").await;
        client.set_zero_linger().unwrap();
        drop(client);
        assert!(sockopt::socket_error(&socket).unwrap().is_err(), "the reset is taken away");
        timeout(Duration::from_secs(5), wire.source_left()).await.expect("it has left");
    }

    #[tokio::test]
    async fn a_source_that_has_gone_behind_such_a_body_is_missed() {
        for end in [&b""[..], b"\r\n0\r\n\r\n"] {
            let (wire, client) = half_closed(&[b"186a0\r\n", &vec![7; 100_000][..], end].concat()).await;
            drop(client);
            wire.source_left().await;
            assert!(wire.source_has_left());
        }
    }
}
