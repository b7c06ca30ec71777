//! [`Membership`]: what a node knows about the others, and how it proves to them that it is one.

use std::io;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use rendezvous_protocol::{PathName, Tag};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The tag of its ids.
    pub tag: Tag,
    /// Where it accepts connections of other nodes: a host and a port.
    pub address: Arc<str>,
}

/// A node as this one knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It is this one.
    Here,
    /// It is a member of the cluster.
    Node(Node),
    /// It has vanished a short time ago, and may still run: it is worth an attempt to connect.
    Departed(Node),
    /// Nothing is known of it.
    Unknown,
}

/// What is known about a node after the directory was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// It is a member of the cluster, or has vanished a short time ago.
    Node(Node),
    /// There is no such node.
    Absent,
    /// It is not known: the directory cannot be read, or is not believed.
    NotKnown,
}

/// The owner of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// Its tag.
    pub tag: Tag,
    /// The number of the list by which it is the owner.
    pub list: u64,
}

/// What a node knows about the cluster. No method but the futures waits.
pub trait Membership: Send + Sync + 'static {
    /// Returns what is known about the node with this tag.
    fn find(&self, tag: Tag) -> Found;

    /// Returns all nodes but this one.
    fn others(&self) -> Vec<Node>;

    /// Looks for a node that is not known. Its absence is known only by a read that has begun after this call.
    fn look_up(&self, tag: Tag) -> BoxFuture<'_, Lookup>;

    /// Waits for a read of the directory that has begun after this call, or the attempt.
    fn read_again(&self) -> BoxFuture<'_, ()>;

    /// Returns the owner of a path. `None` if no node takes new streams.
    fn owner(&self, path: &PathName) -> Option<Owner>;

    /// Returns the number of the current list of nodes, which grows with each change.
    fn list(&self) -> u64;

    /// Waits until the list has another number than this.
    fn changed(&self, from: u64) -> BoxFuture<'_, ()>;

    /// Connects to a node, proves this one to it, and requires the same.
    ///
    /// # Errors
    /// The address cannot be reached, or it is not that node there, or has not proved it in time.
    fn connect<'a>(&'a self, node: &'a Node) -> BoxFuture<'a, io::Result<TcpStream>>;

    /// The other end of [`Membership::connect`]. Resolves to the tag of the node that has connected.
    ///
    /// # Errors
    /// It is not a node, or has not proved it in time.
    fn accept<'a>(&'a self, stream: &'a mut TcpStream) -> BoxFuture<'a, io::Result<Tag>>;

    /// Says that this node takes no new streams.
    fn drain(&self);

    /// Keeps this node a member until `stop`, and then leaves.
    fn run(&self, stop: CancellationToken) -> BoxFuture<'_, ()>;
}
