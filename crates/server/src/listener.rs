//! The sockets that the server listens on: its own, and those that it was given.

use std::io;
use std::net::{self, SocketAddr};
use std::os::fd::AsFd;
use std::task::{Context, Poll};
use std::time::Duration;

use rendezvous_net::socket;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::tls::TlsError;
use crate::api::connection::{Audience, Entrance};

/// Connections the kernel holds for us before they are accepted; it may lower this (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;
/// Which of the server's addresses a listener has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerKind {
    /// `host` and `port`.
    Main,
    /// `host` and `plain_port`.
    Plain,
    /// `admin_listen`.
    Admin,
}

impl ListenerKind {
    /// What chooses its port.
    fn flag(self) -> &'static str {
        match self {
            Self::Main => "--port",
            Self::Plain => "--plain-port",
            Self::Admin => "--admin-listen",
        }
    }
}

/// A socket that another program listens on and has handed over, so that it outlives this one.
#[derive(Debug)]
pub struct Inherited {
    /// What is served there.
    pub kind: ListenerKind,
    /// The socket.
    pub socket: net::TcpListener,
}

/// The address can not be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The host name has no address.
    #[error("cannot find the address of the host {host:?}")]
    Host {
        /// The name.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// Another program has it.
    #[error(
        "{address} is taken by another program: stop that, or choose another with {flag} (0 picks a free one)"
    )]
    Taken {
        /// The address.
        address: SocketAddr,
        /// What chooses another port.
        flag: &'static str,
    },
    /// There is no certificate to speak TLS with.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What was handed over is no such socket.
    #[error("cannot listen on the socket that was handed over")]
    Inherited(#[source] io::Error),
    /// The system says no.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

pub(super) struct Listener {
    tcp: TcpListener,
    pub(super) address: SocketAddr,
    pub(super) entrance: Entrance,
    pub(super) kind: ListenerKind,
    /// Where it speaks TLS.
    pub(super) tls: Option<TlsAcceptor>,
}

impl Listener {
    /// Listens on the host's first address.
    pub(super) async fn bind(
        host: &str,
        port: u16,
        kind: ListenerKind,
        silence: Duration,
    ) -> Result<Self, BindError> {
        let found = tokio::net::lookup_host((host, port)).await;
        let address = found
            .and_then(|mut addresses| addresses.next().ok_or(io::ErrorKind::NotFound.into()))
            .map_err(|source| BindError::Host { host: host.to_owned(), source })?;
        let listener = listen(address, silence).and_then(|tcp| Self::over(tcp, kind));
        listener.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::Taken { address, flag: kind.flag() },
            _ => BindError::Listen { address, source },
        })
    }

    /// Listens on what was handed over.
    pub(super) fn inherit(
        Inherited { kind, socket }: Inherited,
        silence: Duration,
    ) -> Result<Self, BindError> {
        let take_over = || {
            prepare(&socket, silence)?;
            socket.set_nonblocking(true)?;
            Self::over(TcpListener::from_std(socket)?, kind)
        };
        take_over().map_err(BindError::Inherited)
    }

    fn over(tcp: TcpListener, kind: ListenerKind) -> io::Result<Self> {
        let address = tcp.local_addr()?;
        let audience = if kind == ListenerKind::Admin { Audience::Operators } else { Audience::Clients };
        let entrance = Entrance { audience, is_loopback: address.ip().to_canonical().is_loopback() };
        Ok(Self { tcp, address, entrance, kind, tls: None })
    }

    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        self.tcp.poll_accept(cx)
    }
}

fn listen(address: SocketAddr, silence: Duration) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    prepare(&socket, silence)?;
    // A restart must not wait for old connections to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Sets what the connections of a listener inherit.
fn prepare(listener: impl AsFd, silence: Duration) -> io::Result<()> {
    // Without it, small answers wait 40 ms for an acknowledgement.
    socket::set_nodelay(&listener)?;
    socket::keep_urgent_data_inline(&listener)?;
    socket::limit_silence(&listener, silence)
}
