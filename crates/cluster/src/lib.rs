//! The nodes of a cluster: who they are, and connections between them that only they can make. Of streams and HTTP it knows nothing.
//!
//! - [`directory`]: the list of all nodes in Redis or Valkey. [`EngineUrl`]: where that is.
//! - [`watch`]: the task that keeps a node in the directory and publishes a [`View`] of the others.
//! - [`members`]: the rules by which a view follows from what was read. Pure.
//! - [`record`]: what a node publishes. [`secret`]: how the others know that it was a node.
//! - [`ownership`]: which node owns a named path. Pure.
//! - [`handshake`]: how both ends of a connection prove that they are nodes. [`liveness`]: whether a node is heard. Both without I/O of
//!   their own.
//!
//! *Invariants.* The engine is trusted with nothing: it can be down, lose what it has, or be written to by others, and the worst is that
//! nodes do not find each other for a while. Absence is known only by a read that began after the question, and only if records cannot have
//! been lost before it.
//!
//! *Concurrency.* One task runs [`watch::Watch`] and is the only one that talks to the engine. Everybody else reads the last view without
//! waiting, or waits for the next read together with all others.
//!
//! *Bounds.* At most [`directory::MAX_NODES`] nodes, one call to the engine at a time, each with a time limit, and at most 10 a second.

#![forbid(unsafe_code)]

mod address;
pub mod directory;
pub mod handshake;
mod hex;
pub mod liveness;
pub mod members;
mod name;
pub mod ownership;
pub mod record;
pub mod secret;
mod timing;
mod url;
mod view;
mod warnings;
pub mod watch;

pub use address::{BadNodeAddress, NodeAddress, address_towards};
pub use name::{BadClusterName, ClusterName};
pub use record::{Instance, Record, SettingsDigest, Versions};
pub use rendezvous_protocol::{BadTag, Tag};
pub use secret::{BadSecret, SecretError, Secrets};
pub use timing::Timing;
pub use url::{BadEngineUrl, EngineUrl};
pub use view::{Departed, EngineState, Found, Member, Registration, View, Warning};
