//! [`Membership`]: what a node knows about the others, and how it proves to them that it is one.

use std::io;
use std::time::Duration;

use futures_util::future::BoxFuture;
pub use rendezvous_cluster::NodeAddress;
pub use rendezvous_cluster::handshake::Purpose;
use rendezvous_net::socket::Socket;
use rendezvous_protocol::{PathName, Tag};
use tokio_util::sync::CancellationToken;

/// A node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The tag of its ids.
    pub tag: Tag,
    /// Where it accepts connections of other nodes: a host and a port.
    pub address: NodeAddress,
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

/// A node that has proved itself on a connection that it has opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// Its tag.
    pub tag: Tag,
    /// What the connection is for.
    pub purpose: Purpose,
}

/// What operators watch of a node's knowledge.
#[derive(Debug, Clone, Default)]
pub struct Health {
    /// The members of the cluster, this node included.
    pub nodes: usize,
    /// How long ago the last read of the directory began. `None` before the first.
    pub directory_age: Option<Duration>,
    /// The warnings that hold at present, by their names.
    pub warnings: Vec<&'static str>,
}

/// What a node knows about the cluster. No method but the futures waits.
pub trait Membership: Send + Sync + 'static {
    /// Returns this node. Its tag is that of new ids, and changes if another node turns out to have it.
    fn own(&self) -> Node;

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

    /// Returns a number that grows whenever paths may have another owner, or there are other nodes.
    fn generation(&self) -> u64;

    /// Waits until the generation is another one than this.
    fn changed(&self, from: u64) -> BoxFuture<'_, ()>;

    /// Returns whether a node has said that it drains, so that its end is expected.
    fn is_leaving(&self, tag: Tag) -> bool;

    /// Notes that at the address of a node nothing answers for its tag: its process has ended, unless the network says so in its place.
    fn refused(&self, tag: Tag);

    /// Proves this node to one that it has connected to, and requires the same.
    ///
    /// # Errors
    /// It is not that node there, or it has not proved it in time.
    fn prove_to<'a>(
        &'a self,
        node: &'a Node,
        purpose: Purpose,
        socket: &'a Socket,
    ) -> BoxFuture<'a, io::Result<()>>;

    /// The other end of [`Membership::prove_to`]. Resolves to the node that has connected.
    ///
    /// # Errors
    /// It is not a node, or has not proved it in time.
    fn require_proof<'a>(&'a self, socket: &'a Socket) -> BoxFuture<'a, io::Result<Caller>>;

    /// Uses a connection as a link with the node that has proved this tag: each tells the other what it publishes, at once when that changes, and at
    /// least twice a second that it is there, which calls `heard`. The node is a member as long as this runs.
    ///
    /// # Errors
    /// The connection ends, the node falls silent, or it sends what is no record of its own.
    fn converse<'a>(
        &'a self,
        tag: Tag,
        socket: &'a Socket,
        heard: &'a (dyn Fn() + Sync),
    ) -> BoxFuture<'a, io::Result<()>>;

    /// Returns what operators watch.
    fn health(&self) -> Health;

    /// Says that this node takes no new streams.
    fn drain(&self);

    /// Keeps this node a member until `stop`, and then leaves.
    fn run(&self, stop: CancellationToken) -> BoxFuture<'_, ()>;
}
