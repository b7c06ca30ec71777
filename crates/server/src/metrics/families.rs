//! The metric families with labels. The counter of each label value is created once, at the start.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rendezvous_core::outcome::{FAULTS, Outcome};
use rendezvous_protocol::{ErrorKind, StreamKind};

use super::{Labels, Protocol, kind_name};

/// Accepted connections, by protocol. Of each pair, the first counts those without TLS, the second those with it.
#[derive(Debug)]
pub(super) struct Connections {
    http1: [Counter; 2],
    http2: [Counter; 2],
    none: [Counter; 2],
}

impl Connections {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let family = Family::<Labels<2>, Counter>::default();
        let counters = |protocol| {
            ["no", "yes"].map(|tls| family.get_or_create_owned(&[("protocol", protocol), ("tls", tls)]))
        };
        let connections = Self { http1: counters("http1"), http2: counters("http2"), none: counters("none") };
        registry.register(
            "connections",
            "Connections accepted, by the protocol of their first request",
            family,
        );
        connections
    }

    pub(super) fn of(&self, protocol: Option<Protocol>, is_tls: bool) -> &Counter {
        let [plain, tls] = match protocol {
            Some(Protocol::Http1) => &self.http1,
            Some(Protocol::Http2) => &self.http2,
            None => &self.none,
        };
        if is_tls { tls } else { plain }
    }
}

/// A counter for each value of a label.
#[derive(Debug)]
struct Counters(Vec<(&'static str, Counter)>);

impl Counters {
    fn new(values: impl Iterator<Item = &'static str>, counter: impl Fn(&'static str) -> Counter) -> Self {
        Self(values.map(|value| (value, counter(value))).collect())
    }

    fn count(&self, value: &str) {
        if let Some((_, counter)) = self.0.iter().find(|(known, _)| *known == value) {
            counter.inc();
        }
    }
}

/// Streams that have ended, by their outcome and their kind.
#[derive(Debug)]
pub(super) struct Outcomes {
    created: Counters,
    paths: Counters,
}

impl Outcomes {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let family = Family::<Labels<2>, Counter>::default();
        let counters = |kind| {
            let faults = FAULTS.iter().map(|fault| fault.name);
            let values = ["finished"].into_iter().chain(faults).chain(["expired", "reported"]);
            Counters::new(values, |outcome| {
                family.get_or_create_owned(&[("outcome", outcome), ("kind", kind_name(kind))])
            })
        };
        let outcomes = Self { created: counters(StreamKind::Created), paths: counters(StreamKind::Path) };
        registry.register("streams_ended", "Streams that have ended, by their outcome", family);
        outcomes
    }

    pub(super) fn count(&self, kind: StreamKind, outcome: &Outcome) {
        match kind {
            StreamKind::Created => self.created.count(outcome.name()),
            StreamKind::Path => self.paths.count(outcome.name()),
        }
    }
}

/// The label value for errors whose names clients have chosen.
pub(crate) const REPORTED: &str = "reported";

/// Requests and connections that were refused, by the name of the error in the response.
#[derive(Debug)]
pub(super) struct Refusals(Counters);

impl Refusals {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let family = Family::<Labels<1>, Counter>::default();
        let names = ErrorKind::ALL.iter().map(|kind| kind.name()).chain([REPORTED]);
        let refusals = Self(Counters::new(names, |error| family.get_or_create_owned(&[("error", error)])));
        registry.register("refusals", "Requests and connections refused, by the name of the error", family);
        refusals
    }

    pub(super) fn count(&self, error: &str) {
        self.0.count(error);
    }
}
