//! Chaos: thousands of transfers through a real server process, disturbed at random, each checked against the laws.
//!
//! ```text
//! plan ──► episode: a server, and for each transfer: plan ──► transfer (client × 2) ──► laws
//! ```
//!
//! A broken law fails the run. The report has the seed, the scenario and the transcript.
#![allow(clippy::print_stdout, reason = "the report goes to stdout")]

mod body;
mod client;
mod control;
mod episode;
mod laws;
mod log;
mod place;
mod plan;
mod proxy;
mod server;
mod tally;
mod transfer;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::episode::{Findings, Props};
use crate::plan::{EPISODE, Episode, Mix, Proxy, Transport};
use crate::proxy::Proxies;
use crate::server::Workshop;
use crate::tally::Tally;

/// Episodes at the same time. Most of their time they wait for streams to expire.
const EPISODES_AT_ONCE: usize = 24;

/// Runs disturbed transfers through a real server, and checks each against the laws.
#[derive(Debug, Parser)]
struct Arguments {
    /// Number of transfers
    #[arg(long, default_value_t = 1000)]
    transfers: u64,
    /// Run transfers for this time, like 10m; running ones are played to the end
    #[arg(long = "for", value_name = "PERIOD", value_parser = period, conflicts_with = "transfers")]
    period: Option<Duration>,
    /// The seed. It repeats the plan, not how the network and the threads interleave
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run only this transfer
    #[arg(long)]
    transfer: Option<u64>,
    /// Repeat that transfer
    #[arg(long, default_value_t = 1, requires = "transfer")]
    times: usize,
    /// The server's program
    #[arg(long, default_value = "target/release/rendezvous")]
    server: PathBuf,
    /// The transports of the sides [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Transport>,
    /// The proxies in front of one server in four: nginx, haproxy, both, or none [default: those in the path]
    #[arg(long, value_name = "LIST")]
    proxies: Option<Proxies>,
    /// The rate limit of all streams in bytes per second, like 64k or 1m. No server then has a short idle limit [default: two servers in
    /// five have a rate limit, and one in six has a short idle limit]
    #[arg(long, value_name = "BYTES", value_parser = rate)]
    max_stream_rate: Option<u64>,
    /// Take all pipes of this user except this number, and wait: for an episode that is short of pipes
    #[arg(long, hide = true)]
    hoard: Option<usize>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if let Some(left) = arguments.hoard {
        server::be_hoarder(left)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mix = arguments.mix();
    println!("{}", Settings(&mix));
    for proxy in Proxy::ALL.iter().filter(|proxy| !mix.proxies.contains(proxy)) {
        println!("No server has {proxy} in front of it: it is not in the path, or not in --proxies.");
    }
    let begun = Instant::now();
    let mut tally = Tally::default();
    play(&arguments, mix, &mut tally).await?;
    println!("{}", tally.table(begun.elapsed()));
    Ok(if tally.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Plays the episodes until one breaks a law. Running ones are played to the end.
async fn play(arguments: &Arguments, mix: Mix, tally: &mut Tally) -> anyhow::Result<()> {
    let props = Props { workshop: Arc::new(Workshop::new(&arguments.server)?), mix: Arc::new(mix) };
    let end = arguments.period.map(|period| Instant::now() + period);
    let mut waiting = arguments.numbers();
    let mut running: JoinSet<anyhow::Result<Findings>> = JoinSet::new();
    loop {
        while running.len() < EPISODES_AT_ONCE
            && tally.is_clean()
            && end.is_none_or(|end| Instant::now() < end)
            && let Some((number, transfers)) = waiting.next()
        {
            let episode = Episode::new(&props.mix, number);
            running.spawn(episode::run(props.clone(), episode, transfers.into()));
        }
        let Some(findings) = running.join_next().await else { return Ok(()) };
        let findings = findings??;
        for broken in &findings.broken {
            tell(&props.mix, broken);
        }
        tally.add(findings);
    }
}

impl Arguments {
    fn mix(&self) -> Mix {
        let transports = if self.only.is_empty() { Transport::ALL.to_vec() } else { self.only.clone() };
        let Proxies(proxies) = self.proxies.clone().unwrap_or_else(Proxies::installed);
        Mix::new(self.seed, transports, proxies, self.max_stream_rate)
    }

    /// The numbers of the episodes, each with the numbers of its transfers.
    fn numbers(&self) -> Box<dyn Iterator<Item = (u64, Vec<u64>)>> {
        if let Some(number) = self.transfer {
            return Box::new(std::iter::once((number / EPISODE, vec![number; self.times])));
        }
        let end = if self.period.is_some() { u64::MAX / EPISODE * EPISODE } else { self.transfers };
        let episode = move |number| {
            let first = number * EPISODE;
            (number, (first..end.min(first + EPISODE)).collect())
        };
        Box::new((0..end.div_ceil(EPISODE)).map(episode))
    }
}

/// The parameters of a run, as flags that repeat it.
struct Settings<'a>(&'a Mix);

impl fmt::Display for Settings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Mix { seed, transports, proxies, rate, .. } = self.0;
        write!(f, "--seed {seed}")?;
        if transports != &Transport::ALL {
            let names = transports.iter().filter_map(ValueEnum::to_possible_value);
            let names: Vec<_> = names.map(|value| value.get_name().to_owned()).collect();
            write!(f, " --only {}", names.join(","))?;
        }
        let names: Vec<_> = proxies.iter().map(ToString::to_string).collect();
        write!(f, " --proxies {}", if names.is_empty() { "none".to_owned() } else { names.join(",") })?;
        rate.map_or(Ok(()), |rate| write!(f, " --max-stream-rate {rate}"))
    }
}

fn tell(mix: &Mix, broken: &episode::Broken) {
    println!("\nA LAW IS BROKEN, seed {}", mix.seed);
    for breach in &broken.breaches {
        println!("  {breach}");
    }
    println!("{}", broken.transcript);
    if let Some(number) = broken.number {
        println!("transfer {number}; this one alone: {} --transfer {number} --times 100", Settings(mix));
    }
}

/// Parses a number with one of `units`.
fn quantity(text: &str, units: &[(&str, u64)]) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number = number.parse::<u64>().ok().filter(|number| *number > 0);
    let factor = units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let quantity = number.zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    quantity.ok_or_else(|| {
        format!(
            "a number above 0 with one of these units: {:?}",
            units.iter().map(|unit| unit.0).collect::<Vec<_>>()
        )
    })
}

fn period(text: &str) -> Result<Duration, String> {
    quantity(text, &[("s", 1), ("m", 60), ("h", 3600)]).map(Duration::from_secs)
}

fn rate(text: &str) -> Result<u64, String> {
    quantity(text, &[("", 1), ("k", 1 << 10), ("m", 1 << 20)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(flags: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("chaos").chain(flags.split_whitespace()))
    }

    #[test]
    fn the_flags_that_are_shown_draw_the_same_again() {
        for flags in [
            "--seed 3 --proxies none",
            "--seed 1 --proxies haproxy --only h2-tls,plain",
            "--seed 7 --proxies nginx,haproxy --max-stream-rate 64k",
        ] {
            let mix = arguments(flags).unwrap().mix();
            assert_eq!(arguments(&Settings(&mix).to_string()).unwrap().mix(), mix, "{flags}");
        }
    }

    #[test]
    fn a_run_for_a_time_has_no_last_episode() {
        let mut numbers = arguments("--for 10m").unwrap().numbers();
        assert_eq!(numbers.next(), Some((0, (0..50).collect())));
        assert_eq!(numbers.nth(99_999), Some((100_000, (5_000_000..5_000_050).collect())));
        let few: Vec<_> = arguments("--transfers 70").unwrap().numbers().collect();
        assert_eq!(few, [(0, (0..50).collect()), (1, (50..70).collect())]);
        let one: Vec<_> = arguments("--transfer 70 --times 2").unwrap().numbers().collect();
        assert_eq!(one, [(1, vec![70, 70])]);
    }

    #[test]
    fn what_is_no_period_or_rate_is_refused() {
        assert_eq!((period("10m"), rate("1m")), (Ok(Duration::from_mins(10)), Ok(1 << 20)));
        for text in ["", "m", "0s", "-1s", "1.5m", "10 m", "99999999999999999999s", "10"] {
            assert!(period(text).is_err(), "{text}");
        }
        assert!(arguments("--for 10m --transfers 5").is_err());
    }
}
