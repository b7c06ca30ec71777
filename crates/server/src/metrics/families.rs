//! The metric families with labels. The counter of each label value is created once, at the start.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rendezvous_core::outcome::{FAULTS, Outcome};
use rendezvous_protocol::ErrorKind;

use super::{Labels, Protocol};

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
    fn new(
        family: &Family<Labels<1>, Counter>,
        label: &'static str,
        values: impl Iterator<Item = &'static str>,
    ) -> Self {
        Self(values.map(|value| (value, family.get_or_create_owned(&[(label, value)]))).collect())
    }

    fn count(&self, value: &str) {
        if let Some((_, counter)) = self.0.iter().find(|(known, _)| *known == value) {
            counter.inc();
        }
    }
}

/// Streams that have ended, by their outcome.
#[derive(Debug)]
pub(super) struct Outcomes(Counters);

impl Outcomes {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let family = Family::default();
        let faults = FAULTS.iter().map(|fault| fault.name);
        let values = ["finished"].into_iter().chain(faults).chain(["expired", "reported"]);
        let outcomes = Self(Counters::new(&family, "outcome", values));
        registry.register("streams_ended", "Streams that have ended, by their outcome", family);
        outcomes
    }

    pub(super) fn count(&self, outcome: &Outcome) {
        self.0.count(outcome.name());
    }
}

/// The label value for errors whose names clients have chosen.
pub(crate) const REPORTED: &str = "reported";

/// Requests and connections that were refused, by the name of the error in the response.
#[derive(Debug)]
pub(super) struct Refusals(Counters);

impl Refusals {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let family = Family::default();
        let names = ErrorKind::ALL.iter().map(|kind| kind.name());
        let refusals = Self(Counters::new(&family, "error", names.chain([REPORTED])));
        registry.register("refusals", "Requests and connections refused, by the name of the error", family);
        refusals
    }

    pub(super) fn count(&self, error: &str) {
        self.0.count(error);
    }
}
