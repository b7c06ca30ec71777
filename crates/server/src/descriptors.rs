//! Divides the file descriptors of the process among their uses. Pure.
//!
//! *Invariant.* The shares never add up to more than the process may open, so that clients get a refusal before the system runs out of
//! descriptors. The exception is a limit that is too low to serve one connection.

/// The maximum of each use, such that all of them fit in the limit of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DescriptorShares {
    /// Connections of clients that are served.
    pub(super) connections: usize,
    /// Connections over a limit that get a response before they are closed. Further ones are closed at once.
    pub(super) refused: usize,
    /// Pipes, of two descriptors each. A body for which there is none is copied.
    pub(super) pipes: usize,
    /// Connections of the admin listener.
    pub(super) operators: usize,
}

/// The largest `refused`.
const MAX_REFUSED: usize = 256;
/// The largest `pipes`.
const MAX_PIPES: usize = 512;
/// The largest `operators`.
const MAX_OPERATORS: usize = 256;
/// Descriptors of listeners, the standard streams, the runtime and name lookups.
const OTHER: usize = 32;

impl DescriptorShares {
    /// Returns shares with `wanted` connections, or with as many as `descriptors` allow. `None` is no limit. Operators have a share
    /// only if there is an admin listener.
    pub(super) fn new(descriptors: Option<usize>, wanted: usize, has_admin_listener: bool) -> Self {
        let share = |max: usize| descriptors.map_or(max, |descriptors| (descriptors / 16).min(max));
        let (refused, pipes) = (share(MAX_REFUSED), share(MAX_PIPES));
        let operators = if has_admin_listener { share(MAX_OPERATORS) } else { 0 };
        let reserved = refused + 2 * pipes + operators + OTHER;
        let left = descriptors.map_or(wanted, |descriptors| descriptors.saturating_sub(reserved).max(1));
        Self { connections: wanted.min(left), refused, pipes, operators }
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
            let shares = DescriptorShares::new(descriptors, 210_000, false);
            assert_eq!(
                shares,
                DescriptorShares { connections, refused, pipes, operators: 0 },
                "{descriptors:?}"
            );
        }
        assert_eq!(DescriptorShares::new(Some(1024), 10, false).connections, 10, "no more than wanted");
    }

    #[test]
    fn operators_have_a_share_if_there_is_an_admin_listener() {
        for (descriptors, connections, operators) in
            [(None, 210_000, 256), (Some(20_000), 18_432, 256), (Some(1024), 736, 64), (Some(256), 160, 16)]
        {
            let shares = DescriptorShares::new(descriptors, 210_000, true);
            assert_eq!((shares.connections, shares.operators), (connections, operators), "{descriptors:?}");
            let taken = shares.connections + shares.refused + 2 * shares.pipes + shares.operators + OTHER;
            assert!(descriptors.is_none_or(|descriptors| taken <= descriptors), "{descriptors:?}");
        }
    }
}
