//! The machine that the measurements run on.

use std::fs;
use std::thread;
use std::time::SystemTime;

use anyhow::Context;
use rustix::process::{Resource, getrlimit, setrlimit};

/// Raises the descriptor limit of this process and its future children to the maximum, and returns the limit.
#[must_use]
pub fn raise_descriptor_limit() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If this fails, the limit read below is the old one.
    let _ = setrlimit(Resource::Nofile, limit);
    getrlimit(Resource::Nofile).current.and_then(|limit| limit.try_into().ok()).unwrap_or(usize::MAX)
}

/// Returns the date, kernel and CPU as text, so that reports can be compared.
#[must_use]
pub fn description() -> String {
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

/// Returns the kernel's memory for TCP sockets and in slabs, of all programs, in KiB.
///
/// # Errors
/// If `/proc` cannot be read, or lacks the values.
pub fn kernel_memory() -> anyhow::Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let slab = meminfo.lines().find_map(|line| line.strip_prefix("Slab:")?.split_whitespace().next());
    let sockets = fs::read_to_string("/proc/net/sockstat")?;
    let tcp = sockets.lines().find(|line| line.starts_with("TCP:"));
    let pages = tcp.and_then(|line| line.rsplit(' ').next());
    let slab: u64 = slab.context("/proc/meminfo has no Slab")?.parse()?;
    let pages: u64 = pages.context("/proc/net/sockstat has no TCP")?.parse()?;
    Ok(slab + pages * rustix::param::page_size() as u64 / 1024)
}
