//! Chaos: thousands of transfers through a real server process, disturbed by chance, each held against the laws.
//!
//! ```text
//! plan ──► episode: a server, and for each transfer: plan ──► transfer (client × 2) ──► laws
//! ```
//!
//! A law that is broken is told with the seed, the scenario and the transcript, and the run fails.

mod body;
mod client;
mod control;
mod episode;
mod laws;
mod log;
mod plan;
mod server;
mod tally;
mod transfer;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::episode::{Findings, Props};
use crate::plan::{EPISODE, Episode, Transport};
use crate::server::Workshop;
use crate::tally::Tally;

/// Episodes at a time: most of their time is spent waiting for streams to be forgotten.
const EPISODES_AT_ONCE: usize = 24;

/// Runs disturbed transfers through a real server, and holds each against the laws.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many transfers
    #[arg(long, default_value_t = 1000)]
    transfers: u64,
    /// What chance begins with. It repeats what is planned, and not how the network and the threads interleave
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only this transfer of the run
    #[arg(long)]
    transfer: Option<u64>,
    /// That transfer so many times
    #[arg(long, default_value_t = 1, requires = "transfer")]
    times: usize,
    /// The server's program
    #[arg(long, default_value = "target/release/rendezvous")]
    server: PathBuf,
    /// What the sides speak [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Transport>,
    /// Take the pipes of this user, but so many, and wait: what one episode starts beside its server
    #[arg(long, hide = true)]
    hoard: Option<usize>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = Arguments::parse();
    if let Some(left) = arguments.hoard {
        server::be_hoarder(left)?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.only.is_empty() {
        arguments.only = Transport::ALL.to_vec();
    }
    let begun = Instant::now();
    let mut tally = Tally::default();
    play(&arguments, &mut tally).await?;
    println!("{}", tally.table(begun.elapsed()));
    Ok(if tally.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plays all episodes, or as many as there are until one breaks a law; those that run then are played to the end.
async fn play(arguments: &Arguments, tally: &mut Tally) -> anyhow::Result<()> {
    let props = Props {
        workshop: Arc::new(Workshop::new(&arguments.server)?),
        seed: arguments.seed,
        transports: arguments.only.clone().into(),
    };
    let mut waiting = episodes(arguments);
    let mut running: JoinSet<anyhow::Result<Findings>> = JoinSet::new();
    loop {
        while running.len() < EPISODES_AT_ONCE
            && tally.is_clean()
            && let Some((episode, numbers)) = waiting.pop_front()
        {
            running.spawn(episode::run(props.clone(), episode, numbers));
        }
        let Some(findings) = running.join_next().await else { return Ok(()) };
        let findings = findings??;
        for broken in &findings.broken {
            tell(arguments, broken);
        }
        tally.add(findings);
    }
}

fn episodes(arguments: &Arguments) -> VecDeque<(Episode, VecDeque<u64>)> {
    let episode = |number| Episode::new(arguments.seed, number);
    if let Some(number) = arguments.transfer {
        return [(episode(number / EPISODE), [number].repeat(arguments.times).into())].into();
    }
    let all = 0..arguments.transfers.div_ceil(EPISODE);
    all.map(|number| {
        let first = number * EPISODE;
        (episode(number), (first..arguments.transfers.min(first + EPISODE)).collect())
    })
    .collect()
}

fn tell(arguments: &Arguments, broken: &episode::Broken) {
    println!("\nA LAW IS BROKEN, seed {}", arguments.seed);
    for breach in &broken.breaches {
        println!("  {breach}");
    }
    println!("{}", broken.transcript);
    if let Some(number) = broken.number {
        println!(
            "transfer {number}; this one alone: --seed {} --transfer {number} --times 100",
            arguments.seed
        );
    }
}
