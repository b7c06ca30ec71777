//! A process that is measured, and does not outlive its measurement.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::Context;

/// For a program that should say something at once.
const PATIENCE: Duration = Duration::from_secs(10);
/// The unit of `/proc/PID/stat`: `USER_HZ`, which is 100 wherever Rust runs.
const TICKS_PER_SECOND: f64 = 100.0;
/// Where `utime` and `stime` stand in `/proc/PID/stat`, counted from behind the program's name.
const TIMES: (usize, usize) = (11, 2);
/// A process that is left alone has settled when its memory stays as it was for so long.
const SETTLING: Duration = Duration::from_millis(250);
const LONGEST_SETTLING: u32 = 40;

/// A child process. Dropping it ends it.
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        Ok(Self(child.with_context(|| format!("cannot start {}", command.get_program().display()))?))
    }

    /// The first line that it prints. What it prints later is thrown away.
    pub(crate) fn greeting(&mut self) -> anyhow::Result<String> {
        let mut output = BufReader::new(self.0.stdout.take().context("it was asked before")?);
        let (said, heard) = mpsc::channel();
        thread::spawn(move || {
            let mut line = String::new();
            // Nobody hears it any more if it came too late.
            let _ = said.send(output.read_line(&mut line).map(|_| line));
            io::copy(&mut output, &mut io::sink())
        });
        Ok(heard.recv_timeout(PATIENCE).context("it does not say where it listens")??)
    }

    /// Seconds of CPU time used so far, of all its threads, also of those that have ended. Where the kernel
    /// accounts for interrupts apart, the part of TCP that runs in them is nobody's.
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id()))?;
        // The name stands in parentheses, and may hold anything.
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat has no name")?;
        let (first, count) = TIMES;
        let times = fields.split_whitespace().skip(first).take(count);
        let ticks =
            times.map(str::parse::<u64>).sum::<Result<u64, _>>().context("/proc/PID/stat has no times")?;
        Ok(ticks as f64 / TICKS_PER_SECOND)
    }

    /// Resident memory, in KiB.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let size = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let size =
            size.and_then(|size| size.split_whitespace().next()).context("/proc/PID/status has no VmRSS")?;
        Ok(size.parse()?)
    }

    /// Resident memory in KiB, once it has stopped changing.
    pub(crate) fn settled(&self) -> anyhow::Result<u64> {
        let mut before = self.resident()?;
        for _ in 0..LONGEST_SETTLING {
            thread::sleep(SETTLING);
            let now = self.resident()?;
            if now == before {
                break;
            }
            before = now;
        }
        Ok(before)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
