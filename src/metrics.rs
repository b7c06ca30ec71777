//! What the server has done and what it holds, in numbers, and how they are told: as `OpenMetrics`, or in the text format of
//! Prometheus that is older.
//!
//! To count an event costs an atomic or two, and nothing for each byte: labels are resolved once, at the start. No label says
//! whom a number is about: each is one of a few words that stand here.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use crate::outcome::{Fault, Outcome, Refusal, Side};

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

/// The streams of the table at one moment.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// Nobody waits.
    pub created: usize,
    /// The source waits.
    pub source_waits: usize,
    /// The destination waits.
    pub destination_waits: usize,
    /// Both are there.
    pub streaming: usize,
    /// They are over, and still to be seen.
    pub ended: usize,
    /// Body bytes passed on by all streams that ever were.
    pub body_bytes: u64,
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
    /// All numbers as text. `streams` is what the table holds now.
    #[must_use]
    pub fn text(&self, streams: &Streams, format: Format) -> String {
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
        let body_bytes = ConstCounter::new(streams.body_bytes);
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
        self.outcomes.of(outcome).inc();
    }

    /// A destination has acknowledged its last byte, so long after that was written.
    pub fn delivered(&self, wait: Duration) {
        self.delivery_waits.observe(wait);
    }

    /// A request, or a whole connection, is refused.
    pub fn refused(&self, refusal: &Refusal) {
        self.refusals.of(refusal).inc();
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

/// Who reads a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// The fast lane, HTTP/1.
    Fast,
    /// hyper, HTTP/1.
    Hyper,
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
    /// This lane takes a request. The first that does is the one that the connection counts for.
    pub fn taken_by(&self, lane: Lane) {
        self.count(Some(lane));
    }

    fn count(&self, lane: Option<Lane>) {
        if !self.is_counted.swap(true, Ordering::Relaxed) {
            self.metrics.connections.of(lane, self.is_tls).inc();
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.count(None);
        self.metrics.open_connections.dec();
    }
}

#[derive(Debug)]
struct Connections {
    /// Each without TLS, and over it.
    fast: [Counter; 2],
    hyper: [Counter; 2],
    http2: [Counter; 2],
    none: [Counter; 2],
}

impl Connections {
    fn new(registry: &mut Registry) -> Self {
        let family = Family::<Labels<3>, Counter>::default();
        let counters = |protocol, lane| {
            ["no", "yes"].map(|tls| {
                family.get_or_create_owned(&[("protocol", protocol), ("tls", tls), ("lane", lane)])
            })
        };
        let connections = Self {
            fast: counters("http1", "fast"),
            hyper: counters("http1", "hyper"),
            http2: counters("http2", "http2"),
            none: counters("none", "none"),
        };
        registry.register("connections", "Connections accepted, by what took their first request", family);
        connections
    }

    fn of(&self, lane: Option<Lane>, is_tls: bool) -> &Counter {
        let [plain, tls] = match lane {
            Some(Lane::Fast) => &self.fast,
            Some(Lane::Hyper) => &self.hyper,
            Some(Lane::Http2) => &self.http2,
            None => &self.none,
        };
        if is_tls { tls } else { plain }
    }
}

#[derive(Debug)]
struct Outcomes {
    finished: Counter,
    source_disconnected: Counter,
    source_broke: Counter,
    length_mismatch: Counter,
    too_long: Counter,
    too_slow: Counter,
    destination_disconnected: Counter,
    source_stalled: Counter,
    destination_stalled: Counter,
    shut_down: Counter,
    expired: Counter,
    reported: Counter,
}

impl Outcomes {
    fn new(registry: &mut Registry) -> Self {
        let family = Family::<Labels<1>, Counter>::default();
        let counter = |outcome| family.get_or_create_owned(&[("outcome", outcome)]);
        let outcomes = Self {
            finished: counter("finished"),
            source_disconnected: counter("source_disconnected"),
            source_broke: counter("source_broke"),
            length_mismatch: counter("length_mismatch"),
            too_long: counter("too_long"),
            too_slow: counter("too_slow"),
            destination_disconnected: counter("destination_disconnected"),
            source_stalled: counter("source_stalled"),
            destination_stalled: counter("destination_stalled"),
            shut_down: counter("shut_down"),
            expired: counter("expired"),
            reported: counter("reported"),
        };
        registry.register("streams_ended", "Streams that have ended, by their outcome", family);
        outcomes
    }

    fn of(&self, outcome: &Outcome) -> &Counter {
        match outcome {
            Outcome::Finished => &self.finished,
            Outcome::Expired { .. } => &self.expired,
            Outcome::Reported(_) => &self.reported,
            Outcome::Failed(fault) => match fault {
                Fault::SourceDisconnected => &self.source_disconnected,
                Fault::SourceBroke(_) => &self.source_broke,
                Fault::LengthMismatch(_) => &self.length_mismatch,
                Fault::TooLong { .. } => &self.too_long,
                Fault::TooSlow { .. } => &self.too_slow,
                Fault::DestinationDisconnected => &self.destination_disconnected,
                Fault::Stalled { side: Side::Source, .. } => &self.source_stalled,
                Fault::Stalled { side: Side::Destination, .. } => &self.destination_stalled,
                Fault::ShutDown => &self.shut_down,
            },
        }
    }
}

#[derive(Debug)]
struct Refusals {
    not_found: Counter,
    bad_route: Counter,
    unauthorized: Counter,
    forbidden: Counter,
    already_connected: Counter,
    already_started: Counter,
    expired: Counter,
    reported: Counter,
    length_mismatch: Counter,
    invalid_body: Counter,
    body_too_large: Counter,
    bad_request: Counter,
    busy: Counter,
    too_many: Counter,
    shutting_down: Counter,
    internal: Counter,
}

impl Refusals {
    /// The labels are the names that clients are told.
    fn new(registry: &mut Registry) -> Self {
        let family = Family::<Labels<1>, Counter>::default();
        let counter = |error| family.get_or_create_owned(&[("error", error)]);
        let refusals = Self {
            not_found: counter("SessionNotFoundError"),
            bad_route: counter("BadRouteError"),
            unauthorized: counter("UnauthorizedError"),
            forbidden: counter("ForbiddenError"),
            already_connected: counter("AlreadyConnectedError"),
            already_started: counter("StreamStartedError"),
            expired: counter("SessionTimeoutError"),
            // Its name is its reporter's to choose.
            reported: counter("reported"),
            length_mismatch: counter("LengthMismatchError"),
            invalid_body: counter("InvalidBodyError"),
            body_too_large: counter("BodyTooLargeError"),
            bad_request: counter("BadRequestError"),
            busy: counter("ServerBusyError"),
            too_many: counter("TooManyRequestsError"),
            shutting_down: counter("ShuttingDownError"),
            internal: counter("InternalError"),
        };
        registry.register("refusals", "Requests and connections refused, by the name of the error", family);
        refusals
    }

    fn of(&self, refusal: &Refusal) -> &Counter {
        match refusal {
            Refusal::NotFound => &self.not_found,
            Refusal::BadRoute => &self.bad_route,
            Refusal::Unauthorized => &self.unauthorized,
            Refusal::Forbidden(_) => &self.forbidden,
            Refusal::AlreadyConnected(_) => &self.already_connected,
            Refusal::AlreadyStarted => &self.already_started,
            Refusal::Expired => &self.expired,
            Refusal::Reported(_) => &self.reported,
            Refusal::LengthMismatch(_) => &self.length_mismatch,
            Refusal::InvalidBody(_) => &self.invalid_body,
            Refusal::BodyTooLarge { .. } => &self.body_too_large,
            Refusal::BadRequest(_) | Refusal::HeadTooLarge(_) | Refusal::RequestTimeout(_) => {
                &self.bad_request
            }
            Refusal::Busy(_) => &self.busy,
            Refusal::TooMany(_) => &self.too_many,
            Refusal::ShuttingDown => &self.shutting_down,
            Refusal::Internal => &self.internal,
        }
    }
}

/// A histogram of durations. That of the library has a lock; this is atomics.
#[derive(Debug, Clone)]
struct Durations(Arc<Buckets>);

#[derive(Debug)]
struct Buckets {
    /// Upper bounds in seconds, each with how many are in it and in none before it.
    bounded: Vec<(f64, AtomicU64)>,
    beyond: AtomicU64,
    /// In them the sum of a server's life fits in 64 bits, and that of nanoseconds may not.
    microseconds: AtomicU64,
}

impl Durations {
    fn new(bounds: &[f64]) -> Self {
        let bounded = bounds.iter().map(|bound| (*bound, AtomicU64::default())).collect();
        Self(Arc::new(Buckets { bounded, beyond: AtomicU64::default(), microseconds: AtomicU64::default() }))
    }

    fn observe(&self, duration: Duration) {
        let Buckets { bounded, beyond, microseconds } = &*self.0;
        let seconds = duration.as_secs_f64();
        let bucket = bounded.iter().find(|(bound, _)| seconds <= *bound).map_or(beyond, |(_, count)| count);
        bucket.fetch_add(1, Ordering::Relaxed);
        microseconds.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> std::fmt::Result {
        let Buckets { bounded, beyond, microseconds } = &*self.0;
        let beyond = (f64::INFINITY, beyond.load(Ordering::Relaxed));
        let bounded = bounded.iter().map(|(bound, count)| (*bound, count.load(Ordering::Relaxed)));
        let counts: Vec<_> = bounded.chain([beyond]).collect();
        let count = counts.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_micros(microseconds.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &counts, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// How the numbers are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `OpenMetrics` 1.0.0.
    OpenMetrics,
    /// The text format of Prometheus, version 0.0.4.
    Prometheus,
}

impl Format {
    /// What a client that gives these `Accept` fields is told: `OpenMetrics` where it names that, and does not like plain text
    /// better.
    pub fn of_accept<'a>(accepts: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut open_metrics, mut plain) = (0.0, 0.0);
        for range in accepts.into_iter().flat_map(|value| value.split(',')) {
            let (name, parameters) = range.split_once(';').unwrap_or((range, ""));
            let liked = match name.trim() {
                name if name.eq_ignore_ascii_case("application/openmetrics-text") => &mut open_metrics,
                name if name.eq_ignore_ascii_case("text/plain") => &mut plain,
                _ => continue,
            };
            *liked = f32::max(*liked, quality(parameters));
        }
        if open_metrics > 0.0 && open_metrics >= plain { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The `Content-Type`.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// How much a client likes a media range (RFC 9110, section 12.4.2): all there is where it does not say.
fn quality(parameters: &str) -> f32 {
    let mut pairs = parameters.split(';').filter_map(|pair| pair.split_once('='));
    let said = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
    said.map_or(1.0, |(_, value)| value.trim().parse().unwrap_or(0.0))
}

/// The older format has neither units nor an end nor the type `info`, and calls a counter what its samples are called.
fn to_prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    // Told before the type, on which the name depends.
    let mut help = "";
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(_), Some(told)) => help = told,
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (name, kind) = match kind {
                    "counter" => (Cow::from(format!("{name}_total")), kind),
                    "info" => (Cow::from(format!("{name}_info")), "gauge"),
                    _ => (Cow::from(name), kind),
                };
                text.extend(["# HELP ", &name, " ", help, "\n# TYPE ", &name, " ", kind, "\n"]);
            }
            (Some("#"), ..) => {}
            _ => text.extend([line, "\n"]),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_for_who_asks_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,*/*;q=0.2";
        for (accepts, format) in [
            (&[][..], Format::Prometheus),
            (&["*/*"], Format::Prometheus),
            (&["text/html, */*;q=0.1"], Format::Prometheus),
            (&["text/plain;version=0.0.4"], Format::Prometheus),
            (&["application/openmetrics-text;q=0"], Format::Prometheus),
            (&["application/openmetrics-text; q=0.5, text/plain"], Format::Prometheus),
            (&["application/openmetrics-text;q=x"], Format::Prometheus),
            (&["application/openmetrics-text"], Format::OpenMetrics),
            (&["text/plain; q=0.5", "Application/OpenMetrics-Text ; Q=0.5"], Format::OpenMetrics),
            (&[prometheus], Format::OpenMetrics),
        ] {
            assert_eq!(Format::of_accept(accepts.iter().copied()), format, "{accepts:?}");
        }
    }

    #[test]
    fn a_duration_counts_in_the_first_bucket_that_has_room_for_it() {
        let durations = Durations::new(&[0.1, 1.0]);
        for milliseconds in [0, 100, 101, 1000, 1001, 10_000_000] {
            durations.observe(Duration::from_millis(milliseconds));
        }
        let mut registry = Registry::default();
        registry.register_with_unit("x", "y", Unit::Seconds, durations);
        let mut text = String::new();
        encode_registry(&mut text, &registry).unwrap();
        assert_eq!(
            text.lines().skip(3).collect::<Vec<_>>(),
            [
                "x_seconds_sum 10002.202",
                "x_seconds_count 6",
                "x_seconds_bucket{le=\"0.1\"} 2",
                "x_seconds_bucket{le=\"1.0\"} 4",
                "x_seconds_bucket{le=\"+Inf\"} 6",
            ]
        );
    }

    #[test]
    fn the_older_format_says_the_same_in_its_own_words() {
        let open_metrics = "# HELP a_b Of a.\n# TYPE a_b counter\n# UNIT a_b b\na_b_total{x=\"y\"} 1\n\
                            # HELP c Of c d.\n# TYPE c info\nc_info{v=\"1\"} 1\n\
                            # HELP e Of e.\n# TYPE e gauge\ne 2\n# EOF\n";
        assert_eq!(
            to_prometheus(open_metrics),
            "# HELP a_b_total Of a.\n# TYPE a_b_total counter\na_b_total{x=\"y\"} 1\n\
             # HELP c_info Of c d.\n# TYPE c_info gauge\nc_info{v=\"1\"} 1\n\
             # HELP e Of e.\n# TYPE e gauge\ne 2\n"
        );
    }
}
