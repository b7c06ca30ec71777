//! Several servers in the runtime of the test that are the nodes of one cluster, with a list of nodes in memory in place of a directory.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Index;
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rendezvous_protocol::{PathName, Tag};
use rendezvous_server::config::Config;
use rendezvous_server::internal::{Found, Join, Lookup, Membership, Node, Owner};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::server::TestServer;

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
    own: Tag,
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

    /// Starts one more node.
    pub async fn add(&mut self, adjust: impl FnOnce(&mut Config)) {
        let list = Arc::clone(&self.list);
        let join: Join = Box::new(move |tag, address: SocketAddr| {
            list.nodes.lock().push(Node { tag, address: address.to_string().into() });
            list.number.send_modify(|number| *number += 1);
            Arc::new(Seen { own: tag, list })
        });
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (node, tag) = TestServer::start_node(adjust, listen, join).await;
        self.nodes.push(node);
        self.tags.push(tag);
    }

    /// Adds a node at this address that is none of these servers, and returns its tag.
    pub fn add_silent(&self, address: SocketAddr) -> Tag {
        let tag = Tag::draw();
        self.list.nodes.lock().push(Node { tag, address: address.to_string().into() });
        self.list.number.send_modify(|number| *number += 1);
        tag
    }

    /// Returns the tag of a node.
    pub fn tag(&self, node: usize) -> Tag {
        self.tags[node]
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
        let tag = self.tags[node];
        let seen = Seen { own: tag, list: Arc::clone(&self.list) };
        let owned =
            |path: &String| seen.owner(&PathName::parse(path).unwrap()).is_some_and(|owner| owner.tag == tag);
        (0..10_000).map(|number| format!("a/{number}")).find(owned).unwrap()
    }

    /// Returns the owner of a path.
    pub fn owner(&self, path: &str) -> usize {
        let seen = Seen { own: self.tags[0], list: Arc::clone(&self.list) };
        let owner = seen.owner(&PathName::parse(path).unwrap()).unwrap().tag;
        self.tags.iter().position(|tag| *tag == owner).unwrap()
    }

    /// Lets a node keep its present list, until it reads again.
    pub fn hold_list(&self, node: usize) {
        let held = (self.list.nodes.lock().clone(), *self.list.number.borrow());
        self.list.old.lock().insert(self.tags[node], held);
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
        let held = self.list.old.lock().get(&self.own).cloned();
        held.unwrap_or_else(|| (self.list.nodes.lock().clone(), *self.list.number.borrow()))
    }

    async fn meet(stream: &mut TcpStream, own: Tag) -> io::Result<Tag> {
        stream.write_all(&own.to_bytes()).await?;
        let mut other = [0; Tag::BYTES];
        stream.read_exact(&mut other).await?;
        Ok(Tag::from(other))
    }
}

impl Membership for Seen {
    fn find(&self, tag: Tag) -> Found {
        if tag == self.own {
            return Found::Here;
        }
        let node = self.nodes().0.into_iter().find(|node| node.tag == tag).map(Found::Node);
        let departed = self.list.departed.lock().iter().find(|node| node.tag == tag).cloned();
        node.or(departed.map(Found::Departed)).unwrap_or(Found::Unknown)
    }

    fn others(&self) -> Vec<Node> {
        self.nodes().0.into_iter().filter(|node| node.tag != self.own).collect()
    }

    fn look_up(&self, tag: Tag) -> BoxFuture<'_, Lookup> {
        async move {
            self.read_again().await;
            match self.find(tag) {
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
            self.list.old.lock().remove(&self.own);
        }
        .boxed()
    }

    fn owner(&self, path: &PathName) -> Option<Owner> {
        let (nodes, list) = self.nodes();
        let weight = |node: &Node| BuildHasherDefault::<DefaultHasher>::default().hash_one((node.tag, path));
        let draining = self.list.draining.lock();
        let eligible = nodes.into_iter().filter(|node| !draining.contains(&node.tag));
        eligible.max_by_key(weight).map(|node| Owner { tag: node.tag, list })
    }

    fn list(&self) -> u64 {
        self.nodes().1
    }

    fn changed(&self, from: u64) -> BoxFuture<'_, ()> {
        async move {
            let mut numbers = self.list.number.subscribe();
            let _ = numbers.wait_for(|number| *number != from).await;
        }
        .boxed()
    }

    fn connect<'a>(&'a self, node: &'a Node) -> BoxFuture<'a, io::Result<TcpStream>> {
        async move {
            let mut stream = TcpStream::connect(&*node.address).await?;
            let found = Self::meet(&mut stream, self.own).await?;
            if found == node.tag { Ok(stream) } else { Err(io::Error::other("another node answers")) }
        }
        .boxed()
    }

    fn accept<'a>(&'a self, stream: &'a mut TcpStream) -> BoxFuture<'a, io::Result<Tag>> {
        Self::meet(stream, self.own).boxed()
    }

    fn drain(&self) {
        self.list.draining.lock().push(self.own);
        self.list.number.send_modify(|number| *number += 1);
    }

    fn run(&self, stop: CancellationToken) -> BoxFuture<'_, ()> {
        async move {
            stop.cancelled().await;
            self.list.nodes.lock().retain(|node| node.tag != self.own);
            self.list.number.send_modify(|number| *number += 1);
        }
        .boxed()
    }
}
