//! What the server has done and what it holds, in numbers, and how they are told: as `OpenMetrics`, or in the text format of
//! Prometheus that is older.
//!
//! To count an event costs an atomic or two, and nothing for each byte: labels are resolved once, at the start. No label says
//! whom a number is about: each is one of a few words that stand here.

mod durations;
mod families;
mod format;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use self::durations::Durations;
pub use self::families::REFUSALS;
use self::families::{Connections, Outcomes, Refusals};
pub use self::format::Format;
use self::format::to_prometheus;
use crate::outcome::Outcome;

/// Of every name.
const PREFIX: &str = "rendezvous";
/// From the creation of a stream to its pairing, in seconds: up to a `--ttl`.
const PAIRING_WAITS: &[f64] = &[0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 300.0, 3600.0];
/// From the pairing to the outcome, in seconds: they may run for ever.
const TRANSFER_DURATIONS: &[f64] =
    &[0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0];
/// From the last byte written to its acknowledgement, in seconds: a way to the client and back, and what its kernel adds.
const DELIVERY_WAITS: &[f64] =
    &[0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// All that is counted of a server.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    outcomes: Outcomes,
    /// Of streams that have ended.
    body_bytes: Counter,
    pairing_waits: Durations,
    transfer_durations: Durations,
    delivery_waits: Durations,
    connections: Connections,
    open_connections: Gauge,
    refusals: Refusals,
    pipes_in_use: Gauge,
}

/// How many streams are where, at one moment.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// Nobody waits.
    pub created: usize,
    /// The source waits.
    pub source_waits: usize,
    /// The destination waits.
    pub destination_waits: usize,
    /// Both are there.
    pub streaming: usize,
    /// They are over, and still to be seen. A report that nobody has been told of is an end too.
    pub ended: usize,
}

impl Census {
    /// Streams that somebody is at: a side that waits, or both.
    #[must_use]
    pub fn attended(&self) -> usize {
        self.source_waits + self.destination_waits + self.streaming
    }

    /// Streams that have not ended.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.created + self.attended()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program that runs", build);
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
        let (open_connections, pipes_in_use) = (Gauge::default(), Gauge::default());
        registry.register("open_connections", "Connections that are open", open_connections.clone());
        registry.register("pipes_in_use", "Pipes that bodies pass through", pipes_in_use.clone());
        Self {
            outcomes: Outcomes::new(&mut registry),
            body_bytes: Counter::default(),
            pairing_waits,
            transfer_durations,
            delivery_waits,
            connections: Connections::new(&mut registry),
            open_connections,
            refusals: Refusals::new(&mut registry),
            pipes_in_use,
            registry,
        }
    }
}

impl Metrics {
    /// All numbers as text. `streams` are those that there are now, and `body_bytes` what all that ever were have passed on.
    #[must_use]
    pub fn text(&self, streams: Census, body_bytes: u64, format: Format) -> String {
        let mut now = Registry::with_prefix(PREFIX);
        let states = Family::<Labels<1>, Gauge>::default();
        for (state, count) in [
            ("created", streams.created),
            ("source_waits", streams.source_waits),
            ("destination_waits", streams.destination_waits),
            ("streaming", streams.streaming),
            ("ended", streams.ended),
        ] {
            states.get_or_create(&[("state", state)]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        now.register("streams", "Streams that are known, those that have ended among them", states);
        let body_bytes = ConstCounter::new(body_bytes);
        now.register_with_unit("body", "Bytes of bodies passed on to destinations", Unit::Bytes, body_bytes);

        let mut text = String::new();
        // A string takes all that is written.
        let _ = encode_registry(&mut text, &now);
        let _ = encode_registry(&mut text, &self.registry);
        let _ = encode_eof(&mut text);
        match format {
            Format::OpenMetrics => text,
            Format::Prometheus => to_prometheus(&text),
        }
    }

    /// The sides of a stream have met, so long after it was made.
    pub fn paired(&self, wait: Duration) {
        self.pairing_waits.observe(wait);
    }

    /// A transfer has ended, so long after it began, and has passed on so many bytes.
    pub fn transferred(&self, duration: Duration, bytes: u64) {
        self.transfer_durations.observe(duration);
        self.body_bytes.inc_by(bytes);
    }

    /// Body bytes of all transfers that have ended.
    #[must_use]
    pub fn body_bytes(&self) -> u64 {
        self.body_bytes.get()
    }

    /// A stream has ended.
    pub fn ended(&self, outcome: &Outcome) {
        self.outcomes.count(outcome);
    }

    /// A destination has acknowledged its last byte, so long after that was written.
    pub fn delivered(&self, wait: Duration) {
        self.delivery_waits.observe(wait);
    }

    /// A request, or a whole connection, is refused, by an error of this name: one of [`REFUSALS`].
    pub fn refused(&self, error: &str) {
        self.refusals.count(error);
    }

    /// A connection was accepted. It is open as long as this is there.
    #[must_use]
    pub fn accepted(self: &Arc<Self>, is_tls: bool) -> OpenConnection {
        self.open_connections.inc();
        OpenConnection { metrics: Arc::clone(self), is_tls, is_counted: AtomicBool::new(false) }
    }

    /// A pipe is taken.
    pub fn pipe_taken(&self) {
        self.pipes_in_use.inc();
    }

    /// A pipe is given back.
    pub fn pipe_given_back(&self) {
        self.pipes_in_use.dec();
    }
}

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, or HTTP/1.0.
    Http1,
    /// HTTP/2.
    Http2,
}

/// A connection that is open.
#[derive(Debug)]
pub struct OpenConnection {
    metrics: Arc<Metrics>,
    is_tls: bool,
    is_counted: AtomicBool,
}

impl OpenConnection {
    /// The first request is one of this protocol, which the connection is counted by.
    pub fn taken_by(&self, protocol: Protocol) {
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
    use super::*;
    use crate::outcome::{Fault, LengthMismatch, Report, Side, UploadLength};

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
            metrics.ended(&outcome);
            let text = metrics.text(Census::default(), 0, Format::OpenMetrics);
            let counted: Vec<_> = text
                .lines()
                .filter(|line| line.starts_with("rendezvous_streams_ended_total") && line.ends_with(" 1"))
                .collect();
            let expected = format!("rendezvous_streams_ended_total{{outcome=\"{}\"}} 1", outcome.name());
            assert_eq!(counted, [expected], "{outcome}");
        }
    }
}
