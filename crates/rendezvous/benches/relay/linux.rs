//! The rounds: each workload on all contenders in turn.

mod chart;
mod client;
mod contender;
pub(crate) mod floor;
mod http;
mod load;
mod results;
mod table;
mod transfer;
mod workload;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use measure::machine;

use contender::{Contender, Running};
use results::{Results, Sample};
use workload::Workload;

const DEFAULT_ROUNDS: usize = 5;
/// The divisor of all workloads with `QUICK`.
const QUICK_DIVISOR: usize = 16;

/// The settings from the environment.
struct Settings {
    rounds: usize,
    divisor: usize,
    baseline: Option<PathBuf>,
    chart: Option<PathBuf>,
}

impl Settings {
    const VARIABLES: [&str; 4] = ["ROUNDS", "QUICK", "BASELINE", "SVG"];

    fn from_environment() -> anyhow::Result<Self> {
        let [rounds, quick, baseline, chart] = Self::VARIABLES.map(env::var_os);
        let quick = quick.is_some();
        let rounds = match rounds {
            Some(text) => text.to_str().and_then(|text| text.parse().ok()).filter(|rounds| *rounds > 0),
            None => Some(if quick { 1 } else { DEFAULT_ROUNDS }),
        };
        Ok(Self {
            rounds: rounds.context("ROUNDS must be an integer from 1")?,
            divisor: if quick { QUICK_DIVISOR } else { 1 },
            baseline: baseline.map(in_repository),
            chart: chart.map(in_repository),
        })
    }

    /// Returns the command that repeats this measurement.
    fn command() -> String {
        let set =
            Self::VARIABLES.into_iter().filter_map(|name| Some(format!("{name}={} ", env::var(name).ok()?)));
        set.chain(["cargo bench --bench relay".to_owned()]).collect()
    }
}

/// Resolves a path relative to the root of the repository, because cargo runs benchmarks in the folder of their crate.
fn in_repository(path: OsString) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Measures, and prints the report.
pub(crate) fn run() -> anyhow::Result<()> {
    let settings = Settings::from_environment()?;
    let workloads = workload::all(settings.divisor, machine::raise_descriptor_limit());
    let contenders = contender::all(settings.baseline.as_deref())?;
    let results = measure(&contenders, &workloads, settings.rounds)?;

    let machine = machine::description();
    println!("{machine}\n\n`{}`\n", Settings::command());
    print!("{}", table::markdown(&contenders, &workloads, &results));
    match settings.chart {
        Some(path) => write(&path, &chart::svg(&contenders, &workloads, &results, &machine)),
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

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
