//! Listeners, the limits on connections, and the drain.
//!
//! ```text
//! run ──► serving ── stop ──► draining: no accept, waiting sides told, idle connections closed
//!                                 └── all transfers ended, or the drain timeout ──► cut ──► closed
//! ```
//!
//! The operators' listener is open to the end, so that a drain can be watched; nobody waits for those who watch.
//!
//! Every connection is a task of one `JoinSet`: dropping [`Server::run`] drops them all, and with them their
//! halves and seats.

mod conn;
mod fast;
mod http2;
mod shares;
mod tls;
mod traffic;

use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::conn::Accepted;
use self::shares::Shares;
use self::tls::Certificate;
pub use self::tls::TlsError;
use crate::clients::Clients;
use crate::config::{Config, DataPath};
use crate::http::App;
use crate::http::access::Access;
use crate::http::cors::Cors;
use crate::http::peer::{Audience, Caller, Entrance, Hold};
use crate::metrics::Metrics;
use crate::outcome::Refusal;
use crate::relay;
use crate::rendezvous::{Limits, Rendezvous};
use crate::socket;
use crate::splice::Pipes;

/// Connections the kernel holds for us before they are accepted; it may lower this (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;
/// After a failed accept (no descriptor is left): time for some connection to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For the last answers to be read after the streams were cut: a little more than a lingering close takes.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// A server that listens.
pub struct Server {
    listeners: Vec<Listener>,
    config: Config,
    app: Arc<App>,
    /// For the fast lane, where it may be taken.
    pipes: Option<Arc<Pipes>>,
    certificate: Option<Arc<Certificate>>,
    reload: Arc<Notify>,
    shares: Shares,
    /// For connections over a limit that are told so.
    told: Arc<Semaphore>,
}

struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
    entrance: Entrance,
    kind: ListenerKind,
    /// Where it speaks TLS.
    tls: Option<TlsAcceptor>,
}

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

/// The address can not be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The host name has no address.
    #[error("cannot find the address of the host {host:?}: {source}")]
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
    /// The system says no.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl Server {
    /// Listens; nothing is served before [`Server::run`].
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        let certificate = config.tls.clone().map(Certificate::load).transpose()?;
        let silence = config.peer_timeout.get();
        let mut main = Listener::bind(&config.host, config.port, ListenerKind::Main, silence).await?;
        main.tls = certificate.as_ref().map(Certificate::acceptor);
        let mut listeners = vec![main];
        if let Some(port) = config.plain_port {
            listeners.push(Listener::bind(&config.host, port, ListenerKind::Plain, silence).await?);
        }
        if let Some(address) = config.admin_listen {
            let host = address.ip().to_string();
            listeners.push(Listener::bind(&host, address.port(), ListenerKind::Admin, silence).await?);
        }
        let limits = Limits {
            ttl: config.ttl.get(),
            transfer: relay::Limits { idle: config.idle_timeout.get(), stream: config.streams },
            max_streams: config.max_streams,
        };
        let access = Access {
            create_token: config.create_token.clone(),
            admin_token: config.admin_token.clone(),
            open_list: config.open_list,
            has_admin_listener: config.admin_listen.is_some(),
        };
        let metrics = Arc::new(Metrics::default());
        let app = App {
            rendezvous: Rendezvous::new(limits, Arc::clone(&metrics)),
            metrics: Arc::clone(&metrics),
            request_timeout: config.head_timeout.get(),
            peer_timeout: silence,
            access,
            cors: Cors::new(config.cors_origins.clone()),
            clients: Clients::new(config.clients),
            trusted_proxies: config.trusted_proxies.clone(),
        };
        let shares = Shares::new(config.descriptors, config.max_connections);
        if shares.connections < config.max_connections {
            warn!(
                descriptors = config.descriptors,
                "only {} connections at a time, and not {}: the system allows no more descriptors; raise ulimit -n, or lower --max-connections",
                shares.connections,
                config.max_connections
            );
        }
        let pipes = (config.data_path == DataPath::Auto).then(|| Arc::new(Pipes::new(shares.pipes, metrics)));
        let told = Arc::new(Semaphore::new(shares.told));
        let app = Arc::new(app);
        Ok(Self { listeners, config, app, pipes, certificate, reload: Arc::default(), shares, told })
    }

    /// Where it listens, if it has such a listener.
    #[must_use]
    pub fn address(&self, kind: ListenerKind) -> Option<SocketAddr> {
        self.listeners.iter().find(|listener| listener.kind == kind).map(|listener| listener.address)
    }

    /// Whoever notifies it has the certificate read again.
    #[must_use]
    pub fn reload(&self) -> Arc<Notify> {
        Arc::clone(&self.reload)
    }

    /// Serves until `stop` resolves, then drains. To end at once, drop it.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let draining = CancellationToken::new();
        let mut connections = JoinSet::new();
        let rendezvous = Arc::clone(&self.app.rendezvous);
        tokio::select! {
            () = self.accept(&mut connections, &draining) => {}
            () = rendezvous.keep_time() => {}
            () = self.keep_certificate() => {}
            () = stop => {}
        }

        self.listeners.retain(|listener| listener.entrance.audience == Audience::Operators);
        draining.cancel();
        rendezvous.close();
        info!(connections = connections.len(), "draining for at most {}", self.config.drain_timeout);
        let (mut watching, until_ended) = (JoinSet::new(), CancellationToken::new());
        tokio::select! {
            () = self.accept(&mut watching, &until_ended) => {}
            () = self.drain(&mut connections) => {}
        }
        info!("ended");
    }

    async fn keep_certificate(&self) {
        match &self.certificate {
            Some(certificate) => certificate.keep_fresh(&self.reload).await,
            None => pending().await,
        }
    }

    async fn drain(&self, connections: &mut JoinSet<()>) {
        let all_ended = timeout(self.config.drain_timeout.get(), join_all(connections)).await;
        if all_ended.is_err() {
            let streams = self.app.rendezvous.cut();
            warn!(streams, "cut what still streamed");
            // What is left after this has had its time.
            let _ = timeout(LAST_WORDS, join_all(connections)).await;
        }
    }

    async fn accept(&self, connections: &mut JoinSet<()>, draining: &CancellationToken) {
        let mut turn = 0;
        loop {
            turn += 1;
            tokio::select! {
                (listener, accepted) = poll_fn(|cx| self.poll_accept(turn, cx)) => match accepted {
                    Ok((stream, address)) => {
                        self.admit(stream, address.ip(), listener, connections, draining);
                    }
                    Err(error) => {
                        warn!(%error, "cannot accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                // A panic has been logged, and the connection's halves and seats are dropped.
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// The next connection of any listener. Each `turn` begins with another one, so that none is kept waiting by a
    /// flood on its neighbour.
    fn poll_accept(
        &self,
        turn: usize,
        cx: &mut Context<'_>,
    ) -> Poll<(&Listener, io::Result<(TcpStream, SocketAddr)>)> {
        let count = self.listeners.len();
        for listener in self.listeners.iter().cycle().skip(turn % count.max(1)).take(count) {
            if let Poll::Ready(accepted) = listener.tcp.poll_accept(cx) {
                return Poll::Ready((listener, accepted));
            }
        }
        Poll::Pending
    }

    fn admit(
        &self,
        stream: TcpStream,
        address: IpAddr,
        listener: &Listener,
        connections: &mut JoinSet<()>,
        draining: &CancellationToken,
    ) {
        let entrance = listener.entrance;
        let open = Some(self.app.metrics.accepted(listener.tls.is_some()));
        let told = self.shares.told.saturating_sub(self.told.available_permits());
        let served = connections.len().saturating_sub(told);
        let is_proxy = self.app.trusted_proxies.contain(address);
        let (holds, refusal) = match self.place(served, address, entrance, is_proxy) {
            Ok(holds) => (holds, None),
            Err(refusal) => match Arc::clone(&self.told).try_acquire_owned() {
                Ok(permit) => (Some(Hold::Told(permit)), Some(refusal)),
                Err(_) => return self.app.metrics.refused(&refusal),
            },
        };
        let accepted = Accepted { stream, caller: Caller { address, is_proxy, holds, open }, entrance };
        let (app, draining, pipes) = (Arc::clone(&self.app), draining.clone(), self.pipes.clone());
        match listener.tls.clone() {
            None => connections.spawn(conn::serve(accepted, app, draining, pipes, refusal)),
            Some(tls) => connections.spawn(conn::serve_tls(accepted, tls, app, draining, pipes, refusal)),
        };
    }

    /// A place for a connection beside those that are `served`. What a proxy or an operator has is no client's.
    fn place(
        &self,
        served: usize,
        address: IpAddr,
        entrance: Entrance,
        is_proxy: bool,
    ) -> Result<Option<Hold>, Refusal> {
        if served >= self.shares.connections {
            return Err(Refusal::Busy("The server has as many connections as it may: try again later"));
        }
        if is_proxy || entrance.audience == Audience::Operators {
            return Ok(None);
        }
        Ok(self.app.clients.connect(address)?.map(Hold::Place))
    }
}

impl Listener {
    async fn bind(host: &str, port: u16, kind: ListenerKind, silence: Duration) -> Result<Self, BindError> {
        let found = tokio::net::lookup_host((host, port)).await;
        let address = found
            .and_then(|mut addresses| addresses.next().ok_or(io::ErrorKind::NotFound.into()))
            .map_err(|source| BindError::Host { host: host.to_owned(), source })?;
        let tcp = listen(address, silence).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::Taken { address, flag: kind.flag() },
            _ => BindError::Listen { address, source },
        })?;
        let address = tcp.local_addr().map_err(|source| BindError::Listen { address, source })?;
        let audience = if kind == ListenerKind::Admin { Audience::Operators } else { Audience::Clients };
        let entrance = Entrance { audience, is_loopback: address.ip().to_canonical().is_loopback() };
        Ok(Self { tcp, address, entrance, kind, tls: None })
    }
}

fn listen(address: SocketAddr, silence: Duration) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A restart must not wait for old connections to time out.
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit it. Without it, small answers wait 40 ms for an acknowledgement.
    socket.set_nodelay(true)?;
    socket::limit_silence(&socket, silence)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn join_all(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}
