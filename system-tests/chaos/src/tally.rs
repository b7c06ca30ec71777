//! The counts of a run.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use crate::client::View;
use crate::episode::Findings;
use crate::laws::Facts;
use crate::place::Sight;
use crate::plan::{Act, Address, Drawn, Fault, Party, Program, Scenario, Side, Step};

/// The counts of a run.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    played: u64,
    bytes: u64,
    pairs: BTreeMap<String, u64>,
    addresses: BTreeMap<String, u64>,
    waits: BTreeMap<String, u64>,
    proxies: BTreeMap<String, u64>,
    paces: BTreeMap<String, u64>,
    faults: BTreeMap<String, u64>,
    events: BTreeMap<String, u64>,
    cells: BTreeMap<String, u64>,
    states: BTreeMap<String, u64>,
    broken: BTreeMap<String, u64>,
}

impl Tally {
    /// Whether no law was broken.
    #[must_use]
    pub(crate) fn is_clean(&self) -> bool {
        self.broken.is_empty()
    }

    /// Adds the results of an episode.
    pub(crate) fn add(&mut self, findings: Findings) {
        for facts in findings.played {
            self.played += 1;
            let scenario = &facts.scenario;
            let promise = if scenario.is_promised() { ", promised" } else { "" };
            let [source, destination] = [&scenario.source, &scenario.destination].map(spoken);
            let pair = format!("{source} to {destination}, {:?}{promise}", scenario.framing);
            *self.pairs.entry(pair).or_default() += 1;
            *self.addresses.entry(address(scenario).to_owned()).or_default() += 1;
            for wait in waits(&facts) {
                *self.waits.entry(wait.to_owned()).or_default() += 1;
            }
            *self.proxies.entry(ways(scenario)).or_default() += 1;
            if let Some(Drawn { cell, is_exact }) = scenario.drawn {
                *self.events.entry(format!("{:?}, {:?}", cell.event, cell.when)).or_default() += 1;
                let use_of_cell = match (facts.cell(), is_exact) {
                    (Some(_), _) => "compared with the table",
                    (None, true) => {
                        "played as the table describes, but with a proxy, a server in trouble, or late"
                    }
                    (None, false) => "played at any time",
                };
                *self.cells.entry(use_of_cell.to_owned()).or_default() += 1;
            }
            let pace =
                scenario.pace.map_or_else(|| "none".to_owned(), |pace| format!("{pace} bytes a second"));
            *self.paces.entry(pace).or_default() += 1;
            *self.faults.entry(kind(scenario).to_owned()).or_default() += 1;
            *self.states.entry(last_state(facts.sight)).or_default() += 1;
            self.bytes += facts.destination.map_or(0, |view| view.bytes);
        }
        for breach in findings.broken.into_iter().flat_map(|broken| broken.breaches) {
            *self.broken.entry(breach.law.to_string()).or_default() += 1;
        }
    }

    /// All counts, for the report.
    #[must_use]
    pub(crate) fn table(&self, took: Duration) -> String {
        let mut text = String::new();
        for (title, counts) in [
            ("sides", &self.pairs),
            ("addresses", &self.addresses),
            ("waits of the sides", &self.waits),
            ("proxies", &self.proxies),
            ("paces", &self.paces),
            ("faults", &self.faults),
            ("events of the table", &self.events),
            ("cells of the table", &self.cells),
            ("last states", &self.states),
        ] {
            // Writing to a String does not fail.
            let _ = writeln!(text, "\n{title}");
            for (name, count) in counts {
                let _ = writeln!(text, "  {count:>6}  {name}");
            }
        }
        let seconds = took.as_secs().max(1);
        let rate = self.played / seconds;
        let mib = self.bytes >> 20;
        let _ =
            writeln!(text, "\n{} transfers in {seconds} s, {rate} a second; {mib} MiB received", self.played);
        if self.is_clean() {
            text.push_str("No law was broken.");
        }
        for (law, count) in &self.broken {
            let _ = writeln!(text, "BROKEN {count} times: {law}");
        }
        text
    }
}

fn address(scenario: &Scenario) -> &'static str {
    match (scenario.address, &scenario.fault) {
        (Address::Path, Fault::Looped(_)) => "path, in a loop",
        (Address::Path, _) => "path",
        (Address::Stream { ttl: Some(_), .. }, _) => "stream with its own ttl",
        (Address::Stream { .. }, _) => "stream",
    }
}

/// The wait of each side.
fn waits(facts: &Facts) -> impl Iterator<Item = &'static str> {
    let of_view = |view: &View| match facts.scenario.party(view.side).wait {
        None => "as long as the stream lives",
        Some(_) if view.has_waited_in_vain() => "some seconds, in vain",
        Some(_) => "some seconds",
    };
    facts
        .source
        .iter()
        .chain(&facts.destination)
        .map(of_view)
        .chain(facts.in_vain.iter().map(|_| "a second, in vain"))
}

fn last_state(sight: Sight) -> String {
    match sight {
        Sight::Status(status) => status.state,
        Sight::Unknown => "(no longer known)".to_owned(),
        Sight::Taken => "(a path that is taken)".to_owned(),
        Sight::Free => "(a path that is free)".to_owned(),
    }
}

fn spoken(party: &Party) -> String {
    format!("{}{}", party.transport, if party.is_old { " (HTTP/1.0)" } else { "" })
}

/// The sides behind a proxy.
fn ways(scenario: &Scenario) -> String {
    match (scenario.source.proxy, scenario.destination.proxy) {
        (None, None) => "none".to_owned(),
        (Some(proxy), None) => format!("{proxy}, the source"),
        (None, Some(proxy)) => format!("{proxy}, the destination"),
        (Some(proxy), Some(_)) => format!("{proxy}, both"),
    }
}

fn acts(steps: &[Step]) -> Vec<Act> {
    steps.iter().map(|step| step.act).collect()
}

/// A scenario's fault, without its numbers.
fn kind(scenario: &Scenario) -> &'static str {
    let by_curl = [Side::Source, Side::Destination].map(|side| scenario.party(side).program == Program::Curl);
    match &scenario.fault {
        _ if scenario.drawn.is_some() => "of the table: see below",
        _ if by_curl.contains(&true) && scenario.fault != Fault::None => "a curl is killed",
        Fault::None if by_curl.contains(&true) => "none, by curl",
        Fault::None => "none",
        Fault::Acts { source, destination } => match (&acts(source)[..], &acts(destination)[..]) {
            ([Act::Await(_)], _) => "destination resets at the end",
            ([Act::Await(_), _], _) => "destination resets at the end, and the source leaves",
            (_, [Act::StopReading, ..]) => "destination stops reading, and resets its stream",
            (_, [_, _]) => "destination reads nothing and leaves",
            ([Act::Leave(_)], _) => "source leaves",
            (_, [Act::Leave(_)]) => "destination leaves",
            ([Act::HalfClose], _) => "source half-closes",
            (_, [Act::HalfClose]) => "destination half-closes",
            ([Act::Stall(_)], _) => "source stalls",
            (_, [Act::Stall(_)]) => "destination stalls",
            _ => "source breaks HTTP",
        },
        Fault::Replaced(_) => "leaves while it waits, and another connects",
        Fault::Abandoned { at_once: false, .. } => "leaves while it waits",
        Fault::Abandoned { at_once: true, .. } => {
            "leaves while it waits, and the other side connects at once"
        }
        Fault::Impatient(_) => "waits for a second in vain, and comes again",
        Fault::Looped(_) => "none, in a loop over one path",
        Fault::Absent(_) => "one side never connects",
        Fault::Forgotten => "no side connects",
        Fault::Reported(_) => "an error is reported",
        Fault::Intruder(..) => "a second client connects",
    }
}
