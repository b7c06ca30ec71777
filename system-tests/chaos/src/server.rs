//! The server under test: a process, from its command line to its end.
//!
//! - [`workshop`]: what the servers of a run share
//! - [`mod@hoard`]: the process that takes the pipes of a server's user
//! - [`resources`]: the resources that a server holds

mod hoard;
mod resources;
mod workshop;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

pub(crate) use self::hoard::be_hoarder;
use self::hoard::{hoard, run_by_poor_user};
pub(crate) use self::resources::{Footprint, Metrics, connections};
pub(crate) use self::workshop::Workshop;
use self::workshop::{ATTEMPTS, Ports};
use crate::client::{Asker, Dial};
use crate::plan::{Episode, Trouble};

/// How long a stream waits, and how long it stays known after its end.
pub(crate) const TTL: Duration = Duration::from_secs(4);
/// How long running transfers may go on after SIGTERM.
const DRAIN: Duration = Duration::from_secs(1);
/// The time within which it must end: the drain, the last responses, and a busy machine.
pub(crate) const ENDS_WITHIN: Duration = Duration::from_secs(15);
/// The time within which it must listen.
const STARTS_WITHIN: Duration = Duration::from_secs(20);
/// A limit of descriptors below the number of clients.
const FEW_DESCRIPTORS: u32 = 100;
/// The streams of a client at a time: more than an episode needs.
pub(crate) const MAX_STREAMS: usize = 100;

/// A running server.
pub(crate) struct Server {
    child: Child,
    pid: Pid,
    ports: Ports,
    /// Connects to it.
    pub(crate) dial: Dial,
    log: PathBuf,
    fresh: Footprint,
    /// Holds the pipes that its user must lack.
    _hoarder: Option<Child>,
    /// Reads what it prints, which would count as bytes left in a pipe.
    _reader: JoinSet<()>,
}

impl Server {
    /// Starts the server of an episode, with the ports of `before` if given.
    ///
    /// # Errors
    /// The server does not start.
    pub(crate) async fn start(
        workshop: &Workshop,
        episode: &Episode,
        before: Option<&Self>,
    ) -> anyhow::Result<Self> {
        let log = workshop.path(&format!("{}.log", episode.number));
        let hoarder = match episode.trouble {
            Trouble::FewPipes(left) => Some(hoard(workshop, episode, left).await?),
            _ => None,
        };
        let mut attempts = 0;
        let (child, reader, ports) = loop {
            attempts += 1;
            let ports = before.map_or_else(|| workshop.free_ports(), |before| before.ports);
            match launch(workshop, episode, ports, &log).await {
                Ok((child, reader)) => break (child, reader, ports),
                // Another program uses the ports.
                Err(_) if attempts < ATTEMPTS => sleep(Duration::from_millis(100)).await,
                Err(error) => return Err(error),
            }
        };
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)).context("no process")?;
        let dial = workshop.dial(ports);
        // The first request allocates what later ones reuse.
        Asker::new(dial.server.plain).ask("GET", "/ping", "").await?;
        let fresh = Footprint::of(pid)?;
        Ok(Self { child, pid, ports, dial, log, fresh, _hoarder: hoarder, _reader: reader })
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        // The signal fails for a server that has ended.
        let _ = kill_process(self.pid, signal);
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It has not ended within [`ENDS_WITHIN`].
    pub(crate) async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        Ok(timeout(ENDS_WITHIN, self.child.wait()).await??)
    }

    /// Whether it is running.
    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The panics that it has logged.
    #[must_use]
    pub(crate) fn panics(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().filter(|line| line.contains("panicked")).map(str::to_owned).collect()
    }

    /// Its resources when it was fresh.
    #[must_use]
    pub(crate) fn fresh(&self) -> &Footprint {
        &self.fresh
    }

    /// Its resources now.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn footprint(&self) -> io::Result<Footprint> {
        Footprint::of(self.pid)
    }

    /// The status objects of the active streams, one per line, for a report.
    pub(crate) async fn live_streams(&self) -> String {
        let list = Asker::new(self.dial.server.plain).ask("GET", "/stream", "").await.map(|(_, list)| list);
        let list: Vec<serde_json::Value> =
            list.ok().and_then(|list| serde_json::from_slice(&list).ok()).unwrap_or_default();
        let live =
            list.iter().filter(|stream| stream["active"] == true).map(|stream| format!("\n  {stream}"));
        live.collect()
    }

    /// Its resources according to its metrics.
    ///
    /// # Errors
    /// It does not respond.
    pub(crate) async fn metrics(&self) -> anyhow::Result<Metrics> {
        let (status, text) = Asker::new(self.dial.server.plain).ask("GET", "/metrics", "").await?;
        if status != 200 {
            bail!("/metrics: {status}");
        }
        Metrics::parse(&String::from_utf8(text)?)
    }
}

/// Starts the process, and waits until it listens.
async fn launch(
    workshop: &Workshop,
    episode: &Episode,
    ports: Ports,
    log: &Path,
) -> anyhow::Result<(Child, JoinSet<()>)> {
    let stderr = fs::File::options().create(true).append(true).open(log)?;
    let mut command = command(workshop, episode, ports);
    let mut child = command.stdout(Stdio::piped()).stderr(stderr).kill_on_drop(true).spawn()?;
    let stdout = child.stdout.take().context("no output")?;
    let mut lines = BufReader::new(stdout).lines();
    let listens = timeout(STARTS_WITHIN, until_it_listens(&mut lines)).await?;
    listens.with_context(|| fs::read_to_string(log).unwrap_or_default())?;
    let mut reader = JoinSet::new();
    reader.spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((child, reader))
}

fn command(workshop: &Workshop, episode: &Episode, ports: Ports) -> Command {
    let program = workshop.path("rendezvous");
    let mut command = if episode.trouble == Trouble::FewDescriptors {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("ulimit -n {FEW_DESCRIPTORS} && exec \"$0\" \"$@\"")).arg(program);
        shell
    } else {
        Command::new(program)
    };
    if let Trouble::FewPipes(_) = episode.trouble {
        run_by_poor_user(&mut command, episode);
    }
    let seconds = |time: Duration| format!("{}s", time.as_secs());
    command
        .args(["serve", "--host", "127.0.0.1", "--threads", "2"])
        .args(["--data-path", if episode.copies { "copy" } else { "splice" }])
        .args(["--port", &ports.tls.to_string(), "--plain-port", &ports.plain.to_string()])
        .arg("--tls-cert")
        .arg(workshop.path("certificate.pem"))
        .arg("--tls-key")
        .arg(workshop.path("key.pem"))
        .args(["--ttl", &seconds(TTL), "--drain-timeout", &seconds(DRAIN)])
        .args(["--max-streams-per-client", &MAX_STREAMS.to_string()])
        .env("RENDEZVOUS_LOG_LEVEL", "warn");
    if let Some(idle) = episode.idle() {
        command.args(["--idle-timeout", &seconds(idle)]);
    }
    if let Some(pace) = episode.pace {
        command.args(["--max-stream-rate", &pace.to_string()]);
    }
    if episode.proxy.is_some() {
        // Behind a trusted proxy the server takes no client for a local one, which may read the metrics.
        command.args(["--trusted-proxy", "127.0.0.1", "--open-list"]);
    }
    command
}

async fn until_it_listens(lines: &mut Lines<impl AsyncBufRead + Unpin>) -> anyhow::Result<()> {
    while let Some(line) = lines.next_line().await? {
        if line.starts_with("Listening without TLS") {
            return Ok(());
        }
    }
    Err(anyhow!("it ended before it listened"))
}
