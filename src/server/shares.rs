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
}

/// Where nothing is short.
const TOLD: usize = 256;
const PIPES: usize = 512;
/// Listeners, standard streams, the runtime's own, and what looking up a name takes.
const ALL_ELSE: usize = 32;

impl Shares {
    /// `wanted` connections, or as many as there are `descriptors` for.
    pub(super) fn new(descriptors: Option<usize>, wanted: usize) -> Self {
        let Some(descriptors) = descriptors else {
            return Self { connections: wanted, told: TOLD, pipes: PIPES };
        };
        let (told, pipes) = ((descriptors / 16).min(TOLD), (descriptors / 16).min(PIPES));
        let left = descriptors.saturating_sub(told + 2 * pipes + ALL_ELSE);
        Self { connections: wanted.min(left.max(1)), told, pipes }
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
            let shares = Shares::new(descriptors, 210_000);
            assert_eq!(shares, Shares { connections, told, pipes }, "{descriptors:?}");
        }
        assert_eq!(Shares::new(Some(1024), 10).connections, 10, "no more than was asked for");
    }
}
