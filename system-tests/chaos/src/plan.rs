//! The plan: a seed and a number determine a scenario. Pure, without I/O.
//!
//! A seed repeats only the plan. It cannot repeat how the network and the threads interleave, so a scenario that broke a law once is
//! repeated some hundred times (`--times`).

mod table;

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub(crate) use self::table::Drawn;
use self::table::Table;

/// Transfers per server, unless it is restarted between them.
pub(crate) const EPISODE: u64 = 50;

const KIB: u64 = 1024;
/// The stall in scenarios of a server with a short idle limit. Others stall for less than [`SHORT_STALL`].
const LONG_STALL: Duration = Duration::from_millis(2600);
const SHORT_STALL: Duration = Duration::from_millis(120);
/// The short idle limit.
pub(crate) const HASTY_IDLE: Duration = Duration::from_secs(1);
/// The rates of servers with a rate limit, in bytes per second.
const PACES: [u64; 3] = [64 * KIB, 256 * KIB, 1024 * KIB];
/// The longest transfer that a rate limit may cause, in milliseconds.
const PACED_MILLIS: u64 = 400;
/// The least throughput of a transfer on a busy machine through a small window, in bytes per second.
const SLOWEST: u64 = 128 * KIB;
/// A waiting HTTP/1 upload up to this size reaches the server's kernel together with its FIN. The FIN of a larger one may stay behind a
/// full buffer.
const SEEN_TO_CLOSE: u64 = 32 * KIB;
/// The most frames of an upload in small frames.
const MAX_SMALL_FRAMES: u64 = 1000;

/// One of the two sides of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// `PUT`.
    Source,
    /// `GET`.
    Destination,
}

/// The protocol and transport of a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    /// HTTP/1.1 over TCP.
    Plain,
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/2 over TCP, with prior knowledge.
    H2,
    /// HTTP/2 over TLS.
    H2Tls,
}

/// A proxy in front of a server, with our sample configuration. Its clients use HTTP/1.1, plain or over TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Proxy {
    /// nginx.
    Nginx,
    /// `HAProxy`.
    Haproxy,
}

/// The parameters of a run's plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mix {
    /// The seed of the run.
    pub(crate) seed: u64,
    /// The transports of the sides.
    pub(crate) transports: Vec<Transport>,
    /// The proxies. One server in four has one of them, in turn.
    pub(crate) proxies: Vec<Proxy>,
    /// The rate limit of all streams of all servers, in bytes per second. If set, every server has the default idle limit.
    pub(crate) rate: Option<u64>,
    table: Table,
}

/// The program that runs a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// A client inside this process, which observes the most.
    Own,
    /// A curl process, which can be killed.
    Curl,
}

/// How the end of an upload is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// `Content-Length`.
    Length,
    /// `Transfer-Encoding: chunked`; in HTTP/2, no declared length.
    Chunked,
}

/// The order in which the sides connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// This side connects first and waits for the other.
    First(Side),
    /// Both connect without an order.
    Together,
}

/// One side, as it behaves without a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Party {
    /// Its transport.
    pub(crate) transport: Transport,
    /// Its program.
    pub(crate) program: Program,
    /// The proxy that it connects to instead of the server.
    pub(crate) proxy: Option<Proxy>,
    /// It uses HTTP/1.0: a download without a length ends with the connection, and an upload has a length.
    pub(crate) is_old: bool,
    /// The size of its writes or reads, in bytes.
    pub(crate) piece: usize,
    /// The bound on its kernel's receive buffer, if any.
    pub(crate) receive_buffer: Option<usize>,
    /// The window of its HTTP/2 streams, in bytes.
    pub(crate) window: u32,
    /// The value of its `Expect`. Such a source sends no body before it gets 100.
    pub(crate) expects: Option<&'static str>,
}

/// How a client leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It closes its socket.
    Fin,
    /// It resets its connection.
    Reset,
    /// It resets its HTTP/2 stream, not its connection.
    ResetStream,
    /// Its process is killed.
    Kill,
}

/// When a step of a side is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// It has sent or received this number of bytes of the body.
    Body(u64),
    /// It has sent the size line of the chunk that begins with this byte, or of the last chunk, and nothing more (chunked source).
    InChunk(u64),
    /// It has sent or received the whole message.
    End,
    /// It waits for the other side.
    Waiting,
    /// This time after its start, whatever it does then.
    After(Duration),
}

/// An action of a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// It leaves.
    Leave(Manner),
    /// It closes its sending side and goes on reading.
    HalfClose,
    /// It neither reads nor writes.
    Stall(Duration),
    /// It does not read the body, so that its window is used up. Over HTTP/2 it reads everything else (destination).
    Withhold(Duration),
    /// It sends bytes that are not HTTP.
    Break,
    /// It waits until the destination has received this number of bytes of the body (source).
    Await(u64),
    /// It waits until both sides have their seats.
    AwaitPair,
    /// It reads nothing more from its connection and goes on writing (HTTP/2).
    StopReading,
}

/// An action of a side and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    /// When.
    pub(crate) moment: Moment,
    /// What.
    pub(crate) act: Act,
}

/// When a third client interferes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Before either side has connected.
    Before,
    /// While the first side waits.
    Waiting,
    /// When the destination has received this number of bytes.
    Streaming(u64),
}

/// The fault of a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// None.
    None,
    /// The sides take these steps, each in order.
    Acts {
        /// The steps of the source.
        source: Vec<Step>,
        /// The steps of the destination.
        destination: Vec<Step>,
    },
    /// The waiting side leaves once for each of these ways, and each time a new one connects in its place.
    Replaced(Vec<Manner>),
    /// The waiting side leaves, and no other connects in its place.
    Abandoned {
        /// How it leaves.
        manner: Manner,
        /// The other side connects before the server can have noticed.
        at_once: bool,
    },
    /// This side never connects.
    Absent(Side),
    /// Neither side connects.
    Forgotten,
    /// A client reports an error.
    Reported(Stage),
    /// Another client tries to take the seat of this side.
    Intruder(Side, Stage),
}

/// One transfer, from the creation of its stream to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scenario {
    /// The seed of the run.
    pub(crate) seed: u64,
    /// Its number in the run.
    pub(crate) number: u64,
    /// The source.
    pub(crate) source: Party,
    /// The destination.
    pub(crate) destination: Party,
    /// How the upload is framed.
    pub(crate) framing: Framing,
    /// The creator of the stream has declared the length.
    pub(crate) is_promised: bool,
    /// The length of the body, in bytes.
    pub(crate) size: u64,
    /// The order in which the sides connect.
    pub(crate) order: Order,
    /// The rate limit of its server, in bytes per second.
    pub(crate) pace: Option<u64>,
    /// The fault of a scenario.
    pub(crate) fault: Fault,
    /// The cell of the table that the scenario was drawn from, if any.
    pub(crate) drawn: Option<Drawn>,
}

/// The trouble of an episode's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// None.
    None,
    /// A short idle limit.
    Hasty,
    /// Few descriptors, and a flood of silent connections.
    FewDescriptors,
    /// The server's user has only this number of pipes left.
    FewPipes(u32),
    /// SIGTERM after this number of transfers have begun, then a restart.
    Stopped(u64),
    /// SIGKILL after this number of transfers have begun, then a restart.
    Killed(u64),
}

/// One server and the transfers that it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Episode {
    /// Its number in the run.
    pub(crate) number: u64,
    /// All bodies are copied.
    pub(crate) copies: bool,
    /// The trouble of its server.
    pub(crate) trouble: Trouble,
    /// The rate limit of each stream, if any, in bytes per second.
    pub(crate) pace: Option<u64>,
    /// The proxy in front of it, which some of the clients use.
    pub(crate) proxy: Option<Proxy>,
}

impl Episode {
    /// The episode of this number. Twelve in a row have every trouble on each data path. Sixty have each of these with and without a rate
    /// limit. One in four has a proxy.
    #[must_use]
    pub(crate) fn new(mix: &Mix, number: u64) -> Self {
        let mut rng = rng(mix.seed, number, 1);
        let trouble = match number % 6 {
            1 if mix.rate.is_none() => Trouble::Hasty,
            0 | 1 => Trouble::None,
            2 => Trouble::Stopped(rng.random_range(1..EPISODE)),
            3 => Trouble::FewDescriptors,
            4 => Trouble::Killed(rng.random_range(1..EPISODE)),
            _ => Trouble::FewPipes(rng.random_range(0..4)),
        };
        let pace = PACES.choose(&mut rng).copied().filter(|_| number % 5 < 2);
        // So twelve episodes later the same trouble has another proxy, or none.
        let turn = number + number / 12;
        let proxy = mix.proxies.iter().cycle().nth(usize::from(turn % 8 > 3)).filter(|_| turn % 4 == 3);
        Self {
            number,
            copies: (number + number / 6) % 2 == 1,
            trouble,
            pace: mix.rate.or(pace),
            proxy: proxy.copied(),
        }
    }

    /// The idle limit, if it is short.
    #[must_use]
    pub(crate) fn idle(&self) -> Option<Duration> {
        (self.trouble == Trouble::Hasty).then_some(HASTY_IDLE)
    }
}

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
            source: party(&mut rng, transports),
            destination: party(&mut rng, transports),
            framing: if rng.random_bool(0.5) { Framing::Length } else { Framing::Chunked },
            is_promised: rng.random_bool(0.1),
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

    /// The client of this side.
    #[must_use]
    pub(crate) fn party(&self, side: Side) -> &Party {
        match side {
            Side::Source => &self.source,
            Side::Destination => &self.destination,
        }
    }

    /// The steps of this side.
    #[must_use]
    pub(crate) fn steps(&self, side: Side) -> &[Step] {
        match &self.fault {
            Fault::Acts { source, destination } => match side {
                Side::Source => source,
                Side::Destination => destination,
            },
            _ => &[],
        }
    }

    /// The longest time from the pairing to the end on a busy machine.
    #[must_use]
    pub(crate) fn takes(&self) -> Duration {
        let steps = self.steps(Side::Source).iter().chain(self.steps(Side::Destination));
        let stalls = steps.map(|step| match step.act {
            Act::Stall(time) | Act::Withhold(time) => time,
            _ => Duration::ZERO,
        });
        let rate = self.pace.map_or(SLOWEST, |pace| pace.min(SLOWEST));
        stalls.sum::<Duration>() + Duration::from_secs(self.size / rate)
    }

    /// Whether a source has sent its whole message at this moment.
    #[must_use]
    pub(crate) fn is_sent_at(&self, moment: Moment) -> bool {
        moment == Moment::End || self.framing == Framing::Length && moment == Moment::Body(self.size)
    }

    /// Whether the FIN of a waiting side that leaves in this way may stay behind a full buffer. Then its seat stays taken until the other
    /// side connects or the ttl ends. A proxy answers `Expect` itself and may not look behind its full buffer for a reset.
    #[must_use]
    pub(crate) fn leaves_unseen(&self, manner: Manner) -> bool {
        let is_seen_by_server =
            self.source.expects.is_some() || !matches!(manner, Manner::Fin | Manner::Kill);
        self.first() == Side::Source
            && !self.source.transport.is_h2()
            && (self.source.proxy.is_some() || !is_seen_by_server)
            && self.size > SEEN_TO_CLOSE
    }

    /// The side that connects first. Without an order it is random.
    #[must_use]
    pub(crate) fn first(&self) -> Side {
        match self.order {
            Order::First(side) => side,
            Order::Together => Side::Source,
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
    fn keep_pace(&mut self, rng: &mut ChaCha8Rng) {
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

    fn is_spliced(&self) -> bool {
        let is_plain = |party: &Party| party.transport == Transport::Plain;
        is_plain(&self.source) && is_plain(&self.destination) && self.framing == Framing::Length
    }

    fn run_by_curl(&mut self, rng: &mut ChaCha8Rng) {
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

    fn go_wrong(&mut self, rng: &mut ChaCha8Rng, transports: &[Transport], hasty: bool) {
        let side = any_side(rng);
        match rng.random_range(0..100) {
            0..24 => {}
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

    fn acts(&mut self, side: Side, steps: Vec<Step>) {
        self.fault = match side {
            Side::Source => Fault::Acts { source: steps, destination: Vec::new() },
            Side::Destination => Fault::Acts { source: Vec::new(), destination: steps },
        };
    }

    /// An HTTP/2 destination resets its stream while the source sends the end of the body. Sometimes the source leaves then as well.
    fn reset_at_the_end(&mut self, rng: &mut ChaCha8Rng, transports: &[Transport]) {
        let h2: Vec<_> = transports.iter().copied().filter(|transport| transport.is_h2()).collect();
        let Some(transport) = h2.choose(rng) else { return };
        self.destination.transport = *transport;
        (self.destination.is_old, self.destination.proxy) = (false, None);
        self.size = rng.random_range(2..16 * KIB);
        // A chunked body ends after its last byte, one with a declared length with it.
        let is_behind = self.framing == Framing::Chunked && !self.is_promised && rng.random_bool(0.5);
        let last = if is_behind { self.size } else { self.size - 1 };
        let mut source = vec![Step { moment: Moment::Body(last), act: Act::Await(last) }];
        if rng.random_bool(0.3) {
            let act = Act::Leave(manner(rng, &self.source));
            source.push(Step { moment: Moment::Body(self.size), act });
        }
        let destination = vec![Step { moment: Moment::Body(last), act: Act::Leave(Manner::ResetStream) }];
        self.fault = Fault::Acts { source, destination };
    }

    /// A side that waits for the other leaves.
    fn look_first(&mut self, rng: &mut ChaCha8Rng) -> Side {
        let side = any_side(rng);
        self.order = Order::First(side);
        side
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

    fn sends_chunks(&self) -> bool {
        self.framing == Framing::Chunked && !self.source.transport.is_h2()
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
}

impl Transport {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Plain, Self::Tls, Self::H2, Self::H2Tls];

    /// HTTP/2.
    #[must_use]
    pub(crate) fn is_h2(self) -> bool {
        matches!(self, Self::H2 | Self::H2Tls)
    }

    /// Over TLS.
    #[must_use]
    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::H2Tls)
    }
}

impl Proxy {
    /// All of them.
    pub(crate) const ALL: [Self; 2] = [Self::Nginx, Self::Haproxy];
}

impl Mix {
    /// Draws from these, and from the cells of the table that have these transports.
    #[must_use]
    pub(crate) fn new(seed: u64, transports: Vec<Transport>, proxies: Vec<Proxy>, rate: Option<u64>) -> Self {
        let table = Table::new(&transports);
        Self { seed, transports, proxies, rate, table }
    }

    /// Draws from everything.
    #[cfg(test)]
    pub(crate) fn whole(seed: u64) -> Self {
        Self::new(seed, Transport::ALL.to_vec(), Proxy::ALL.to_vec(), None)
    }
}

impl Side {
    /// The other side.
    #[must_use]
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

fn rng(seed: u64, number: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(number * 2 + stream);
    rng
}

fn any_side(rng: &mut ChaCha8Rng) -> Side {
    if rng.random_bool(0.5) { Side::Source } else { Side::Destination }
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

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
        })
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Tls => "TLS",
            Self::H2 => "HTTP/2",
            Self::H2Tls => "HTTP/2 over TLS",
        })
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
        })
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.transport)?;
        if let Some(proxy) = self.proxy {
            write!(f, " through {proxy}")?;
        }
        if self.is_old {
            f.write_str(" (HTTP/1.0)")?;
        }
        if self.program == Program::Curl {
            return f.write_str(" by curl");
        }
        write!(f, " in pieces of {}", self.piece)?;
        if let Some(value) = self.expects {
            write!(f, ", expects {value}")?;
        }
        if let Some(room) = self.receive_buffer {
            write!(f, ", receive buffer {room}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.act {
            Act::Leave(manner) => write!(f, "leaves ({manner:?})")?,
            Act::HalfClose => f.write_str("half-closes")?,
            Act::Stall(time) => write!(f, "stalls for {time:?}")?,
            Act::Break => f.write_str("breaks HTTP")?,
            Act::Withhold(time) => write!(f, "reads nothing of the body for {time:?}")?,
            Act::Await(u64::MAX) => f.write_str("sends no more")?,
            Act::Await(offset) => write!(f, "waits until byte {offset} has come")?,
            Act::AwaitPair => f.write_str("waits until both have their seats")?,
            Act::StopReading => f.write_str("stops reading")?,
        }
        match self.moment {
            Moment::Body(offset) => write!(f, " at byte {offset}"),
            Moment::InChunk(offset) => write!(f, " behind the size line of the chunk at byte {offset}"),
            Moment::End => f.write_str(" behind the whole message"),
            Moment::Waiting => f.write_str(" while it waits"),
            Moment::After(time) => write!(f, " after {time:?}"),
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Before => f.write_str("before anybody has come"),
            Self::Waiting => f.write_str("while the first waits"),
            Self::Streaming(offset) => write!(f, "when byte {offset} has come"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("nothing goes wrong"),
            Self::Acts { source, destination } => {
                let sides = [(Side::Source, source), (Side::Destination, destination)];
                let steps = sides.into_iter().filter(|(_, steps)| !steps.is_empty()).map(|(side, steps)| {
                    let steps: Vec<_> = steps.iter().map(Step::to_string).collect();
                    format!("the {side} {}", steps.join(", then "))
                });
                f.write_str(&steps.collect::<Vec<_>>().join("; "))
            }
            Self::Replaced(manners) => {
                write!(f, "the first side leaves while it waits ({manners:?}), and another connects")
            }
            Self::Abandoned { manner, at_once } => {
                let next = if *at_once { ", and the other side connects at once" } else { "" };
                write!(f, "the first leaves while it waits ({manner:?}), for good{next}")
            }
            Self::Absent(side) => write!(f, "the {side} never connects"),
            Self::Forgotten => f.write_str("no side connects"),
            Self::Reported(stage) => write!(f, "an error is reported {stage}"),
            Self::Intruder(side, stage) => write!(f, "another {side} connects {stage}"),
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = match self.order {
            Order::First(side) => format!("the {side} first"),
            Order::Together => "both together".to_owned(),
        };
        let promise = if self.is_promised { ", promised" } else { "" };
        let pace = self.pace.map_or_else(String::new, |pace| format!(", {pace} bytes a second"));
        writeln!(f, "  body         {} bytes, {:?}{promise}, {order}{pace}", self.size, self.framing)?;
        writeln!(f, "  source       {}", self.source)?;
        writeln!(f, "  destination  {}", self.destination)?;
        write!(f, "  fault        {}", self.fault)?;
        match self.drawn {
            Some(Drawn { cell, is_exact }) => {
                let how = if is_exact { "exactly" } else { "at any time" };
                write!(f, "\n  table        {:?} {:?}, {how}", cell.event, cell.when)
            }
            None => Ok(()),
        }
    }
}

impl fmt::Display for Episode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.copies { "copy" } else { "splice" };
        let Self { number, trouble, pace, proxy, .. } = self;
        write!(
            f,
            "episode {number}, data path {path}, trouble: {trouble:?}, pace: {pace:?}, proxy: {proxy:?}"
        )
    }
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
        assert_eq!(faults.len(), 8);
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
    fn twelve_episodes_have_every_trouble_on_each_data_path() {
        let seen: HashSet<_> = (0..12)
            .map(|number| Episode::new(&Mix::whole(1), number))
            .map(|episode| (episode.copies, std::mem::discriminant(&episode.trouble)))
            .collect();
        assert_eq!(seen.len(), 12);
    }

    #[test]
    fn one_server_in_four_has_a_proxy_and_every_trouble_has_each() {
        let episodes: Vec<_> = (0..96).map(|number| Episode::new(&Mix::whole(1), number)).collect();
        assert_eq!(episodes.iter().filter(|episode| episode.proxy.is_some()).count(), 24);
        let first: Vec<_> = episodes.iter().take(10).filter_map(|episode| episode.proxy).collect();
        assert_eq!(first, [Proxy::Nginx, Proxy::Haproxy], "a short run has both");
        for trouble in 0..6 {
            let proxies: HashSet<_> = episodes
                .iter()
                .filter(|episode| episode.number % 6 == trouble)
                .map(|episode| format!("{:?}", episode.proxy))
                .collect();
            assert_eq!(proxies.len(), 3, "trouble {trouble}: {proxies:?}");
        }
        for number in 0..96 {
            assert_eq!(Episode::new(&Mix { proxies: Vec::new(), ..Mix::whole(1) }, number).proxy, None);
            let only = Mix { proxies: vec![Proxy::Haproxy], ..Mix::whole(1) };
            assert_ne!(Episode::new(&only, number).proxy, Some(Proxy::Nginx));
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

    #[test]
    fn a_rate_for_all_servers_leaves_them_the_default_idle_limit() {
        let mix = Mix { rate: Some(1 << 20), ..Mix::whole(1) };
        for number in 0..60 {
            let episode = Episode::new(&mix, number);
            assert_eq!((episode.pace, episode.idle()), (Some(1 << 20), None));
        }
    }
}
