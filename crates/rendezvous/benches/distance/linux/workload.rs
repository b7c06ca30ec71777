//! The workloads, and the figures measured for each.

use std::fmt;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, ensure};
use measure::forwarder::{Forwarder, Route};
use measure::results::{Figure, Measure};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::certificate::Certificate;
use super::contender::{Contender, Kind, Protocol, Relay};
use super::http2::{self, Unfinished};
use super::side::{self, Amount, Side};

const GIB: f64 = (1_u64 << 30) as f64;
/// Round trips, in milliseconds.
const ROUND_TRIPS: [u32; 4] = [0, 10, 50, 200];
/// The least duration of a transfer over a distance, in milliseconds and in round trips.
const LEAST_MILLISECONDS: u32 = 500;
const LEAST_ROUND_TRIPS: u32 = 16;
/// Numbers of transfers at once.
const AT_ONCE: [u32; 2] = [1, 8];
/// Uploads that wait for their destinations beside a single one, on the same connection: with it, all that a client may open by default.
const WAITING: u32 = 99;
/// The timeout of a run.
const TIMEOUT: Duration = Duration::from_mins(2);
/// The pause after the last transfer, so that the CPU time includes the closing of connections.
const SETTLING: Duration = Duration::from_millis(50);

/// The side that is distant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The source.
    Upload,
    /// The destination.
    Download,
}

/// Transfers at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Workload {
    direction: Direction,
    round_trip: Duration,
    pub(crate) at_once: u32,
    /// Uploads that have filled their windows and wait, on the same connection.
    pub(crate) waiting: u32,
    extent: Extent,
}

/// How much is transferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// By all transfers together, in bytes.
    Bytes(u64),
    /// By what passes in this number of round trips.
    RoundTrips(u32),
}

/// The limits of each path.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes per second.
    pub(crate) rate: Option<NonZeroU32>,
    /// Bytes that are not acknowledged.
    pub(crate) in_flight: Option<NonZeroU32>,
}

/// The work of a side, which returns the size of the body.
type Work = Pin<Box<dyn Future<Output = anyhow::Result<u64>> + Send>>;

/// Returns all workloads: of such a size that a run over all takes some minutes, or with `quick` half a minute.
pub(crate) fn all(quick: bool) -> Vec<Workload> {
    let mut all = Vec::new();
    for round_trip in ROUND_TRIPS {
        let pairs = AT_ONCE
            .into_iter()
            .flat_map(|at_once| [(Direction::Upload, at_once, 0), (Direction::Download, at_once, 0)]);
        for (direction, at_once, waiting) in pairs.chain([(Direction::Upload, 1, WAITING)]) {
            let extent = match (round_trip, quick) {
                (0, false) => Extent::Bytes(512 << 20),
                (0, true) => Extent::Bytes(64 << 20),
                // Enough to see windows grow.
                (_, false) => Extent::RoundTrips((LEAST_MILLISECONDS / round_trip).max(LEAST_ROUND_TRIPS)),
                (_, true) => Extent::RoundTrips(2),
            };
            let round_trip = Duration::from_millis(round_trip.into());
            all.push(Workload { direction, round_trip, at_once, waiting, extent });
        }
    }
    all
}

impl Workload {
    /// Whether there is a path with a round trip.
    pub(crate) fn is_distant(&self) -> bool {
        !self.round_trip.is_zero()
    }

    /// What workloads with another number of transfers have in common.
    pub(crate) fn path(&self) -> (Direction, Duration) {
        (self.direction, self.round_trip)
    }

    pub(crate) async fn run(
        &self,
        contender: &Contender,
        limits: Limits,
        certificate: &Certificate,
    ) -> anyhow::Result<Vec<Figure>> {
        timeout(TIMEOUT, self.transfer(contender, limits, certificate)).await.context("it hangs")?
    }

    async fn transfer(
        &self,
        contender: &Contender,
        limits: Limits,
        certificate: &Certificate,
    ) -> anyhow::Result<Vec<Figure>> {
        let Contender { relay, protocol } = contender;
        let mut address = contender.address();
        let forwarder = match self.route(*protocol, limits) {
            Some(route) => Some(Forwarder::start(route, address).await?),
            None => None,
        };
        if let Some(forwarder) = &forwarder {
            address = forwarder.address;
        }
        let distant = Side::connect(*protocol, address, self.at_once, certificate).await?;
        let _waiting = self.fill(relay, &distant).await?;
        let cpu = relay.cpu()?;
        let amount = self.amount(limits);
        let (sources, destinations) = self.prepare(relay, distant, amount).await?;

        let start = Instant::now();
        let mut receiving: JoinSet<_> = destinations.into_iter().collect();
        let mut sending: JoinSet<_> = sources.into_iter().collect();
        let is_pair = !sending.is_empty() && !receiving.is_empty();
        let sent = total(&mut sending).await?;
        let received = total(&mut receiving).await?;
        let seconds = start.elapsed().as_secs_f64();
        ensure!(sent == received || !is_pair, "{sent} bytes were sent, {received} received");

        sleep(SETTLING).await;
        let (bytes, cpu) = (sent.max(received) as f64, relay.cpu()? - cpu);
        Ok(vec![
            (Measure::MegabytesPerSecond, bytes / 1e6 / seconds),
            (Measure::CpuPerGib, cpu / bytes * GIB),
        ])
    }

    /// Begins the uploads that wait.
    async fn fill(&self, relay: &Relay, distant: &[Side]) -> anyhow::Result<Vec<Unfinished>> {
        let mut waiting = Vec::new();
        if let ([Side::Http2(requests)], Kind::Rendezvous { plain, .. }) = (distant, &relay.kind) {
            for _ in 0..self.waiting {
                waiting.push(http2::fill(requests.clone(), &side::new_path(*plain).await?).await?);
            }
        }
        Ok(waiting)
    }

    /// The path of each connection of the distant side, if it is distant.
    fn route(&self, protocol: Protocol, limits: Limits) -> Option<Route> {
        let connections = if protocol == Protocol::Http2Tls { 1 } else { self.at_once };
        let rate = limits.rate.map(|rate| (rate.get() / connections).max(1));
        let in_flight = limits.in_flight.map(|bytes| (bytes.get() / connections).max(1) as usize);
        self.is_distant().then_some(Route { round_trip: self.round_trip, rate, in_flight })
    }

    /// What each source sends.
    fn amount(&self, limits: Limits) -> Amount {
        match self.extent {
            Extent::Bytes(bytes) => Amount::Exactly(bytes / u64::from(self.at_once)),
            Extent::RoundTrips(round_trips) => {
                let duration = self.round_trip * round_trips;
                let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
                let by_rate =
                    limits.rate.map(|rate| u64::from(rate.get()).saturating_mul(milliseconds) / 1000);
                let by_room = limits.in_flight.map(|bytes| u64::from(bytes.get()) * u64::from(round_trips));
                let carried = by_rate.into_iter().chain(by_room).min().unwrap_or(u64::MAX);
                Amount::Within(duration, carried / u64::from(self.at_once))
            }
        }
    }

    /// Returns the work of the sources and of the destinations. Before a pair, the request of its destination has arrived at the relay.
    async fn prepare(
        &self,
        relay: &Relay,
        distant: Vec<Side>,
        amount: Amount,
    ) -> anyhow::Result<(Vec<Work>, Vec<Work>)> {
        let (mut sources, mut destinations): (Vec<Work>, Vec<Work>) = (Vec::new(), Vec::new());
        for distant in distant {
            match (&relay.kind, self.direction, amount) {
                (Kind::Rendezvous { plain, .. }, direction, _) => {
                    let path = side::new_path(*plain).await?;
                    let near = Side::plain(*plain).await?;
                    let (source, destination) = match direction {
                        Direction::Upload => (distant, near),
                        Direction::Download => (near, distant),
                    };
                    let receiving = destination.get(&path).await?;
                    destinations.push(Box::pin(receiving.finish()));
                    sources.push(Box::pin(source.put(path, amount)));
                }
                (Kind::Nginx(_), Direction::Upload, _) => {
                    sources.push(Box::pin(distant.put("/".to_owned(), amount)));
                }
                (Kind::Nginx(_), Direction::Download, Amount::Exactly(bytes)) => {
                    destinations.push(Box::pin(async move {
                        let receiving = distant.get(&format!("/{bytes}")).await?;
                        receiving.finish().await
                    }));
                }
                (Kind::Nginx(_), Direction::Download, Amount::Within(..)) => {
                    anyhow::bail!("the server behind nginx sends a number of bytes only")
                }
            }
        }
        sleep(self.round_trip).await;
        Ok((sources, destinations))
    }
}

/// The bytes of all sides, once they have finished.
async fn total(sides: &mut JoinSet<anyhow::Result<u64>>) -> anyhow::Result<u64> {
    let mut total = 0;
    while let Some(side) = sides.join_next().await {
        total += side??;
    }
    Ok(total)
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::Upload => "upload",
            Direction::Download => "download",
        };
        match self.at_once {
            1 => write!(f, "{direction}")?,
            at_once => write!(f, "{at_once} {direction}s")?,
        }
        if self.waiting > 0 {
            write!(f, " beside {} that wait", self.waiting)?;
        }
        write!(f, " at {} ms", self.round_trip.as_millis())
    }
}
