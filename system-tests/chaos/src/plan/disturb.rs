//! The free draw of a fault: any fault that the body, the transports and the order of the scenario allow.

use std::time::Duration;

use rand::RngExt;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

use super::draw::any_side;
use super::{
    Act, Address, Fault, Framing, KIB, Manner, Moment, Order, Party, Program, Scenario, Side, Stage, Step,
    Transport,
};

/// The stall in scenarios of a server with a short idle limit. Others stall for less than [`SHORT_STALL`].
pub(super) const LONG_STALL: Duration = Duration::from_millis(2600);
const SHORT_STALL: Duration = Duration::from_millis(120);

impl Scenario {
    pub(super) fn run_by_curl(&mut self, rng: &mut ChaCha8Rng) {
        let side = any_side(rng);
        let body = 0..=self.size;
        let party = if side == Side::Source { &mut self.source } else { &mut self.destination };
        party.program = Program::Curl;
        party.is_old = false;
        if rng.random_bool(0.7) {
            let moment = match rng.random_range(0..4) {
                0 => Moment::After(Duration::from_micros(rng.random_range(0..40_000))),
                1 if self.order == Order::First(side) => Moment::Waiting,
                _ => Moment::Body(rng.random_range(body)),
            };
            if moment == Moment::Waiting {
                self.fault = Fault::Replaced(vec![Manner::Kill]);
            } else {
                self.acts(side, vec![Step { moment, act: Act::Leave(Manner::Kill) }]);
            }
        }
    }

    pub(super) fn go_wrong(&mut self, rng: &mut ChaCha8Rng, transports: &[Transport], hasty: bool) {
        let side = any_side(rng);
        match rng.random_range(0..100) {
            0..18 => {}
            18..21 => self.fault = Fault::Impatient(rng.random_range(1..=2)),
            21..24 => self.repeat(rng),
            24..30 => self.reset_at_the_end(rng, transports),
            30..55 => self.acts(side, vec![self.leave(rng, side)]),
            55..63 => self.half_close(rng, side),
            63..70 => self.acts(side, stall(rng, self.size, hasty)),
            70..73 => self.break_http(rng),
            73..81 => self.be_deaf(rng),
            81..87 => {
                let first = self.look_first(rng);
                let times = rng.random_range(1..=2);
                self.fault = Fault::Replaced((0..times).map(|_| manner(rng, self.party(first))).collect());
            }
            87..89 => {
                let first = self.look_first(rng);
                let manner = manner(rng, self.party(first));
                // Only a reset reaches the server's kernel at once, and not through a proxy.
                let is_known = manner == Manner::Reset && self.party(first).proxy.is_none();
                let at_once = is_known && rng.random_bool(0.7);
                self.fault = Fault::Abandoned { manner, at_once };
            }
            89 => self.fault = if rng.random_bool(0.2) { Fault::Forgotten } else { Fault::Absent(side) },
            90..95 => self.fault = Fault::Reported(self.stage(rng, true)),
            _ => {
                let stage = self.stage(rng, false);
                let side = if stage == Stage::Waiting { self.first() } else { side };
                self.fault = Fault::Intruder(side, stage);
            }
        }
    }

    /// An HTTP/2 destination resets its stream while the source sends the end of the body. Sometimes the source leaves then as well.
    fn reset_at_the_end(&mut self, rng: &mut ChaCha8Rng, transports: &[Transport]) {
        let h2: Vec<_> = transports.iter().copied().filter(|transport| transport.is_h2()).collect();
        let Some(transport) = h2.choose(rng) else { return };
        self.destination.transport = *transport;
        (self.destination.is_old, self.destination.proxy) = (false, None);
        self.size = rng.random_range(2..16 * KIB);
        // A chunked body ends after its last byte, one with a declared length with it.
        let is_behind = self.framing == Framing::Chunked && !self.is_promised() && rng.random_bool(0.5);
        let last = if is_behind { self.size } else { self.size - 1 };
        let mut source = vec![Step { moment: Moment::Body(last), act: Act::Await(last) }];
        if rng.random_bool(0.3) {
            let act = Act::Leave(manner(rng, &self.source));
            source.push(Step { moment: Moment::Body(self.size), act });
        }
        let destination = vec![Step { moment: Moment::Body(last), act: Act::Leave(Manner::ResetStream) }];
        self.fault = Fault::Acts { source, destination };
    }

    fn leave(&self, rng: &mut ChaCha8Rng, side: Side) -> Step {
        let offset = self.offset(rng);
        let is_in_end = side == Side::Source && self.sends_chunks() && offset == self.size;
        let moment = if rng.random_bool(0.3) {
            Moment::After(Duration::from_micros(rng.random_range(0..15_000)))
        } else if is_in_end && rng.random_bool(0.5) {
            Moment::InChunk(offset)
        } else {
            Moment::Body(offset)
        };
        Step { moment, act: Act::Leave(manner(rng, self.party(side))) }
    }

    /// A source half-closes after its body or inside it; a destination anywhere.
    fn half_close(&mut self, rng: &mut ChaCha8Rng, side: Side) {
        let is_behind = side == Side::Source && rng.random_bool(0.5);
        let moment = if is_behind { Moment::End } else { Moment::Body(self.offset(rng)) };
        // In HTTP/2 the whole connection closes.
        if !self.party(side).transport.is_h2() {
            self.acts(side, vec![Step { moment, act: Act::HalfClose }]);
        }
    }

    fn break_http(&mut self, rng: &mut ChaCha8Rng) {
        if !self.source.transport.is_h2() {
            self.framing = Framing::Chunked;
            let step = Step { moment: Moment::Body(self.offset(rng)), act: Act::Break };
            self.acts(Side::Source, vec![step]);
        }
    }

    /// The destination reads nothing and resets, and its kernel has no room for the body. So the body must not count as delivered.
    fn be_deaf(&mut self, rng: &mut ChaCha8Rng) {
        self.destination.receive_buffer = Some(4096);
        self.destination.window = 4 << 20;
        // The kernel has room for the smaller ones. A part of the larger ones stays in the server and its pipes.
        let sizes = if self.is_spliced() { 6 << 20..9 << 20 } else { 256 << 10..1 << 20 };
        self.size = rng.random_range(sizes);
        let moment = Moment::Body(if rng.random_bool(0.7) { 0 } else { rng.random_range(0..8 * KIB) });
        let stall = Act::Stall(Duration::from_millis(rng.random_range(50..500)));
        let acts = if self.destination.transport.is_h2() && rng.random_bool(0.5) {
            // Often the last frame is queued in the server when the reset arrives.
            self.size = rng.random_range(64 * KIB..512 * KIB);
            vec![Act::StopReading, stall, Act::Leave(Manner::ResetStream)]
        } else {
            vec![stall, Act::Leave(if rng.random_bool(0.5) { Manner::Reset } else { Manner::Fin })]
        };
        let steps = acts.into_iter().map(|act| Step { moment, act }).collect();
        self.acts(Side::Destination, steps);
    }

    /// The sides transfer small bodies in a loop, so that each round begins while the server still ends the one before.
    fn repeat(&mut self, rng: &mut ChaCha8Rng) {
        self.address = Address::Path;
        self.size = self.size.min(8 * KIB);
        self.fault = Fault::Looped(rng.random_range(2..=8));
    }

    /// A side that waits for the other leaves.
    fn look_first(&mut self, rng: &mut ChaCha8Rng) -> Side {
        let side = any_side(rng);
        self.order = Order::First(side);
        side
    }

    /// A stage before the end. A report may also precede both sides.
    fn stage(&mut self, rng: &mut ChaCha8Rng, before: bool) -> Stage {
        match rng.random_range(0..3) {
            0 if before => Stage::Before,
            0 | 1 => {
                self.look_first(rng);
                Stage::Waiting
            }
            _ => {
                self.size = self.size.max(1);
                Stage::Streaming(rng.random_range(0..self.size))
            }
        }
    }

    /// An offset in the body, often its beginning or end.
    fn offset(&self, rng: &mut ChaCha8Rng) -> u64 {
        match rng.random_range(0..10) {
            0 => 0,
            1 => self.size,
            2 => self.size.saturating_sub(1),
            _ => rng.random_range(0..=self.size),
        }
    }

    fn sends_chunks(&self) -> bool {
        self.framing == Framing::Chunked && !self.source.transport.is_h2()
    }

    fn is_spliced(&self) -> bool {
        let is_plain = |party: &Party| party.transport == Transport::Plain;
        is_plain(&self.source) && is_plain(&self.destination) && self.framing == Framing::Length
    }

    fn acts(&mut self, side: Side, steps: Vec<Step>) {
        self.fault = match side {
            Side::Source => Fault::Acts { source: steps, destination: Vec::new() },
            Side::Destination => Fault::Acts { source: Vec::new(), destination: steps },
        };
    }
}

fn manner(rng: &mut ChaCha8Rng, party: &Party) -> Manner {
    match rng.random_range(0..3) {
        0 if party.transport.is_h2() => Manner::ResetStream,
        0 | 1 => Manner::Fin,
        _ => Manner::Reset,
    }
}

fn stall(rng: &mut ChaCha8Rng, size: u64, hasty: bool) -> Vec<Step> {
    let moment = Moment::Body(rng.random_range(0..=size));
    let is_long = hasty && rng.random_bool(0.5);
    let time = if is_long { LONG_STALL } else { SHORT_STALL.mul_f64(rng.random_range(0.1..1.0)) };
    vec![Step { moment, act: Act::Stall(time) }]
}
