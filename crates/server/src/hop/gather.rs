//! The list of all streams of a cluster: that of this node, then those of the others, as they come.
//!
//! *Invariant.* The head says how many nodes have answered. If one of those is lost later, the list is visibly cut.
//!
//! *Bounds.* Nodes have [`DEADLINE`] to answer, and each lists its newest [`MAX_OBJECTS`] streams.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{HeaderName, HeaderValue, StatusCode};
use rendezvous_core::budget::Budget;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::HopError;
use super::exchange::{Answer, Hop, PassedBody, Reply};
use super::request::HopRequest;
use crate::api::events::PartError;
use crate::api::generated::Generated;
use crate::api::listing::{self, Listing};
use crate::api::refusal::Refusal;
use crate::api::response::{self, GeneratedResponse, Later};
use crate::cluster::Cluster;
use crate::cluster::membership::Node;
use crate::request_body::Rendezvous;

/// How long nodes may take to begin their lists.
const DEADLINE: Duration = Duration::from_secs(1);
/// The streams that a node lists.
pub(crate) const MAX_OBJECTS: usize = 10_000;
/// How many nodes have answered, of how many.
const NODES: HeaderName = HeaderName::from_static("rendezvous-nodes");
/// Present if a node has more streams than it lists.
pub(crate) const TRUNCATED: HeaderName = HeaderName::from_static("rendezvous-truncated");

/// Gathers the list. With `is_strict`, all nodes must answer.
///
/// # Errors
/// [`HopError::PartialList`], or [`Refusal::Busy`] without memory for it.
pub(crate) async fn list(
    rendezvous: Arc<Rendezvous>,
    memory: Arc<Budget>,
    cluster: Arc<Cluster>,
    is_strict: bool,
) -> Result<Later, Refusal> {
    let others = cluster.membership.others();
    let known = others.len() + 1;
    let asked = others.into_iter().map(|node| ask(&cluster, node));
    let answers: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
    let answered = answers.len() + 1;
    if is_strict && answered < known {
        return Err(HopError::PartialList.into());
    }
    let reserved =
        memory.reserve_alone(listing::MEMORY).map_err(|_| response::response_memory_exhausted())?;
    let own = Listing::newest(&rendezvous, MAX_OBJECTS);
    let is_truncated =
        own.is_truncated() || answers.iter().any(|(_, _, answer)| answer.headers.contains_key(TRUNCATED));
    let parts = GatheredList {
        own: Some(own.resumed(Bytes::new(), reserved)),
        others: answers.into_iter().map(|(hop, place, _)| PassedBody::new(hop, Some(place))).collect(),
        joint: Joint::default(),
        is_finished: false,
    };
    let mut head = response::json_head(StatusCode::OK);
    if let Ok(nodes) = HeaderValue::try_from(format!("{answered}/{known}")) {
        head.headers.insert(NODES, nodes);
    }
    if is_truncated {
        head.headers.insert(TRUNCATED, HeaderValue::from_static("1"));
    }
    Ok(Later::Generated(GeneratedResponse { head, body: Generated::gathered(parts) }))
}

/// Asks a node, if this one has a place for that among those that watch: a client may read the list slowly.
async fn ask(cluster: &Cluster, node: Node) -> Option<(Hop, OwnedSemaphorePermit, Answer)> {
    let (peer, place) = (cluster.peers.peer(node), cluster.peers.place_to_watch().ok()?);
    match timeout(DEADLINE, Hop::begin(&cluster.peers, &peer, &HopRequest::list(), 0)).await {
        Ok(Ok(Reply::Final(hop, answer))) if answer.status == StatusCode::OK => Some((hop, place, answer)),
        _ => None,
    }
}

/// The list of all nodes, in parts.
pub(crate) struct GatheredList {
    /// `None` once it was returned.
    own: Option<Listing>,
    others: VecDeque<PassedBody>,
    joint: Joint,
    is_finished: bool,
}

impl GatheredList {
    /// Returns the next part.
    ///
    /// # Errors
    /// [`PartError`]
    pub(crate) async fn next_part(&mut self) -> Result<Bytes, PartError> {
        loop {
            let part = if let Some(own) = &mut self.own {
                let part = own.next_part().await?;
                let part = self.joint.add(&part);
                if own.is_finished() {
                    self.own = None;
                    self.joint.end();
                }
                part
            } else if let Some(other) = self.others.front_mut() {
                let part = other.next_part().await?;
                let part = self.joint.add(&part);
                if other.is_finished() {
                    self.others.pop_front();
                    self.joint.end();
                }
                part
            } else {
                self.is_finished = true;
                return Ok(self.joint.finish());
            };
            if !part.is_empty() {
                return Ok(part.into());
            }
        }
    }

    /// Returns whether the last part was returned.
    pub(crate) fn is_finished(&self) -> bool {
        self.is_finished
    }
}

/// Joins JSON arrays to one.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact about the text so far")]
struct Joint {
    /// The array has begun.
    has_begun: bool,
    /// The present array has begun.
    is_inside: bool,
    /// An object of the present array was added.
    has_objects_of_this: bool,
    has_objects: bool,
    /// The last byte of the present array so far, which may be its end.
    held: Option<u8>,
}

impl Joint {
    /// Adds a part of an array. Returns what of it can be sent.
    fn add(&mut self, part: &[u8]) -> Vec<u8> {
        let mut joined = Vec::with_capacity(part.len() + 2);
        if !std::mem::replace(&mut self.has_begun, true) {
            joined.push(b'[');
        }
        for byte in part {
            if !std::mem::replace(&mut self.is_inside, true) {
                // The bracket that begins it.
                continue;
            }
            if let Some(held) = self.held.replace(*byte) {
                if !std::mem::replace(&mut self.has_objects_of_this, true) && self.has_objects {
                    joined.push(b',');
                }
                self.has_objects = true;
                joined.push(held);
            }
        }
        joined
    }

    /// Ends the present array, of which the held byte is the last.
    fn end(&mut self) {
        (self.is_inside, self.has_objects_of_this, self.held) = (false, false, None);
    }

    /// Returns the end of the joined array.
    fn finish(&mut self) -> Bytes {
        Bytes::from_static(if self.has_begun { b"]" } else { b"[]" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_are_joined_however_they_are_split() {
        for (arrays, joined) in [
            (&["[]"][..], "[]"),
            (&["[]", "[]"], "[]"),
            (&["[1]", "[]", "[2,3]"], "[1,2,3]"),
            (&["[]", "[{\"a\":[]}]", "[]"], "[{\"a\":[]}]"),
            (&[], "[]"),
        ] {
            for split in 1..10 {
                let (mut joint, mut text) = (Joint::default(), Vec::new());
                for array in arrays {
                    for part in array.as_bytes().chunks(split) {
                        text.extend(joint.add(part));
                    }
                    joint.end();
                }
                text.extend(joint.finish());
                assert_eq!(String::from_utf8(text).unwrap(), joined, "{arrays:?} {split}");
            }
        }
    }
}
