//! [`Joined`]: the membership of a node whose directory is in Redis or Valkey.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rendezvous_cluster::handshake::{Identity, Purpose, Role, authenticate};
use rendezvous_cluster::watch::{self, Members, Watch};
use rendezvous_cluster::{
    ClusterName, EngineState, EngineUrl, Found as FoundRecord, Instance, NodeAddress, Record, Secrets,
    SettingsDigest, Timing, Versions, View, Warning,
};
use rendezvous_protocol::{PathName, Tag};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::membership::{Found, Lookup, Membership, Node, Owner};
use crate::config::Config;
use crate::server::Join;

/// The version of the protocol between nodes.
const VERSION: u16 = 1;
/// How long both ends of a connection may take to prove themselves.
const PROOF_LIMIT: Duration = Duration::from_secs(1);
/// How often the log says that the engine cannot be reached.
const REMINDER: Duration = Duration::from_mins(1);

/// How a server takes part in a cluster.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// The name of the cluster. Several clusters may share an engine.
    pub name: ClusterName,
    /// The Redis or Valkey that has the list of nodes.
    pub engine: EngineUrl,
    /// The address for connections of other nodes. With port 0 the system picks one.
    pub listen: SocketAddr,
    /// Where the other nodes reach that address; by default the address of this machine on the way to the engine.
    pub advertise: Option<NodeAddress>,
    /// What proves that a node is one.
    pub secrets: Arc<Secrets>,
}

/// A server cannot take part in the cluster as configured.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The address of this machine on the way to the engine cannot be found.
    #[error("cannot find out at which address the other nodes reach this one: set --cluster-advertise")]
    NoAddress(#[source] io::Error),
    /// Only this machine reaches the address, and the engine is on another one.
    #[error(
        "the other nodes cannot reach {0}, which is on loopback, while the engine of --cluster is not: set --cluster-advertise to an address of \
         this machine in their network"
    )]
    Loopback(NodeAddress),
}

/// The membership of a node.
pub(crate) struct Joined {
    members: Members,
    name: ClusterName,
    secrets: Arc<Secrets>,
    versions: Versions,
    own: Tag,
    /// The task that keeps the node in the directory, until it runs.
    watch: Mutex<Option<Watch>>,
}

impl ClusterConfig {
    /// Returns the address at which other nodes reach the listener with this port.
    ///
    /// # Errors
    /// [`ClusterError`]
    async fn advertised(&self, port: u16) -> Result<NodeAddress, ClusterError> {
        let address = if let Some(address) = &self.advertise {
            address.clone()
        } else {
            let ip: IpAddr = if self.listen.ip().is_unspecified() {
                let (host, engine_port) = self.engine.first_host();
                let found = rendezvous_cluster::address_towards(host, engine_port).await;
                found.map_err(ClusterError::NoAddress)?
            } else {
                self.listen.ip()
            };
            NodeAddress::new(ip, port)
        };
        if address.is_loopback() && !self.engine.is_loopback() {
            return Err(ClusterError::Loopback(address));
        }
        Ok(address)
    }

    /// Returns the address to listen on, and how to join once the port is known.
    ///
    /// # Errors
    /// [`ClusterError`]
    pub(crate) async fn prepare(self, config: &Config) -> Result<(SocketAddr, Join), ClusterError> {
        let listen = self.listen;
        // A name or an address, whose port may still be chosen by the system.
        let advertised = self.advertised(listen.port().max(1)).await?;
        let settings = shared_settings(config);
        let join: Join = Box::new(move |tag, bound: SocketAddr| {
            let address =
                if self.advertise.is_none() { advertised.with_port(bound.port()) } else { advertised };
            let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
            Arc::new(self.join(tag, address, &settings))
        });
        Ok((listen, join))
    }

    /// Joins as the process with this tag. `settings` are those that must be the same on all nodes.
    fn join(&self, tag: Tag, address: NodeAddress, settings: &[(&str, &str)]) -> Joined {
        // The range is not empty.
        let versions = Versions::new(VERSION, VERSION).unwrap_or_else(|| unreachable!("one version"));
        let own = Record {
            tag,
            instance: Instance::draw(),
            address,
            versions,
            settings: SettingsDigest::of(settings),
            draining: false,
        };
        let (watch, members) = Watch::new(watch::Settings {
            url: self.engine.clone(),
            cluster: self.name.clone(),
            secrets: Arc::clone(&self.secrets),
            own,
            timing: Timing::default(),
        });
        let (name, secrets) = (self.name.clone(), Arc::clone(&self.secrets));
        Joined { members, name, secrets, versions, own: tag, watch: Mutex::new(Some(watch)) }
    }
}

impl Joined {
    fn identity(&self) -> Identity<'_> {
        Identity { cluster: &self.name, secrets: &self.secrets, tag: self.own, versions: self.versions }
    }

    /// Logs what the operator should know, as it changes.
    async fn log(&self) {
        let mut views = self.members.subscribe();
        let (mut warned, mut reminded): (Vec<Warning>, Option<Instant>) = (Vec::new(), None);
        loop {
            let view = Arc::clone(&views.borrow_and_update());
            for warning in view.warnings.iter().filter(|warning| !warned.contains(warning)) {
                warn!("{warning}");
            }
            warned.clone_from(&view.warnings);
            reminded = log_engine(&view, reminded);
            if views.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Logs whether the engine can be reached, at most once a minute while it cannot. Returns when it did so last.
fn log_engine(view: &View, reminded: Option<Instant>) -> Option<Instant> {
    match &view.engine {
        EngineState::NotAsked => reminded,
        EngineState::Reached => {
            if reminded.is_some() {
                info!(nodes = view.members().len(), "the engine of the cluster is reached again");
            }
            None
        }
        EngineState::Unreachable { since, error } => {
            if reminded.is_some_and(|last| last.elapsed() < REMINDER) {
                return reminded;
            }
            warn!(%error, for_s = since.elapsed().as_secs(), "the engine of the cluster cannot be reached; known nodes are still used");
            Some(Instant::now())
        }
    }
}

/// Returns the settings that must be the same on all nodes, because a stream may be used at any of them.
fn shared_settings(config: &Config) -> Vec<(&'static str, String)> {
    let text = |setting: &dyn std::fmt::Debug| format!("{setting:?}");
    vec![
        ("ttl", text(&config.ttl)),
        ("max-ttl", text(&config.max_ttl)),
        ("no-paths", text(&config.no_paths)),
        ("idle-timeout", text(&config.idle_timeout)),
        ("max-stream-bytes", text(&config.streams.max_bytes)),
        ("max-stream-rate", text(&config.streams.max_rate)),
        ("min-upload-rate", text(&config.streams.min_upload_rate)),
        ("create-token", text(&config.create_token.is_some())),
        ("admin-token", text(&config.admin_token.is_some())),
    ]
}

fn node(record: &Record) -> Node {
    Node { tag: record.tag, address: record.address.to_string().into() }
}

impl Membership for Joined {
    fn find(&self, tag: Tag) -> Found {
        if tag == self.own {
            return Found::Here;
        }
        match self.members.view().find(tag) {
            Some(FoundRecord::Member(member)) => Found::Node(node(&member.record)),
            Some(FoundRecord::Departed(departed)) => Found::Departed(node(&departed.record)),
            None => Found::Unknown,
        }
    }

    fn others(&self) -> Vec<Node> {
        let view = self.members.view();
        let others = view.members().iter().filter(|member| member.record.tag != self.own);
        others.map(|member| node(&member.record)).collect()
    }

    fn look_up(&self, tag: Tag) -> BoxFuture<'_, Lookup> {
        async move {
            match self.members.lookup(tag).await {
                watch::Lookup::Member(member) => Lookup::Node(node(&member.record)),
                watch::Lookup::Departed(departed) => Lookup::Node(node(&departed.record)),
                watch::Lookup::Unknown => Lookup::Absent,
                watch::Lookup::NotBelieved => Lookup::NotKnown,
            }
        }
        .boxed()
    }

    fn read_again(&self) -> BoxFuture<'_, ()> {
        async { drop(self.members.reread().await) }.boxed()
    }

    fn owner(&self, path: &PathName) -> Option<Owner> {
        let view = self.members.view();
        let owner = view.owner(&self.name, path.as_bytes())?;
        Some(Owner { tag: owner.tag, list: view.number })
    }

    fn list(&self) -> u64 {
        self.members.view().number
    }

    fn changed(&self, from: u64) -> BoxFuture<'_, ()> {
        async move {
            let mut views = self.members.subscribe();
            // It fails only when the node ends.
            let _ = views.wait_for(|view| view.number != from).await;
        }
        .boxed()
    }

    fn connect<'a>(&'a self, node: &'a Node) -> BoxFuture<'a, io::Result<TcpStream>> {
        async move {
            let mut stream = TcpStream::connect(&*node.address).await?;
            let role = Role::Dialer { to: node.tag, purpose: Purpose::Hop };
            authenticate(&mut stream, self.identity(), role, &[], PROOF_LIMIT)
                .await
                .map_err(io::Error::other)?;
            Ok(stream)
        }
        .boxed()
    }

    fn accept<'a>(&'a self, stream: &'a mut TcpStream) -> BoxFuture<'a, io::Result<Tag>> {
        async move {
            let peer = authenticate(stream, self.identity(), Role::Acceptor, &[], PROOF_LIMIT).await;
            peer.map(|peer| peer.tag).map_err(io::Error::other)
        }
        .boxed()
    }

    fn drain(&self) {
        let own = Record { draining: true, ..(*self.members.view().own).clone() };
        self.members.publish(own);
    }

    fn run(&self, stop: CancellationToken) -> BoxFuture<'_, ()> {
        async move {
            let Some(watch) = self.watch.lock().take() else { return };
            tokio::select! {
                () = watch.run(stop.cancelled()) => {}
                () = self.log() => {}
            }
        }
        .boxed()
    }
}
