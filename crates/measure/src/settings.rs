//! What a benchmark reads from the environment, and where its paths start.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// The settings that all benchmarks have.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `ROUNDS`: the number of rounds.
    pub rounds: usize,
    /// `QUICK`: a smoke test, of one round by default.
    pub quick: bool,
    /// `BASELINE`: an earlier build of the server.
    pub baseline: Option<PathBuf>,
    /// `SVG`: the file to draw a chart into.
    pub chart: Option<PathBuf>,
}

impl Settings {
    const VARIABLES: [&str; 4] = ["ROUNDS", "QUICK", "BASELINE", "SVG"];

    /// Reads the environment. There are `rounds` rounds by default.
    ///
    /// # Errors
    /// If `ROUNDS` is not an integer from 1.
    pub fn from_environment(rounds: usize) -> anyhow::Result<Self> {
        let [given, quick, baseline, chart] = Self::VARIABLES.map(env::var_os);
        let quick = quick.is_some();
        let rounds = match given {
            Some(text) => text.to_str().and_then(|text| text.parse().ok()).filter(|rounds| *rounds > 0),
            None => Some(if quick { 1 } else { rounds }),
        };
        Ok(Self {
            rounds: rounds.context("ROUNDS must be an integer from 1")?,
            quick,
            baseline: baseline.map(in_repository),
            chart: chart.map(in_repository),
        })
    }

    /// Returns the command that repeats the measurement of this benchmark, which also reads the variables `more`.
    #[must_use]
    pub fn command(benchmark: &str, more: &[&str]) -> String {
        let names = Self::VARIABLES.iter().chain(more);
        let set = names.filter_map(|name| Some(format!("{name}={} ", env::var(name).ok()?)));
        set.chain([format!("cargo bench --bench {benchmark}")]).collect()
    }
}

/// Resolves a path relative to the root of the repository, because cargo runs benchmarks in the folder of their crate.
#[must_use]
pub fn in_repository(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Finds a program in `folder`, which may be relative to the root of the repository, or on the PATH.
#[must_use]
pub fn find_program(name: &str, folder: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = [in_repository(folder)].into_iter().chain(env::split_paths(&path));
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// Writes a file, in a folder that is made if it does not exist.
///
/// # Errors
/// If either fails.
pub fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
