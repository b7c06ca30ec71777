//! The machine that all run on.

use std::fs;
use std::thread;
use std::time::SystemTime;

use rustix::process::{Resource, getrlimit, setrlimit};

/// Takes as many descriptors as the system allows, for this process and its children, and says how many.
pub(crate) fn raise_descriptor_limit() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Refused or not, what holds now is read below.
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.and_then(|limit| limit.try_into().ok()).unwrap_or(usize::MAX)
}

/// When and where, for whoever compares two reports.
pub(crate) fn description() -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    format!("{now}, Linux {}, {cpus} × {}, loopback", kernel.trim(), cpu_model())
}

fn cpu_model() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mut fields = info.lines().filter_map(|line| line.split_once(':'));
    let model = fields.find(|(name, _)| name.trim() == "model name");
    model.map_or_else(|| format!("{} CPU", std::env::consts::ARCH), |(_, model)| model.trim().to_owned())
}
