//! [`Membership`]: the rules by which reads of the directory and live links make a [`View`]. Pure.
//!
//! ```text
//!                   in a read, or linked
//!   unknown ──────────────────────────────► member ─┐ missing in reads while records may have been lost: stays
//!      ▲                                       │ ▲ ◄┘
//!      │ 60 s                  missing in a    │ │ in a read, or linked
//!      │                       believed read,  │ │
//!      │                       and no link     ▼ │
//!      └───────────────────────────────────── departed
//! ```
//!
//! *Invariants.*
//! - A node with a live link is a member, whatever the directory says.
//! - A read by which records may have been lost removes nobody and is not believed, and neither are those of the next [`Timing::hold`]: the
//!   list's number went back, several records vanished together, or the directory is younger than that.
//! - Absence is known only by a believed read that began after the question.
//! - While the engine cannot be reached, nobody is listed or removed. All members then own paths but those whose process has ended, as far as this
//!   node can tell.
//!
//! *Bounds.* As many nodes as the directory has, at most [`crate::directory::MAX_NODES`], those with a link, and those that departed within
//! [`Timing::memory`], all of which knew the secret.

use std::collections::BTreeMap;
use std::sync::Arc;

use rendezvous_protocol::Tag;
use tokio::time::Instant;

use crate::record::Record;
use crate::timing::Timing;
use crate::view::{Departed, EngineState, Member, Registration, View};
use crate::warnings;

/// So many records that vanish in one read are not believed to have expired.
const TOGETHER: usize = 2;

/// A read of the directory, verified.
#[derive(Debug, Clone)]
pub struct Read {
    /// When the request was sent.
    pub started: Instant,
    /// How long the directory exists, by the engine's clock, without gaps.
    pub age: std::time::Duration,
    /// The list's number that the engine had before this node told the one it knows.
    pub before: u64,
    /// The list's number.
    pub number: u64,
    /// The records.
    pub records: Vec<Record>,
    /// How many lines are not records of this cluster.
    pub ignored: usize,
    /// Whether another live node has this node's tag.
    pub taken: bool,
    /// The engine's `maxmemory_policy`, if it says so.
    pub eviction: Option<String>,
}

/// The members of the cluster, as one node knows them.
#[derive(Debug)]
pub struct Membership {
    timing: Timing,
    own: Arc<Record>,
    registration: Registration,
    number: u64,
    nodes: BTreeMap<Tag, Node>,
    engine: EngineState,
    attempted: Option<Instant>,
    read: Option<Instant>,
    believed: Option<Instant>,
    /// No read is believed before.
    held_until: Option<Instant>,
    ignored: usize,
    eviction: Option<String>,
}

/// Another node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) record: Arc<Record>,
    /// Since when it is in the list.
    pub(crate) listed: Option<Instant>,
    /// Since when it is missing in reads, though still in the list.
    missing: Option<Instant>,
    links: usize,
    /// Nothing answers for its tag at its address since the last link has ended.
    refused: bool,
    /// When it was heard last over a link.
    heard: Option<Instant>,
    /// Since when it is no member.
    left: Option<Instant>,
}

impl Membership {
    /// Creates the view of a node that knows only itself.
    #[must_use]
    pub fn new(own: Record, timing: Timing) -> Self {
        Self {
            timing,
            own: Arc::new(own),
            registration: Registration::Pending,
            number: 0,
            nodes: BTreeMap::new(),
            engine: EngineState::NotAsked,
            attempted: None,
            read: None,
            believed: None,
            held_until: None,
            ignored: 0,
            eviction: None,
        }
    }

    /// Returns what this node publishes, and the number of the list that it knows.
    #[must_use]
    pub fn known(&self) -> (Arc<Record>, u64) {
        (Arc::clone(&self.own), self.number)
    }

    /// Replaces what this node publishes.
    pub fn publish(&mut self, own: Record) {
        if own.tag != self.own.tag {
            self.registration = Registration::Pending;
        }
        self.own = Arc::new(own);
    }

    /// Takes a read of the directory that has succeeded `now`.
    pub fn apply(&mut self, read: Read, now: Instant) {
        let mut present: BTreeMap<Tag, Record> =
            read.records.into_iter().map(|record| (record.tag, record)).collect();
        present.remove(&self.own.tag);
        let vanished = self.note_missing(&present, now);
        for (tag, record) in present {
            self.list(tag, record, now);
        }
        if read.before < self.number || vanished >= TOGETHER {
            self.hold_until(now + self.timing.hold);
        }
        let too_young_for = self.timing.hold.saturating_sub(read.age);
        if !too_young_for.is_zero() {
            self.hold_until(now + too_young_for);
        }
        if self.held_until.is_none_or(|until| until <= now) {
            self.held_until = None;
            self.remove_missing();
            self.believed = Some(read.started);
        }
        self.number = read.number;
        self.read = Some(read.started);
        self.ignored = read.ignored;
        self.eviction = read.eviction;
        self.registration = if read.taken { Registration::Taken } else { Registration::Registered };
        self.end_attempt(read.started, EngineState::Reached, now);
    }

    /// Takes an attempt to read the directory, begun at `started`, that has failed `now`.
    pub fn fail(&mut self, started: Instant, error: Arc<str>, now: Instant) {
        let since = match self.engine {
            EngineState::Unreachable { since, .. } => since,
            EngineState::NotAsked | EngineState::Reached => now,
        };
        self.end_attempt(started, EngineState::Unreachable { since, error }, now);
    }

    /// Adds a live link to a node, which has sent this record over it.
    pub fn link(&mut self, record: Record, now: Instant) {
        let tag = record.tag;
        let node = self.nodes.entry(tag).or_insert_with(|| Node::new(Arc::new(record.clone())));
        node.update(record);
        node.links += 1;
        node.refused = false;
        node.heard = Some(now);
        node.left = None;
    }

    /// Notes that a node was heard over its link.
    pub fn hear(&mut self, tag: Tag, now: Instant) {
        if let Some(node) = self.nodes.get_mut(&tag) {
            node.heard = Some(now);
        }
    }

    /// Returns whether a node that is known publishes something new by this record.
    #[must_use]
    pub fn is_new(&self, record: &Record) -> bool {
        self.nodes.get(&record.tag).is_some_and(|node| *node.record != *record)
    }

    /// Returns the nodes that were heard over a link within the last [`Timing::gap`].
    #[must_use]
    pub fn heard(&self, now: Instant) -> Vec<Tag> {
        let is_heard = |node: &Node| {
            let age = node.heard.map(|heard| now.saturating_duration_since(heard));
            node.links > 0 && age.is_some_and(|age| age <= self.timing.gap)
        };
        self.nodes.iter().filter(|(_, node)| is_heard(node)).map(|(tag, _)| *tag).collect()
    }

    /// Takes a new record that a node has sent over its link.
    pub fn update(&mut self, record: Record) {
        if let Some(node) = self.nodes.get_mut(&record.tag) {
            node.update(record);
        }
    }

    /// Removes a link to a node.
    pub fn unlink(&mut self, tag: Tag, now: Instant) {
        if let Some(node) = self.nodes.get_mut(&tag) {
            node.links = node.links.saturating_sub(1);
            node.leave(now);
        }
    }

    /// Notes that at the address of a node nothing answers for its tag: nothing listens there, or another node does.
    pub fn refuse(&mut self, tag: Tag) {
        if let Some(node) = self.nodes.get_mut(&tag) {
            node.refused = true;
        }
    }

    /// Returns the view of this moment.
    #[must_use]
    pub fn view(&self, now: Instant) -> View {
        let own = Member { record: Arc::clone(&self.own), listed: true, linked: false, ended: false };
        let others = self.nodes.values().filter(|node| node.is_member()).map(Node::member);
        let mut members: Vec<Member> = others.filter(|member| member.record.tag != self.own.tag).collect();
        let at = members.partition_point(|member| member.record.tag < self.own.tag);
        members.insert(at, own);
        View {
            own: Arc::clone(&self.own),
            registration: self.registration,
            number: self.number,
            generation: 0,
            engine: self.engine.clone(),
            attempted: self.attempted,
            read: self.read,
            believed: self.believed,
            ignored: self.ignored,
            warnings: warnings::of(
                &self.own,
                self.nodes.values(),
                self.ignored,
                self.eviction.as_deref(),
                now.checked_sub(self.timing.life),
            ),
            departed: self.nodes.values().filter_map(Node::departed).collect(),
            members,
        }
    }

    /// Notes which listed nodes are missing in a read. Returns how many of them were not before.
    fn note_missing(&mut self, present: &BTreeMap<Tag, Record>, now: Instant) -> usize {
        let mut vanished = 0;
        for (tag, node) in &mut self.nodes {
            if node.listed.is_some() && node.missing.is_none() && !present.contains_key(tag) {
                node.missing = Some(now);
                vanished += 1;
            }
        }
        vanished
    }

    fn list(&mut self, tag: Tag, record: Record, now: Instant) {
        let node = self.nodes.entry(tag).or_insert_with(|| Node::new(Arc::new(record.clone())));
        node.update(record);
        node.listed.get_or_insert(now);
        node.missing = None;
        node.left = None;
    }

    fn hold_until(&mut self, until: Instant) {
        self.held_until = Some(self.held_until.map_or(until, |held| held.max(until)));
    }

    fn remove_missing(&mut self) {
        for node in self.nodes.values_mut() {
            if let Some(missing) = node.missing.take() {
                node.listed = None;
                node.leave(missing);
            }
        }
    }

    fn end_attempt(&mut self, started: Instant, engine: EngineState, now: Instant) {
        self.engine = engine;
        self.attempted = Some(started);
        let memory = self.timing.memory;
        self.nodes
            .retain(|_, node| node.left.is_none_or(|left| now.saturating_duration_since(left) < memory));
    }
}

impl Node {
    fn new(record: Arc<Record>) -> Self {
        Self { record, listed: None, missing: None, links: 0, refused: false, heard: None, left: None }
    }

    /// Takes a record. A process that drains never takes it back, so an older read cannot either.
    fn update(&mut self, mut record: Record) {
        record.draining |= self.record.draining && self.record.instance == record.instance;
        if record != *self.record {
            self.record = Arc::new(record);
        }
    }

    fn is_member(&self) -> bool {
        self.listed.is_some() || self.links > 0
    }

    /// Notes since when it is no member, if it is none.
    fn leave(&mut self, since: Instant) {
        if !self.is_member() {
            self.left.get_or_insert(since);
        }
    }

    fn member(&self) -> Member {
        let linked = self.links > 0;
        Member {
            record: Arc::clone(&self.record),
            listed: self.listed.is_some(),
            linked,
            ended: self.refused && !linked,
        }
    }

    fn departed(&self) -> Option<Departed> {
        self.left.map(|since| Departed { record: Arc::clone(&self.record), since })
    }
}

#[cfg(test)]
mod tests;
