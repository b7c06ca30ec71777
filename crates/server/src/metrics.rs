//! The counters, histograms and gauges of the server, and their exposition as `OpenMetrics` or in the older text format of
//! Prometheus.
//!
//! *Concurrency.* No lock: the labels are resolved once, at the start, so counting an event costs a few atomic operations. Bytes are counted
//! by the core.
//!
//! *Bounds.* No label identifies a client or a stream. Each has a fixed set of values, so the size of the response is bounded.

mod cluster;
mod durations;
mod families;
mod format;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use rendezvous_core::events::{Change, Event, Subscriber};
use rendezvous_core::rendezvous::Censuses;
use rendezvous_protocol::StreamKind;

pub(crate) use self::cluster::ClusterGauges;
use self::durations::Durations;
pub(crate) use self::families::REPORTED;
use self::families::{Connections, Outcomes, Refusals};
pub(crate) use self::format::Format;
use self::format::to_prometheus;

/// The prefix of the names of all metric families.
const PREFIX: &str = "rendezvous";
/// Bucket bounds in seconds, from the creation of a stream to its pairing. They reach beyond common values of `--ttl`.
const PAIRING_WAITS: &[f64] = &[0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 300.0, 3600.0];
/// Bucket bounds in seconds, from pairing to outcome. A transfer may run for days.
const TRANSFER_DURATIONS: &[f64] =
    &[0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0];
/// Bucket bounds in seconds, from the last byte written to its acknowledgement: a round trip and the delayed acknowledgement.
const DELIVERY_WAITS: &[f64] =
    &[0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// The metrics of a server that are updated by events.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    outcomes: Outcomes,
    pairing_waits: Durations,
    transfer_durations: Durations,
    delivery_waits: Durations,
    connections: Connections,
    open_connections: Gauge,
    refusals: Refusals,
}

/// The values that other modules count, at the time of a scrape.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    /// The streams by kind and state.
    pub(crate) streams: Censuses,
    /// Body bytes that all transfers have passed on since the start.
    pub(crate) body_bytes: u64,
    /// Pipes that transfers use.
    pub(crate) pipes_in_use: usize,
    /// Of a node of a cluster.
    pub(crate) cluster: Option<ClusterGauges>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version of the running program", build);
        let mut durations = |name, help, bounds| {
            let durations = Durations::new(bounds);
            registry.register_with_unit(name, help, Unit::Seconds, durations.clone());
            durations
        };
        let pairing_waits = durations(
            "pairing_wait",
            "From the creation of a stream to the pairing of its sides",
            PAIRING_WAITS,
        );
        let transfer_durations =
            durations("transfer_duration", "From the pairing of a stream to its outcome", TRANSFER_DURATIONS);
        let delivery_waits = durations(
            "delivery_wait",
            "From the last byte written to a destination to its acknowledgement",
            DELIVERY_WAITS,
        );
        let open_connections = Gauge::default();
        registry.register("open_connections", "Connections that are open", open_connections.clone());
        Self {
            outcomes: Outcomes::new(&mut registry),
            pairing_waits,
            transfer_durations,
            delivery_waits,
            connections: Connections::new(&mut registry),
            open_connections,
            refusals: Refusals::new(&mut registry),
            registry,
        }
    }
}

impl Metrics {
    /// Returns all metrics as text in the given format.
    #[must_use]
    pub(crate) fn text(&self, gauges: Gauges, format: Format) -> String {
        let Gauges { streams, body_bytes, pipes_in_use, cluster } = gauges;
        let mut now = Registry::with_prefix(PREFIX);
        let states = Family::<Labels<2>, Gauge>::default();
        for (kind, streams) in [(StreamKind::Created, streams.created), (StreamKind::Path, streams.paths)] {
            for (state, count) in [
                ("created", streams.created),
                ("source_waits", streams.source_waits),
                ("destination_waits", streams.destination_waits),
                ("streaming", streams.streaming),
                ("ended", streams.ended + streams.reported),
            ] {
                states.get_or_create(&[("state", state), ("kind", kind_name(kind))]).set(gauge(count));
            }
        }
        now.register("streams", "Known streams, including those that have ended", states);
        let pipes = ConstGauge::new(gauge(pipes_in_use));
        now.register("pipes_in_use", "Pipes through which bodies pass", pipes);
        let body_bytes = ConstCounter::new(body_bytes);
        now.register_with_unit("body", "Bytes of bodies passed on to destinations", Unit::Bytes, body_bytes);
        if let Some(cluster) = cluster {
            cluster.register(&mut now);
        }

        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode_registry(&mut text, &now);
        let _ = encode_registry(&mut text, &self.registry);
        let _ = encode_eof(&mut text);
        match format {
            Format::OpenMetrics => text,
            Format::Prometheus => to_prometheus(&text),
        }
    }

    /// Counts a delivery: the destination acknowledged the last byte `wait` after it was written.
    pub(crate) fn delivered(&self, wait: Duration) {
        self.delivery_waits.observe(wait);
    }

    /// Counts a request or a whole connection that is refused. `error` is the name of a [`rendezvous_protocol::ErrorKind`], or
    /// [`REPORTED`].
    pub(crate) fn refused(&self, error: &str) {
        self.refusals.count(error);
    }

    /// Counts an accepted connection, which is open until the returned value is dropped.
    #[must_use]
    pub(crate) fn accepted(self: &Arc<Self>, is_tls: bool) -> OpenConnection {
        self.open_connections.inc();
        OpenConnection { metrics: Arc::clone(self), is_tls, is_counted: AtomicBool::new(false) }
    }
}

impl Subscriber for Metrics {
    fn publish(&self, event: &Event) {
        match &event.change {
            Change::Paired { wait } => self.pairing_waits.observe(*wait),
            Change::Ended { outcome, duration } => {
                self.outcomes.count(event.stream.name.kind(), outcome);
                if let Some(duration) = duration {
                    self.transfer_durations.observe(*duration);
                }
            }
            Change::Created | Change::Waiting(_) | Change::Left(_) | Change::Reported { .. } => {}
        }
    }
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Returns the value of the label `kind`.
fn kind_name(kind: StreamKind) -> &'static str {
    match kind {
        StreamKind::Created => "stream",
        StreamKind::Path => "path",
    }
}

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1 or HTTP/1.0.
    Http1,
    /// HTTP/2.
    Http2,
}

/// An open connection. Dropping it closes it for the metrics.
#[derive(Debug)]
pub(crate) struct OpenConnection {
    metrics: Arc<Metrics>,
    is_tls: bool,
    is_counted: AtomicBool,
}

impl OpenConnection {
    /// Sets the protocol under which the connection is counted. Only the first call has an effect.
    pub(crate) fn set_protocol(&self, protocol: Protocol) {
        self.count(Some(protocol));
    }

    fn count(&self, protocol: Option<Protocol>) {
        if !self.is_counted.swap(true, Ordering::Relaxed) {
            self.metrics.connections.of(protocol, self.is_tls).inc();
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.count(None);
        self.metrics.open_connections.dec();
    }
}

#[cfg(test)]
mod tests {
    use rendezvous_core::outcome::{Fault, LengthMismatch, Outcome, Report, UploadLength};
    use rendezvous_protocol::{Side, StreamKind};

    use super::*;

    #[test]
    fn an_outcome_is_counted_under_the_name_that_the_log_gives_it() {
        let report = Report { status: 418, name: "N".into(), message: "M".into() };
        let stalled = |side| Fault::Stalled { side, limit: Duration::from_secs(1) };
        let mismatch = LengthMismatch { promised: 5, upload: UploadLength::Exactly(6) };
        let faults = [
            Fault::SourceDisconnected,
            Fault::SourceBroke("how".into()),
            Fault::LengthMismatch(mismatch),
            Fault::TooLong { limit: 1 },
            Fault::TooSlow { rate: 1, limit: 2 },
            Fault::DestinationDisconnected,
            stalled(Side::Source),
            stalled(Side::Destination),
            Fault::ShutDown,
        ];
        let others =
            [Outcome::Finished, Outcome::Expired { present: None }, Outcome::Reported(Arc::new(report))];
        for outcome in faults.into_iter().map(Outcome::Failed).chain(others) {
            let metrics = Metrics::default();
            metrics.outcomes.count(StreamKind::Path, &outcome);
            let text = metrics.text(Gauges::default(), Format::OpenMetrics);
            let counted: Vec<_> = text
                .lines()
                .filter(|line| line.starts_with("rendezvous_streams_ended_total") && line.ends_with(" 1"))
                .collect();
            let expected =
                format!("rendezvous_streams_ended_total{{outcome=\"{}\",kind=\"path\"}} 1", outcome.name());
            assert_eq!(counted, [expected], "{outcome}");
        }
    }
}
