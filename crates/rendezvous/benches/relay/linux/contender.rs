//! Who is measured, and how each is started.

use std::env;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use measure::process::Process;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::client::{Client, Dialect};
use super::floor;

/// Until a program takes connections.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);
/// The flag by which a server's lane is chosen; earlier servers have one lane and no flag.
const LANE_FLAG: &str = "--data-path";

/// What a contender is to the server of this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Relays, and does nothing else.
    Floor,
    /// The server itself, in its default lane or another.
    Lane,
    /// An earlier build of it.
    Baseline,
    /// Another server for the same purpose.
    Peer,
}

/// Somebody to measure.
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    program: PathBuf,
    arguments: &'static [&'static str],
}

/// A contender that runs, until this is dropped.
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) client: Client,
}

/// Everybody there is.
pub(crate) fn all(baseline: Option<&Path>) -> anyhow::Result<Vec<Contender>> {
    let contender = |name: &str, kind, program: &Path, arguments| {
        let (name, program) = (name.to_owned(), program.to_owned());
        Contender { name, kind, program, arguments }
    };
    let server = Path::new(env!("CARGO_BIN_EXE_rendezvous"));
    let mut all = vec![contender("floor", Kind::Floor, &env::current_exe()?, &[])];
    if has_lanes(server)? {
        all.push(contender("splice", Kind::Lane, server, &[]));
        all.push(contender("copy", Kind::Lane, server, &[LANE_FLAG, "copy"]));
    } else {
        all.push(contender("rendezvous", Kind::Lane, server, &[]));
    }
    if let Some(program) = baseline {
        all.push(contender("baseline", Kind::Baseline, program, &[]));
    }
    match find("piping-server") {
        Some(program) => all.push(contender("piping-server", Kind::Peer, &program, &[])),
        None => eprintln!("LEFT OUT: piping-server is not installed (`npm install --no-save piping-server`)"),
    }
    Ok(all)
}

fn has_lanes(server: &Path) -> anyhow::Result<bool> {
    let help =
        Command::new(server).args(["serve", "--help"]).output().context("the server does not start")?;
    Ok(String::from_utf8_lossy(&help.stdout).contains(LANE_FLAG))
}

/// A program that npm may have put here, or that is on the PATH.
fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = [PathBuf::from("node_modules/.bin")].into_iter().chain(env::split_paths(&path));
    folders.map(|folder| folder.join(name)).find(|program| program.is_file())
}

impl Contender {
    /// Starts it, and returns when it takes connections.
    pub(crate) fn start(&self) -> anyhow::Result<Running> {
        let mut command = Command::new(&self.program);
        let started = match self.kind {
            Kind::Floor => start_floor(&mut command),
            Kind::Lane | Kind::Baseline => {
                command.args(["serve", "--port", "0", "--log-level", "warn"]).args(self.arguments);
                start_greeting(&mut command, Dialect::Rendezvous)
            }
            Kind::Peer => start_piping(&mut command),
        };
        started.with_context(|| format!("{} does not start", self.name))
    }
}

fn start_floor(command: &mut Command) -> anyhow::Result<Running> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    // It is an accept that would wait for ever if the floor fell.
    set_socket_timeout(&listener, Timeout::Recv, Some(PATIENCE))?;
    command.arg(floor::ARGUMENT).arg(listener.local_addr()?.port().to_string());
    start_greeting(command, Dialect::Tcp(listener))
}

/// Starts what says in its first line where it listens.
fn start_greeting(command: &mut Command, dialect: Dialect) -> anyhow::Result<Running> {
    let mut process = Process::start(command)?;
    let greeting = process.greeting(1)?;
    let address = greeting.trim_end().rsplit([' ', '/']).next().and_then(|address| address.parse().ok());
    let address = address.with_context(|| format!("no address in {greeting:?}"))?;
    Ok(Running { process, client: Client { address, dialect } })
}

/// piping-server takes no port 0, so it gets one that was free a moment ago, and is asked until it answers.
fn start_piping(command: &mut Command) -> anyhow::Result<Running> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    command.args(["--host", "127.0.0.1", "--http-port", &port.to_string()]);
    let process = Process::start(command)?;
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = TcpStream::connect(address) {
        if Instant::now() > deadline {
            bail!("{address}: {error}");
        }
        thread::sleep(PAUSE);
    }
    Ok(Running { process, client: Client { address, dialect: Dialect::Piping } })
}
