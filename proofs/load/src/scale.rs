//! Many waiting sides, then all of them paired in random order.
//!
//! A server of its own for each size, so that no memory was touched before. Its memory is what is resident, once that has
//! settled; its CPU is that of its threads, and none of the clients'.

mod plan;
mod report;
mod sides;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use measure::figures::quantile;
use measure::machine;
use measure::process::Descriptors;
use tokio::time::{Instant, sleep};

use crate::server::{Program, STATES, Server, allow_descriptors};
use plan::{Mix, Plan};
use report::Figures;
use sides::{Sides, Waiting};

/// Pairings, and other requests, that are under way at a time.
const AT_ONCE: usize = 64;
/// Beside the streams: what is under way, and what the programs have of their own.
const SPARE: usize = 2000;
/// Between two looks at whether something has come about.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Holds many waiting sides, pairs them all in random order, and prints what each costs
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How many sides wait, one size after the other
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 10_000, 100_000])]
    sides: Vec<usize>,
    /// Which sides wait
    #[arg(long, default_value = "mixed")]
    waiting: Mix,
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
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    let most = arguments.sides.iter().max().context("--sides names none")?;
    // A server keeps some of its descriptors back, for pipes and for who is told of a limit.
    allow_descriptors((most + most / 10 + SPARE) as u64)?;
    let machine = machine::description();
    // One thread: the other CPU is the server's.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = arguments.sides.iter().map(|sides| {
        let plan = Plan::new(*sides, arguments.waiting, seed);
        let figures = runtime.block_on(measure(&arguments.program, &plan, arguments.beside));
        let figures = figures.with_context(|| format!("{sides} sides, --seed {seed}"))?;
        eprintln!("{figures}");
        anyhow::Ok(figures)
    });
    let measured = measured.collect::<Result<Vec<_>, _>>()?;
    let Arguments { waiting, beside, .. } = arguments;
    println!(
        "{machine}; waiting: {waiting}; streams beside: {beside}; seed {seed}\n\n{}",
        report::table(&measured)
    );
    if let Some(file) = &arguments.json {
        let text = serde_json::to_string_pretty(&measured)?;
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    report::verdict(&measured)
}

async fn measure(program: &Program, plan: &Plan, beside: usize) -> anyhow::Result<Figures> {
    let sides = plan.exchanges.len();
    // Nobody may expire before the end, and all is to be forgotten soon after it.
    let ttl = Duration::from_secs(30) + Duration::from_millis(2 * (sides + beside) as u64);
    let server = program.start(&[
        "--ttl",
        &format!("{}s", ttl.as_secs()),
        "--max-streams",
        &(sides + beside + SPARE).to_string(),
        "--max-connections",
        &(sides + SPARE).to_string(),
    ])?;
    let descriptors = server.process.descriptors()?;
    let clients = Sides::new(&server);
    // What a first request makes once is nobody's cost.
    clients.warm_up().await?;
    clients.create(beside).await?;
    let (before, kernel) = (server.process.settled()?, machine::kernel_memory()?);

    let meter = Meter::start(&server)?;
    let ids = clients.create(sides).await?;
    let create = meter.each(sides)?;

    let meter = Meter::start(&server)?;
    let seated = stream::iter(ids.into_iter().zip(&plan.exchanges))
        .map(|(id, exchange)| clients.wait(id, *exchange))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    until_all_wait(&server, sides).await?;
    let wait = meter.each(sides)?;
    let waiting = server.process.settled()?;
    let kernel = machine::kernel_memory()?.saturating_sub(kernel);

    let meter = Meter::start(&server)?;
    let begun = Instant::now();
    let latencies = pair(&clients, seated, plan).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let pairing = meter.each(sides)?;

    until_forgotten(&server, ttl, descriptors).await?;
    let kib = |size: u64| size as f64 / sides as f64;
    Ok(Figures {
        sides,
        memory: kib(waiting.saturating_sub(before)),
        kernel: kib(kernel),
        create,
        wait,
        pairing,
        median: quantile(latencies.clone(), 0.5),
        p99: quantile(latencies.clone(), 0.99),
        p999: quantile(latencies.clone(), 0.999),
        longest: quantile(latencies, 1.0),
        per_second: sides as f64 / seconds,
        before: before as f64 / 1024.0,
        most: waiting as f64 / 1024.0,
        after: server.process.settled()? as f64 / 1024.0,
    })
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

/// Waits until the server knows no stream any more, for a little more than the `ttl` of those that nobody came to and the one
/// for which ended ones are kept, and has the descriptors that it had `before`.
async fn until_forgotten(server: &Server, ttl: Duration, before: Descriptors) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        // Looked at first: who asks has a connection too.
        let now = server.process.descriptors()?;
        let known = server.streams(&STATES).await?;
        if known == 0 && now.beside_pipes() == before.beside_pipes() {
            return Ok(());
        }
        let patience = 2 * ttl + Duration::from_secs(10);
        ensure!(
            begun.elapsed() < patience,
            "not given back: {known} streams; {before:?} before, {now:?} now"
        );
        sleep(LOOK_AGAIN * 8).await;
    }
}

/// The server's CPU time from here on.
struct Meter<'a> {
    server: &'a Server,
    before: u64,
}

impl<'a> Meter<'a> {
    fn start(server: &'a Server) -> anyhow::Result<Self> {
        Ok(Self { server, before: server.process.fine_cpu()? })
    }

    /// Microseconds for each of so many.
    fn each(&self, count: usize) -> anyhow::Result<f64> {
        let spent = self.server.process.fine_cpu()? - self.before;
        Ok(spent as f64 / 1000.0 / count as f64)
    }
}
