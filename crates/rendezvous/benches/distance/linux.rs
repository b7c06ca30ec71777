//! The rounds: each workload by all contenders in turn.

mod certificate;
mod contender;
mod http1;
mod http2;
mod nginx;
mod origin;
mod report;
mod side;
mod workload;

use std::env;
use std::num::NonZeroU32;

use anyhow::Context;
use measure::machine;
use measure::results;
use measure::settings::{self, Settings};
use tokio::runtime;

use certificate::Certificate;
use contender::Contender;
use report::Report;
use workload::{Limits, Workload};

const DEFAULT_ROUNDS: usize = 3;
/// Threads for clients and forwarders, as many as the server has on the two cores that the figures in the documentation come from.
const THREADS: usize = 2;
/// The variables besides those of [`Settings`].
const RATE: &str = "RATE";
const IN_FLIGHT: &str = "IN_FLIGHT";
/// The default of [`IN_FLIGHT`]: the maximum of Linux's `net.ipv4.tcp_wmem`.
const DEFAULT_IN_FLIGHT: u32 = 4 << 20;

/// Measures the workloads whose names contain all `words`, and prints the report.
pub(crate) fn run(words: &[String]) -> anyhow::Result<()> {
    let settings = Settings::from_environment(DEFAULT_ROUNDS)?;
    let limits = limits()?;
    let mut workloads = workload::all(settings.quick);
    workloads.retain(|workload| words.iter().all(|word| workload.to_string().contains(word)));
    let runtime = runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let report = runtime.block_on(measure(&settings, &workloads, limits))?;

    let machine = machine::description();
    println!("{machine}\n\n`{}`\n", Settings::command("distance", &[RATE, IN_FLIGHT]));
    println!("{}", report.markdown());
    match settings.chart {
        Some(path) => settings::write(&path, &report.svg(&machine)),
        None => Ok(()),
    }
}

fn limits() -> anyhow::Result<Limits> {
    let limit = |name, default| {
        let bytes = env::var(name).map_or(Ok(default), |text| text.parse());
        bytes.map(NonZeroU32::new).with_context(|| format!("{name} must be a number of bytes, or 0"))
    };
    Ok(Limits { rate: limit(RATE, 0)?, in_flight: limit(IN_FLIGHT, DEFAULT_IN_FLIGHT)? })
}

async fn measure(settings: &Settings, workloads: &[Workload], limits: Limits) -> anyhow::Result<Report> {
    let certificate = Certificate::new()?;
    let contenders = contender::all(settings.baseline.as_deref(), &certificate).await?;
    let mut report = Report::default();
    for round in 0..settings.rounds {
        for workload in workloads {
            // Each round begins with another contender, so that none always runs first.
            let turns = contenders.iter().cycle().skip(round % contenders.len()).take(contenders.len());
            for contender in turns.filter(|contender| contender.takes_part(workload)) {
                let Contender { protocol, relay } = contender;
                let context = || format!("{}, {protocol}, {workload}", relay.name);
                let figures = workload.run(contender, limits, &certificate).await.with_context(context)?;
                let line = results::line(&figures);
                eprintln!("round {} of {}: {}: {line}", round + 1, settings.rounds, context());
                report.add(workload, contender, figures);
            }
        }
    }
    Ok(report)
}
