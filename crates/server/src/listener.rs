//! The sockets that the server listens on: those that it binds, and those inherited from a service manager (socket activation).
//!
//! *Invariant.* Socket options are set on the listener, and its connections inherit them.
//!
//! *Concurrency.* Only the accept loop of its audience polls a listener.
//!
//! *Bounds.* The kernel queues [`BACKLOG`] connections for each listener.

use std::io;
use std::net::{self, SocketAddr};
use std::os::fd::AsFd;
use std::task::{Context, Poll};
use std::time::Duration;

use rendezvous_net::socket;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::tls::TlsError;
use crate::api::connection::{Audience, ListenerInfo};
use crate::cluster::joined::ClusterError;

/// Connections that the kernel queues before they are accepted; it may lower this (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// The setting that configures a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerKind {
    /// `host` and `port` of [`Config`](crate::config::Config). It speaks TLS if a certificate is configured.
    Main,
    /// `host` and `plain_port`, without TLS.
    Plain,
    /// `admin_listen`, for operators, without TLS.
    Admin,
    /// For the other nodes of the cluster.
    Cluster,
}

impl ListenerKind {
    /// The flag that sets its port.
    fn flag(self) -> &'static str {
        match self {
            Self::Main => "--port",
            Self::Plain => "--plain-port",
            Self::Admin => "--admin-listen",
            Self::Cluster => "--cluster-listen",
        }
    }
}

/// A listening socket inherited from a service manager, in which it stays open when this process ends.
#[derive(Debug)]
pub struct Inherited {
    /// The listener that it replaces.
    pub kind: ListenerKind,
    /// The socket.
    pub socket: net::TcpListener,
}

/// The server cannot listen on a configured address.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The host name has no address.
    #[error("cannot find the address of the host {host:?}")]
    Host {
        /// The host name.
        host: String,
        /// The cause.
        source: io::Error,
    },
    /// Another program listens on the address.
    #[error(
        "{address} is in use by another program: stop it, or choose another port with {flag} (0 picks a free one)"
    )]
    Taken {
        /// The address.
        address: SocketAddr,
        /// The flag that sets another port.
        flag: &'static str,
    },
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server cannot take part in the cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The inherited socket cannot be used as a listener.
    #[error("cannot listen on the inherited socket")]
    Inherited(#[source] io::Error),
    /// The system refuses to listen on the address.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
}

pub(super) struct Listener {
    tcp: TcpListener,
    pub(super) address: SocketAddr,
    pub(super) info: ListenerInfo,
    pub(super) kind: ListenerKind,
    /// `None` if it does not speak TLS.
    pub(super) tls: Option<TlsAcceptor>,
}

impl Listener {
    /// Listens on the first address of `host`.
    pub(super) async fn bind(
        host: &str,
        port: u16,
        kind: ListenerKind,
        peer_timeout: Duration,
    ) -> Result<Self, BindError> {
        let found = tokio::net::lookup_host((host, port)).await;
        let address = found
            .and_then(|mut addresses| addresses.next().ok_or(io::ErrorKind::NotFound.into()))
            .map_err(|source| BindError::Host { host: host.to_owned(), source })?;
        let listener = listen(address, peer_timeout).and_then(|tcp| Self::new(tcp, kind));
        listener.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::Taken { address, flag: kind.flag() },
            _ => BindError::Listen { address, source },
        })
    }

    /// Makes a listener of an inherited socket.
    pub(super) fn inherit(
        Inherited { kind, socket }: Inherited,
        peer_timeout: Duration,
    ) -> Result<Self, BindError> {
        let listener = || {
            prepare(&socket, peer_timeout)?;
            socket.set_nonblocking(true)?;
            Self::new(TcpListener::from_std(socket)?, kind)
        };
        listener().map_err(BindError::Inherited)
    }

    fn new(tcp: TcpListener, kind: ListenerKind) -> io::Result<Self> {
        let address = tcp.local_addr()?;
        let audience = match kind {
            ListenerKind::Main | ListenerKind::Plain => Audience::Clients,
            ListenerKind::Admin => Audience::Operators,
            ListenerKind::Cluster => Audience::Nodes,
        };
        // What a node passes on may come from anywhere.
        let is_loopback = audience != Audience::Nodes && address.ip().to_canonical().is_loopback();
        let info = ListenerInfo { audience, is_loopback };
        Ok(Self { tcp, address, info, kind, tls: None })
    }

    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        self.tcp.poll_accept(cx)
    }
}

fn listen(address: SocketAddr, peer_timeout: Duration) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    prepare(&socket, peer_timeout)?;
    // Otherwise a restart would fail while connections are in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Sets the options that the connections of a listener inherit.
fn prepare(listener: impl AsFd, peer_timeout: Duration) -> io::Result<()> {
    // Otherwise small responses would wait up to 40 ms for an acknowledgement.
    socket::set_nodelay(&listener)?;
    socket::keep_urgent_data_inline(&listener)?;
    socket::set_peer_timeout(&listener, peer_timeout)
}
