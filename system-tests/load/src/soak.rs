//! A mixed load for a long time: the resources of the server must not grow, and it must give them back in the end.
//!
//! Two servers, one for each data path, under the same load.

mod body;
mod chart;
mod client;
mod exchange;
mod plan;
mod samples;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use fastrand::Rng;
use measure::machine;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use crate::server::{Program, STATES, allow_descriptors};
use client::Certificate;
use exchange::Soaked;
use samples::{Sample, Series};

/// The clients of each server.
const CLIENTS: u64 = 12;
/// The longest pause between two exchanges of a client.
const THINKING: Duration = Duration::from_millis(60);
/// Short, so that streams expire and are forgotten all the time.
const TTL: Duration = Duration::from_secs(3);
/// The time in which a server must forget all streams, in addition to twice its ttl.
const PATIENCE: Duration = Duration::from_secs(20);
const DESCRIPTORS: u64 = 8192;

/// A mixed load for a long time, under which memory and descriptors must stay flat
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Repeats the exchanges
    #[arg(long)]
    seed: Option<u64>,
    /// Draw memory and descriptors over time into this file, with the figures in a .csv file beside it
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    program: Program,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    allow_descriptors(DESCRIPTORS)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(soak(arguments))
}

async fn soak(arguments: &Arguments) -> anyhow::Result<()> {
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..));
    let certificate = Certificate::new()?;
    let start = |data_path: &'static str| {
        let (ttl, file, key) = (format!("{}s", TTL.as_secs()), certificate.file(), certificate.key_file());
        let flags = ["--ttl", &ttl, "--tls-cert", &file, "--tls-key", &key, "--data-path", data_path];
        let server = arguments.program.start_secure(&flags)?;
        anyhow::Ok(Arc::new(Soaked::new(data_path, server, &certificate)))
    };
    let servers = [start("splice")?, start("copy")?];
    let before =
        servers.iter().map(|one| Sample::of(&one.server.process, 0.0, 0)).collect::<Result<Vec<_>, _>>()?;

    let time = Duration::from_mins(arguments.minutes);
    let done = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for (number, server) in (0..CLIENTS).flat_map(|number| servers.iter().map(move |server| (number, server)))
    {
        let (server, done) = (Arc::clone(server), Arc::clone(&done));
        clients.spawn(use_it(server, seed ^ number, Instant::now() + time, done));
    }
    let mut samples: Vec<(&str, Vec<Sample>)> = servers.iter().map(|one| (one.name, Vec::new())).collect();
    tokio::select! {
        failed = first_failure(&mut clients) => failed.with_context(|| format!("--seed {seed}"))?,
        ended = sample(&servers, time, &mut samples) => ended?,
    }
    // Exchanges that have begun run to their end.
    first_failure(&mut clients).await?;

    let footer = format!(
        "{}; {} exchanges in {} min, {CLIENTS} at once on each server",
        machine::description(),
        done.load(Ordering::Relaxed),
        arguments.minutes
    );
    println!("{footer}; seed {seed}");
    if let Some(file) = &arguments.svg {
        let write = |file: PathBuf, text| {
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
        };
        write(file.clone(), chart::svg(&samples, &footer))?;
        write(file.with_extension("csv"), samples::csv(&samples))?;
    }
    let mut broken = Vec::new();
    for ((soaked, before), (name, samples)) in servers.iter().zip(before).zip(&samples) {
        for series in Series::ALL {
            match series.verdict(samples) {
                Ok(words) => println!("{name}: flat: {words}"),
                Err(error) => broken.push(format!("{name}: {error}")),
            }
        }
        match given_back(soaked, &before).await {
            Ok(words) => println!("{name}: {words}"),
            Err(error) => broken.push(format!("{name}: {error}")),
        }
    }
    ensure!(broken.is_empty(), "{}", broken.join("; "));
    Ok(())
}

/// Runs a client: one exchange after another.
async fn use_it(
    server: Arc<Soaked>,
    seed: u64,
    until: Instant,
    done: Arc<AtomicUsize>,
) -> anyhow::Result<()> {
    let mut chance = Rng::with_seed(seed);
    while Instant::now() < until {
        server.exchange(&mut chance).await?;
        done.fetch_add(1, Ordering::Relaxed);
        sleep(THINKING.mul_f64(chance.f64())).await;
    }
    Ok(())
}

/// Waits for all clients, or for the first that fails.
async fn first_failure(clients: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(())
}

/// Samples each server once a second.
async fn sample(
    servers: &[Arc<Soaked>],
    time: Duration,
    samples: &mut [(&str, Vec<Sample>)],
) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while begun.elapsed() < time {
        second.tick().await;
        for (one, (_, samples)) in servers.iter().zip(samples.iter_mut()) {
            let streams = one.server.streams(&STATES).await?;
            samples.push(Sample::of(&one.server.process, begun.elapsed().as_secs_f64(), streams)?);
        }
    }
    Ok(())
}

/// Waits until an unused server knows no stream and has the descriptors that it had before, except pipes, some of which it keeps for
/// later.
async fn given_back(soaked: &Soaked, before: &Sample) -> anyhow::Result<String> {
    let begun = Instant::now();
    loop {
        // Before the request, whose connection would count.
        let now = Sample::of(&soaked.server.process, 0.0, 0)?;
        let streams = soaked.server.streams(&STATES).await?;
        if streams == 0 && now.descriptors.without_pipes() == before.descriptors.without_pipes() {
            return Ok(format!(
                "given back: {} descriptors before and now, and {} of idle pipes; {:.1} MiB before, {:.1} now; {} threads before, {} now",
                now.descriptors.without_pipes(),
                now.descriptors.pipes,
                Series::Memory.value(before),
                Series::Memory.value(&now),
                before.threads,
                now.threads
            ));
        }
        ensure!(
            begun.elapsed() < 2 * TTL + PATIENCE,
            "not given back: {streams} streams, {before:?} before, {now:?} now"
        );
        sleep(Duration::from_millis(500)).await;
    }
}
