//! What is measured.

use std::fmt;

use measure::figures::quantile;

use super::contender::{Contender, Kind, Running};
use super::load::{self, Transfers, Waiting};
use super::results::{Figure, Measure};
use super::transfer::Body;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: f64 = (1_u64 << 30) as f64;

/// A load, and which figures are taken of it.
pub(crate) enum Workload {
    /// Transfers whose bytes count.
    Bulk(Transfers),
    /// Transfers whose number counts.
    Small(Transfers),
    /// One transfer, mostly silent.
    Trickle { bytes: usize },
    /// So many sides that wait for the other.
    Waiting { side: Waiting, count: usize },
}

/// All workloads, a `divisor`th of each. No more sides wait than there are `descriptors` for.
pub(crate) fn all(divisor: usize, descriptors: usize) -> Vec<Workload> {
    let in_mib = |mib: usize| Body { piece: MIB, pieces: mib / divisor, chunked: false };
    let chunked = Body { piece: 64 * KIB, pieces: 2048 * MIB / (64 * KIB) / divisor, chunked: true };
    let small = Body { piece: KIB, pieces: 1, chunked: false };
    // Beside the sides, a process has a few descriptors of its own.
    let count = (10_000 / divisor).min(descriptors.saturating_sub(100));
    vec![
        Workload::Bulk(Transfers { count: 1, at_once: 1, body: in_mib(4096) }),
        Workload::Bulk(Transfers { count: 16, at_once: 16, body: in_mib(256) }),
        Workload::Bulk(Transfers { count: 1, at_once: 1, body: chunked }),
        Workload::Small(Transfers { count: 20_000 / divisor, at_once: 64, body: small }),
        Workload::Trickle { bytes: 40 },
        Workload::Waiting { side: Waiting::Receivers, count },
        Workload::Waiting { side: Waiting::Senders, count },
    ]
}

impl Workload {
    /// Whether it can be put on such a contender. The floor knows no waiting, and so no rendezvous.
    pub(crate) fn suits(&self, kind: Kind) -> bool {
        kind != Kind::Floor || matches!(self, Self::Bulk(_) | Self::Trickle { .. })
    }

    pub(crate) fn run(&self, contender: &Contender, running: &Running) -> anyhow::Result<Vec<Figure>> {
        Ok(match self {
            Self::Bulk(transfers) => {
                let cost = transfers.run(running)?;
                let gib = transfers.bytes() as f64 / GIB;
                vec![(Measure::GibPerSecond, gib / cost.seconds), (Measure::CpuPerGib, cost.cpu / gib)]
            }
            Self::Small(transfers) => {
                let cost = transfers.run(running)?;
                let count = transfers.count as f64;
                vec![
                    (Measure::TransfersPerSecond, count / cost.seconds),
                    (Measure::CpuPerThousand, cost.cpu / count * 1000.0),
                    (Measure::MedianLatency, quantile(cost.latencies.clone(), 0.5)),
                    (Measure::P99Latency, quantile(cost.latencies, 0.99)),
                ]
            }
            Self::Trickle { bytes } => {
                let latencies = load::trickle(*bytes, &running.client)?;
                vec![
                    (Measure::MedianLatency, quantile(latencies.clone(), 0.5)),
                    (Measure::LongestLatency, quantile(latencies, 1.0)),
                ]
            }
            // In a process of its own, whose memory nothing has touched before.
            Self::Waiting { side, count } => {
                vec![(Measure::Resident, load::waiting(*side, *count, &contender.start()?)?)]
            }
        })
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bulk(transfers) | Self::Small(transfers) => write!(f, "{transfers}"),
            Self::Trickle { bytes } => {
                write!(f, "{bytes} single bytes, {} ms apart", load::SILENCE.as_millis())
            }
            Self::Waiting { side: Waiting::Receivers, count } => write!(f, "{count} waiting GETs"),
            Self::Waiting { side: Waiting::Senders, count } => write!(f, "{count} waiting PUTs"),
        }
    }
}
