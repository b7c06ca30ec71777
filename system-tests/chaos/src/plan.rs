//! The plan: a seed and a number determine a scenario. Pure, without I/O.
//!
//! - [`episode`]: a server, its trouble, rate limit and proxy
//! - [`scenario`]: one transfer, of an address ([`address`]), two parties ([`party`]) and a fault ([`fault`])
//! - [`draw`]: the random choices of a scenario. Its fault is a cell of the table ([`table`]) or drawn freely ([`disturb`])
//!
//! A seed repeats only the plan. It cannot repeat how the network and the threads interleave, so a scenario that broke a law once is
//! repeated some hundred times (`--times`).

mod address;
mod disturb;
mod draw;
mod episode;
mod fault;
mod party;
mod scenario;
mod table;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

pub(crate) use self::address::Address;
pub(crate) use self::episode::{EPISODE, Episode, Trouble};
pub(crate) use self::fault::{Act, Fault, Manner, Moment, Stage, Step};
pub(crate) use self::party::{Party, Program, Proxy, Side, Transport};
pub(crate) use self::scenario::{Framing, Order, Scenario};
pub(crate) use self::table::Drawn;
use self::table::Table;

const KIB: u64 = 1024;

/// The parameters of a run's plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mix {
    /// The seed of the run.
    pub(crate) seed: u64,
    /// The transports of the sides.
    pub(crate) transports: Vec<Transport>,
    /// The proxies. One server in four has one of them, in turn.
    pub(crate) proxies: Vec<Proxy>,
    /// The rate limit of all streams of all servers, in bytes per second. If set, every server has the default idle limit.
    pub(crate) rate: Option<u64>,
    table: Table,
}

impl Mix {
    /// Draws from these, and from the cells of the table that have these transports.
    #[must_use]
    pub(crate) fn new(seed: u64, transports: Vec<Transport>, proxies: Vec<Proxy>, rate: Option<u64>) -> Self {
        let table = Table::new(&transports);
        Self { seed, transports, proxies, rate, table }
    }

    /// Draws from everything.
    #[cfg(test)]
    pub(crate) fn whole(seed: u64) -> Self {
        Self::new(seed, Transport::ALL.to_vec(), Proxy::ALL.to_vec(), None)
    }
}

/// The generator of this number: of a scenario in `stream` 0, of an episode in `stream` 1.
fn rng(seed: u64, number: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(number * 2 + stream);
    rng
}
