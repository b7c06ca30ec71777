//! The workloads, and the figures measured for each.

use std::fmt;

use measure::figures::quantile;
use measure::results::{Figure, Measure};

use super::contender::{Contender, Kind, Running};
use super::load::{self, Transfers, Waiting};
use super::transfer::Body;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: f64 = (1_u64 << 30) as f64;

/// A load, and the figures measured for it.
pub(crate) enum Workload {
    /// Large transfers, measured by bytes.
    Bulk(Transfers),
    /// Small transfers, measured by number.
    Small(Transfers),
    /// One transfer of single bytes with pauses.
    Trickle { bytes: usize },
    /// Sides that wait for the other side.
    Waiting { side: Waiting, count: usize },
}

/// Returns all workloads, each divided by `divisor`, with no more waiting sides than `descriptors` allows.
pub(crate) fn all(divisor: usize, descriptors: usize) -> Vec<Workload> {
    let in_mib = |mib: usize| Body { piece: MIB, pieces: mib / divisor, chunked: false };
    let chunked = Body { piece: 64 * KIB, pieces: 2048 * MIB / (64 * KIB) / divisor, chunked: true };
    let small = Body { piece: KIB, pieces: 1, chunked: false };
    // The process needs a few descriptors besides those of the waiting sides.
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
    /// Whether contenders of this kind can run the workload. The floor has no waiting sides.
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
            // A new process, whose memory no other workload has grown.
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
                write!(f, "{bytes} single bytes, {} ms apart", load::TRICKLE_PAUSE.as_millis())
            }
            Self::Waiting { side: Waiting::Receivers, count } => write!(f, "{count} waiting GETs"),
            Self::Waiting { side: Waiting::Senders, count } => write!(f, "{count} waiting PUTs"),
        }
    }
}
