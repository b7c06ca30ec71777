//! Scenarios drawn from the table of transfers (`testkit::matrix`), which has the outcome of each.
//!
//! The table gives versions, framing, event and moment. Sizes, pieces, TLS, order and timing are random. The episode adds the rate limit,
//! a proxy and the trouble of the server. In an *exact* scenario the sides wait for each other as the table describes, so it must have
//! the outcome of the table. In the others the other side may be anywhere at the event, and only the laws apply.

use std::time::Duration;

use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use testkit::matrix::{Cell, Event, Framing, Version, When};

use super::disturb::LONG_STALL;
use super::draw::any_side;
use super::{
    Act, Address, Episode, Fault, KIB, Manner, Mix, Moment, Program, Proxy, Scenario, Side, Step, Transport,
};

/// A body that its HTTP/2 source exceeds fits in one frame together with the excess. In two frames, the first would be passed on.
const ONE_FRAME: u64 = 16_000;
/// 2^64 divided by the golden ratio. Its multiples spread consecutive numbers over the table, so that a long run plays every cell.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The cell of a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drawn {
    /// The cell.
    pub(crate) cell: Cell,
    /// The sides wait for each other as the table describes.
    pub(crate) is_exact: bool,
}

/// The cells that a run draws from, by [`kind`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table([Vec<Cell>; 4]);

impl Table {
    /// The cells whose sides use these transports.
    pub(super) fn new(transports: &[Transport]) -> Self {
        let is_spoken = |version| transports.iter().any(|transport| speaks(*transport, version));
        let cells: Vec<_> =
            Cell::all().filter(|cell| is_spoken(cell.source) && is_spoken(cell.destination)).collect();
        Self([0, 1, 2, 3].map(|one| {
            let is_one = |cell: &Cell| kind(cell.paced, cell.event.lasts_until_idle_limit()) == one;
            cells.iter().copied().filter(is_one).collect()
        }))
    }

    /// The cell of the scenario of this number, among those that its episode can play: a cell that lasts until the idle limit needs a
    /// server with a short one.
    pub(super) fn cell(&self, seed: u64, episode: &Episode, number: u64) -> Option<Cell> {
        let is_long = episode.idle().is_some() && number % 4 == 1;
        let cells = self.0.get(kind(episode.pace.is_some(), is_long))?;
        let turn = number.wrapping_add(seed.rotate_left(32)).wrapping_mul(GOLDEN);
        let index = (u128::from(turn) * cells.len() as u128) >> 64;
        cells.get(usize::try_from(index).ok()?).copied()
    }
}

fn kind(paced: bool, lasts_until_idle_limit: bool) -> usize {
    usize::from(paced) * 2 + usize::from(lasts_until_idle_limit)
}

fn speaks(transport: Transport, version: Version) -> bool {
    transport.is_h2() == (version == Version::Http2)
}

impl Scenario {
    /// Turns this into a scenario of the cell.
    pub(super) fn play_cell(&mut self, rng: &mut ChaCha8Rng, cell: Cell, mix: &Mix, proxy: Option<Proxy>) {
        let is_exact = rng.random_bool(0.75);
        self.drawn = Some(Drawn { cell, is_exact });
        for (party, version) in [(&mut self.source, cell.source), (&mut self.destination, cell.destination)] {
            let spoken = mix.transports.iter().copied().filter(|transport| speaks(*transport, version));
            party.transport = *spoken.collect::<Vec<_>>().choose(rng).unwrap_or(&Transport::Plain);
            party.is_old = version == Version::Http10;
            // Our samples accept no HTTP/1.0 and no HTTP/2 from clients.
            let is_proxied = version == Version::Http11 && rng.random_bool(0.7);
            party.proxy = proxy.filter(|_| is_proxied);
        }
        if (cell.event, cell.when) == (Event::SourceBreaksFraming, When::InEnd) {
            // A proxy may take these broken bytes for a trailer and wait for its end.
            self.source.proxy = None;
        }
        self.framing =
            if cell.framing == Framing::Length { super::Framing::Length } else { super::Framing::Chunked };
        self.address = Address::Stream { is_promised: cell.framing == Framing::Promised, ttl: None };
        self.keep_pace(rng);
        self.size = self.size.max(3);
        if cell.event.has_unread_body() {
            self.be_unread(rng, cell);
        } else if cell.event == Event::SourceBreaksFraming && self.source.transport.is_h2() {
            self.size = self.size.min(rng.random_range(3..ONE_FRAME));
        } else if cell.event == Event::Nothing && rng.random_bool(0.1) {
            let side = any_side(rng);
            let party = if side == Side::Source { &mut self.source } else { &mut self.destination };
            if !party.is_old {
                party.program = Program::Curl;
            }
        }
        let (source, destination) = (self.acts_of_source(rng, cell), self.acts_of_destination(rng, cell));
        if !source.is_empty() || !destination.is_empty() {
            self.fault = Fault::Acts { source, destination };
        }
    }

    /// Gives the destination small buffers, and a body that is larger than all buffers on the way, or than its own.
    fn be_unread(&mut self, rng: &mut ChaCha8Rng, cell: Cell) {
        self.destination.receive_buffer = Some(4096);
        self.destination.window = if uses_up_window(cell) { 64 << 10 } else { 4 << 20 };
        let fills_all =
            cell.when == When::BeforeLastByte && (!cell.paced || !cell.event.lasts_until_idle_limit());
        let sizes = if fills_all { 6 << 20..9 << 20 } else { 192 * KIB..256 * KIB };
        self.size = rng.random_range(sizes);
    }

    fn is_exact(&self) -> bool {
        self.drawn.is_some_and(|drawn| drawn.is_exact)
    }

    fn acts_of_source(&self, rng: &mut ChaCha8Rng, cell: Cell) -> Vec<Step> {
        let size = self.size;
        let is_of_destination = match cell.event {
            Event::Nothing => return Vec::new(),
            event if event.has_unread_body() => return Vec::new(),
            Event::DestinationCloses | Event::DestinationResets | Event::DestinationHalfCloses => true,
            _ => false,
        };
        let moment = match cell.when {
            When::AfterEnd => Moment::End,
            When::InFirstByte | When::InLastByte | When::InEnd => Moment::InChunk(cell.sent(size)),
            _ => Moment::Body(cell.sent(size)),
        };
        let passed_on = cell.passed_on(size);
        let mut steps = Vec::new();
        if self.is_exact() {
            // The table does not wait for the bytes of a source that closes after its whole message.
            let hurries = cell.when == When::AfterEnd
                && cell.event == Event::SourceCloses
                && cell.source != Version::Http2;
            let wait = match passed_on {
                _ if hurries => Step { moment: Moment::Body(0), act: Act::AwaitPair },
                0 => Step { moment: Moment::Body(0), act: Act::AwaitPair },
                _ if moment == Moment::End => Step { moment, act: Act::Await(passed_on) },
                _ => Step { moment: Moment::Body(passed_on), act: Act::Await(passed_on) },
            };
            steps.push(wait);
            steps.extend(pause(rng, moment));
        }
        let act = match cell.event {
            // The source sends nothing more while the destination leaves.
            _ if is_of_destination && self.is_exact() && moment != Moment::End => Act::Await(u64::MAX),
            _ if is_of_destination => return Vec::new(),
            Event::SourceCloses => Act::Leave(Manner::Fin),
            Event::SourceResets => Act::Leave(resets(self.source.transport)),
            Event::SourceHalfCloses => Act::HalfClose,
            Event::SourceBreaksFraming => Act::Break,
            _ => Act::Stall(LONG_STALL),
        };
        steps.push(Step { moment, act });
        steps
    }

    fn acts_of_destination(&self, rng: &mut ChaCha8Rng, cell: Cell) -> Vec<Step> {
        let passed_on = cell.passed_on(self.size);
        let moment = match cell.when {
            _ if cell.event.has_unread_body() => Moment::Body(0),
            When::AfterEnd => Moment::End,
            _ => Moment::Body(passed_on),
        };
        // Longer than the idle limit, which begins when the buffers are full. A rate limit fills them slowly, and so does a busy machine.
        let long = 2 * LONG_STALL + Duration::from_secs(self.pace.map_or(0, |pace| self.size / pace));
        let short = Duration::from_millis(rng.random_range(50..500));
        let transport = self.destination.transport;
        let acts = match cell.event {
            Event::DestinationCloses => vec![Act::Leave(Manner::Fin)],
            Event::DestinationResets => vec![Act::Leave(resets(transport))],
            Event::DestinationHalfCloses => vec![Act::HalfClose],
            Event::DestinationStalls => vec![Act::Withhold(long)],
            Event::DestinationStallsThenCloses => {
                vec![Act::StopReading, Act::Stall(short), Act::Leave(Manner::Fin)]
            }
            Event::DestinationStallsThenResets if uses_up_window(cell) => {
                vec![Act::Withhold(short), Act::Leave(resets(transport))]
            }
            Event::DestinationStallsThenResets => {
                vec![Act::StopReading, Act::Stall(short), Act::Leave(resets(transport))]
            }
            _ => return Vec::new(),
        };
        let mut steps: Vec<_> = acts.into_iter().map(|act| Step { moment, act }).collect();
        if self.is_exact() {
            // A client that must read nothing stops before anything can arrive.
            let first = usize::from(steps.first().is_some_and(|step| step.act == Act::StopReading));
            let waits = (moment == Moment::Body(0)).then_some(Step { moment, act: Act::AwaitPair });
            steps.splice(first..first, waits.into_iter().chain(pause(rng, moment)));
        }
        steps
    }
}

/// Whether an unread body uses up the window of an HTTP/2 destination. Otherwise the destination does not read its connection.
fn uses_up_window(cell: Cell) -> bool {
    match cell.event {
        Event::DestinationStallsThenCloses => false,
        Event::DestinationStallsThenResets => cell.when == When::BeforeLastByte,
        _ => true,
    }
}

fn resets(transport: Transport) -> Manner {
    if transport.is_h2() { Manner::ResetStream } else { Manner::Reset }
}

/// Sometimes leaves time for the sent bytes to arrive.
fn pause(rng: &mut ChaCha8Rng, moment: Moment) -> Option<Step> {
    let time = Duration::from_micros(rng.random_range(0..8000));
    rng.random_bool(0.5).then_some(Step { moment, act: Act::Stall(time) })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::plan::EPISODE;

    #[test]
    fn a_long_run_plays_every_cell_as_the_table_describes_it() {
        let mix = Mix::whole(1);
        let mut left: HashSet<_> = Cell::all().collect();
        let mut directly = left.clone();
        for scenario in (0..50_000).map(|number| Scenario::new(&mix, number)) {
            let Some(drawn) = scenario.drawn.filter(|drawn| drawn.is_exact) else { continue };
            assert_eq!(drawn.cell.paced, scenario.pace.is_some());
            left.remove(&drawn.cell);
            if scenario.source.proxy.or(scenario.destination.proxy).is_none() {
                directly.remove(&drawn.cell);
            }
        }
        assert!(left.is_empty(), "{} cells are not drawn, one is {:?}", left.len(), left.iter().next());
        assert!(directly.is_empty(), "{} only through proxies", directly.len());
    }

    #[test]
    fn a_drawn_scenario_is_its_cell() {
        let mix = Mix::whole(4);
        let drawn = (0..20_000)
            .map(|number| Scenario::new(&mix, number))
            .filter_map(|scenario| Some((scenario.drawn?.cell, scenario)));
        let version = |party: &super::super::Party| match (party.transport.is_h2(), party.is_old) {
            (true, _) => Version::Http2,
            (false, true) => Version::Http10,
            (false, false) => Version::Http11,
        };
        let mut count = 0;
        for (cell, scenario) in drawn {
            count += 1;
            assert_eq!(
                (version(&scenario.source), version(&scenario.destination)),
                (cell.source, cell.destination)
            );
            let is_length = scenario.framing == super::super::Framing::Length;
            assert_eq!(
                (is_length, scenario.is_promised()),
                (cell.framing == Framing::Length, cell.framing == Framing::Promised,)
            );
            assert_eq!(scenario.fault == Fault::None, cell.event == Event::Nothing, "{scenario}");
            let is_hasty = Episode::new(&mix, scenario.number / EPISODE).idle().is_some();
            assert!(is_hasty || !cell.event.lasts_until_idle_limit());
        }
        assert_eq!(count, 10_000);
    }
}
