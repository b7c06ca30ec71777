//! Listeners, the limit on connections, and the drain.
//!
//! ```text
//! run ──► serving ── stop ──► draining: no accept, waiting sides told, idle connections closed
//!                                 └── all transfers ended, or the drain timeout ──► cut ──► closed
//! ```
//!
//! Each thread has a listener, a runtime and a `JoinSet` of connections of its own; they share the table. Dropping
//! [`Server::run`] drops all connections, and with them their halves and seats.

mod conn;
mod fast;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{Config, DataPath, Period};
use crate::http::App;
use crate::outcome::Refusal;
use crate::rendezvous::{Limits, Rendezvous};
use crate::socket::Socket;
use crate::splice::Pipes;

/// Connections the kernel holds for us before they are accepted; it may lower this (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;
/// Connections over the limit that are told so at a time; more are closed without a word.
const TOLD_BUSY: usize = 256;
/// After a failed accept (no descriptor is left): time for some connection to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For the last answers to be read after the streams were cut: a little more than a lingering close takes.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// A server that listens.
pub struct Server {
    listeners: Vec<std::net::TcpListener>,
    address: SocketAddr,
    drain_timeout: Period,
    shared: Arc<Shared>,
}

/// What all threads of a server share.
struct Shared {
    app: Arc<App>,
    /// For the fast lane, where it may be taken.
    pipes: Option<Arc<Pipes>>,
    max_connections: usize,
    connections: AtomicUsize,
    /// No new connections; idle ones close.
    draining: CancellationToken,
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
    #[error("{0} is taken by another program: stop that, or choose another with --port (0 picks a free one)")]
    Taken(SocketAddr),
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
        let found = tokio::net::lookup_host((config.host.as_str(), config.port)).await;
        let address = found
            .and_then(|mut addresses| addresses.next().ok_or(io::ErrorKind::NotFound.into()))
            .map_err(|source| BindError::Host { host: config.host.clone(), source })?;
        let listeners = listen(address, config.threads.get()).map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::Taken(address),
            _ => BindError::Listen { address, source },
        })?;
        let bound = listeners.first().and_then(|listener| listener.local_addr().ok());
        let limits = Limits {
            ttl: config.ttl.get(),
            idle_timeout: config.idle_timeout.get(),
            max_streams: config.max_streams,
        };
        let app = App { rendezvous: Rendezvous::new(limits), request_timeout: config.head_timeout.get() };
        let shared = Shared {
            app: Arc::new(app),
            pipes: (config.data_path == DataPath::Auto).then(Arc::default),
            max_connections: config.max_connections,
            connections: AtomicUsize::new(0),
            draining: CancellationToken::new(),
        };
        let address = bound.unwrap_or(address);
        Ok(Self { listeners, address, drain_timeout: config.drain_timeout, shared: Arc::new(shared) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` resolves, then drains. To end at once, drop it.
    ///
    /// One thread's share is served by the caller's runtime, each other by a thread and a runtime of its own.
    ///
    /// # Errors
    /// A thread or its runtime can not be started.
    pub async fn run(self, stop: impl Future<Output = ()>) -> io::Result<()> {
        let Self { mut listeners, drain_timeout, shared, .. } = self;
        let rendezvous = Arc::clone(&shared.app.rendezvous);
        let at_once = CancellationToken::new();
        // Dropping this future ends the threads too.
        let _ends_threads = at_once.clone().drop_guard();
        let own = listeners.pop();
        let mut threads = Vec::new();
        for listener in listeners {
            threads.push(spawn_thread(listener, Arc::clone(&shared), at_once.clone())?);
        }
        let own = async {
            match own {
                Some(listener) => serve(listener, &shared).await,
                None => Ok(()),
            }
        };
        let mut all = pin!(async {
            own.await?;
            for ended in threads {
                // A thread that panicked has logged it, and its connections are dropped.
                let _ = ended.await;
            }
            Ok(())
        });

        tokio::select! {
            ended = &mut all => return ended,
            () = rendezvous.keep_time() => {}
            () = stop => {}
        }
        info!(
            connections = shared.connections.load(Ordering::Relaxed),
            "draining for at most {drain_timeout}"
        );
        rendezvous.close();
        shared.draining.cancel();
        if timeout(drain_timeout.get(), &mut all).await.is_err() {
            let streams = rendezvous.cut();
            warn!(streams, "cut what still streamed");
            // What is left after this has had its time.
            let _ = timeout(LAST_WORDS, &mut all).await;
        }
        info!("ended");
        Ok(())
    }
}

/// Serves one listener on a thread and a runtime of its own. What is returned resolves when it has ended.
fn spawn_thread(
    listener: std::net::TcpListener,
    shared: Arc<Shared>,
    at_once: CancellationToken,
) -> io::Result<oneshot::Receiver<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (alive, ended) = oneshot::channel();
    std::thread::Builder::new().name("rendezvous".into()).spawn(move || {
        let served = at_once.run_until_cancelled(serve(listener, &shared));
        if let Some(Err(error)) = runtime.block_on(served) {
            warn!(%error, "a thread can not serve");
        }
        // The runtime first, and with it the connections.
        drop(runtime);
        drop::<oneshot::Sender<()>>(alive);
    })?;
    Ok(ended)
}

/// Serves one listener on this thread until the drain, and its connections until they have ended.
async fn serve(listener: std::net::TcpListener, shared: &Arc<Shared>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if let Some(connection) = shared.admit(stream) {
                        connections.spawn(connection);
                    }
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            // A panic has been logged, and the connection's halves and seats are dropped.
            Some(_) = connections.join_next() => {}
            () = shared.draining.cancelled() => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

impl Shared {
    /// What is to become of a new connection; `None` where it is closed without a word.
    fn admit(self: &Arc<Self>, stream: TcpStream) -> Option<impl Future<Output = ()> + Send + use<>> {
        let counted = Counted::new(self);
        let refusal = match counted.before.checked_sub(self.max_connections) {
            None => None,
            Some(0..TOLD_BUSY) => {
                Some(Refusal::Busy("The server has as many connections as it may: try again later"))
            }
            Some(_) => return None,
        };
        let (app, draining, pipes) = (Arc::clone(&self.app), self.draining.clone(), self.pipes.clone());
        let served = conn::serve(Socket::new(stream), app, draining, pipes, refusal);
        Some(async move {
            let _counted = counted;
            served.await;
        })
    }
}

/// A connection, counted while it lasts.
struct Counted {
    shared: Arc<Shared>,
    /// Connections that there were before it.
    before: usize,
}

impl Counted {
    fn new(shared: &Arc<Shared>) -> Self {
        Self { before: shared.connections.fetch_add(1, Ordering::Relaxed), shared: Arc::clone(shared) }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// So many listeners on one address; the kernel spreads the connections over them.
fn listen(address: SocketAddr, count: usize) -> io::Result<Vec<std::net::TcpListener>> {
    // Without SO_REUSEPORT, so that a port which another program listens on is found taken.
    let first = socket(address)?;
    first.bind(address)?;
    if count == 1 {
        return Ok(vec![first.listen(BACKLOG)?.into_std()?]);
    }
    let address = first.local_addr()?;
    drop(first);
    (0..count).map(|_| shared_listener(address)).collect()
}

fn shared_listener(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket(address)?;
    #[cfg(unix)]
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A restart must not wait for old connections to time out.
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit it. Without it, small answers wait 40 ms for an acknowledgement.
    socket.set_nodelay(true)?;
    Ok(socket)
}
