//! Many waiting sides, then all of them paired in random order.
//!
//! Each round has a server of its own, so that no memory was touched before. Memory is the resident memory once it has settled. CPU is
//! that of the server's threads. A small size takes several rounds, so that of each size as many sides have waited.
//!
//! Over HTTP/2 all sizes have the same number of connections, so that the cost of a stream does not depend on how many others arrive in
//! the same segment. By default the clients' kernel acknowledges at once, because otherwise it delays more acknowledgements the more
//! sides share a connection. A pairing then takes longer, and with as many at the same time there are fewer a second. A server that
//! has less to do needs more CPU for each pairing, because fewer events share a wake-up. So compare at the same `--rate`, or with as
//! many pairings at the same time as keep the server busy.

mod plan;
mod report;
mod sides;
mod way;

use std::fs;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use measure::machine;
use measure::process::{Descriptors, Times};
use tokio::time::{Instant, sleep, sleep_until};

use crate::server::{Program, STATES, Server, allow_descriptors};
use plan::{Mix, Plan};
use report::{Figures, Round, Spent};
use sides::{Sides, Waiting};
use way::{Acks, Over};

/// Requests other than pairings at the same time.
const AT_ONCE: usize = 64;
/// Sides per connection that connect before the next wave. For a larger burst an HTTP/2 connection would allocate memory that it keeps,
/// which is not a cost of waiting.
const WAVE: usize = 10;
/// Descriptors beyond those of waiting sides: for requests under way and for the programs themselves.
const SPARE: usize = 2000;
/// The least number of waiting sides of each size, over all its rounds. The kernel splits CPU time into user and system only by samples.
const ENOUGH: usize = 50_000;
/// The pause between two polls.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Holds many waiting sides, pairs them all in random order, and prints the cost of each
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Numbers of waiting sides, one after another
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000])]
    sides: Vec<usize>,
    /// The HTTP version of the sides
    #[arg(long, default_value = "h1")]
    over: Over,
    /// The sides that wait
    #[arg(long, default_value = "mixed")]
    waiting: Mix,
    /// When the clients' kernel acknowledges bytes of HTTP/2 connections
    #[arg(long, default_value = "at-once")]
    acks: Acks,
    /// Pairings at the same time
    #[arg(long, value_name = "COUNT", default_value = "64")]
    pairings: NonZeroUsize,
    /// Pairings that begin per second at most, to compare servers or options under equal load
    #[arg(long, value_name = "COUNT")]
    rate: Option<NonZeroU32>,
    /// Additional streams without sides, which use no descriptors
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    beside: usize,
    /// Repeats the order and the failures
    #[arg(long)]
    seed: Option<u64>,
    /// Write the figures into this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    program: Program,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { over, waiting, acks, pairings, beside, .. } = arguments;
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    let most = *arguments.sides.iter().max().context("--sides names none")?;
    let connections = over.connections(most);
    // A server reserves some of its descriptors for pipes and for refusals.
    allow_descriptors((connections + connections / 10 + SPARE) as u64).with_context(|| {
        format!("{most} sides over {over}; over HTTP/2 (--over h2) 99 share a descriptor")
    })?;
    let machine = machine::description();
    // One thread, which leaves the other core to the server.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = arguments.sides.iter().map(|sides| {
        let figures = runtime.block_on(measure(arguments, *sides, connections, seed));
        let figures = figures.with_context(|| format!("{sides} sides, --seed {seed}"))?;
        eprintln!("{figures}");
        anyhow::Ok(figures)
    });
    let measured = measured.collect::<Result<Vec<_>, _>>()?;
    let rate = arguments.rate.map(|rate| format!(", {rate} a second at most")).unwrap_or_default();
    println!(
        "{machine}; over {over}; ACKs: {acks}; pairings at the same time: {pairings}{rate}; waiting: {waiting}; streams beside: {beside}; seed {seed}\n\n{}",
        report::table(&measured)
    );
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&measured)?;
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    report::verdict(&measured)
}

async fn measure(
    arguments: &Arguments,
    sides: usize,
    connections: usize,
    seed: u64,
) -> anyhow::Result<Figures> {
    let mut rounds = Vec::new();
    loop {
        let plan = Plan::new(sides, arguments.waiting, seed.wrapping_add(rounds.len() as u64));
        let stage = Stage::start(&arguments.program, sides + arguments.beside, connections)?;
        rounds.push(stage.play(arguments, connections, &plan).await?);
        if rounds.len() * sides >= ENOUGH {
            let after = stage.until_forgotten().await?;
            return Figures::of(sides, &rounds, after);
        }
    }
}

/// The server of one round.
struct Stage {
    server: Server,
    ttl: Duration,
    /// The descriptors of the fresh server.
    descriptors: Descriptors,
}

impl Stage {
    fn start(program: &Program, streams: usize, connections: usize) -> anyhow::Result<Self> {
        // No stream may expire before the end, and all must be forgotten soon after it.
        let ttl = Duration::from_secs(30) + Duration::from_millis(2 * streams as u64);
        let seconds = format!("{}s", ttl.as_secs());
        let server = program.start(&[
            "--ttl",
            &seconds,
            // A connection without a waiting side stays open.
            "--head-timeout",
            &seconds,
            "--max-streams",
            &(streams + SPARE).to_string(),
            "--max-connections",
            &(connections + SPARE).to_string(),
        ])?;
        let descriptors = server.process.descriptors()?;
        Ok(Self { server, ttl, descriptors })
    }

    async fn play(&self, arguments: &Arguments, connections: usize, plan: &Plan) -> anyhow::Result<Round> {
        let (server, sides) = (&self.server, plan.exchanges.len());
        let Arguments { over, acks, pairings, beside, .. } = *arguments;
        // Memory that the first request allocates once is not a cost of a side.
        Sides::open(server, over, acks, 1, pairings).await?.warm_up().await?;
        let before = server.process.settled()?;
        let clients = Sides::open(server, over, acks, connections, pairings).await?;
        clients.create(beside).await?;
        let (connected, kernel) = (server.process.settled()?, machine::kernel_memory()?);

        let meter = Meter::start(server)?;
        let ids = clients.create(sides).await?;
        let create = meter.spent()?;

        let meter = Meter::start(server)?;
        let seated = seat(server, &clients, ids, plan, WAVE * connections).await?;
        let wait = meter.spent()?;
        let waiting = server.process.settled()?;
        let kernel = machine::kernel_memory()?.saturating_sub(kernel);

        let meter = Meter::start(server)?;
        let begun = Instant::now();
        let latencies = pair(&clients, seated, plan, pairings, arguments.rate).await?;
        let seconds = begun.elapsed().as_secs_f64();
        let pairing = meter.spent()?;
        Ok(Round { before, connected, waiting, kernel, create, wait, pairing, latencies, seconds })
    }

    /// Waits until the server knows no stream and has the descriptors that it began with. That takes the `ttl` of streams without sides,
    /// and the one for which ended streams are kept. Returns its memory then, in KiB.
    async fn until_forgotten(&self) -> anyhow::Result<u64> {
        let Self { server, ttl, descriptors: before } = self;
        let begun = Instant::now();
        loop {
            // Before the request, whose connection would count.
            let now = server.process.descriptors()?;
            let known = server.streams(&STATES).await?;
            if known == 0 && now.without_pipes() == before.without_pipes() {
                return server.process.settled();
            }
            let patience = 2 * *ttl + Duration::from_secs(10);
            ensure!(
                begun.elapsed() < patience,
                "not given back: {known} streams; {before:?} before, {now:?} now"
            );
            sleep(LOOK_AGAIN * 8).await;
        }
    }
}

/// Connects all waiting sides, in waves of this size. Each wave begins once the one before it waits.
async fn seat(
    server: &Server,
    clients: &Sides<'_>,
    ids: Vec<String>,
    plan: &Plan,
    wave: usize,
) -> anyhow::Result<Vec<Waiting>> {
    let mut seated = Vec::with_capacity(ids.len());
    let mut coming = ids.into_iter().zip(&plan.exchanges).peekable();
    while coming.peek().is_some() {
        let wave = stream::iter(coming.by_ref().take(wave));
        let wave = wave.map(|(id, exchange)| clients.wait(id, *exchange)).buffered(AT_ONCE);
        seated.extend(wave.try_collect::<Vec<_>>().await?);
        until_all_wait(server, seated.len()).await?;
    }
    Ok(seated)
}

/// Pairs all waiting sides, in the order of the plan. Returns the milliseconds of each pairing without a planned failure.
async fn pair(
    clients: &Sides<'_>,
    seated: Vec<Waiting>,
    plan: &Plan,
    pairings: NonZeroUsize,
    rate: Option<NonZeroU32>,
) -> anyhow::Result<Vec<f64>> {
    let mut seated: Vec<_> = seated.into_iter().map(Some).collect();
    let mut in_order = plan.order.iter().filter_map(|index| seated.get_mut(*index)?.take());
    let in_order: Vec<_> = in_order.by_ref().collect();
    let begun = Instant::now();
    let latencies: Vec<Option<f64>> = stream::iter((0..).zip(in_order))
        .then(async |(index, waiting): (u32, _)| {
            if let Some(rate) = rate {
                sleep_until(begun + Duration::from_secs(1) * index / rate.get()).await;
            }
            waiting
        })
        .map(|waiting| clients.meet(waiting))
        .buffer_unordered(pairings.get())
        .try_collect()
        .await?;
    Ok(latencies.into_iter().flatten().collect())
}

async fn until_all_wait(server: &Server, sides: usize) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let waiting = server.streams(&["source_waits", "destination_waits"]).await?;
        if waiting == sides {
            return Ok(());
        }
        ensure!(begun.elapsed() < Duration::from_secs(30), "only {waiting} of {sides} sides wait");
        sleep(LOOK_AGAIN).await;
    }
}

/// The server's CPU time from now on.
struct Meter<'a> {
    server: &'a Server,
    nanoseconds: u64,
    times: Times,
}

impl<'a> Meter<'a> {
    fn start(server: &'a Server) -> anyhow::Result<Self> {
        Ok(Self { server, nanoseconds: server.process.fine_cpu()?, times: server.process.times()? })
    }

    fn spent(&self) -> anyhow::Result<Spent> {
        let (nanoseconds, times) = (self.server.process.fine_cpu()?, self.server.process.times()?);
        Ok(Spent {
            all: (nanoseconds - self.nanoseconds) as f64 / 1e9,
            user: times.user - self.times.user,
            kernel: times.kernel - self.times.kernel,
        })
    }
}
