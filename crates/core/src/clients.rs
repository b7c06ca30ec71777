//! What one client may have of the server: connections, streams, creations a minute.
//!
//! A client is an address, or a /64 of IPv6. Who is on this machine has no limits, unless they were given explicitly;
//! then nothing is looked up and nothing is locked for it. Each lock is held for one operation of a table.

mod tables;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use self::tables::{Buckets, Counts};
use crate::outcome::TooMany;
use crate::rate::Rate;

/// Connections at a time, where nothing else was said.
pub const DEFAULT_CONNECTIONS: usize = 10_000;
/// Streams at a time that have not ended, where nothing else was said. A waiting upload takes up to 135 KiB, so this is what keeps
/// one client from taking more than 256 MiB by them.
pub const DEFAULT_STREAMS: usize = 1_500;
/// Creations of streams a minute, where nothing else was said.
pub const DEFAULT_CREATIONS: usize = 6_000;
/// Clients whose creations are counted at a time, some 100 bytes each.
const MAX_BUCKETS: usize = 100_000;
const MINUTE: Duration = Duration::from_mins(1);

/// Whom a limit counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Client(u64);

impl Client {
    /// An IPv6 client has at least a /64 to itself. Those that begin with 32 zero bits are nobody's, so they stand for
    /// IPv4.
    fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.to_bits().into(),
            IpAddr::V6(address) => u64::try_from(address.to_bits() >> 64).unwrap_or(u64::MAX),
        })
    }
}

/// What each client may have. `None` is the default, which spares those on this machine; a number holds for everybody.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientLimits {
    /// Connections at a time, at least 1.
    pub max_connections: Option<usize>,
    /// Streams at a time that have not ended, at least 1.
    pub max_streams: Option<usize>,
    /// Streams made in a minute, at least 1.
    pub max_creations_per_minute: Option<usize>,
}

/// What all clients have.
#[derive(Debug)]
pub struct Clients {
    limits: ClientLimits,
    connections: Arc<Places>,
    streams: Arc<Places>,
    creations: Mutex<Buckets>,
    started: Instant,
}

#[derive(Debug, Default)]
struct Places(Mutex<Counts>);

/// One of the places that a client has. Dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    client: Client,
}

impl Clients {
    /// Nobody has anything yet.
    #[must_use]
    pub fn new(limits: ClientLimits) -> Self {
        Self {
            limits,
            connections: Arc::default(),
            streams: Arc::default(),
            creations: Mutex::new(Buckets::new(MAX_BUCKETS)),
            started: Instant::now(),
        }
    }

    /// A place for one more connection from `address`; `None` where none is needed.
    ///
    /// # Errors
    /// [`TooMany::Connections`].
    pub fn connect(&self, address: IpAddr) -> Result<Option<Place>, TooMany> {
        match limit(self.limits.max_connections, DEFAULT_CONNECTIONS, address) {
            None => Ok(None),
            Some(limit) => {
                Place::take(&self.connections, address, limit).map(Some).ok_or(TooMany::Connections(limit))
            }
        }
    }

    /// A place for one more stream that a client at `address` makes; `None` where none is needed.
    ///
    /// # Errors
    /// [`TooMany::Streams`] or [`TooMany::Creations`].
    pub fn create(&self, address: IpAddr) -> Result<Option<Place>, TooMany> {
        let place = match limit(self.limits.max_streams, DEFAULT_STREAMS, address) {
            None => None,
            Some(limit) => Some(Place::take(&self.streams, address, limit).ok_or(TooMany::Streams(limit))?),
        };
        if let Some(limit) = limit(self.limits.max_creations_per_minute, DEFAULT_CREATIONS, address) {
            let rate = Rate::new(limit as u64, MINUTE, MINUTE);
            let taken = self.creations.lock().take(Client::of(address), rate, self.started.elapsed());
            taken.map_err(|wait| TooMany::Creations { limit, wait })?;
        }
        Ok(place)
    }
}

/// A limit that was given holds for everybody, and the default for all but those on this machine.
fn limit(given: Option<usize>, default: usize, address: IpAddr) -> Option<usize> {
    given.or_else(|| (!address.to_canonical().is_loopback()).then_some(default))
}

impl Place {
    fn take(places: &Arc<Places>, address: IpAddr, limit: usize) -> Option<Self> {
        let client = Client::of(address);
        places.0.lock().take(client, limit).then(|| Self { places: Arc::clone(places), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.0.lock().give_back(self.client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_ipv6_client_is_its_network_and_an_ipv4_client_its_address() {
        let client = |text| Client::of(address(text));
        assert_eq!(client("2001:db8:0:1::1"), client("2001:db8:0:1:ffff::2"));
        assert_ne!(client("2001:db8:0:1::1"), client("2001:db8:0:2::1"));
        assert_eq!(client("192.0.2.1"), client("::ffff:192.0.2.1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
    }

    #[test]
    fn a_place_is_given_back_by_dropping_it() {
        let limits = ClientLimits { max_connections: Some(2), ..ClientLimits::default() };
        let clients = Clients::new(limits);
        let (one, other) = (address("127.0.0.1"), address("127.0.0.2"));
        let held = [clients.connect(one).unwrap(), clients.connect(one).unwrap()];
        assert_eq!(clients.connect(one).unwrap_err(), TooMany::Connections(2));
        assert!(clients.connect(other).unwrap().is_some(), "another client has places of its own");
        drop(held);
        assert!(clients.connect(one).unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_on_this_machine_has_no_limit_but_an_explicit_one() {
        let clients = Clients::new(ClientLimits::default());
        for local in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"] {
            assert!(clients.connect(address(local)).unwrap().is_none());
            assert!(clients.create(address(local)).unwrap().is_none());
        }
        let far = address("192.0.2.1");
        let held: Vec<_> = (0..DEFAULT_STREAMS).map(|_| clients.create(far).unwrap().unwrap()).collect();
        assert_eq!(clients.create(far).unwrap_err(), TooMany::Streams(DEFAULT_STREAMS));
        drop(held);
        for _ in DEFAULT_STREAMS..DEFAULT_CREATIONS {
            assert!(clients.create(far).unwrap().is_some());
        }
        let refused = clients.create(far).unwrap_err();
        assert!(matches!(refused, TooMany::Creations { limit: DEFAULT_CREATIONS, .. }), "{refused:?}");
    }
}
