//! How the descriptors that the process may have are shared out, so that running out of them is a refusal like any
//! other. Pure.

/// What the server has descriptors for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shares {
    /// Connections that are served.
    pub(super) connections: usize,
    /// Connections that are told that there is no place for them; more are closed without a word.
    pub(super) told: usize,
    /// Pipes, of two descriptors each; bodies for which there is none are copied.
    pub(super) pipes: usize,
    /// Connections of the operators' listener, which those of clients leave alone.
    pub(super) operators: usize,
}

/// Where nothing is short.
const TOLD: usize = 256;
const PIPES: usize = 512;
const OPERATORS: usize = 256;
/// Listeners, standard streams, the runtime's own, and what looking up a name takes.
const ALL_ELSE: usize = 32;

impl Shares {
    /// `wanted` connections, or as many as there are `descriptors` for. Operators have a share where they have a listener.
    pub(super) fn new(descriptors: Option<usize>, wanted: usize, has_admin_listener: bool) -> Self {
        let share = |most: usize| descriptors.map_or(most, |descriptors| (descriptors / 16).min(most));
        let (told, pipes) = (share(TOLD), share(PIPES));
        let operators = if has_admin_listener { share(OPERATORS) } else { 0 };
        let reserved = told + 2 * pipes + operators + ALL_ELSE;
        let left = descriptors.map_or(wanted, |descriptors| descriptors.saturating_sub(reserved).max(1));
        Self { connections: wanted.min(left), told, pipes, operators }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_get_what_the_reserve_leaves() {
        for (descriptors, connections, told, pipes) in [
            (None, 210_000, 256, 512),
            (Some(1 << 20), 210_000, 256, 512),
            (Some(20_000), 18_688, 256, 512),
            (Some(1024), 800, 64, 64),
            (Some(256), 176, 16, 16),
            (Some(20), 1, 1, 1),
            (Some(0), 1, 0, 0),
        ] {
            let shares = Shares::new(descriptors, 210_000, false);
            assert_eq!(shares, Shares { connections, told, pipes, operators: 0 }, "{descriptors:?}");
        }
        assert_eq!(Shares::new(Some(1024), 10, false).connections, 10, "no more than was asked for");
    }

    #[test]
    fn operators_have_a_share_of_their_own_where_they_have_a_listener() {
        for (descriptors, connections, operators) in
            [(None, 210_000, 256), (Some(20_000), 18_432, 256), (Some(1024), 736, 64), (Some(256), 160, 16)]
        {
            let shares = Shares::new(descriptors, 210_000, true);
            assert_eq!((shares.connections, shares.operators), (connections, operators), "{descriptors:?}");
            let taken = shares.connections + shares.told + 2 * shares.pipes + shares.operators + ALL_ELSE;
            assert!(descriptors.is_none_or(|descriptors| taken <= descriptors), "{descriptors:?}");
        }
    }
}
