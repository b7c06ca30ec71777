//! The program as its users see it. Each module has a subject; the helpers of all are here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails loudly"
)]
#![allow(clippy::disallowed_methods, reason = "there is no clock to pause across processes")]

mod certificates;
mod cluster;
mod deploys;
#[cfg(target_os = "linux")]
mod descriptors;
mod doctor;
mod errors;
mod flags;
mod greeting;
mod log;
#[cfg(target_os = "linux")]
mod memory;
mod patterns;
mod signals;
mod transfers;
mod with_curl;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// The timeout of every step.
const PATIENCE: Duration = Duration::from_secs(30);

fn rendezvous(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rendezvous"));
    command.arg("serve").args(arguments).stdin(Stdio::null());
    command
}

/// A child that does not outlive its test.
struct Running(Child);

impl Running {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.0.try_wait().unwrap() {
                Some(status) => return status,
                None => assert!(Instant::now() < deadline, "the process does not end"),
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Program {
    process: Running,
    /// The URL of `--port` without a path: `http://127.0.0.1:PORT`.
    base: String,
    /// The lines that it prints at the start.
    greeting: Vec<String>,
}

impl Program {
    fn start(arguments: &[&str]) -> Self {
        Self::start_by(rendezvous(&["--port", "0"]).args(arguments))
    }

    fn start_by(command: &mut Command) -> Self {
        let mut process = Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        let lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
        let mut greeting = Vec::new();
        for line in lines.map(Result::unwrap) {
            let is_last = line.starts_with("  echo hello");
            greeting.push(line);
            if is_last {
                break;
            }
        }
        let base = greeting[0].strip_prefix("Listening on ").unwrap().to_owned();
        Self { process, base, greeting }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.base.strip_prefix("http://").unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    fn send(&self, bytes: &str) -> TcpStream {
        let mut stream = self.connect();
        stream.write_all(bytes.as_bytes()).unwrap();
        stream
    }

    fn create(&self) -> String {
        let made = curl(&["-X", "POST", &format!("{}/stream", self.base)]).output().unwrap();
        let made: Value = serde_json::from_slice(&made.stdout).unwrap();
        format!("{}/stream/{}", self.base, made["stream"].as_str().unwrap())
    }

    /// Returns its resident memory, in KiB.
    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.0.id())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        resident.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Ends the program and returns what it logged.
    fn log(mut self) -> String {
        self.process.signal(Signal::TERM);
        self.process.wait();
        let mut log = String::new();
        self.process.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        log
    }
}

/// Waits until the status object of the stream at this URL satisfies `reached`.
fn until(stream: &str, reached: impl Fn(&Value) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = curl(&[&format!("{stream}/status")]).output().unwrap();
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        if reached(&status) {
            return;
        }
        assert!(Instant::now() < deadline, "{status}");
    }
}

fn until_state(stream: &str, state: &str) {
    until(stream, |status| status["state"] == state);
}

/// The real `curl`, which prints only errors, and fails on error statuses.
fn curl(arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["-sS", "-f", "--noproxy", "*", "--max-time", "60"]).args(arguments).stdin(Stdio::null());
    command
}

fn spawn(command: &mut Command) -> Running {
    Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it is installed"))
}
