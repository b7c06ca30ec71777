//! A process that is measured, and does not outlive its measurement.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
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
const TIMES: usize = 11;
/// A process that is left alone has settled when its memory stays as it was for so long.
const SETTLING: Duration = Duration::from_millis(250);
const LONGEST_SETTLING: u32 = 40;

/// Descriptors of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    /// All of them.
    pub all: u64,
    /// Ends of pipes among them.
    pub pipes: u64,
}

impl Descriptors {
    /// Those that are no pipes, of which a server may keep some at hand.
    #[must_use]
    pub fn beside_pipes(self) -> u64 {
        self.all - self.pipes
    }
}

/// Seconds of CPU time of a process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Times {
    /// Its own.
    pub user: f64,
    /// The kernel's, for it.
    pub kernel: f64,
}

/// A child process. Dropping it ends it.
pub struct Process(Child);

impl Process {
    /// Starts it, with its output kept for [`Process::greeting`].
    ///
    /// # Errors
    /// It does not start.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        Ok(Self(child.with_context(|| format!("cannot start {}", command.get_program().display()))?))
    }

    /// The first `lines` that it prints. What it prints later is thrown away.
    ///
    /// # Errors
    /// It does not say so much in time, or was asked before.
    pub fn greeting(&mut self, lines: usize) -> anyhow::Result<String> {
        let mut output = BufReader::new(self.0.stdout.take().context("it was asked before")?);
        let (said, heard) = mpsc::channel();
        thread::spawn(move || {
            let mut text = String::new();
            let read = (0..lines).try_for_each(|_| output.read_line(&mut text).map(drop));
            // Nobody hears it any more if it came too late.
            let _ = said.send(read.map(|()| text));
            io::copy(&mut output, &mut io::sink())
        });
        Ok(heard.recv_timeout(PATIENCE).context("it does not say where it listens")??)
    }

    /// Seconds of CPU time used so far, of all its threads, also of those that have ended. Where the kernel
    /// accounts for interrupts apart, the part of TCP that runs in them is nobody's.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu(&self) -> anyhow::Result<f64> {
        let Times { user, kernel } = self.times()?;
        Ok(user + kernel)
    }

    /// As [`Process::cpu`], told apart. Most kernels know the parts by samples only: of less than a second they say little.
    ///
    /// # Errors
    /// It has ended.
    pub fn times(&self) -> anyhow::Result<Times> {
        let stat = fs::read_to_string(self.file("stat"))?;
        // The name stands in parentheses, and may hold anything.
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat has no name")?;
        let mut times = fields.split_whitespace().skip(TIMES);
        let mut next = || {
            let ticks: u64 = times.next().context("/proc/PID/stat has no times")?.parse()?;
            anyhow::Ok(ticks as f64 / TICKS_PER_SECOND)
        };
        Ok(Times { user: next()?, kernel: next()? })
    }

    /// Nanoseconds that the threads it has now were on a CPU: finer than [`Process::cpu`], where no thread ends meanwhile.
    ///
    /// # Errors
    /// It has ended.
    pub fn fine_cpu(&self) -> anyhow::Result<u64> {
        let threads = fs::read_dir(self.file("task"))?;
        let on_cpu = threads.map(|thread| {
            let text = fs::read_to_string(thread?.path().join("schedstat"))?;
            let nanoseconds = text.split(' ').next().context("schedstat is empty")?;
            anyhow::Ok(nanoseconds.parse::<u64>()?)
        });
        on_cpu.sum()
    }

    /// Resident memory, in KiB.
    ///
    /// # Errors
    /// It has ended.
    pub fn resident(&self) -> anyhow::Result<u64> {
        self.status("VmRSS:")
    }

    /// Threads that it has.
    ///
    /// # Errors
    /// It has ended.
    pub fn threads(&self) -> anyhow::Result<u64> {
        self.status("Threads:")
    }

    /// Descriptors that it has.
    ///
    /// # Errors
    /// It has ended.
    pub fn descriptors(&self) -> anyhow::Result<Descriptors> {
        let mut open = Descriptors { all: 0, pipes: 0 };
        for descriptor in fs::read_dir(self.file("fd"))? {
            // One that is closed meanwhile has no target any more.
            let Ok(target) = fs::read_link(descriptor?.path()) else { continue };
            open.all += 1;
            open.pipes += u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"pipe:"));
        }
        Ok(open)
    }

    fn status(&self, name: &str) -> anyhow::Result<u64> {
        let status = fs::read_to_string(self.file("status"))?;
        let value = status.lines().find_map(|line| line.strip_prefix(name));
        let value = value.and_then(|value| value.split_whitespace().next());
        Ok(value.with_context(|| format!("/proc/PID/status has no {name}"))?.parse()?)
    }

    fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0.id()))
    }

    /// Resident memory in KiB, once it has stopped changing.
    ///
    /// # Errors
    /// It has ended.
    pub fn settled(&self) -> anyhow::Result<u64> {
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
