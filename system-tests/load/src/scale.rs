//! Many waiting sides, then all of them paired in random order.
//!
//! A server of its own for each round, so that no memory was touched before. Its memory is what is resident, once that has
//! settled; its CPU is that of its threads, and none of the clients'. A small size takes several rounds, so that of each size
//! as many sides have waited.
//!
//! Over HTTP/2 all sizes have as many connections: what a stream costs is not to depend on how many others come by the same
//! segment. Nor on how long the clients' kernel takes to acknowledge, for which the server waits and looks again and again: unless
//! asked otherwise, that is told to do so at once, because by itself it delays more of them where more sides share a connection.

mod plan;
mod report;
mod sides;
mod way;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use measure::machine;
use measure::process::{Descriptors, Times};
use tokio::time::{Instant, sleep};

use crate::server::{Program, STATES, Server, allow_descriptors};
use plan::{Mix, Plan};
use report::{Figures, Round, Spent};
use sides::{Sides, Waiting};
use way::{Acks, Over};

/// Pairings, and other requests, that are under way at a time.
const AT_ONCE: usize = 64;
/// Sides that come by a connection before it is seen whether they wait. More at once would be a burst, for which an HTTP/2
/// connection makes room that it keeps: that is not what it costs to wait.
const WAVE: usize = 10;
/// Beside the streams: what is under way, and what the programs have of their own.
const SPARE: usize = 2000;
/// Sides of each size that are to have waited, in as many rounds as that takes: the kernel knows by samples only which part of
/// the CPU time is the process's own.
const ENOUGH: usize = 50_000;
/// Between two looks at whether something has come about.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Holds many waiting sides, pairs them all in random order, and prints what each costs
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many sides wait, one size after the other
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000])]
    sides: Vec<usize>,
    /// How sides come
    #[arg(long, default_value = "h1")]
    over: Over,
    /// Which sides wait
    #[arg(long, default_value = "mixed")]
    waiting: Mix,
    /// When the clients' kernel acknowledges what HTTP/2 connections bring
    #[arg(long, default_value = "at-once")]
    acks: Acks,
    /// Streams that stand beside them, to which nobody comes: they take no descriptors
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    beside: usize,
    /// Repeats the order, and who fails
    #[arg(long)]
    seed: Option<u64>,
    /// Writes the figures into this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    program: Program,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let Arguments { over, waiting, acks, beside, .. } = arguments;
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    let most = *arguments.sides.iter().max().context("--sides names none")?;
    let connections = over.connections(most);
    // A server keeps some of its descriptors back, for pipes and for who is told of a limit.
    allow_descriptors((connections + connections / 10 + SPARE) as u64).with_context(|| {
        format!("{most} sides over {over}; over HTTP/2 (--over h2) a hundred share a descriptor")
    })?;
    let machine = machine::description();
    // One thread: the other CPU is the server's.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = arguments.sides.iter().map(|sides| {
        let figures = runtime.block_on(measure(arguments, *sides, connections, seed));
        let figures = figures.with_context(|| format!("{sides} sides, --seed {seed}"))?;
        eprintln!("{figures}");
        anyhow::Ok(figures)
    });
    let measured = measured.collect::<Result<Vec<_>, _>>()?;
    println!(
        "{machine}; over {over}; ACKs: {acks}; waiting: {waiting}; streams beside: {beside}; seed {seed}\n\n{}",
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

/// A server for one round.
struct Stage {
    server: Server,
    ttl: Duration,
    /// Those that it began with.
    descriptors: Descriptors,
}

impl Stage {
    fn start(program: &Program, streams: usize, connections: usize) -> anyhow::Result<Self> {
        // Nobody may expire before the end, and all is to be forgotten soon after it.
        let ttl = Duration::from_secs(30) + Duration::from_millis(2 * streams as u64);
        let seconds = format!("{}s", ttl.as_secs());
        let server = program.start(&[
            "--ttl",
            &seconds,
            // A connection on which nobody waits yet stays.
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
        let Arguments { over, acks, beside, .. } = *arguments;
        // What a first request makes once is nobody's cost.
        Sides::open(server, over, acks, 1).await?.warm_up().await?;
        let before = server.process.settled()?;
        let clients = Sides::open(server, over, acks, connections).await?;
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
        let latencies = pair(&clients, seated, plan).await?;
        let seconds = begun.elapsed().as_secs_f64();
        let pairing = meter.spent()?;
        Ok(Round { before, connected, waiting, kernel, create, wait, pairing, latencies, seconds })
    }

    /// Waits until the server knows no stream any more, for a little more than the `ttl` of those that nobody came to and the
    /// one for which ended ones are kept, and has the descriptors that it began with. The KiB that it has then.
    async fn until_forgotten(&self) -> anyhow::Result<u64> {
        let Self { server, ttl, descriptors: before } = self;
        let begun = Instant::now();
        loop {
            // Looked at first: who asks has a connection too.
            let now = server.process.descriptors()?;
            let known = server.streams(&STATES).await?;
            if known == 0 && now.beside_pipes() == before.beside_pipes() {
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

/// Has all wait. They come in waves of so many, each once the one before it waits.
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

/// Pairs all that wait, in the order of the plan. The milliseconds that each took which was to go well.
async fn pair(clients: &Sides<'_>, seated: Vec<Waiting>, plan: &Plan) -> anyhow::Result<Vec<f64>> {
    let mut seated: Vec<_> = seated.into_iter().map(Some).collect();
    let mut in_order = plan.order.iter().filter_map(|index| seated.get_mut(*index)?.take());
    let in_order: Vec<_> = in_order.by_ref().collect();
    let latencies: Vec<Option<f64>> = stream::iter(in_order)
        .map(|waiting| clients.meet(waiting))
        .buffer_unordered(AT_ONCE)
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

/// The server's CPU time from here on.
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
