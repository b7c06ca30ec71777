//! [`View`]: what a node knows about the cluster at one moment. Immutable; a new one is published at each change.

use std::sync::Arc;
use std::time::Duration;

use rendezvous_protocol::Tag;
use tokio::time::Instant;

use crate::address::NodeAddress;
use crate::name::ClusterName;
use crate::ownership;
use crate::record::Record;

/// What a node knows about the cluster at one moment.
#[derive(Debug, Clone)]
pub struct View {
    /// What this node publishes about itself.
    pub own: Arc<Record>,
    /// Whether the directory has it.
    pub registration: Registration,
    /// The number of the directory's list, which grows at each change of it. 0 before the first read.
    pub number: u64,
    /// Grows whenever paths may have another owner, also between two reads.
    pub generation: u64,
    /// Whether the engine answers.
    pub engine: EngineState,
    /// The begin of the last attempt to read the directory that has ended, well or not.
    pub attempted: Option<Instant>,
    /// The begin of the last read.
    pub read: Option<Instant>,
    /// The begin of the last read that is believed: a node that is unknown in this view did not exist then.
    pub believed: Option<Instant>,
    /// How many lines of the directory the last read ignored, since no node of this cluster has sealed them.
    pub ignored: usize,
    /// What the operator should know, in a fixed order.
    pub warnings: Vec<Warning>,
    /// By tag.
    pub(crate) members: Vec<Member>,
    /// By tag.
    pub(crate) departed: Vec<Departed>,
}

/// A node that is in the directory or has a live link to this one.
#[derive(Debug, Clone)]
pub struct Member {
    /// What it publishes.
    pub record: Arc<Record>,
    /// Whether it is in the directory's list, which decides about named paths.
    pub listed: bool,
    /// Whether it has a live link to this node.
    pub linked: bool,
    /// Whether its process has ended, as far as this node can tell: it has no link, and nothing answers for its tag at its address.
    pub ended: bool,
}

/// A node that has vanished less than [`crate::Timing::memory`] ago. It may still run, cut off from the engine.
#[derive(Debug, Clone)]
pub struct Departed {
    /// What it published last.
    pub record: Arc<Record>,
    /// When it vanished.
    pub since: Instant,
}

/// A node as a view knows it.
#[derive(Debug, Clone, Copy)]
pub enum Found<'a> {
    /// A member.
    Member(&'a Member),
    /// It has vanished a short time ago.
    Departed(&'a Departed),
}

/// Whether the directory has this node's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registration {
    /// Not yet.
    Pending,
    /// As of the last read.
    Registered,
    /// Another live node has the same tag. This one must draw a new tag for new ids and publish that; its old ids go on being served.
    Taken,
}

/// Whether the engine answers.
#[derive(Debug, Clone)]
pub enum EngineState {
    /// The first attempt has not ended.
    NotAsked,
    /// The last attempt succeeded.
    Reached,
    /// The last attempt failed.
    Unreachable {
        /// When the first attempt failed.
        since: Instant,
        /// Why the last one failed, as a sentence for the log.
        error: Arc<str>,
    },
}

/// Something that the operator should know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// The engine may evict the directory when its memory is full.
    #[error(
        "the engine's maxmemory-policy is {0}, so it may evict the directory: set noeviction or one of \
         volatile-*, or use an engine of its own"
    )]
    Eviction(String),
    /// Lines of the directory are ignored.
    #[error(
        "{0} records of the directory are not by this cluster's secret and are ignored: compare \
         --cluster-secret-file, or somebody else writes to this key"
    )]
    RecordsIgnored(usize),
    /// Two nodes advertise one address.
    #[error(
        "nodes {} advertise the same address {address}: one of them has ended, or its --cluster-advertise is wrong",
        Tags(nodes)
    )]
    SharedAddress {
        /// The address.
        address: NodeAddress,
        /// The nodes, by tag.
        nodes: Vec<Tag>,
    },
    /// Nodes have other settings.
    #[error(
        "nodes {} have other settings than this one: --ttl, --max-ttl, --no-paths, --idle-timeout, \
         --max-stream-bytes, --max-stream-rate, --min-upload-rate, --cluster-tls, and whether there is a create \
         token and an admin token, must be the same on all nodes",
        Tags(.0)
    )]
    OtherSettings(Vec<Tag>),
    /// Nodes speak no version that this one speaks.
    #[error(
        "nodes {} speak no version of the protocol between nodes that this one speaks: update the older ones",
        Tags(.0)
    )]
    OtherVersions(Vec<Tag>),
}

impl Warning {
    /// All names of warnings.
    pub const NAMES: [&str; 5] =
        ["eviction", "records_ignored", "shared_address", "other_settings", "other_versions"];

    /// Returns the name of this kind of warning, for metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        let [eviction, records_ignored, shared_address, other_settings, other_versions] = Self::NAMES;
        match self {
            Self::Eviction(_) => eviction,
            Self::RecordsIgnored(_) => records_ignored,
            Self::SharedAddress { .. } => shared_address,
            Self::OtherSettings(_) => other_settings,
            Self::OtherVersions(_) => other_versions,
        }
    }
}

struct Tags<'a>(&'a [Tag]);

impl std::fmt::Display for Tags<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, tag) in self.0.iter().enumerate() {
            write!(f, "{}{tag}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl View {
    /// Returns all members, this node included, by tag.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Returns the nodes that have vanished a short time ago, by tag.
    #[must_use]
    pub fn departed(&self) -> &[Departed] {
        &self.departed
    }

    /// Returns the node with this tag.
    #[must_use]
    pub fn find(&self, tag: Tag) -> Option<Found<'_>> {
        let member = self.members.binary_search_by_key(&tag, |member| member.record.tag);
        let departed = || self.departed.binary_search_by_key(&tag, |departed| departed.record.tag);
        match member {
            Ok(at) => self.members.get(at).map(Found::Member),
            Err(_) => departed().ok().and_then(|at| self.departed.get(at)).map(Found::Departed),
        }
    }

    /// Returns the owner of a named path: by the directory's list, or while the engine cannot be reached by what this node knows. `None` if all
    /// nodes are draining.
    #[must_use]
    pub fn owner(&self, cluster: &ClusterName, path: &[u8]) -> Option<&Record> {
        ownership::owner(cluster, path, self.candidates())
    }

    /// Returns whether every path has the same owner as in another view.
    #[must_use]
    pub(crate) fn agrees_with(&self, other: &Self) -> bool {
        let owners = |view| Self::candidates(view).filter(|record| !record.draining).map(|record| record.tag);
        self.number == other.number && owners(self).eq(owners(other))
    }

    /// Returns the nodes that may own paths unless they drain. A list that is read no more lacks those that have joined since, and has those whose
    /// process has ended.
    fn candidates(&self) -> impl Iterator<Item = &Record> {
        let is_read = !matches!(self.engine, EngineState::Unreachable { .. });
        let owns = move |member: &&Member| if is_read { member.listed } else { !member.ended };
        self.members.iter().filter(owns).map(|member| &*member.record)
    }

    /// Returns the age of the directory: the time since the begin of the last read. `None` before the first.
    #[must_use]
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.read.map(|read| now.saturating_duration_since(read))
    }
}
