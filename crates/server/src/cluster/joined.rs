//! [`Joined`]: the membership of a node whose directory is in Redis or Valkey.
//!
//! *Bounds.* Besides the directory, at most [`MAX_FORMER`] earlier tags of this process, and one line of a record for each link.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, TryFutureExt};
use parking_lot::Mutex;
use rendezvous_cluster::handshake::{HandshakeError, Identity, Purpose, Role, authenticate};
use rendezvous_cluster::watch::{self, Link, Members, Watch};
use rendezvous_cluster::{
    ClusterName, EngineState, EngineUrl, Found as FoundRecord, Instance, NodeAddress, Record, Registration,
    Secrets, SettingsDigest, Timing, Versions, View, Warning,
};
use rendezvous_net::socket::Socket;
use rendezvous_protocol::{PathName, Tag};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::membership::{Caller, Found, Health, Lookup, Membership, Node, Owner};
use crate::config::Config;
use crate::server::{Join, NodeConfig};

/// The version of the protocol between nodes.
const VERSION: u16 = 1;
/// How long both ends of a connection may take to prove themselves.
const PROOF_LIMIT: Duration = Duration::from_secs(1);
/// How often the log says that the engine cannot be reached.
const REMINDER: Duration = Duration::from_mins(1);
/// How often a node is heard over a link, an empty line if it has nothing to tell. Those that hear it renew its record in the directory too.
const BEAT: Duration = Duration::from_millis(500);
/// A link over which nothing is heard for so long has ended.
const SILENCE: Duration = Duration::from_secs(15);
/// So many earlier tags are remembered. A second one has never been seen.
const MAX_FORMER: usize = 16;

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
    /// Connections between nodes are encrypted. All nodes must agree.
    pub tls: bool,
}

/// A server cannot take part in the cluster as configured.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The address of this machine on the way to the engine cannot be found.
    #[error(
        "cannot reach or resolve the host of --cluster, nor find out at which address the other nodes reach this one: correct it, or set \
         --cluster-advertise"
    )]
    NoAddress(#[source] io::Error),
    /// Only this machine reaches the address, and the engine is on another one.
    #[error(
        "the other nodes cannot reach {0}, which is on loopback, while the engine of --cluster is not: set --cluster-advertise to an address of \
         this machine in their network"
    )]
    Loopback(NodeAddress),
    /// The system provides no random bytes for a key.
    #[error("cannot make a certificate for --cluster-tls")]
    Tls(#[source] io::Error),
}

/// The membership of a node.
pub(crate) struct Joined {
    members: Members,
    name: ClusterName,
    engine: EngineUrl,
    secrets: Arc<Secrets>,
    versions: Versions,
    started: Instant,
    /// Earlier tags of this process, which another node had too. Their ids are served here.
    former: Mutex<Vec<Tag>>,
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

    /// Returns where to listen, and how to join once the port is known.
    ///
    /// # Errors
    /// [`ClusterError`]
    pub(crate) async fn prepare(self, config: &Config) -> Result<NodeConfig, ClusterError> {
        let (listen, tls) = (self.listen, self.tls);
        // A name or an address, whose port may still be chosen by the system.
        let advertised = self.advertised(listen.port().max(1)).await?;
        let mut settings = shared_settings(config);
        settings.push(("cluster-tls", tls.to_string()));
        let join: Join = Box::new(move |tag, bound: SocketAddr| {
            let address =
                if self.advertise.is_none() { advertised.with_port(bound.port()) } else { advertised };
            let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
            Arc::new(self.join(tag, address, &settings))
        });
        Ok(NodeConfig { listen, tls, join })
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
        Joined {
            members,
            name: self.name.clone(),
            engine: self.engine.clone(),
            secrets: Arc::clone(&self.secrets),
            versions,
            started: Instant::now(),
            former: Mutex::default(),
            watch: Mutex::new(Some(watch)),
        }
    }
}

impl Joined {
    fn tag(&self) -> Tag {
        self.members.view().own.tag
    }

    /// Returns the node at the other end, once both have proved themselves.
    async fn authenticate(&self, mut socket: &Socket, role: Role) -> io::Result<Caller> {
        let exporter = socket.channel_binding()?;
        let exporter: &[u8] = exporter.as_ref().map_or(&[], |exporter| exporter);
        let identity = Identity {
            cluster: &self.name,
            secrets: &self.secrets,
            tag: self.tag(),
            versions: self.versions,
        };
        let peer = authenticate(&mut socket, identity, role, exporter, PROOF_LIMIT).await;
        peer.map(|peer| Caller { tag: peer.tag, purpose: peer.purpose }).map_err(|error| match error {
            // As if nothing listened there for that node.
            HandshakeError::AnotherNode { .. } => io::Error::new(io::ErrorKind::ConnectionRefused, error),
            error => io::Error::other(error),
        })
    }

    /// Sends what this node publishes: now, and when it changes. Every [`BEAT`] the other end hears something.
    async fn tell(&self, mut socket: &Socket) -> io::Result<()> {
        let (mut views, mut told) = (self.members.subscribe(), None);
        loop {
            let own = Arc::clone(&views.borrow_and_update().own);
            let news = (told.as_ref() != Some(&own)).then(|| own.seal(&self.name, &self.secrets));
            let line = news.unwrap_or_default() + "\n";
            AsyncWriteExt::write_all(&mut socket, line.as_bytes()).await?;
            AsyncWriteExt::flush(&mut socket).await?;
            // A change cannot fail before the node ends.
            let _ = timeout(BEAT, views.wait_for(|view| view.own != own)).await;
            told = Some(own);
        }
    }

    /// Takes what the node with this tag publishes, and calls `heard` for each line. It is a member as long as this runs.
    async fn hear(&self, tag: Tag, socket: &Socket, heard: &(dyn Fn() + Sync)) -> io::Result<()> {
        let mut lines = BufReader::with_capacity(Record::MAX_BYTES, socket);
        let (mut text, mut link) = (String::new(), None::<Link>);
        let limit = u64::try_from(Record::MAX_BYTES).unwrap_or(u64::MAX);
        loop {
            text.clear();
            timeout(SILENCE, (&mut lines).take(limit).read_line(&mut text)).await??;
            let record = text.strip_suffix('\n').ok_or(io::ErrorKind::UnexpectedEof)?;
            heard();
            if let (true, Some(link)) = (record.is_empty(), &mut link) {
                link.beat();
                continue;
            }
            let record = Record::open(record, &self.name, &self.secrets).map_err(io::Error::other)?;
            if record.tag != tag {
                return Err(io::Error::other("the node has another tag now"));
            }
            match &link {
                None => link = Some(self.members.link(record)),
                Some(link) => link.hear(record),
            }
        }
    }

    /// Draws another tag for new ids when another node has this one.
    async fn leave_taken_tags(&self) {
        let mut views = self.members.subscribe();
        while let Ok(view) = views.wait_for(|view| view.registration == Registration::Taken).await {
            let taken = Arc::clone(&view.own);
            drop(view);
            let mut former = self.former.lock();
            if former.len() >= MAX_FORMER {
                former.remove(0);
            }
            former.push(taken.tag);
            drop(former);
            let own = Record { tag: Tag::draw(), ..(*taken).clone() };
            warn!(taken = %taken.tag, tag = %own.tag, "another node has the tag of this one: new ids begin with another");
            self.members.publish(own);
        }
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
            reminded = log_engine(&self.engine, &view, reminded);
            if views.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Logs whether the engine can be reached, at most once a minute while it cannot. Returns when it did so last.
fn log_engine(engine: &EngineUrl, view: &View, reminded: Option<Instant>) -> Option<Instant> {
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
            let for_s = since.elapsed().as_secs();
            warn!(%engine, %error, for_s, "the engine of the cluster cannot be reached; known nodes are still used");
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
    Node { tag: record.tag, address: record.address.clone() }
}

impl Membership for Joined {
    fn own(&self) -> Node {
        node(&self.members.view().own)
    }

    fn find(&self, tag: Tag) -> Found {
        let view = self.members.view();
        if tag == view.own.tag || self.former.lock().contains(&tag) {
            return Found::Here;
        }
        match view.find(tag) {
            Some(FoundRecord::Member(member)) => Found::Node(node(&member.record)),
            Some(FoundRecord::Departed(departed)) => Found::Departed(node(&departed.record)),
            None => Found::Unknown,
        }
    }

    fn others(&self) -> Vec<Node> {
        let view = self.members.view();
        let others = view.members().iter().filter(|member| member.record.tag != view.own.tag);
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

    fn generation(&self) -> u64 {
        self.members.view().generation
    }

    fn changed(&self, from: u64) -> BoxFuture<'_, ()> {
        async move {
            let mut views = self.members.subscribe();
            // It fails only when the node ends.
            let _ = views.wait_for(|view| view.generation != from).await;
        }
        .boxed()
    }

    fn is_leaving(&self, tag: Tag) -> bool {
        match self.members.view().find(tag) {
            Some(FoundRecord::Member(member)) => member.record.draining,
            Some(FoundRecord::Departed(departed)) => departed.record.draining,
            None => false,
        }
    }

    fn refused(&self, tag: Tag) {
        self.members.refuse(tag);
    }

    fn prove_to<'a>(
        &'a self,
        node: &'a Node,
        purpose: Purpose,
        socket: &'a Socket,
    ) -> BoxFuture<'a, io::Result<()>> {
        self.authenticate(socket, Role::Dialer { to: node.tag, purpose }).map_ok(drop).boxed()
    }

    fn require_proof<'a>(&'a self, socket: &'a Socket) -> BoxFuture<'a, io::Result<Caller>> {
        self.authenticate(socket, Role::Acceptor).boxed()
    }

    fn converse<'a>(
        &'a self,
        tag: Tag,
        socket: &'a Socket,
        heard: &'a (dyn Fn() + Sync),
    ) -> BoxFuture<'a, io::Result<()>> {
        async move {
            tokio::select! {
                ended = self.tell(socket) => ended,
                ended = self.hear(tag, socket, heard) => ended,
            }
        }
        .boxed()
    }

    fn health(&self) -> Health {
        let view = self.members.view();
        Health {
            nodes: view.members().len(),
            // One that has never read it is as much alone as one that has not for so long.
            directory_age: Some(view.read.unwrap_or(self.started).elapsed()),
            warnings: view.warnings.iter().map(Warning::name).collect(),
        }
    }

    fn drain(&self) {
        let own = Record { draining: true, ..(*self.members.view().own).clone() };
        self.members.publish(own);
    }

    fn run(&self, stop: CancellationToken) -> BoxFuture<'_, ()> {
        async move {
            let Some(watch) = self.watch.lock().take() else { return };
            let Node { tag, address } = self.own();
            info!(node = %tag, %address, cluster = %self.name, "a node of the cluster: its ids begin with its name");
            tokio::select! {
                () = watch.run(stop.cancelled()) => {}
                () = self.log() => {}
                () = self.leave_taken_tags() => {}
            }
        }
        .boxed()
    }
}
