//! The connections of the clients inside this process: TCP or TLS, closed by FIN or RST, with reads that can stop.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::plan::{Manner, Party};

/// Bytes in flight, which a kernel may accept beyond its buffer.
const ON_THE_WAY: u64 = 128 << 10;

/// Connects clients to a server.
#[derive(Debug, Clone)]
pub(crate) struct Dial {
    /// The server itself.
    pub(crate) server: Addresses,
    /// The proxy in front of it, if there is one.
    pub(crate) proxy: Option<Addresses>,
    /// TLS configurations that trust its certificate, for HTTP/1 and for HTTP/2.
    pub(crate) trust: [Arc<ClientConfig>; 2],
    /// The certificate.
    pub(crate) certificate: PathBuf,
}

/// The addresses of a server, or of a proxy in front of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    /// Without TLS.
    pub(crate) plain: SocketAddr,
    /// With TLS.
    pub(crate) tls: SocketAddr,
}

impl Dial {
    /// The address that `party` connects to.
    pub(super) fn address(&self, party: &Party) -> SocketAddr {
        let addresses = self.proxy.filter(|_| party.proxy.is_some()).unwrap_or(self.server);
        if party.transport.is_tls() { addresses.tls } else { addresses.plain }
    }

    /// Connects as `party` does.
    ///
    /// # Errors
    /// There is no server, or the handshake fails.
    pub(super) async fn connect(&self, party: &Party) -> io::Result<Connection> {
        let socket = TcpSocket::new_v4()?;
        if let Some(room) = party.receive_buffer {
            socket.set_recv_buffer_size(u32::try_from(room).unwrap_or(u32::MAX))?;
        }
        let address = self.address(party);
        let tcp = socket.connect(address).await?;
        tcp.set_nodelay(true)?;
        let switches = Switches::default();
        if !party.transport.is_tls() {
            return Ok(Connection { stream: Stream::Plain(tcp), switches });
        }
        let [http1, http2] = &self.trust;
        let trust = if party.transport.is_h2() { http2 } else { http1 };
        let name = ServerName::from(address.ip());
        let stream = TlsConnector::from(Arc::clone(trust)).connect(name, tcp).await?;
        Ok(Connection { stream: Stream::Tls(Box::new(stream)), switches })
    }
}

/// A connection, which closes by FIN or RST.
pub(super) struct Connection {
    stream: Stream,
    switches: Switches,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    pub(super) fn switches(&self) -> Switches {
        self.switches.clone()
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => tls.get_ref().0,
        }
    }

    /// The bound on the unread bytes that the kernel accepts, if any. There is none for bytes that a proxy accepts.
    pub(super) fn room(&self, party: &Party) -> Option<u64> {
        if party.proxy.is_some() {
            return None;
        }
        party.receive_buffer?;
        let buffer = rustix::net::sockopt::socket_recv_buffer_size(self.tcp()).ok()?;
        Some(buffer as u64 + ON_THE_WAY)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.switches.0.is_deaf.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.switches.0.resets.load(Ordering::Relaxed) {
            // Fails only on a broken connection.
            let _ = self.tcp().set_zero_linger();
        }
    }
}

/// The switches of a connection, shared with the client that uses it.
#[derive(Debug, Clone, Default)]
pub(super) struct Switches(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    /// Whether it closes by RST.
    resets: AtomicBool,
    /// Whether it reads nothing more.
    is_deaf: AtomicBool,
    /// Whether it neither reads nor writes (HTTP/2).
    is_frozen: AtomicBool,
}

impl Switches {
    pub(super) fn leave_by(&self, manner: Manner) {
        self.0.resets.store(manner == Manner::Reset, Ordering::Relaxed);
    }

    pub(super) fn stop_reading(&self) {
        self.0.is_deaf.store(true, Ordering::Relaxed);
    }

    pub(super) fn freeze(&self, is_frozen: bool) {
        self.0.is_frozen.store(is_frozen, Ordering::Relaxed);
    }

    pub(super) fn is_frozen(&self) -> bool {
        self.0.is_frozen.load(Ordering::Relaxed)
    }
}
