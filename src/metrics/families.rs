//! What is counted under several words: each word has a counter, made once, at the start.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::{Labels, Protocol};
use crate::outcome::{Fault, Outcome, Refusal, Side};

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

#[derive(Debug)]
pub(super) struct Outcomes {
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
    pub(super) fn new(registry: &mut Registry) -> Self {
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

    pub(super) fn of(&self, outcome: &Outcome) -> &Counter {
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
pub(super) struct Refusals {
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
    pub(super) fn new(registry: &mut Registry) -> Self {
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

    pub(super) fn of(&self, refusal: &Refusal) -> &Counter {
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
