//! Quotas of each client: connections, streams, and streams created per minute.
//!
//! A client is an IPv4 address, or a /64 of IPv6. Loopback addresses have no default quotas; configured ones apply to them
//! too.
//!
//! *Concurrency.* One lock for each table, held for one operation. Without a quota nothing is locked.
//!
//! *Bounds.* A count exists only while it is not 0. Creations are counted for at most 100 000 clients.

mod tables;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use self::tables::{Buckets, Counts};
use crate::outcome::TooMany;
use crate::rate::Rate;

/// Default limit on the simultaneous connections of a client.
pub const DEFAULT_CONNECTIONS: usize = 10_000;
/// Default limit on a client's streams that have not ended. A waiting upload takes up to 135 KiB, so one client cannot
/// take more than 256 MiB with them.
pub const DEFAULT_STREAMS: usize = 1_500;
/// Default limit on the streams that a client creates per minute.
pub const DEFAULT_CREATIONS: usize = 6_000;
/// Limit on the clients whose creations are counted. Each takes about 100 bytes.
const MAX_BUCKETS: usize = 100_000;
const MINUTE: Duration = Duration::from_mins(1);

/// The key by which quotas are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Client(u64);

impl Client {
    /// An IPv6 client controls at least a /64. Prefixes that begin with 32 zero bits are not assigned, so they represent
    /// IPv4 addresses.
    fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.to_bits().into(),
            IpAddr::V6(address) => u64::try_from(address.to_bits() >> 64).unwrap_or(u64::MAX),
        })
    }
}

/// The quotas of each client. `None` is the default, from which loopback addresses are exempt. A configured number
/// applies to every client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ClientLimits {
    /// Simultaneous connections, at least 1. Default: [`DEFAULT_CONNECTIONS`]. Further connections get 429.
    pub max_connections: Option<usize>,
    /// Streams created by the client that have not ended, at least 1. Default: [`DEFAULT_STREAMS`]. Further creations
    /// get 429.
    pub max_streams: Option<usize>,
    /// Streams created per minute, at least 1. Default: [`DEFAULT_CREATIONS`]. Further creations get 429 with a
    /// `Retry-After`.
    pub max_creations_per_minute: Option<usize>,
}

/// Counts the connections, streams and creations of all clients, and enforces their quotas.
#[derive(Debug)]
pub struct Clients {
    limits: ClientLimits,
    connections: Arc<Usage>,
    streams: Arc<Usage>,
    creations: Mutex<Buckets>,
    started: Instant,
}

#[derive(Debug, Default)]
struct Usage(Mutex<Counts>);

/// One connection or stream, counted against its client's quota. Dropping it releases it.
#[derive(Debug)]
pub struct Permit {
    usage: Arc<Usage>,
    client: Client,
}

impl Clients {
    /// Creates empty counts.
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

    /// Counts a connection from `address`. Returns `None` if no quota applies to it.
    ///
    /// # Errors
    /// [`TooMany::Connections`] if the client has reached its quota.
    pub fn connect(&self, address: IpAddr) -> Result<Option<Permit>, TooMany> {
        match limit(self.limits.max_connections, DEFAULT_CONNECTIONS, address) {
            None => Ok(None),
            Some(limit) => {
                Permit::take(&self.connections, address, limit).map(Some).ok_or(TooMany::Connections(limit))
            }
        }
    }

    /// Counts a stream that a client at `address` creates. Returns `None` if no quota applies to its number of streams.
    ///
    /// # Errors
    /// [`TooMany::Streams`] or [`TooMany::Creations`] if the client has reached that quota. Neither count then changes.
    pub fn create(&self, address: IpAddr) -> Result<Option<Permit>, TooMany> {
        let permit = match limit(self.limits.max_streams, DEFAULT_STREAMS, address) {
            None => None,
            Some(limit) => Some(Permit::take(&self.streams, address, limit).ok_or(TooMany::Streams(limit))?),
        };
        if let Some(limit) = limit(self.limits.max_creations_per_minute, DEFAULT_CREATIONS, address) {
            let rate = Rate::new(limit as u64, MINUTE, MINUTE);
            let taken = self.creations.lock().take(Client::of(address), rate, self.started.elapsed());
            taken.map_err(|wait| TooMany::Creations { limit, wait })?;
        }
        Ok(permit)
    }
}

/// Returns the limit that applies to `address`: the configured one, or the default unless it is a loopback address.
fn limit(configured: Option<usize>, default: usize, address: IpAddr) -> Option<usize> {
    configured.or_else(|| (!address.to_canonical().is_loopback()).then_some(default))
}

impl Permit {
    fn take(usage: &Arc<Usage>, address: IpAddr, limit: usize) -> Option<Self> {
        let client = Client::of(address);
        usage.0.lock().take(client, limit).then(|| Self { usage: Arc::clone(usage), client })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.usage.0.lock().release(self.client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_ipv6_client_is_its_64_and_an_ipv4_client_its_address() {
        let client = |text| Client::of(address(text));
        assert_eq!(client("2001:db8:0:1::1"), client("2001:db8:0:1:ffff::2"));
        assert_ne!(client("2001:db8:0:1::1"), client("2001:db8:0:2::1"));
        assert_eq!(client("192.0.2.1"), client("::ffff:192.0.2.1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
    }

    #[test]
    fn dropping_a_permit_releases_it() {
        let limits = ClientLimits { max_connections: Some(2), ..ClientLimits::default() };
        let clients = Clients::new(limits);
        let (one, other) = (address("127.0.0.1"), address("127.0.0.2"));
        let held = [clients.connect(one).unwrap(), clients.connect(one).unwrap()];
        assert_eq!(clients.connect(one).unwrap_err(), TooMany::Connections(2));
        assert!(clients.connect(other).unwrap().is_some(), "another client has its own quota");
        drop(held);
        assert!(clients.connect(one).unwrap().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn loopback_addresses_have_no_default_quotas() {
        let clients = Clients::new(ClientLimits::default());
        for local in ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"] {
            assert!(clients.connect(address(local)).unwrap().is_none());
            assert!(clients.create(address(local)).unwrap().is_none());
        }
        let remote = address("192.0.2.1");
        let held: Vec<_> = (0..DEFAULT_STREAMS).map(|_| clients.create(remote).unwrap().unwrap()).collect();
        assert_eq!(clients.create(remote).unwrap_err(), TooMany::Streams(DEFAULT_STREAMS));
        drop(held);
        for _ in DEFAULT_STREAMS..DEFAULT_CREATIONS {
            assert!(clients.create(remote).unwrap().is_some());
        }
        let refused = clients.create(remote).unwrap_err();
        assert!(matches!(refused, TooMany::Creations { limit: DEFAULT_CREATIONS, .. }), "{refused:?}");
    }
}
