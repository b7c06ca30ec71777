//! The rounds: each workload on all contenders in turn.

mod client;
mod contender;
pub(crate) mod floor;
mod http;
mod load;
mod report;
mod transfer;
mod workload;

use anyhow::Context;
use measure::machine;
use measure::results::{self, Results, Sample};
use measure::settings::{self, Settings};

use contender::{Contender, Running};
use workload::Workload;

const DEFAULT_ROUNDS: usize = 5;
/// The divisor of all workloads with `QUICK`.
const QUICK_DIVISOR: usize = 16;

/// Measures, and prints the report.
pub(crate) fn run() -> anyhow::Result<()> {
    let settings = Settings::from_environment(DEFAULT_ROUNDS)?;
    let divisor = if settings.quick { QUICK_DIVISOR } else { 1 };
    let workloads = workload::all(divisor, machine::raise_descriptor_limit());
    let contenders = contender::all(settings.baseline.as_deref())?;
    let results = measure(&contenders, &workloads, settings.rounds)?;

    let machine = machine::description();
    println!("{machine}\n\n`{}`\n", Settings::command("relay", &[]));
    print!("{}", report::markdown(&contenders, &workloads, &results));
    match settings.chart {
        Some(path) => settings::write(&path, &report::svg(&contenders, &workloads, &results, &machine)),
        None => Ok(()),
    }
}

fn measure(contenders: &[Contender], workloads: &[Workload], rounds: usize) -> anyhow::Result<Results> {
    let running: Vec<Running> = contenders.iter().map(Contender::start).collect::<Result<_, _>>()?;
    let mut results = Results::default();
    for round in 0..rounds {
        for workload in workloads {
            // Each round begins with another contender, so that none always runs first.
            let turns = contenders.iter().zip(&running).cycle().skip(round).take(contenders.len());
            for (contender, running) in turns.filter(|(contender, _)| workload.suits(contender.kind)) {
                let context = || format!("{}, {workload}", contender.name);
                let figures = workload.run(contender, running).with_context(context)?;
                eprintln!("round {} of {rounds}: {}: {}", round + 1, context(), results::line(&figures));
                let (contender, workload) = (contender.name.clone(), workload.to_string());
                results.add(Sample { workload, contender, figures });
            }
        }
    }
    Ok(results)
}
