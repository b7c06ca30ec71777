//! The waiting sides, the planned end of each exchange, and the order. Pure: the same seed gives the same plan.

use std::fmt;

/// A side of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// The sides that wait for the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mix {
    /// Sources and destinations in turn
    Mixed,
    /// Destinations
    Gets,
    /// Sources
    Puts,
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mixed => "GETs and PUTs in turn",
            Self::Gets => "GETs",
            Self::Puts => "PUTs",
        })
    }
}

/// The planned end of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The whole body arrives.
    Delivered,
    /// The waiting side leaves just before the other connects. Another takes its free seat and is served.
    Replaced,
    /// A client reports an error instead of connecting as the other side.
    Reported,
    /// The source leaves in the middle of its body.
    Cut,
}

/// One stream of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exchange {
    /// The waiting side.
    pub(crate) first: Side,
    pub(crate) ending: Ending,
}

pub(crate) struct Plan {
    pub(crate) exchanges: Vec<Exchange>,
    /// The order in which the second sides connect.
    pub(crate) order: Vec<usize>,
}

/// One in this number fails.
const FAILS: usize = 100;
const FAILURES: [Ending; 3] = [Ending::Replaced, Ending::Reported, Ending::Cut];

impl Plan {
    pub(crate) fn new(sides: usize, mix: Mix, seed: u64) -> Self {
        let mut chance = fastrand::Rng::with_seed(seed);
        let exchange = |index: usize| {
            let first = match mix {
                Mix::Mixed if index.is_multiple_of(2) => Side::Source,
                Mix::Mixed | Mix::Gets => Side::Destination,
                Mix::Puts => Side::Source,
            };
            Exchange { first, ending: Ending::Delivered }
        };
        let mut exchanges: Vec<_> = (0..sides).map(exchange).collect();
        let mut order: Vec<_> = (0..sides).collect();
        chance.shuffle(&mut order);
        for (ending, index) in FAILURES.into_iter().cycle().zip(order.iter().take(sides / FAILS)) {
            if let Some(exchange) = exchanges.get_mut(*index) {
                exchange.ending = ending;
            }
        }
        chance.shuffle(&mut order);
        Self { exchanges, order }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(plan: &Plan, matches: impl Fn(&Exchange) -> bool) -> usize {
        plan.exchanges.iter().filter(|exchange| matches(exchange)).count()
    }

    #[test]
    fn one_in_a_hundred_fails_in_each_way() {
        let plan = Plan::new(3000, Mix::Mixed, 1);
        for failure in FAILURES {
            assert_eq!(count(&plan, |exchange| exchange.ending == failure), 10, "{failure:?}");
        }
        assert_eq!(count(&plan, |exchange| exchange.ending == Ending::Delivered), 2970);
    }

    #[test]
    fn the_mix_is_as_asked() {
        for (mix, sources) in [(Mix::Mixed, 50), (Mix::Gets, 0), (Mix::Puts, 100)] {
            let plan = Plan::new(100, mix, 1);
            assert_eq!(count(&plan, |exchange| exchange.first == Side::Source), sources, "{mix:?}");
        }
    }

    #[test]
    fn everybody_is_met_once_and_a_seed_repeats_the_order() {
        let (plan, again, other) =
            (Plan::new(500, Mix::Mixed, 1), Plan::new(500, Mix::Mixed, 1), Plan::new(500, Mix::Mixed, 2));
        assert_eq!((&plan.order, &plan.exchanges), (&again.order, &again.exchanges));
        assert_ne!(plan.order, other.order);
        let mut met = plan.order;
        met.sort_unstable();
        assert!(met.into_iter().eq(0..500));
    }
}
