//! What is counted under several words: each word has a counter, made once, at the start.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use rendezvous_core::outcome::{FAULTS, Outcome};
use rendezvous_protocol::ErrorKind;

use super::{Labels, Protocol};

#[derive(Debug)]
pub(super) struct Connections {
    /// Each without TLS, and over it.
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

/// A counter for each of some words.
#[derive(Debug)]
struct Words(Vec<(&'static str, Counter)>);

impl Words {
    fn new(
        family: &Family<Labels<1>, Counter>,
        label: &'static str,
        words: impl Iterator<Item = &'static str>,
    ) -> Self {
        Self(words.map(|word| (word, family.get_or_create_owned(&[(label, word)]))).collect())
    }

    fn count(&self, word: &str) {
        if let Some((_, counter)) = self.0.iter().find(|(known, _)| *known == word) {
            counter.inc();
        }
    }
}

/// Streams that have ended, by their outcome.
#[derive(Debug)]
pub(super) struct Outcomes(Words);

impl Outcomes {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let family = Family::default();
        let faults = FAULTS.iter().map(|fault| fault.name);
        let words = ["finished"].into_iter().chain(faults).chain(["expired", "reported"]);
        let outcomes = Self(Words::new(&family, "outcome", words));
        registry.register("streams_ended", "Streams that have ended, by their outcome", family);
        outcomes
    }

    pub(super) fn count(&self, outcome: &Outcome) {
        self.0.count(outcome.name());
    }
}

/// Counts the errors that clients have named.
pub(crate) const REPORTED: &str = "reported";

/// Requests and connections that were refused, by the name of the error that the client is told.
#[derive(Debug)]
pub(super) struct Refusals(Words);

impl Refusals {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let family = Family::default();
        let names = ErrorKind::ALL.iter().map(|kind| kind.name());
        let refusals = Self(Words::new(&family, "error", names.chain([REPORTED])));
        registry.register("refusals", "Requests and connections refused, by the name of the error", family);
        refusals
    }

    pub(super) fn count(&self, error: &str) {
        self.0.count(error);
    }
}
