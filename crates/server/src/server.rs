//! Listeners, the limits on connections, and the drain.
//!
//! ```text
//! serving ── stop ──► draining: no new streams; sides of those that there are still come, wait and run
//!                        └── nobody is left, or the drain timeout
//!                               ──► closing: no accept, waiting sides told, streams cut ──► closed
//! ```
//!
//! The operators' listener is open to the end, so that a drain can be watched; nobody waits for those who watch. While
//! the server drains each connection is closed behind an answer, but gets one.
//!
//! Every connection is a task of a `JoinSet`, the clients' or the operators': dropping [`Server::run`] drops them all, and
//! with them their halves and seats. Either audience has a loop of its own that accepts, with its own descriptors: where there are
//! none for clients, operators do not notice.

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
use crate::api::hosts::Hosts;
use crate::api::refusal::Refusal;
use crate::api::response;
use crate::config::{Config, DataPath};
use crate::connection::{self, Accepted, Caller, Hold, Shared};
use crate::exposure::{Exposure, ListenerInfo};
use crate::listener::{BindError, Inherited, Listener, ListenerKind};
use crate::log::Log;
use crate::metrics::Metrics;
use crate::operators::Operators;
use crate::request_body::Rendezvous;
use crate::shares::Shares;
use crate::tls::Certificate;

/// After a failed accept (no descriptor is left): time for some connection to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// For both sides of a stream that was just made to come while the server drains. After that a stream to which nobody has
/// come is not waited for: it may have been forgotten.
const NEWCOMERS: Duration = Duration::from_secs(5);
/// For the last answers to be read after the drain: a little more than a lingering close takes.
pub const LAST_WORDS: Duration = Duration::from_secs(3);

/// A server that listens.
pub struct Server {
    listeners: Vec<Listener>,
    config: Config,
    shared: Arc<Shared>,
    certificate: Option<Arc<Certificate>>,
    reload: Arc<Notify>,
    shares: Shares,
    /// For connections over a limit that are told so.
    told: Arc<Semaphore>,
}

impl Server {
    /// Listens; nothing is served before [`Server::run`]. What was `inherited` takes the place of the addresses in
    /// `config`.
    ///
    /// # Errors
    /// [`BindError`].
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
        let places = Shares::new(config.descriptors, config.max_connections, access.has_admin_listener);
        if places.connections < config.max_connections {
            warn!(
                descriptors = config.descriptors,
                "only {} connections at a time, and not {}: the system allows no more descriptors; raise ulimit -n, or lower --max-connections",
                places.connections,
                config.max_connections
            );
        }
        let metrics = Arc::new(Metrics::default());
        let app = App {
            rendezvous: Rendezvous::new(limits, vec![Arc::clone(&metrics) as _, Arc::new(Log)]),
            metrics,
            pipes: (config.data_path == DataPath::Splice).then(|| Arc::new(Pipes::new(places.pipes))),
            request_timeout: config.head_timeout.get(),
            keep_alive: config.keep_alive.get(),
            peer_timeout: config.peer_timeout.get(),
            access,
            cors: Cors::new(config.cors_origins.clone()),
            hosts: Hosts::new(&config.host, &config.allowed_hosts),
            clients: Clients::new(config.clients),
            metadata_memory: Budget::new(config.max_metadata_bytes.get()),
            response_memory: Budget::new(config.max_metadata_bytes.get()),
            trusted_proxies: config.trusted_proxies.clone(),
        };
        let told = Arc::new(Semaphore::new(places.told));
        let shared = Arc::new(Shared { app, draining: CancellationToken::new() });
        let server =
            Self { listeners, config, shared, certificate, reload: Arc::default(), shares: places, told };
        server.log_what_is_in_force();
        Ok(server)
    }

    fn app(&self) -> &App {
        &self.shared.app
    }

    fn log_what_is_in_force(&self) {
        let opening = |listener: &Listener| ListenerInfo {
            address: listener.address,
            entrance: listener.entrance,
            has_tls: listener.tls.is_some(),
        };
        let openings: Vec<_> = self.listeners.iter().map(opening).collect();
        let said = Exposure::of(&self.app().access, &openings);
        let Config { clients, streams, .. } = &self.config;
        info!(
            clients = said.clients,
            operators = said.operators,
            tls = openings.iter().any(|opening| opening.has_tls),
            creation = said.creation,
            list = said.list,
            metrics = said.metrics,
            trusted_proxies = self.app().access.has_proxies,
            max_streams = self.config.max_streams,
            max_connections = self.shares.connections,
            max_connections_per_client = clients.max_connections.unwrap_or(clients::DEFAULT_CONNECTIONS),
            max_streams_per_client = clients.max_streams.unwrap_or(clients::DEFAULT_STREAMS),
            max_creations_per_minute = clients.max_creations_per_minute.unwrap_or(clients::DEFAULT_CREATIONS),
            max_stream_bytes = streams.max_bytes.map(Size::get),
            max_stream_rate = streams.max_rate.map(Size::get),
            min_upload_rate = streams.min_upload_rate.map(Size::get),
            ttl = %self.config.ttl,
            idle_timeout = %self.config.idle_timeout,
            drain_timeout = %self.config.drain_timeout,
            "listening"
        );
        for warning in said.warnings {
            warn!("{warning}");
        }
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
        let (mut clients, mut operators) = (JoinSet::new(), Operators::new(self.shares.operators));
        let rendezvous = Arc::clone(&self.app().rendezvous);
        tokio::select! {
            () = self.accept_clients(&mut clients) => {}
            () = self.accept_operators(&mut operators) => {}
            () = rendezvous.keep_time() => {}
            () = self.keep_certificate() => {}
            () = async {
                stop.await;
                self.drain().await;
            } => {}
        }

        self.listeners.retain(|listener| listener.entrance.audience == Audience::Operators);
        rendezvous.close();
        let streams = rendezvous.cut();
        if streams > 0 {
            warn!(streams, "cut what still streamed");
        }
        tokio::select! {
            () = self.accept_operators(&mut operators) => {}
            // What is left after this has had its time.
            _ = timeout(LAST_WORDS, join_all(&mut clients)) => {}
        }
        info!("ended");
    }

    async fn keep_certificate(&self) {
        match &self.certificate {
            Some(certificate) => certificate.keep_fresh(&self.reload).await,
            None => pending().await,
        }
    }

    /// Lets the streams that there are end, as long as that may take.
    async fn drain(&self) {
        let rendezvous = &self.app().rendezvous;
        rendezvous.drain();
        self.shared.draining.cancel();
        let Census { created, streaming, .. } = rendezvous.census();
        let waiting = rendezvous.census().attended() - streaming;
        info!(created, waiting, streaming, "draining for at most {}", self.config.drain_timeout);
        let emptied = async {
            let all_ended = timeout(NEWCOMERS, rendezvous.until(|census| census.alive() == 0));
            if all_ended.await.is_err() {
                rendezvous.until(|census| census.attended() == 0).await;
            }
        };
        // Past it, what is left is told so, or cut.
        let _ = timeout(self.config.drain_timeout.get(), emptied).await;
    }

    async fn accept_clients(&self, clients: &mut JoinSet<()>) {
        let mut turn = 0;
        loop {
            tokio::select! {
                (listener, accepted) = self.accept(Audience::Clients, &mut turn) => {
                    self.admit(accepted, listener, clients);
                }
                // A panic has been logged, and the connection's halves and seats are dropped.
                Some(_) = clients.join_next() => {}
            }
        }
    }

    async fn accept_operators(&self, operators: &mut Operators) {
        let mut turn = 0;
        loop {
            tokio::select! {
                (_, accepted) = self.accept(Audience::Operators, &mut turn) => {
                    operators.admit(connection::serve(accepted, Arc::clone(&self.shared), None)).await;
                }
                Some(()) = operators.forget_ended() => {}
            }
        }
    }

    /// The next connection of any listener for this audience. Where the system gives none, it is asked again in a moment.
    async fn accept(&self, audience: Audience, turn: &mut usize) -> (&Listener, Accepted) {
        loop {
            *turn += 1;
            match poll_fn(|cx| self.poll_accept(audience, *turn, cx)).await {
                (listener, Ok((stream, address))) => {
                    let (address, entrance) = (address.ip(), listener.entrance);
                    let is_proxy = self.app().trusted_proxies.contain(address);
                    let open = self.app().metrics.accepted(listener.tls.is_some());
                    let caller = Caller { address, is_proxy, holds: None, open };
                    return (listener, Accepted { stream, caller, entrance });
                }
                (_, Err(error)) => {
                    warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Each `turn` begins with another listener, so that none is kept waiting by a flood on its neighbour.
    fn poll_accept(
        &self,
        audience: Audience,
        turn: usize,
        cx: &mut Context<'_>,
    ) -> Poll<(&Listener, io::Result<(TcpStream, SocketAddr)>)> {
        let listeners = self.listeners.iter().filter(|listener| listener.entrance.audience == audience);
        let count = listeners.clone().count();
        for listener in listeners.cycle().skip(turn % count.max(1)).take(count) {
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                return Poll::Ready((listener, accepted));
            }
        }
        Poll::Pending
    }

    /// Serves a client's connection, or refuses it.
    fn admit(&self, mut accepted: Accepted, listener: &Listener, clients: &mut JoinSet<()>) {
        let told = self.shares.told.saturating_sub(self.told.available_permits());
        let served = clients.len().saturating_sub(told);
        let refusal = match self.place(served, &accepted.caller) {
            Ok(place) => {
                accepted.caller.holds = place;
                None
            }
            Err(refusal) => match Arc::clone(&self.told).try_acquire_owned() {
                Ok(permit) => {
                    accepted.caller.holds = Some(Hold::Told(permit));
                    Some(refusal)
                }
                Err(_) => return self.app().metrics.refused(response::refusal_name(&refusal)),
            },
        };
        let shared = Arc::clone(&self.shared);
        match listener.tls.clone() {
            None => clients.spawn(connection::serve(accepted, shared, refusal)),
            Some(tls) => clients.spawn(connection::serve_tls(accepted, tls, shared, refusal)),
        };
    }

    /// A place for a connection beside those that are `served`. What a proxy has is no client's.
    fn place(&self, served: usize, caller: &Caller) -> Result<Option<Hold>, Refusal> {
        if served >= self.shares.connections {
            return Err(Refusal::Busy("The server has as many connections as it may: try again later"));
        }
        if caller.is_proxy {
            return Ok(None);
        }
        Ok(self.app().clients.connect(caller.address)?.map(Hold::Place))
    }
}

/// What was inherited, and an own listener for each address that has none.
async fn listen(config: &Config, inherited: Vec<Inherited>) -> Result<Vec<Listener>, BindError> {
    let silence = config.peer_timeout.get();
    let inherited = inherited.into_iter().map(|inherited| Listener::inherit(inherited, silence));
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
            listeners.push(Listener::bind(&host, port, kind, silence).await?);
        }
    }
    Ok(listeners)
}

async fn join_all(connections: &mut JoinSet<()>) {
    while connections.join_next().await.is_some() {}
}
