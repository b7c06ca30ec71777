//! A measured child process, which ends with its measurement.

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// The timeout for the first output of a program.
const FIRST_OUTPUT_TIMEOUT: Duration = Duration::from_secs(10);
/// The timeout for the end of a program.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between two looks at whether a program has ended.
const END_POLL: Duration = Duration::from_millis(10);
/// The unit of times in `/proc/PID/stat`: `USER_HZ`, which is 100 on all architectures that Rust supports.
const TICKS_PER_SECOND: f64 = 100.0;
/// The position of `utime`, before `stime`, in `/proc/PID/stat`, counted after the program's name.
const TIMES: usize = 11;
/// The memory of an idle process has settled when it does not change for this time.
const SETTLING: Duration = Duration::from_millis(250);
/// After this many periods of [`SETTLING`], memory that still changes is returned.
const MAX_SETTLING_PERIODS: u32 = 40;

/// Numbers of open descriptors of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptors {
    /// All descriptors.
    pub all: u64,
    /// Those that are ends of pipes.
    pub pipes: u64,
}

impl Descriptors {
    /// Returns the number without pipes. A server may keep idle pipes for later use.
    #[must_use]
    pub fn without_pipes(self) -> u64 {
        self.all - self.pipes
    }
}

/// CPU time of a process, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Times {
    /// In user mode.
    pub user: f64,
    /// In the kernel, on behalf of the process.
    pub kernel: f64,
}

/// A child process. Dropping it kills the process.
pub struct Process(Child);

impl Process {
    /// Starts the process, with its output piped for [`Process::greeting`].
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        Ok(Self(child.with_context(|| format!("cannot start {}", command.get_program().display()))?))
    }

    /// Waits for the first `lines` lines of the output and returns them. Later output is discarded.
    ///
    /// # Errors
    /// If the process does not print these lines within 10 s, or if this is not the first call.
    pub fn greeting(&mut self, lines: usize) -> anyhow::Result<String> {
        let mut output = BufReader::new(self.0.stdout.take().context("the greeting was read before")?);
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut text = String::new();
            let read = (0..lines).try_for_each(|_| output.read_line(&mut text).map(drop));
            // Fails if the output is later than the timeout, when the receiver has been dropped.
            let _ = sender.send(read.map(|()| text));
            io::copy(&mut output, &mut io::sink())
        });
        Ok(receiver
            .recv_timeout(FIRST_OUTPUT_TIMEOUT)
            .context("the process does not print where it listens")??)
    }

    /// Returns the CPU time so far, in seconds, of all threads, including those that have ended. Where the kernel accounts for
    /// interrupts separately, the part of TCP that runs in them counts for no process.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn cpu(&self) -> anyhow::Result<f64> {
        let Times { user, kernel } = self.times()?;
        Ok(user + kernel)
    }

    /// Returns the time of [`Process::cpu`] in user mode and in the kernel. Most kernels sample the two parts, so they are coarse
    /// below a second.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn times(&self) -> anyhow::Result<Times> {
        let stat = fs::read_to_string(self.file("stat"))?;
        // The name is in parentheses, and may itself contain parentheses and spaces.
        let (_, fields) = stat.rsplit_once(')').context("/proc/PID/stat has no name")?;
        let mut times = fields.split_whitespace().skip(TIMES);
        let mut next = || {
            let ticks: u64 = times.next().context("/proc/PID/stat has no times")?.parse()?;
            anyhow::Ok(ticks as f64 / TICKS_PER_SECOND)
        };
        Ok(Times { user: next()?, kernel: next()? })
    }

    /// Returns the CPU time of the current threads, in nanoseconds. Finer than [`Process::cpu`], but without threads that have ended.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn fine_cpu(&self) -> anyhow::Result<u64> {
        fine_cpu(self.0.id())
    }

    /// Returns the [`Process::fine_cpu`] of its child processes that were started by its main thread, such as the workers of nginx.
    ///
    /// # Errors
    /// If the process or one of them has ended.
    pub fn fine_cpu_of_children(&self) -> anyhow::Result<u64> {
        let children = fs::read_to_string(self.file(&format!("task/{}/children", self.0.id())))?;
        children.split_whitespace().map(|id| fine_cpu(id.parse()?)).sum()
    }

    /// Asks the process to end, by SIGTERM, and waits until it has, for at most 10 s.
    ///
    /// # Errors
    /// If it has not ended by then.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        kill_process(Pid::from_child(&self.0), Signal::TERM)?;
        let deadline = Instant::now() + END_TIMEOUT;
        while self.0.try_wait()?.is_none() {
            ensure!(Instant::now() < deadline, "the process does not end");
            thread::sleep(END_POLL);
        }
        Ok(())
    }

    /// Returns the resident memory, in KiB.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn resident(&self) -> anyhow::Result<u64> {
        self.status("VmRSS:")
    }

    /// Returns the number of threads.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn threads(&self) -> anyhow::Result<u64> {
        self.status("Threads:")
    }

    /// Returns the numbers of open descriptors.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn descriptors(&self) -> anyhow::Result<Descriptors> {
        let mut open = Descriptors { all: 0, pipes: 0 };
        for descriptor in fs::read_dir(self.file("fd"))? {
            // A descriptor may have been closed since the directory was read.
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

    /// Returns the resident memory in KiB, once it has not changed for 250 ms, or after 10 s.
    ///
    /// # Errors
    /// If the process has ended.
    pub fn settled(&self) -> anyhow::Result<u64> {
        let mut before = self.resident()?;
        for _ in 0..MAX_SETTLING_PERIODS {
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

/// The CPU time of the current threads of a process, in nanoseconds.
fn fine_cpu(id: u32) -> anyhow::Result<u64> {
    let threads = fs::read_dir(format!("/proc/{id}/task"))?;
    let on_cpu = threads.map(|thread| {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        let nanoseconds = text.split(' ').next().context("schedstat is empty")?;
        anyhow::Ok(nanoseconds.parse::<u64>()?)
    });
    on_cpu.sum()
}

/// Returns the IPv4 addresses that a server prints when it has started, such as `Listening on http://127.0.0.1:9999`.
pub fn addresses(greeting: &str) -> impl Iterator<Item = SocketAddrV4> {
    greeting.split([' ', '/', '\n']).filter_map(|word| word.parse().ok())
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if the process has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
