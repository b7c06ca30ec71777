//! The directory: one hash in Redis or Valkey, in which every node keeps its record.
//!
//! ```text
//! rv:{NAME}:nodes    0c1d2e3f → "EXPIRY rv1 tag=0c1d2e3f id=… at=10.0.0.7:7780 …"
//!                    …
//!                    #number, #ran, #born
//! ```
//!
//! One script renews the own record, removes expired ones and returns all ([renew.lua](directory/renew.lua)); another removes the own
//! record. A node renews the records of those that it hears over links too: only one that no node reaches leaves the list.
//!
//! Everything is in one key: one slot of Redis Cluster, and one pattern of an ACL: `~rv:{NAME}:nodes +eval +time +hlen +hgetall
//! +hget +hset +hdel +info`, and `+select` for another database than 0. The key has no expiry, so that policies `volatile-*` do not evict
//! it.
//!
//! *Invariants.* Records are verified; what is not by a node of this cluster is counted and ignored. Expiry is by the engine's clock alone.
//!
//! *Concurrency.* One task owns a [`Directory`].
//!
//! *Bounds.* Each attempt to connect and each call has the time limit [`Timing::call`]. The scripts refuse to read a hash of more than
//! [`MAX_NODES`] nodes, and drop longer lines than a record has.

mod engine;

use std::sync::Arc;

use redis::{FromRedisValue, Value};
use rendezvous_protocol::Tag;
use tokio::time::Instant;

use crate::directory::engine::Engine;
pub use crate::directory::engine::EngineError;
use crate::members::Read;
use crate::name::ClusterName;
use crate::record::Record;
use crate::secret::Secrets;
use crate::timing::Timing;
use crate::url::EngineUrl;

/// Maximum number of nodes in a directory.
pub const MAX_NODES: usize = 1000;

/// Fields of the hash that are not nodes.
const META_FIELDS: usize = 3;
/// The expiry and a space before a record.
const EXPIRY_BYTES: usize = 20;
const RENEW: &str = include_str!("directory/renew.lua");
const REMOVE: &str = include_str!("directory/remove.lua");

/// A node's access to the directory.
#[derive(Debug)]
pub struct Directory {
    engine: Engine,
    cluster: ClusterName,
    secrets: Arc<Secrets>,
    timing: Timing,
    key: String,
}

/// What [`RENEW`] has returned.
struct Reply {
    age: u64,
    before: u64,
    number: u64,
    taken: bool,
    lines: Vec<(String, String)>,
}

impl Directory {
    /// Creates an access that connects at the first call.
    #[must_use]
    pub fn new(url: EngineUrl, cluster: ClusterName, secrets: Arc<Secrets>, timing: Timing) -> Self {
        let key = cluster.nodes_key();
        Self { engine: Engine::new(url, timing.call), cluster, secrets, timing, key }
    }

    /// Renews the record of this node, and of those that it has `heard` over links, and returns all, `known` being the number of the list that the
    /// node has. Takes at most twice the time limit of a call, or three times after a redirection.
    ///
    /// # Errors
    /// [`EngineError`]. The connection is then closed, and the next call connects again.
    pub async fn renew(&mut self, own: &Record, known: u64, heard: &[Tag]) -> Result<Read, EngineError> {
        let started = Instant::now();
        let mut reply = self.run_renew(own, known, heard, false).await?;
        if reply.taken && self.is_forged(own, &reply) {
            reply = self.run_renew(own, known, heard, true).await?;
        }
        let (records, ignored) = self.open(&reply);
        Ok(Read {
            started,
            age: std::time::Duration::from_millis(reply.age),
            before: reply.before,
            number: reply.number,
            records,
            ignored,
            taken: reply.taken,
            eviction: self.engine.eviction().await,
        })
    }

    /// Removes the record of this node, which exits.
    ///
    /// # Errors
    /// [`EngineError`]. The record then expires.
    pub async fn remove(&mut self, own: &Record, known: u64) -> Result<(), EngineError> {
        let arguments = [own.tag.to_string(), own.instance.to_string(), known.to_string()];
        self.engine.eval(REMOVE, &self.key, &arguments).await.map(drop)
    }

    async fn run_renew(
        &mut self,
        own: &Record,
        known: u64,
        heard: &[Tag],
        replace: bool,
    ) -> Result<Reply, EngineError> {
        let mut arguments = vec![
            own.tag.to_string(),
            own.instance.to_string(),
            own.seal(&self.cluster, &self.secrets),
            self.timing.life.as_millis().to_string(),
            self.timing.gap.as_millis().to_string(),
            known.to_string(),
            (MAX_NODES + META_FIELDS).to_string(),
            (Record::MAX_BYTES + EXPIRY_BYTES).to_string(),
            u8::from(replace).to_string(),
        ];
        arguments.extend(heard.iter().map(Tag::to_string));
        let value = self.engine.eval(RENEW, &self.key, &arguments).await?;
        Reply::parse(value).ok_or(EngineError::Reply)
    }

    /// Returns whether what stands under the own tag is by nobody of this cluster.
    fn is_forged(&self, own: &Record, reply: &Reply) -> bool {
        let tag = own.tag.to_string();
        let line = reply.lines.iter().find(|(field, _)| *field == tag);
        line.is_none_or(|line| self.open_line(line).is_none())
    }

    /// Returns the records, and how many lines are none.
    fn open(&self, reply: &Reply) -> (Vec<Record>, usize) {
        let records: Vec<Record> = reply.lines.iter().filter_map(|line| self.open_line(line)).collect();
        let ignored = reply.lines.len() - records.len();
        (records, ignored)
    }

    /// Opens a record, which must stand under its own tag.
    fn open_line(&self, (field, line): &(String, String)) -> Option<Record> {
        let record = Record::open(line, &self.cluster, &self.secrets).ok()?;
        (record.tag.to_string() == *field).then_some(record)
    }
}

impl Reply {
    fn parse(value: Value) -> Option<Self> {
        let texts = Vec::<Vec<u8>>::from_redis_value(value).ok()?;
        let mut texts = texts.iter().map(|text| String::from_utf8_lossy(text).into_owned());
        let mut number = || texts.next()?.parse().ok();
        let (age, before, after, taken): (_, _, _, u64) = (number()?, number()?, number()?, number()?);
        let mut lines = Vec::new();
        while let Some(field) = texts.next() {
            lines.push((field, texts.next()?));
        }
        Some(Self { age, before, number: after, taken: taken == 1, lines })
    }
}
