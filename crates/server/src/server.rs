//! The server: its listeners, the limits on connections, and graceful shutdown.
//!
//! ```text
//! serving ── stop ──► draining: no new streams; sides of existing streams may still connect, wait and transfer
//!                        └── all streams have ended, or the drain timeout
//!                               ──► closing: no accept; waiting sides get 503, transfers are aborted ──► closed
//! ```
//!
//! *Invariants.* The admin listener accepts until the end, so that a drain can be watched; its connections do not delay the end. While
//! the server drains, each connection is closed after its response.
//!
//! *Concurrency.* Every connection is a task in the `JoinSet` of its audience, clients or operators. Dropping the future of [`Server::run`] drops
//! all of them, with their seats and halves of transfers. Each audience has its own accept loop and share of the descriptors, so that operators
//! are served even when clients have used up theirs.
//!
//! *Bounds.* [`DescriptorShares`] limits the connections of each audience, the refusals in progress and the pipes.

use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rendezvous_core::budget::Budget;
use rendezvous_core::clients::{self, Clients};
use rendezvous_core::rendezvous::{Census, Limits};
use rendezvous_core::transfer;
use rendezvous_net::splice::Pipes;
use rendezvous_protocol::Size;
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::App;
use crate::api::access::Access;
use crate::api::connection::Audience;
use crate::api::cors::Cors;
use crate::api::errors;
use crate::api::hosts::Hosts;
use crate::api::refusal::Refusal;
use crate::certificate::CertificateSummary;
use crate::config::{Config, DataPath};
use crate::connection::{ConnectionPermit, Peer, Shared};
use crate::descriptors::DescriptorShares;
use crate::exposure::{BoundListener, Exposure};
use crate::handshake::{self, Accepted};
use crate::listener::{BindError, Inherited, Listener, ListenerKind};
use crate::log::Log;
use crate::metrics::Metrics;
use crate::operators::OperatorConnections;
use crate::request_body::Rendezvous;
use crate::tls::Certificate;

/// Pause after a failed accept, in which a connection may end and free a descriptor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a drain waits for streams without any side, because they may have been created just before. After that they count as
/// abandoned.
const UNATTENDED_GRACE: Duration = Duration::from_secs(5);
/// How long [`Server::run`] waits after the drain for clients to read their last responses: 3 s, a little more than a lingering close.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

/// A server whose listeners are bound.
pub struct Server {
    listeners: Vec<Listener>,
    config: Config,
    shared: Arc<Shared>,
    certificate: Option<Arc<Certificate>>,
    reload: Arc<Notify>,
    descriptors: DescriptorShares,
    /// Limits the connections over a limit that get a response before they are closed.
    refusal_permits: Arc<Semaphore>,
}

impl Server {
    /// Binds the listeners; nothing is served before [`Server::run`]. An `inherited` socket replaces the address of the same kind in
    /// `config`.
    ///
    /// # Errors
    /// An address cannot be listened on, or the certificate cannot be used: see [`BindError`].
    pub async fn bind(config: Config, inherited: Vec<Inherited>) -> Result<Self, BindError> {
        let certificate = match config.tls.clone() {
            Some(files) => Some(Certificate::load(files).await?),
            None => None,
        };
        let mut listeners = listen(&config, inherited).await?;
        if let Some(certificate) = &certificate {
            let main = listeners.iter_mut().filter(|listener| listener.kind == ListenerKind::Main);
            main.for_each(|listener| listener.tls = Some(certificate.acceptor()));
        }
        let limits = Limits {
            ttl: config.ttl.get(),
            transfer: transfer::Limits { idle: config.idle_timeout.get(), stream: config.streams },
            max_streams: config.max_streams,
        };
        let access = Access {
            create_token: config.create_token.clone(),
            admin_token: config.admin_token.clone(),
            open_list: config.open_list,
            has_admin_listener: listeners.iter().any(|listener| listener.kind == ListenerKind::Admin),
            has_proxies: !config.trusted_proxies.is_empty(),
        };
        let descriptors =
            DescriptorShares::new(config.descriptors, config.max_connections, access.has_admin_listener);
        if descriptors.connections < config.max_connections {
            warn!(
                descriptors = config.descriptors,
                "the limit on connections is {} instead of {}, because the process may not open more descriptors: raise ulimit -n, or lower --max-connections",
                descriptors.connections,
                config.max_connections
            );
        }
        let metrics = Arc::new(Metrics::default());
        let app = App {
            rendezvous: Rendezvous::new(limits, vec![Arc::clone(&metrics) as _, Arc::new(Log)]),
            metrics,
            pipes: (config.data_path == DataPath::Splice).then(|| Arc::new(Pipes::new(descriptors.pipes))),
            request_timeout: config.head_timeout.get(),
            has_paths: !config.no_paths,
            max_ttl: config.max_ttl.max(config.ttl),
            max_head_bytes: config.max_head_bytes.get(),
            keep_alive: config.keep_alive.get(),
            peer_timeout: config.peer_timeout.get(),
            access,
            cors: Cors::new(config.cors_origins.clone()),
            hosts: Hosts::new(&config.host, &config.allowed_hosts, config.public_url.as_ref()),
            public_url: config.public_url.clone(),
            clients: Clients::new(config.clients),
            metadata_memory: Budget::new(config.max_metadata_bytes.get()),
            response_memory: Budget::new(config.max_metadata_bytes.get()),
            upload_memory: Budget::new(config.max_http2_body_bytes.get()),
            max_streams_per_connection: config.max_streams_per_connection.get(),
            trusted_proxies: config.trusted_proxies.clone(),
        };
        let refusal_permits = Arc::new(Semaphore::new(descriptors.refused));
        let shared = Arc::new(Shared { app, draining: CancellationToken::new() });
        let reload = Arc::default();
        let server = Self { listeners, config, shared, certificate, reload, descriptors, refusal_permits };
        server.log_settings();
        Ok(server)
    }

    fn app(&self) -> &App {
        &self.shared.app
    }

    /// Logs the settings that are in force, and warnings about them.
    fn log_settings(&self) {
        let bound_listener = |listener: &Listener| BoundListener {
            address: listener.address,
            info: listener.info,
            has_tls: listener.tls.is_some(),
        };
        let listeners: Vec<_> = self.listeners.iter().map(bound_listener).collect();
        let exposure = Exposure::of(&self.app().access, &listeners);
        let Config { clients, streams, .. } = &self.config;
        info!(
            clients = exposure.clients,
            operators = exposure.operators,
            tls = listeners.iter().any(|listener| listener.has_tls),
            creation = exposure.creation,
            list = exposure.list,
            metrics = exposure.metrics,
            trusted_proxies = self.app().access.has_proxies,
            max_streams = self.config.max_streams,
            max_connections = self.descriptors.connections,
            max_connections_per_client = clients.max_connections.unwrap_or(clients::DEFAULT_CONNECTIONS),
            max_streams_per_client = clients.max_streams.unwrap_or(clients::DEFAULT_STREAMS),
            max_creations_per_minute = clients.max_creations_per_minute.unwrap_or(clients::DEFAULT_CREATIONS),
            max_stream_bytes = streams.max_bytes.map(Size::get),
            max_stream_rate = streams.max_rate.map(Size::get),
            min_upload_rate = streams.min_upload_rate.map(Size::get),
            ttl = %self.config.ttl,
            max_ttl = %self.app().max_ttl,
            paths = self.app().has_paths,
            idle_timeout = %self.config.idle_timeout,
            drain_timeout = %self.config.drain_timeout,
            "listening"
        );
        for warning in exposure.warnings {
            warn!("{warning}");
        }
    }

    /// Returns the address of the listener of this kind, with the port that the system chose if 0 was configured; `None` if there is no such
    /// listener.
    #[must_use]
    pub fn address(&self, kind: ListenerKind) -> Option<SocketAddr> {
        self.listeners.iter().find(|listener| listener.kind == kind).map(|listener| listener.address)
    }

    /// Returns the certificate of the listener that speaks TLS; `None` if there is no such listener.
    #[must_use]
    pub fn certificate(&self) -> Option<CertificateSummary> {
        self.certificate.as_ref().map(|certificate| CertificateSummary::new(certificate.chain()))
    }

    /// Returns a handle that reloads the certificate when it is notified.
    #[must_use]
    pub fn reload(&self) -> Arc<Notify> {
        Arc::clone(&self.reload)
    }

    /// Serves until `stop` resolves, then drains, and returns after at most `drain_timeout` and [`SHUTDOWN_GRACE`]. Dropping the future aborts
    /// all connections at once.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let (mut clients, mut operators) =
            (JoinSet::new(), OperatorConnections::new(self.descriptors.operators));
        let rendezvous = Arc::clone(&self.app().rendezvous);
        tokio::select! {
            () = self.accept_clients(&mut clients) => {}
            () = self.accept_operators(&mut operators) => {}
            () = rendezvous.run_timers() => {}
            () = self.watch_certificate() => {}
            () = async {
                stop.await;
                self.drain().await;
            } => {}
        }

        self.listeners.retain(|listener| listener.info.audience == Audience::Operators);
        rendezvous.close();
        let streams = rendezvous.abort_transfers();
        rendezvous.close_feeds();
        if streams > 0 {
            warn!(streams, "aborted the transfers that were still running");
        }
        tokio::select! {
            () = self.accept_operators(&mut operators) => {}
            // After this, the connections that remain are aborted.
            _ = timeout(SHUTDOWN_GRACE, join_all(&mut clients)) => {}
        }
        info!("stopped");
    }

    async fn watch_certificate(&self) {
        match &self.certificate {
            Some(certificate) => certificate.watch(&self.reload).await,
            None => pending().await,
        }
    }

    /// Waits until all streams have ended, but not longer than the drain timeout.
    async fn drain(&self) {
        let rendezvous = &self.app().rendezvous;
        rendezvous.drain();
        self.shared.draining.cancel();
        let Census { created, streaming, .. } = rendezvous.census();
        let waiting = rendezvous.census().attended() - streaming;
        info!(created, waiting, streaming, "draining for at most {}", self.config.drain_timeout);
        let emptied = async {
            let all_ended = timeout(UNATTENDED_GRACE, rendezvous.wait_until(|census| census.alive() == 0));
            if all_ended.await.is_err() {
                rendezvous.wait_until(|census| census.attended() == 0).await;
            }
        };
        // After the timeout, waiting sides get 503 and running transfers are aborted.
        let _ = timeout(self.config.drain_timeout.get(), emptied).await;
    }

    async fn accept_clients(&self, clients: &mut JoinSet<()>) {
        let mut turn = 0;
        loop {
            tokio::select! {
                (listener, accepted) = self.accept(Audience::Clients, &mut turn) => {
                    self.admit(accepted, listener, clients);
                }
                // The panic hook has logged a panic, and the connection's seat and half of a transfer were dropped.
                Some(_) = clients.join_next() => {}
            }
        }
    }

    async fn accept_operators(&self, operators: &mut OperatorConnections) {
        let mut turn = 0;
        loop {
            tokio::select! {
                (_, accepted) = self.accept(Audience::Operators, &mut turn) => {
                    operators.admit(handshake::serve(accepted, Arc::clone(&self.shared), None)).await;
                }
                Some(()) = operators.join_next() => {}
            }
        }
    }

    /// Accepts the next connection of any listener for this audience. Retries after an error.
    async fn accept(&self, audience: Audience, turn: &mut usize) -> (&Listener, Accepted) {
        loop {
            *turn += 1;
            match poll_fn(|cx| self.poll_accept(audience, *turn, cx)).await {
                (listener, Ok((stream, address))) => {
                    let (address, info) = (address.ip(), listener.info);
                    let is_proxy = self.app().trusted_proxies.contains(address);
                    let open = self.app().metrics.accepted(listener.tls.is_some());
                    let peer = Peer { address, is_proxy, permit: None, open };
                    return (listener, Accepted { stream, peer, listener: info });
                }
                (_, Err(error)) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Each `turn` begins with another listener, so that a flood on one does not starve the others.
    fn poll_accept(
        &self,
        audience: Audience,
        turn: usize,
        cx: &mut Context<'_>,
    ) -> Poll<(&Listener, io::Result<(TcpStream, SocketAddr)>)> {
        let listeners = self.listeners.iter().filter(|listener| listener.info.audience == audience);
        let count = listeners.clone().count();
        for listener in listeners.cycle().skip(turn % count.max(1)).take(count) {
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                return Poll::Ready((listener, accepted));
            }
        }
        Poll::Pending
    }

    /// Serves a connection of a client, answers it with a refusal, or closes it at once.
    fn admit(&self, mut accepted: Accepted, listener: &Listener, clients: &mut JoinSet<()>) {
        let refused = self.descriptors.refused.saturating_sub(self.refusal_permits.available_permits());
        let served = clients.len().saturating_sub(refused);
        let refusal = match self.permit(served, &accepted.peer) {
            Ok(permit) => {
                accepted.peer.permit = permit;
                None
            }
            Err(refusal) => match Arc::clone(&self.refusal_permits).try_acquire_owned() {
                Ok(permit) => {
                    accepted.peer.permit = Some(ConnectionPermit::Refused(permit));
                    Some(refusal)
                }
                Err(_) => return self.app().metrics.refused(errors::refusal_name(&refusal)),
            },
        };
        let shared = Arc::clone(&self.shared);
        match listener.tls.clone() {
            None => clients.spawn(handshake::serve(accepted, shared, refusal)),
            Some(tls) => clients.spawn(handshake::serve_tls(accepted, tls, shared, refusal)),
        };
    }

    /// Returns the permit for one more connection while `served` are open. Connections of a trusted proxy count against no client.
    fn permit(&self, served: usize, peer: &Peer) -> Result<Option<ConnectionPermit>, Refusal> {
        if served >= self.descriptors.connections {
            return Err(Refusal::Busy("The server has reached its limit on connections: try again later"));
        }
        if peer.is_proxy {
            return Ok(None);
        }
        Ok(self.app().clients.connect(peer.address)?.map(ConnectionPermit::Client))
    }
}

/// Makes listeners of the inherited sockets, and binds one for each configured address without such a socket.
async fn listen(config: &Config, inherited: Vec<Inherited>) -> Result<Vec<Listener>, BindError> {
    let peer_timeout = config.peer_timeout.get();
    let inherited = inherited.into_iter().map(|inherited| Listener::inherit(inherited, peer_timeout));
    let mut listeners = inherited.collect::<Result<Vec<_>, _>>()?;
    let admin = config.admin_listen.map(|address| (address.ip().to_string(), address.port()));
    for (kind, address) in [
        (ListenerKind::Main, Some((config.host.clone(), config.port))),
        (ListenerKind::Plain, config.plain_port.map(|port| (config.host.clone(), port))),
        (ListenerKind::Admin, admin),
    ] {
        if let Some((host, port)) = address
            && listeners.iter().all(|listener| listener.kind != kind)
        {
            listeners.push(Listener::bind(&host, port, kind, peer_timeout).await?);
        }
    }
    Ok(listeners)
}

async fn join_all(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}
