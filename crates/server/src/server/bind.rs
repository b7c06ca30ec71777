//! Binds a server: its listeners, what its requests share, and its place in a cluster.

use std::net::SocketAddr;
use std::sync::Arc;

use rendezvous_core::budget::Budget;
use rendezvous_core::clients::{self, Clients};
use rendezvous_core::rendezvous::Limits;
use rendezvous_core::transfer;
use rendezvous_net::splice::Pipes;
use rendezvous_protocol::{Size, Tag};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::App;
use crate::api::access::Access;
use crate::api::connection::Audience;
use crate::api::cors::Cors;
use crate::api::hosts::Hosts;
use crate::cluster::Cluster;
use crate::cluster::joined::{ClusterConfig, ClusterError};
use crate::cluster::membership::Membership;
use crate::cluster::transport::Transport;
use crate::config::{Config, DataPath};
use crate::connection::Shared;
use crate::descriptors::DescriptorShares;
use crate::exposure::{BoundListener, Exposure};
use crate::listener::{BindError, Inherited, Listener, ListenerKind};
use crate::log::Log;
use crate::metrics::Metrics;
use crate::request_body::Rendezvous;
use crate::tls::Certificate;

use super::Server;

/// Joins a cluster, as the process with this tag that other nodes reach at this address.
#[doc(hidden)]
pub type Join = Box<dyn FnOnce(Tag, SocketAddr) -> Arc<dyn Membership> + Send>;

/// How a server is a node of a cluster.
#[doc(hidden)]
pub struct NodeConfig {
    /// The address for connections of other nodes. With port 0 the system picks one.
    pub listen: SocketAddr,
    /// Connections between nodes are over TLS.
    pub tls: bool,
    /// How it joins.
    pub join: Join,
}

impl Server {
    /// Binds the listeners; nothing is served before [`Server::run`]. An `inherited` socket replaces the address of the same kind in
    /// `config`.
    ///
    /// # Errors
    /// An address cannot be listened on, or the certificate cannot be used: see [`BindError`].
    pub async fn bind(config: Config, inherited: Vec<Inherited>) -> Result<Self, BindError> {
        Self::bind_with(config, inherited, None).await
    }

    /// Like [`Server::bind`], as a node of a cluster.
    ///
    /// # Errors
    /// As [`Server::bind`], and [`BindError::Cluster`].
    pub async fn bind_in_cluster(
        config: Config,
        inherited: Vec<Inherited>,
        cluster: ClusterConfig,
    ) -> Result<Self, BindError> {
        let node = cluster.prepare(&config).await?;
        Self::bind_with(config, inherited, Some(node)).await
    }

    /// Like [`Server::bind_in_cluster`], with another source of what is known about the nodes.
    ///
    /// # Errors
    /// As [`Server::bind`].
    #[doc(hidden)]
    pub async fn bind_node(config: Config, node: NodeConfig) -> Result<Self, BindError> {
        Self::bind_with(config, Vec::new(), Some(node)).await
    }

    async fn bind_with(
        config: Config,
        inherited: Vec<Inherited>,
        node: Option<NodeConfig>,
    ) -> Result<Self, BindError> {
        let certificate = match config.tls.clone() {
            Some(files) => Some(Certificate::load(files).await?),
            None => None,
        };
        let mut listeners = listen(&config, inherited).await?;
        if let Some(certificate) = &certificate {
            let main = listeners.iter_mut().filter(|listener| listener.kind == ListenerKind::Main);
            main.for_each(|listener| listener.tls = Some(certificate.acceptor()));
        }
        let peer_timeout = config.peer_timeout.get();
        if let Some(NodeConfig { listen, .. }) = &node {
            let (host, port) = (listen.ip().to_string(), listen.port());
            listeners.push(Listener::bind(&host, port, ListenerKind::Cluster, peer_timeout).await?);
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
        let descriptors = DescriptorShares::new(
            config.descriptors,
            config.max_connections,
            access.has_admin_listener,
            node.is_some(),
        );
        if descriptors.connections < config.max_connections {
            warn!(
                descriptors = config.descriptors,
                "the limit on connections is {} instead of {}, because the process may not open more descriptors: raise ulimit -n, or lower --max-connections",
                descriptors.connections,
                config.max_connections
            );
        }
        let metrics = Arc::new(Metrics::default());
        let rendezvous = Rendezvous::new(limits, vec![Arc::clone(&metrics) as _, Arc::new(Log)]);
        let transport = node.as_ref().map(|node| Transport::new(node.tls)).transpose();
        let node = node.zip(transport.map_err(ClusterError::Tls)?);
        let cluster = node.and_then(|(NodeConfig { join, .. }, transport)| {
            let listener = listeners.iter().find(|listener| listener.kind == ListenerKind::Cluster)?;
            let membership = join(rendezvous.tag(), listener.address);
            Some(Arc::new(Cluster::new(
                membership,
                transport,
                peer_timeout,
                config.idle_timeout.get(),
                descriptors.connections,
            )))
        });
        let app = App {
            rendezvous,
            metrics,
            pipes: (config.data_path == DataPath::Splice).then(|| Arc::new(Pipes::new(descriptors.pipes))),
            request_timeout: config.head_timeout.get(),
            has_paths: !config.no_paths,
            max_ttl: config.max_ttl.max(config.ttl),
            max_head_bytes: config.max_head_bytes.get(),
            keep_alive: config.keep_alive.get(),
            peer_timeout,
            access,
            cors: Cors::new(config.cors_origins.clone()),
            hosts: Hosts::new(&config.host, &config.allowed_hosts, config.public_url.as_ref()),
            public_url: config.public_url.clone(),
            clients: Clients::new(config.clients),
            metadata_memory: Budget::new(config.max_metadata_bytes.get()),
            response_memory: Budget::new(config.max_metadata_bytes.get()),
            upload_memory: Budget::new(config.max_http2_body_bytes.get()),
            max_streams_per_connection: config.max_streams_per_connection.get(),
            cluster,
            trusted_proxies: config.trusted_proxies.clone(),
        };
        let refusal_permits = Arc::new(Semaphore::new(descriptors.refused));
        let shared = Arc::new(Shared { app, draining: CancellationToken::new() });
        let reload = Arc::default();
        let server = Self { listeners, config, shared, certificate, reload, descriptors, refusal_permits };
        server.log_settings();
        Ok(server)
    }

    /// Logs the settings that are in force, and warnings about them.
    fn log_settings(&self) {
        let bound_listener = |listener: &Listener| BoundListener {
            address: listener.address,
            info: listener.info,
            has_tls: listener.tls.is_some(),
        };
        let is_public = |listener: &&Listener| listener.info.audience != Audience::Nodes;
        let listeners: Vec<_> = self.listeners.iter().filter(is_public).map(bound_listener).collect();
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
