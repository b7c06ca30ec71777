//! Which node owns a named path: the highest hash wins (rendezvous hashing). Pure.
//!
//! *Invariant.* All nodes with the same list name the same owner. When a node joins or leaves, only the paths that it gains or has owned
//! change their owner.

use aws_lc_rs::digest::{Context, SHA256};
use rendezvous_protocol::Tag;

use crate::name::ClusterName;
use crate::record::Record;

/// Returns the owner of a path: of the nodes that are not draining, the one with the highest SHA-256 of the cluster's name, its tag and the
/// path. `None` if all are draining.
///
/// Costs one hash for each node.
pub fn owner<'a>(
    cluster: &ClusterName,
    path: &[u8],
    nodes: impl IntoIterator<Item = &'a Record>,
) -> Option<&'a Record> {
    let eligible = nodes.into_iter().filter(|node| !node.draining);
    eligible
        .map(|node| (weight(cluster, node.tag, path), node))
        .max_by_key(|(weight, _)| *weight)
        .map(|(_, node)| node)
}

fn weight(cluster: &ClusterName, tag: Tag, path: &[u8]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for part in [cluster.as_str().as_bytes(), &tag.to_bytes(), path] {
        context.update(part);
    }
    context.finish().as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::*;
    use crate::record::tests::{cluster, record};

    fn nodes(tags: impl IntoIterator<Item = [u8; 4]>) -> Vec<Record> {
        tags.into_iter().map(|tag| record(tag, 7780)).collect()
    }

    fn owner_of(path: &[u8], nodes: &[Record]) -> Option<Tag> {
        owner(&cluster(), path, nodes).map(|node| node.tag)
    }

    proptest! {
        #[test]
        fn all_nodes_with_the_same_list_agree_in_whatever_order(
            tags in btree_set(any::<[u8; 4]>(), 1..20), path in vec(any::<u8>(), 1..40),
        ) {
            let nodes = nodes(tags);
            let reversed: Vec<_> = nodes.iter().rev().cloned().collect();
            prop_assert_eq!(owner_of(&path, &nodes), owner_of(&path, &reversed));
        }

        #[test]
        fn a_node_that_leaves_changes_the_owner_of_its_own_paths_only(
            tags in btree_set(any::<[u8; 4]>(), 2..20), path in vec(any::<u8>(), 1..40),
            left: prop::sample::Index, drains: bool,
        ) {
            let before = nodes(tags);
            let left = left.index(before.len());
            let mut after = before.clone();
            if drains { after[left].draining = true } else { after.remove(left); }
            let owned = owner_of(&path, &before);
            if owned == Some(before[left].tag) {
                prop_assert!(owner_of(&path, &after).is_some_and(|tag| tag != before[left].tag));
            } else {
                prop_assert_eq!(owner_of(&path, &after), owned);
            }
        }
    }

    #[test]
    fn paths_are_spread_evenly() {
        let nodes = nodes([[0, 0, 0, 1], [0, 0, 0, 2], [0xff; 4]]);
        let mut owned = BTreeMap::new();
        for path in 0..3000 {
            *owned.entry(owner_of(format!("builds/{path}").as_bytes(), &nodes)).or_insert(0) += 1;
        }
        assert!(owned.len() == 3 && owned.values().all(|count| (880..1120).contains(count)), "{owned:?}");
    }

    #[test]
    fn the_hash_is_that_of_the_documentation() {
        // printf 'test\0\0\0\1a' | sha256sum
        let expected = "ea0c77e2";
        assert_eq!(&crate::hex::encode(&weight(&cluster(), Tag::from([0, 0, 0, 1]), b"a"))[..8], expected);
    }

    #[test]
    fn a_path_has_no_owner_if_all_nodes_drain() {
        let mut nodes = nodes([[0, 0, 0, 1], [0, 0, 0, 2]]);
        for node in &mut nodes {
            node.draining = true;
        }
        assert_eq!(owner_of(b"a", &nodes), None);
        assert_eq!(owner_of(b"a", &[]), None);
    }
}
