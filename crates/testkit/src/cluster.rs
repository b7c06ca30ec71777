//! Several servers in the runtime of the test that are the nodes of one cluster, with a list of nodes in memory in place of a directory.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Index;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rendezvous_net::socket::Socket;
use rendezvous_protocol::{PathName, Tag};
use rendezvous_server::config::Config;
use rendezvous_server::internal::{
    Caller, Found, Health, Join, Lookup, Membership, Node, NodeAddress, NodeConfig, Owner, Purpose,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::server::TestServer;
use crate::transport::is_tls;

/// A path that belongs to the node that was started last. All others belong to one node as long as it is in the list.
pub const PATH_OF_NEWEST: &str = "newest";

/// Nodes of one cluster.
pub struct TestCluster {
    nodes: Vec<TestServer>,
    tags: Vec<Tag>,
    list: Arc<List>,
}

/// The list that all nodes read, and what they cannot know.
#[derive(Default)]
struct List {
    nodes: Mutex<Vec<Node>>,
    /// Nodes that have vanished a short time ago.
    departed: Mutex<Vec<Node>>,
    draining: Mutex<Vec<Tag>>,
    is_down: Mutex<bool>,
    /// The lists that nodes still have that have not read the present one, by their tag.
    old: Mutex<HashMap<Tag, (Vec<Node>, u64)>>,
    number: watch::Sender<u64>,
}

/// The list as one node knows it.
struct Seen {
    own: Node,
    list: Arc<List>,
}

impl TestCluster {
    /// Starts this many nodes with the default configuration.
    pub async fn start(count: usize) -> Self {
        Self::start_with(count, |_| {}).await
    }

    /// Starts this many nodes with a configuration changed by `adjust`.
    pub async fn start_with(count: usize, adjust: impl Fn(&mut Config)) -> Self {
        let mut cluster = Self { nodes: Vec::new(), tags: Vec::new(), list: Arc::default() };
        for _ in 0..count {
            cluster.add(&adjust).await;
        }
        cluster
    }

    /// Starts one more node. Connections between nodes are over TLS if those of the test run are.
    pub async fn add(&mut self, adjust: impl FnOnce(&mut Config)) {
        self.add_at(adjust, |address| address).await;
    }

    /// Starts one more node. While the returned value is `true`, no byte passes on the connections to it, and none ends.
    pub async fn add_that_freezes(&mut self) -> watch::Sender<bool> {
        let is_frozen = watch::Sender::new(false);
        let freezes = is_frozen.subscribe();
        self.add_behind(move |near, far| forward(near, far, freezes.clone())).await;
        is_frozen
    }

    /// Starts one more node. A value that is set breaks the connection of the next request about a stream, and is taken. Without TLS.
    pub async fn add_that_breaks(&mut self) -> Arc<Mutex<Option<Break>>> {
        let next = Arc::<Mutex<_>>::default();
        let breaks = Arc::clone(&next);
        self.add_behind(move |near, far| forward_until_break(near, far, Arc::clone(&breaks))).await;
        next
    }

    /// Starts one more node, to which `forward` passes the connections of the others on.
    async fn add_behind<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        forward: impl Fn(TcpStream, TcpStream) -> F + Send + Sync + 'static,
    ) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accept = move |node: SocketAddr| {
            tokio::spawn(async move {
                while let Ok((near, _)) = listener.accept().await {
                    if let Ok(far) = TcpStream::connect(node).await {
                        tokio::spawn(forward(near, far));
                    }
                }
            });
            address
        };
        self.add_at(|_| {}, accept).await;
    }

    /// Starts one more node, which the others reach at the address that `advertise` makes of its own.
    async fn add_at(
        &mut self,
        adjust: impl FnOnce(&mut Config),
        advertise: impl FnOnce(SocketAddr) -> SocketAddr + Send + 'static,
    ) {
        let list = Arc::clone(&self.list);
        let join: Join = Box::new(move |tag, address: SocketAddr| {
            let address = advertise(address);
            let own = Node { tag, address: NodeAddress::new(address.ip(), address.port()) };
            list.nodes.lock().push(own.clone());
            list.number.send_modify(|number| *number += 1);
            Arc::new(Seen { own, list })
        });
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let node = NodeConfig { listen, tls: is_tls(), join };
        let (node, tag) = TestServer::start_node(adjust, node).await;
        self.nodes.push(node);
        self.tags.push(tag);
    }

    /// Returns the tag of a node.
    pub fn tag(&self, node: usize) -> Tag {
        self.tags[node]
    }

    /// Connects to a node as another one does, without TLS, and returns the connection once both have proved themselves.
    pub async fn connect_as_node(&self, node: usize) -> TcpStream {
        let mut stream = self.connect_as_stranger(node).await;
        AsyncWriteExt::write_all(&mut stream, &Tag::draw().to_bytes()).await.unwrap();
        stream.write_u8(0).await.unwrap();
        let mut other = [0; Tag::BYTES + 1];
        stream.read_exact(&mut other).await.unwrap();
        stream
    }

    /// Connects to the port of a node that is for other nodes, and says nothing.
    pub async fn connect_as_stranger(&self, node: usize) -> TcpStream {
        let address = self.list.nodes.lock()[node].address.to_string();
        TcpStream::connect(address).await.unwrap()
    }

    /// Returns all nodes.
    pub fn nodes(&self) -> &[TestServer] {
        &self.nodes
    }

    /// Removes a node from the list. It may still run. With `is_remembered` the others know that it was a member.
    pub fn forget(&self, node: usize, is_remembered: bool) {
        let tag = self.tags[node];
        let mut nodes = self.list.nodes.lock();
        let found = nodes.iter().find(|node| node.tag == tag).cloned();
        nodes.retain(|node| node.tag != tag);
        drop(nodes);
        if is_remembered {
            self.list.departed.lock().extend(found);
        }
        self.list.number.send_modify(|number| *number += 1);
    }

    /// Sets whether the directory cannot be read.
    pub fn set_down(&self, is_down: bool) {
        *self.list.is_down.lock() = is_down;
    }

    /// Ends a node at once, as a crash does.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// Lets a node shut down gracefully, and waits until it drains.
    pub async fn stop(&mut self, node: usize) {
        self.nodes[node].stop().await;
    }

    /// Returns a path that this node owns.
    pub fn path_of(&self, node: usize) -> String {
        self.paths_of(node).next().unwrap()
    }

    /// Returns paths that this node owns.
    pub fn paths_of(&self, node: usize) -> impl Iterator<Item = String> {
        let own =
            self.list.nodes.lock().iter().find(|listed| listed.tag == self.tags[node]).cloned().unwrap();
        let seen = Seen { own, list: Arc::clone(&self.list) };
        (0..).map(|number| format!("a/{number}")).filter(move |path| {
            seen.owner(&PathName::parse(path).unwrap()).is_some_and(|owner| owner.tag == seen.own.tag)
        })
    }

    /// Lets a node keep its present list, until it reads again.
    pub async fn hold_list(&self, node: usize) {
        // It reads once more before it serves.
        self.nodes[node].create().await;
        let held = (self.list.nodes.lock().clone(), *self.list.number.borrow());
        self.list.old.lock().insert(self.tags[node], held);
    }
}

/// Where a connection between nodes breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// Before the request arrives.
    Request,
    /// Within the head of the response.
    Response,
}

/// Passes bytes on, in both directions, while it is not frozen.
async fn forward(mut near: TcpStream, mut far: TcpStream, mut is_frozen: watch::Receiver<bool>) {
    let (mut copying, mut freezes) = (pin!(copy_bidirectional(&mut near, &mut far)), is_frozen.clone());
    // Ends when the test does.
    while is_frozen.wait_for(|is_frozen| !is_frozen).await.is_ok() {
        tokio::select! {
            _ = &mut copying => return,
            _ = freezes.wait_for(|is_frozen| *is_frozen) => {}
        }
    }
}

/// Passes bytes on, in both directions, until a break that is set, or an end.
async fn forward_until_break(mut near: TcpStream, mut far: TcpStream, next: Arc<Mutex<Option<Break>>>) {
    let (mut request, mut response) = ([0; 4096], [0; 4096]);
    let mut breaks = None;
    loop {
        tokio::select! {
            read = near.read(&mut request) => {
                let Ok(read @ 1..) = read else { return };
                if request[..read].windows(8).any(|bytes| bytes == b"/stream/") {
                    breaks = next.lock().take();
                }
                if breaks == Some(Break::Request) || far.write_all(&request[..read]).await.is_err() {
                    return;
                }
            }
            read = far.read(&mut response) => {
                let Ok(read @ 1..) = read else { return };
                let passed = if breaks == Some(Break::Response) { 8 } else { read };
                if near.write_all(&response[..passed]).await.is_err() || passed < read {
                    return;
                }
            }
        }
    }
}

impl Index<usize> for TestCluster {
    type Output = TestServer;

    fn index(&self, node: usize) -> &TestServer {
        &self.nodes[node]
    }
}

impl Seen {
    fn nodes(&self) -> (Vec<Node>, u64) {
        let held = self.list.old.lock().get(&self.own.tag).cloned();
        held.unwrap_or_else(|| (self.list.nodes.lock().clone(), *self.list.number.borrow()))
    }

    /// Exchanges tags, and says what for.
    async fn meet(mut socket: &Socket, own: Tag, purpose: Purpose) -> io::Result<Caller> {
        AsyncWriteExt::write_all(&mut socket, &own.to_bytes()).await?;
        AsyncWriteExt::write_all(&mut socket, &[u8::from(purpose == Purpose::Link)]).await?;
        let mut other = [0; Tag::BYTES];
        socket.flush().await?;
        socket.read_exact(&mut other).await?;
        let purpose = if socket.read_u8().await? == 1 { Purpose::Link } else { Purpose::Hop };
        Ok(Caller { tag: Tag::from(other), purpose })
    }
}

impl Membership for Seen {
    fn own(&self) -> Node {
        self.own.clone()
    }

    fn find(&self, tag: Tag) -> Found {
        if tag == self.own.tag {
            return Found::Here;
        }
        let node = self.nodes().0.into_iter().find(|node| node.tag == tag).map(Found::Node);
        let departed = self.list.departed.lock().iter().find(|node| node.tag == tag).cloned();
        node.or(departed.map(Found::Departed)).unwrap_or(Found::Unknown)
    }

    fn others(&self) -> Vec<Node> {
        self.nodes().0.into_iter().filter(|node| node.tag != self.own.tag).collect()
    }

    fn look_up(&self, tag: Tag) -> BoxFuture<'_, Lookup> {
        async move {
            tokio::task::yield_now().await;
            // The record of that node, not the list.
            let listed = self.list.nodes.lock().iter().find(|node| node.tag == tag).cloned();
            match listed.map_or_else(|| self.find(tag), Found::Node) {
                Found::Node(node) | Found::Departed(node) => Lookup::Node(node),
                Found::Here | Found::Unknown if *self.list.is_down.lock() => Lookup::NotKnown,
                Found::Here | Found::Unknown => Lookup::Absent,
            }
        }
        .boxed()
    }

    fn read_again(&self) -> BoxFuture<'_, ()> {
        async {
            tokio::task::yield_now().await;
            self.list.old.lock().remove(&self.own.tag);
        }
        .boxed()
    }

    fn owner(&self, path: &PathName) -> Option<Owner> {
        let (nodes, list) = self.nodes();
        let weight = |node: &Node| BuildHasherDefault::<DefaultHasher>::default().hash_one((node.tag, path));
        let draining = self.list.draining.lock();
        let mut eligible = nodes.into_iter().filter(|node| !draining.contains(&node.tag));
        let owner = if path.as_bytes() == PATH_OF_NEWEST.as_bytes() {
            eligible.next_back()
        } else {
            eligible.max_by_key(weight)
        };
        owner.map(|node| Owner { tag: node.tag, list })
    }

    fn list(&self) -> u64 {
        self.nodes().1
    }

    fn generation(&self) -> u64 {
        self.list()
    }

    fn is_leaving(&self, tag: Tag) -> bool {
        self.list.draining.lock().contains(&tag)
    }

    /// The tests remove nodes from the list themselves.
    fn refused(&self, _: Tag) {}

    fn changed(&self, from: u64) -> BoxFuture<'_, ()> {
        async move {
            let mut numbers = self.list.number.subscribe();
            let _ = numbers.wait_for(|number| *number != from).await;
        }
        .boxed()
    }

    fn prove_to<'a>(
        &'a self,
        node: &'a Node,
        purpose: Purpose,
        socket: &'a Socket,
    ) -> BoxFuture<'a, io::Result<()>> {
        async move {
            let found = Self::meet(socket, self.own.tag, purpose).await?;
            if found.tag == node.tag { Ok(()) } else { Err(io::Error::other("another node answers")) }
        }
        .boxed()
    }

    fn require_proof<'a>(&'a self, socket: &'a Socket) -> BoxFuture<'a, io::Result<Caller>> {
        // The dialer decides what for, and ignores what this says.
        Self::meet(socket, self.own.tag, Purpose::Hop).boxed()
    }

    /// Nothing is told over a link but that the node is there: all nodes read one list.
    fn converse<'a>(
        &'a self,
        _: Tag,
        mut socket: &'a Socket,
        heard: &'a (dyn Fn() + Sync),
    ) -> BoxFuture<'a, io::Result<()>> {
        async move {
            loop {
                AsyncWriteExt::write_all(&mut socket, b"\n").await?;
                AsyncWriteExt::flush(&mut socket).await?;
                let reads_on = async {
                    loop {
                        socket.read_u8().await?;
                        heard();
                    }
                };
                if let Ok(ended) = timeout(Duration::from_millis(500), reads_on).await {
                    return ended;
                }
            }
        }
        .boxed()
    }

    fn health(&self) -> Health {
        let is_down = *self.list.is_down.lock();
        let directory_age = Some(Duration::from_secs(if is_down { 60 } else { 0 }));
        Health { nodes: self.nodes().0.len(), directory_age, warnings: vec!["other_settings"] }
    }

    fn drain(&self) {
        self.list.draining.lock().push(self.own.tag);
        self.list.number.send_modify(|number| *number += 1);
    }

    fn run(&self, stop: CancellationToken) -> BoxFuture<'_, ()> {
        async move {
            stop.cancelled().await;
            self.list.nodes.lock().retain(|node| node.tag != self.own.tag);
            self.list.number.send_modify(|number| *number += 1);
        }
        .boxed()
    }
}
