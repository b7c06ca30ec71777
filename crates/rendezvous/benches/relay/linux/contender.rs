//! The measured programs, and how each is started.

use std::env;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use measure::process::{Process, addresses};
use measure::settings::find_program;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::client::{Client, Protocol};
use super::floor;

/// The timeout until a program accepts connections.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause between two attempts to connect to a program that is starting.
const PAUSE: Duration = Duration::from_millis(20);
/// The flag that selects the server's data path. Earlier servers lack it.
const DATA_PATH_FLAG: &str = "--data-path";

/// How a contender relates to the server of this repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A plain relay, without HTTP.
    Floor,
    /// The server itself, with one of its data paths.
    Current,
    /// An earlier build of the server.
    Baseline,
    /// Another server with the same purpose.
    Peer,
}

/// A program to measure.
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    program: PathBuf,
    arguments: &'static [&'static str],
}

/// A running contender. Dropping it ends the process.
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) client: Client,
}

/// All contenders that are available.
pub(crate) fn all(baseline: Option<&Path>) -> anyhow::Result<Vec<Contender>> {
    let contender = |name: &str, kind, program: &Path, arguments| {
        let (name, program) = (name.to_owned(), program.to_owned());
        Contender { name, kind, program, arguments }
    };
    let server = Path::new(env!("CARGO_BIN_EXE_rendezvous"));
    let mut all = vec![contender("floor", Kind::Floor, &env::current_exe()?, &[])];
    if has_data_paths(server)? {
        all.push(contender("splice", Kind::Current, server, &[]));
        all.push(contender("copy", Kind::Current, server, &[DATA_PATH_FLAG, "copy"]));
    } else {
        all.push(contender("rendezvous", Kind::Current, server, &[]));
    }
    if let Some(program) = baseline {
        all.push(contender("baseline", Kind::Baseline, program, &[]));
    }
    match find_program("piping-server", "node_modules/.bin") {
        Some(program) => all.push(contender("piping-server", Kind::Peer, &program, &[])),
        None => eprintln!("SKIPPED: piping-server is not installed (`npm install --no-save piping-server`)"),
    }
    Ok(all)
}

fn has_data_paths(server: &Path) -> anyhow::Result<bool> {
    let help =
        Command::new(server).args(["serve", "--help"]).output().context("the server does not start")?;
    Ok(String::from_utf8_lossy(&help.stdout).contains(DATA_PATH_FLAG))
}

impl Contender {
    /// Starts the program, and returns when it accepts connections.
    pub(crate) fn start(&self) -> anyhow::Result<Running> {
        let mut command = Command::new(&self.program);
        let started = match self.kind {
            Kind::Floor => start_floor(&mut command),
            Kind::Current | Kind::Baseline => {
                command.args(["serve", "--port", "0", "--log-level", "warn"]).args(self.arguments);
                start_greeting(&mut command, Protocol::Rendezvous)
            }
            Kind::Peer => start_piping(&mut command),
        };
        started.with_context(|| format!("{} does not start", self.name))
    }
}

fn start_floor(command: &mut Command) -> anyhow::Result<Running> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    // Without this timeout, an accept would block for ever if the floor failed.
    set_socket_timeout(&listener, Timeout::Recv, Some(START_TIMEOUT))?;
    command.arg(floor::ARGUMENT).arg(listener.local_addr()?.port().to_string());
    start_greeting(command, Protocol::Tcp(listener))
}

/// Starts a program that prints its address in its first line.
fn start_greeting(command: &mut Command, protocol: Protocol) -> anyhow::Result<Running> {
    let mut process = Process::start(command)?;
    let greeting = process.greeting(1)?;
    let address = addresses(&greeting).next().with_context(|| format!("no address in {greeting:?}"))?;
    Ok(Running { process, client: Client { address, protocol } })
}

/// Starts piping-server on a port that was free a moment ago, because it does not accept port 0. Returns once it accepts connections.
fn start_piping(command: &mut Command) -> anyhow::Result<Running> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    command.args(["--host", "127.0.0.1", "--http-port", &port.to_string()]);
    let process = Process::start(command)?;
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let deadline = Instant::now() + START_TIMEOUT;
    while let Err(error) = TcpStream::connect(address) {
        if Instant::now() > deadline {
            bail!("{address}: {error}");
        }
        thread::sleep(PAUSE);
    }
    Ok(Running { process, client: Client { address, protocol: Protocol::Piping } })
}
