//! Divides the file descriptors of the process among their uses. Pure.
//!
//! *Invariant.* The shares never add up to more than the process may open, so that clients get a refusal before the system runs out of
//! descriptors. The exception is a limit that is too low to serve one connection.

/// The maximum of each use, such that all of them fit in the limit of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DescriptorShares {
    /// Connections of clients that are served. A node of a cluster has as many for other nodes that connect to it, and again as many for those
    /// that it connects to.
    pub(super) connections: usize,
    /// Connections over a limit that get a response before they are closed. Further ones are closed at once.
    pub(super) refused: usize,
    /// Pipes, of two descriptors each. A body for which there is none is copied.
    pub(super) pipes: usize,
    /// Connections of the admin listener.
    pub(super) operators: usize,
    /// Connections of other nodes that have not proved themselves yet.
    pub(super) proving: usize,
    /// Links that other nodes have opened. This one opens as many.
    pub(super) links: usize,
}

/// The largest `refused`.
const MAX_REFUSED: usize = 256;
/// The largest `pipes`.
const MAX_PIPES: usize = 512;
/// The largest `operators`.
const MAX_OPERATORS: usize = 256;
/// The largest `proving`.
const MAX_PROVING: usize = 256;
/// The largest `links`: the engine takes no more nodes.
const MAX_LINKS: usize = 1024;
/// Descriptors of listeners, the standard streams, the runtime and name lookups.
const OTHER: usize = 32;

impl DescriptorShares {
    /// Returns shares with `wanted` connections, or with as many as `descriptors` allow. `None` is no limit. Operators have a share
    /// only if there is an admin listener, and other nodes only in a cluster.
    pub(super) fn new(
        descriptors: Option<usize>,
        wanted: usize,
        has_admin_listener: bool,
        is_node: bool,
    ) -> Self {
        let share = |max: usize| descriptors.map_or(max, |descriptors| (descriptors / 16).min(max));
        let (refused, pipes) = (share(MAX_REFUSED), share(MAX_PIPES));
        let operators = if has_admin_listener { share(MAX_OPERATORS) } else { 0 };
        let (uses, proving, links) =
            if is_node { (3, share(MAX_PROVING), share(MAX_LINKS)) } else { (1, 0, 0) };
        let reserved = refused + 2 * pipes + operators + proving + 2 * links + OTHER;
        let left = |descriptors: usize| (descriptors.saturating_sub(reserved) / uses).max(1);
        let left = descriptors.map_or(wanted, left);
        Self { connections: wanted.min(left), refused, pipes, operators, proving, links }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_get_the_descriptors_that_are_not_reserved() {
        for (descriptors, connections, refused, pipes) in [
            (None, 210_000, 256, 512),
            (Some(1 << 20), 210_000, 256, 512),
            (Some(20_000), 18_688, 256, 512),
            (Some(1024), 800, 64, 64),
            (Some(256), 176, 16, 16),
            (Some(20), 1, 1, 1),
            (Some(0), 1, 0, 0),
        ] {
            let shares = DescriptorShares::new(descriptors, 210_000, false, false);
            assert_eq!(
                shares,
                DescriptorShares { connections, refused, pipes, operators: 0, proving: 0, links: 0 },
                "{descriptors:?}"
            );
        }
        assert_eq!(
            DescriptorShares::new(Some(1024), 10, false, false).connections,
            10,
            "no more than wanted"
        );
    }

    #[test]
    fn operators_have_a_share_if_there_is_an_admin_listener() {
        for (descriptors, connections, operators) in
            [(None, 210_000, 256), (Some(20_000), 18_432, 256), (Some(1024), 736, 64), (Some(256), 160, 16)]
        {
            let shares = DescriptorShares::new(descriptors, 210_000, true, false);
            assert_eq!((shares.connections, shares.operators), (connections, operators), "{descriptors:?}");
            let taken = shares.connections + shares.refused + 2 * shares.pipes + shares.operators + OTHER;
            assert!(descriptors.is_none_or(|descriptors| taken <= descriptors), "{descriptors:?}");
        }
    }

    #[test]
    fn a_node_has_as_many_for_each_direction_between_nodes_as_for_clients() {
        for (descriptors, connections, proving, links) in [
            (None, 210_000, 256, 1024),
            (Some(20_000), 5_461, 256, 1024),
            (Some(1024), 202, 64, 64),
            (Some(20), 1, 1, 1),
        ] {
            let shares = DescriptorShares::new(descriptors, 210_000, false, true);
            assert_eq!(
                (shares.connections, shares.proving, shares.links),
                (connections, proving, links),
                "{descriptors:?}"
            );
        }
    }
}
