//! The facts of a transfer: its plan, the circumstances and all observations, and what follows from them for several laws.

use std::time::Duration;

use crate::client::View;
use crate::place::{Sight, Status};
use crate::plan::{Act, Fault, Scenario, Side, Stage};

/// All observations of a transfer.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    /// The plan.
    pub(crate) scenario: Scenario,
    /// The trouble of the server.
    pub(crate) circumstances: Circumstances,
    /// The view of the source, unless the plan has none.
    pub(crate) source: Option<View>,
    /// The view of the destination, unless the plan has none.
    pub(crate) destination: Option<View>,
    /// The view of the client that tried to take a seat.
    pub(crate) intruder: Option<View>,
    /// The views of first sides that waited for a second, before the first side that stays.
    pub(crate) in_vain: Vec<View>,
    /// The response to the report.
    pub(crate) report: Option<u16>,
    /// For each side that left while it waited: whether its seat became free soon.
    pub(crate) freed: Vec<bool>,
    /// What was seen last at the place of the transfer.
    pub(crate) sight: Sight,
    /// From the creation of the stream, or the first request, to the last sight.
    pub(crate) took: Duration,
}

/// The trouble of the server during the transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Circumstances {
    /// It was stopped or killed.
    pub(crate) has_ended: bool,
    /// It had no room for all clients.
    pub(crate) is_crowded: bool,
    /// The ttl of the server.
    pub(crate) ttl: Duration,
    /// The idle limit, if it is short.
    pub(crate) idle: Option<Duration>,
}

impl Facts {
    pub(super) fn views(&self) -> impl Iterator<Item = &View> {
        self.planned().chain(&self.intruder).chain(&self.in_vain)
    }

    /// The views of the two planned sides.
    pub(super) fn planned(&self) -> impl Iterator<Item = &View> {
        self.source.iter().chain(&self.destination)
    }

    pub(super) fn view(&self, side: Side) -> Option<&View> {
        match side {
            Side::Source => self.source.as_ref(),
            Side::Destination => self.destination.as_ref(),
        }
    }

    /// Whether the server had no trouble.
    pub(super) fn is_steady(&self) -> bool {
        !self.circumstances.has_ended && !self.circumstances.is_crowded
    }

    /// The status of the stream, if it has one and was known.
    pub(crate) fn status(&self) -> Option<&Status> {
        self.sight.status()
    }

    /// Whether the ttl may have passed.
    pub(super) fn may_have_expired(&self) -> bool {
        self.took >= self.scenario.own_ttl().unwrap_or(self.circumstances.ttl)
    }

    /// Whether the stream may be forgotten: it ended one ttl of the server ago.
    pub(super) fn may_be_forgotten(&self) -> bool {
        self.took >= self.circumstances.ttl
    }

    /// Whether the wait that this side prefers may have passed.
    pub(super) fn may_have_waited(&self, side: Side) -> bool {
        let wait = self.scenario.party(side).wait.map(Duration::from_secs);
        wait.is_some_and(|wait| self.took >= wait)
    }

    /// Whether a planned side has waited for as long as it preferred, and has not met the other.
    pub(super) fn has_given_up(&self) -> bool {
        self.planned().any(View::has_waited_in_vain)
    }

    /// Whether the idle limit may have passed, because the machine was busy.
    pub(super) fn may_have_stalled(&self) -> bool {
        self.circumstances.idle.is_some_and(|idle| self.took >= idle)
    }

    /// Whether this side leaves, behaves as if it had left, or never connects.
    pub(super) fn disturbs(&self, side: Side) -> bool {
        match &self.scenario.fault {
            Fault::Acts { .. } => self.scenario.steps(side).iter().any(|step| match step.act {
                Act::Leave(_) | Act::Break | Act::StopReading => true,
                // A source may half-close after its body, but a proxy takes that for its departure.
                Act::HalfClose => {
                    let is_proxied = self.scenario.source.proxy.is_some();
                    side == Side::Destination || is_proxied || !self.scenario.is_sent_at(step.moment)
                }
                Act::Stall(time) | Act::Withhold(time) => {
                    self.circumstances.idle.is_some_and(|idle| time >= idle / 2)
                }
                Act::Await(_) | Act::AwaitPair | Act::AwaitIntruder => false,
            }),
            Fault::Abandoned { .. } => self.scenario.first() == side,
            Fault::Absent(absent) => *absent == side,
            Fault::Forgotten => true,
            Fault::Reported(stage) => !matches!(stage, Stage::Streaming(_)),
            Fault::None
            | Fault::Replaced(_)
            | Fault::Impatient(_)
            | Fault::Looped(_)
            | Fault::Intruder(..) => false,
        }
    }

    /// Whether the destination has left: it has ended before the response did, or its proxy takes its FIN for that, and drops what it has taken.
    pub(super) fn destination_left(&self) -> bool {
        let half_closes =
            || self.scenario.steps(Side::Destination).iter().any(|step| step.act == Act::HalfClose);
        let is_proxied = self.scenario.destination.proxy.is_some();
        self.destination.as_ref().is_some_and(View::left) || is_proxied && half_closes()
    }

    /// Whether nothing has kept the body from arriving.
    pub(super) fn must_be_delivered(&self) -> bool {
        let disturbed = self.disturbs(Side::Source) || self.disturbs(Side::Destination);
        let has_time = !self.may_have_expired() && !self.may_have_stalled() && !self.has_given_up();
        self.is_steady() && !disturbed && has_time
    }

    pub(super) fn is_finished(&self) -> bool {
        self.status().is_some_and(|status| status.state == "FINISHED")
    }

    pub(super) fn has_whole_body(&self) -> bool {
        self.destination.as_ref().is_some_and(|view| view.is_whole(200) && view.bytes == self.scenario.size)
    }

    /// Whether the error is the proxy's own: the server's errors have a name.
    pub(super) fn is_of_proxy(&self, view: &View) -> bool {
        let is_unnamed_error =
            view.answer.as_ref().is_some_and(|answer| answer.status != 200 && answer.name.is_empty());
        is_unnamed_error && self.scenario.party(view.side).proxy.is_some()
    }
}
