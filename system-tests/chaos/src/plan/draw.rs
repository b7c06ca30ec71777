//! The draw of a scenario: its sides, body and order, and how it adapts to its episode. Its fault is drawn from the table or freely.
//!
//! The order of the random draws is part of the plan: another order draws other scenarios from the same seed.

use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::scenario::SEEN_TO_CLOSE;
use super::{
    Address, EPISODE, Episode, Fault, Framing, KIB, Mix, Order, Party, Program, Proxy, Scenario, Side,
    Transport, rng,
};

/// The longest transfer that a rate limit may cause, in milliseconds.
const PACED_MILLIS: u64 = 400;
/// The most frames of an upload in small frames.
const MAX_SMALL_FRAMES: u64 = 1000;

impl Scenario {
    /// The scenario of this number in the run of this mix.
    #[must_use]
    pub(crate) fn new(mix: &Mix, number: u64) -> Self {
        let mut rng = rng(mix.seed, number, 0);
        let transports = &mix.transports;
        let episode = Episode::new(mix, number / EPISODE);
        let mut scenario = Self {
            seed: mix.seed,
            number,
            address: Address::Stream { is_promised: rng.random_bool(0.1), ttl: None },
            source: party(&mut rng, transports),
            destination: party(&mut rng, transports),
            framing: if rng.random_bool(0.5) { Framing::Length } else { Framing::Chunked },
            size: size(&mut rng),
            order: match rng.random_range(0..5) {
                0 | 1 => Order::First(Side::Source),
                2 | 3 => Order::First(Side::Destination),
                _ => Order::Together,
            },
            pace: episode.pace,
            fault: Fault::None,
            drawn: None,
        };
        // Every second scenario is drawn from the table.
        match mix.table.cell(mix.seed, &episode, number).filter(|_| number % 2 == 1) {
            Some(cell) => scenario.play_cell(&mut rng, cell, mix, episode.proxy),
            None => scenario.play_freely(&mut rng, transports, &episode),
        }
        scenario.send_small_frames(&mut rng);
        scenario.expect(&mut rng);
        scenario.choose_address(&mut rng);
        scenario.prefer_waits(&mut rng);
        scenario
    }

    /// A scenario with any fault, also one that no cell of the table has.
    fn play_freely(&mut self, rng: &mut ChaCha8Rng, transports: &[Transport], episode: &Episode) {
        if rng.random_bool(0.2) && transports.contains(&Transport::Plain) {
            self.go_by_kernel(rng);
        }
        if let Some(proxy) = episode.proxy {
            self.go_by_proxy(rng, proxy, transports);
        }
        let may_be_old = !self.destination.transport.is_h2() && self.destination.proxy.is_none();
        self.destination.is_old = rng.random_bool(0.15) && may_be_old;
        self.keep_pace(rng);
        if rng.random_bool(0.02) {
            self.run_by_curl(rng);
        } else {
            self.go_wrong(rng, transports, episode.idle().is_some());
        }
    }

    /// Makes the transfer use pipes, where the server has any. By chance only one pair in sixteen would.
    fn go_by_kernel(&mut self, rng: &mut ChaCha8Rng) {
        self.source.transport = Transport::Plain;
        self.destination.transport = Transport::Plain;
        self.framing = Framing::Length;
        self.size = rng.random_range(100 * KIB..600 * KIB);
    }

    /// Makes one side or both connect to the proxy, which has no HTTP/2 for its clients.
    fn go_by_proxy(&mut self, rng: &mut ChaCha8Rng, proxy: Proxy, transports: &[Transport]) {
        let sides = rng.random_range(1..=3);
        for (bit, party) in [(1, &mut self.source), (2, &mut self.destination)] {
            let transport = match party.transport {
                Transport::Plain | Transport::H2 => Transport::Plain,
                Transport::Tls | Transport::H2Tls => Transport::Tls,
            };
            if sides & bit != 0 && transports.contains(&transport) {
                (party.transport, party.proxy) = (transport, Some(proxy));
            }
        }
    }

    /// Shrinks the body to a size that the rate limit passes soon, in most cases not at once.
    pub(super) fn keep_pace(&mut self, rng: &mut ChaCha8Rng) {
        if let Some(pace) = self.pace {
            let most = pace * PACED_MILLIS / 1000;
            if self.size > most {
                self.size = rng.random_range(most / 8..=most);
            }
        }
    }

    /// Makes an HTTP/2 upload of many small frames.
    fn send_small_frames(&mut self, rng: &mut ChaCha8Rng) {
        let piece = *[1, 7, 50].choose(rng).unwrap_or(&1);
        if rng.random_bool(0.3) && self.source.transport.is_h2() && self.size / piece <= MAX_SMALL_FRAMES {
            self.source.piece = usize::try_from(piece).unwrap_or(1);
        }
    }

    /// Makes some sides say how long they wait.
    fn prefer_waits(&mut self, rng: &mut ChaCha8Rng) {
        (self.source.wait, self.destination.wait) = (wait(rng), wait(rng));
    }

    /// Makes some sources expect 100. A source that another replaces must not leave its FIN behind a full buffer, and a source behind a
    /// proxy never expects one.
    fn expect(&mut self, rng: &mut ChaCha8Rng) {
        let value = *["100-continue", "100-Continue", "100-CONTINUE"].choose(rng).unwrap_or(&"100-continue");
        let by_chance = rng.random_bool(0.15);
        let is_missed = match &self.fault {
            Fault::Replaced(manners) => manners.iter().any(|manner| self.leaves_unseen(*manner)),
            Fault::Abandoned { manner, .. } => self.source.proxy.is_some() && self.leaves_unseen(*manner),
            _ => false,
        };
        // curl expects 100 only for large bodies, and a proxy answers by itself.
        let expects_in_vain = self.source.program == Program::Curl || self.source.proxy.is_some();
        if is_missed && expects_in_vain {
            self.size = rng.random_range(0..SEEN_TO_CLOSE);
        }
        let expects = by_chance || is_missed && !expects_in_vain;
        let can_expect = self.source.program == Program::Own && !self.source.is_old;
        if expects && can_expect && self.size > 0 {
            self.source.expects = Some(value);
        }
    }
}

/// A wait of a side: shorter than the time to live of a stream, or longer.
fn wait(rng: &mut ChaCha8Rng) -> Option<u64> {
    match rng.random_range(0..100) {
        0..12 => Some(rng.random_range(1..=3)),
        12..24 => Some(rng.random_range(10..600)),
        _ => None,
    }
}

fn party(rng: &mut ChaCha8Rng, transports: &[Transport]) -> Party {
    Party {
        transport: *transports.choose(rng).unwrap_or(&Transport::Plain),
        program: Program::Own,
        proxy: None,
        is_old: false,
        piece: *[700, 4 << 10, 16 << 10, 64 << 10].choose(rng).unwrap_or(&1024),
        receive_buffer: rng.random_bool(0.05).then_some(32 << 10),
        window: *[16 << 10, 64 << 10, 1 << 20].choose(rng).unwrap_or(&65_535),
        expects: None,
        wait: None,
    }
}

fn size(rng: &mut ChaCha8Rng) -> u64 {
    match rng.random_range(0..100) {
        0..4 => 0,
        4..25 => rng.random_range(1..KIB),
        25..55 => rng.random_range(KIB..64 * KIB),
        55..87 => rng.random_range(64 * KIB..256 * KIB),
        87..97 => rng.random_range(256 * KIB..1024 * KIB),
        _ => rng.random_range(1024 * KIB..5 * 1024 * KIB),
    }
}

pub(super) fn any_side(rng: &mut ChaCha8Rng) -> Side {
    if rng.random_bool(0.5) { Side::Source } else { Side::Destination }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_seed_and_a_number_say_all() {
        let (five, six) = (Mix::whole(5), Mix::whole(6));
        for number in 0..200 {
            let scenario = Scenario::new(&five, number);
            assert_eq!(scenario, Scenario::new(&five, number));
            assert_ne!(scenario, Scenario { seed: 5, ..Scenario::new(&six, number) });
        }
    }

    #[test]
    fn every_fault_and_every_combination_comes_up() {
        let mix = Mix::whole(1);
        let all: Vec<_> = (0..8000).map(|number| Scenario::new(&mix, number)).collect();
        let faults: HashSet<_> = all.iter().map(|scenario| std::mem::discriminant(&scenario.fault)).collect();
        assert_eq!(faults.len(), 10);
        let combinations: HashSet<_> = all
            .iter()
            .map(|one| {
                let (source, destination) = (one.source.transport, one.destination.transport);
                format!("{source} {destination} {:?} {}", one.framing, one.pace.is_some())
            })
            .collect();
        assert_eq!(combinations.len(), 4 * 4 * 2 * 2);
        let acts: HashSet<_> = all
            .iter()
            .flat_map(|one| one.steps(Side::Source).iter().chain(one.steps(Side::Destination)))
            .map(|step| format!("{:?}", step.act).split('(').take(1).collect::<String>())
            .collect();
        assert_eq!(acts.len(), 8, "{acts:?}");
        let killed = all.iter().filter(|one| one.fault.to_string().contains("Kill")).count();
        assert!((20..120).contains(&killed), "{killed} of 8000 kill a process");
    }

    #[test]
    fn only_the_transports_that_were_asked_for_are_used() {
        let mix = Mix::new(3, vec![Transport::Tls], Vec::new(), None);
        for number in 0..500 {
            let scenario = Scenario::new(&mix, number);
            assert_eq!(
                (scenario.source.transport, scenario.destination.transport),
                (Transport::Tls, Transport::Tls)
            );
        }
    }

    #[test]
    fn what_goes_through_a_proxy_is_what_it_can_carry() {
        let mix = Mix::whole(2);
        let parties = (0..8000).map(|number| Scenario::new(&mix, number)).flat_map(|one| {
            let is_at_once = matches!(one.fault, Fault::Abandoned { at_once: true, .. });
            assert!(!is_at_once || one.party(one.first()).proxy.is_none(), "{one}");
            [one.source, one.destination]
        });
        let proxied: Vec<_> = parties.filter(|party| party.proxy.is_some()).collect();
        assert!(proxied.len() > 1500, "{} of 16000", proxied.len());
        for party in proxied {
            assert!(!party.is_old && !party.transport.is_h2(), "{party}");
        }
    }
}
