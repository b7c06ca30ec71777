//! The addresses: where the two sides of a transfer meet.

use std::fmt;
use std::time::Duration;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{Act, Fault, Scenario, Side};

/// The share of path scenarios among those that may use one, so that about a third of all do.
const PATHS: f64 = 0.5;
/// The own time to live of a stream that is played to the end, in milliseconds. It is longer than that of the server, and short enough for
/// the server to give everything back in time.
const OWN_TTL: std::ops::RangeInclusive<u64> = 5000..=8000;
/// The same of a stream that one side or both never join.
const OWN_SHORT_TTL: std::ops::RangeInclusive<u64> = 300..=6000;

/// Where the two sides of a transfer meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Address {
    /// A stream that is created for it.
    Stream {
        /// Its creator has declared the length.
        is_promised: bool,
        /// How long it waits for both sides, if not for the time of the server.
        ttl: Option<Duration>,
    },
    /// A named path, which its first side makes.
    Path,
}

impl Scenario {
    /// Whether the creator of the stream has declared the length.
    #[must_use]
    pub(crate) fn is_promised(&self) -> bool {
        matches!(self.address, Address::Stream { is_promised: true, .. })
    }

    /// The time to live of the stream, if it has its own.
    #[must_use]
    pub(crate) fn own_ttl(&self) -> Option<Duration> {
        match self.address {
            Address::Stream { ttl, .. } => ttl,
            Address::Path => None,
        }
    }

    /// Moves the transfer to a path, if it may happen at one, or gives its stream a time to live.
    pub(super) fn choose_address(&mut self, rng: &mut ChaCha8Rng) {
        let (goes_to_path, has_own_ttl) = (rng.random_bool(PATHS), rng.random_bool(0.2));
        let millis = match self.fault {
            Fault::Absent(_) | Fault::Forgotten => OWN_SHORT_TTL,
            _ => OWN_TTL,
        };
        let own = Duration::from_millis(rng.random_range(millis));
        if goes_to_path && self.may_use_path() {
            self.address = Address::Path;
        } else if let Address::Stream { ttl, .. } = &mut self.address {
            *ttl = has_own_ttl.then_some(own);
        }
    }

    /// A path has no creator, no reports, and no status that shows when its sides have paired.
    fn may_use_path(&self) -> bool {
        let steps = [Side::Source, Side::Destination].map(|side| self.steps(side)).concat();
        let awaits_pair = steps.iter().any(|step| step.act == Act::AwaitPair);
        !self.is_promised() && !awaits_pair && !matches!(self.fault, Fault::Reported(_) | Fault::Forgotten)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => f.write_str("a path"),
            Self::Stream { is_promised, ttl } => {
                let promise = if *is_promised { ", promised" } else { "" };
                let ttl = ttl.map_or_else(String::new, |ttl| format!(", ttl {ttl:?}"));
                write!(f, "a stream{promise}{ttl}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Mix;

    #[test]
    fn a_third_of_the_transfers_are_at_paths_and_some_streams_have_their_own_ttl() {
        let mix = Mix::whole(1);
        let all: Vec<_> = (0..9000).map(|number| Scenario::new(&mix, number)).collect();
        let count = |is_so: fn(&Scenario) -> bool| all.iter().filter(|one| is_so(one)).count();
        let paths = count(|one| one.address == Address::Path);
        assert!((2700..3300).contains(&paths), "{paths}");
        let own = count(|one| one.own_ttl().is_some());
        assert!((800..1600).contains(&own), "{own}");
        assert!(count(|one| matches!(one.fault, Fault::Looped(_))) > 20);
        for one in all.iter().filter(|one| matches!(one.fault, Fault::Looped(_))) {
            assert_eq!(one.address, Address::Path, "{one}");
        }
    }
}
