//! The resources of a server: according to the system, and according to its metrics.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::process::Pid;

use crate::client::Addresses;

/// `TIME_WAIT` in the system's list: only the kernel remembers the connection.
const TIME_WAIT: &str = " 06 ";

/// The resources of a process according to the system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// Descriptors of sockets.
    pub(crate) sockets: usize,
    /// Descriptors of pipes.
    pub(crate) pipes: usize,
    /// Bytes in pipes: they would reach the next transfer.
    pub(crate) in_pipes: u64,
    /// All other descriptors.
    pub(crate) others: usize,
    /// Threads.
    pub(crate) threads: usize,
    /// Resident memory, in KiB.
    pub(crate) memory: u64,
}

impl Footprint {
    pub(super) fn of(pid: Pid) -> io::Result<Self> {
        let folder = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
        let mut footprint = Self::default();
        for entry in fs::read_dir(folder.join("fd"))? {
            let path = entry?.path();
            match fs::read_link(&path).map(|target| target.to_string_lossy().into_owned()) {
                Ok(target) if target.starts_with("socket:") => footprint.sockets += 1,
                Ok(target) if target.starts_with("pipe:") => {
                    footprint.pipes += 1;
                    footprint.in_pipes += bytes_in(&path);
                }
                Ok(_) => footprint.others += 1,
                // It was closed just now.
                Err(_) => {}
            }
        }
        let status = fs::read_to_string(folder.join("status"))?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        footprint.threads = number("Threads:").unwrap_or_default().try_into().unwrap_or_default();
        footprint.memory = number("VmRSS:").unwrap_or_default();
        Ok(footprint)
    }
}

/// The bytes in another process's pipe. Opens the pipe anew and reads nothing from it.
fn bytes_in(path: &Path) -> u64 {
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().try_into().unwrap_or_default();
    let opened = fs::File::options().read(true).custom_flags(nonblock).open(path);
    // The pipe of the server's output, which this process reads, is not one of its pipes for bodies.
    opened.ok().and_then(|pipe| rustix::io::ioctl_fionread(pipe.as_fd()).ok()).unwrap_or_default()
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sockets, {} descriptors of pipes with {} bytes in them, {} others, {} threads, {} KiB",
            self.sockets, self.pipes, self.in_pipes, self.others, self.threads, self.memory
        )
    }
}

/// The resources of a server according to its metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Metrics {
    /// Connections, including that of this request.
    pub(crate) open_connections: u64,
    /// Pipes in use by bodies.
    pub(crate) pipes_in_use: u64,
    /// Streams with a waiting side, or with both.
    pub(crate) busy_streams: u64,
    /// All other streams that are known.
    pub(crate) idle_streams: u64,
}

impl Metrics {
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let value = |name: &str| -> anyhow::Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.trim().parse().ok())
                .with_context(|| format!("/metrics does not tell {name}"))
        };
        let streams = |state: &str| {
            let of = |kind| value(&format!("rendezvous_streams{{state=\"{state}\",kind=\"{kind}\"}}"));
            anyhow::Ok(of("stream")? + of("path")?)
        };
        Ok(Self {
            open_connections: value("rendezvous_open_connections")?,
            pipes_in_use: value("rendezvous_pipes_in_use")?,
            busy_streams: streams("source_waits")? + streams("destination_waits")? + streams("streaming")?,
            idle_streams: streams("created")? + streams("ended")?,
        })
    }
}

/// The connections to a server's ports, as the system lists them: addresses, state and queues in hexadecimal.
#[must_use]
pub(crate) fn connections(server: Addresses) -> String {
    let [plain, tls] = [server.plain, server.tls].map(|address| format!(":{:04X}", address.port()));
    let list = fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let fields = |line: &str| line.split_whitespace().skip(1).take(4).collect::<Vec<_>>().join(" ");
    let is_ours = |line: &String| line.contains(&plain) || line.contains(&tls);
    let ours = list.lines().map(fields).filter(|line| is_ours(line) && !line.contains(TIME_WAIT));
    ours.collect::<Vec<_>>().join("\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_and_a_missing_one_is_no_zero() {
        let streams =
            |state, kind, count| format!("rendezvous_streams{{state=\"{state}\",kind=\"{kind}\"}} {count}\n");
        let mut text = "rendezvous_open_connections 3\nrendezvous_pipes_in_use 2\n".to_owned();
        for (state, count) in
            [("created", 1), ("source_waits", 1), ("destination_waits", 1), ("streaming", 1), ("ended", 5)]
        {
            text += &(streams(state, "stream", count) + &streams(state, "path", 1));
        }
        let metrics = Metrics { open_connections: 3, pipes_in_use: 2, busy_streams: 6, idle_streams: 8 };
        assert_eq!(Metrics::parse(&text).unwrap(), metrics);
        assert!(Metrics::parse(&text.replace("pipes", "hoses")).is_err());
    }

    #[test]
    fn what_is_in_a_pipe_is_seen_from_outside() {
        let (end, start) = rustix::pipe::pipe().unwrap();
        let mine = Pid::from_raw(std::process::id().try_into().unwrap()).unwrap();
        let before = Footprint::of(mine).unwrap();
        rustix::io::write(&start, b"dirty").unwrap();
        assert!(Footprint::of(mine).unwrap().in_pipes >= before.in_pipes + 5);
        drop(end);
    }
}
