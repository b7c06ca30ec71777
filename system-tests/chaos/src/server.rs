//! The server under test: a process with its ports, its resources according to the system, and its metrics.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::client::{Addresses, Asker, Dial};
use crate::plan::{Episode, Proxy, Trouble};
use crate::proxy::RunningProxy;

/// How long a stream waits, and how long it stays known after its end.
pub(crate) const TTL: Duration = Duration::from_secs(4);
/// How long running transfers may go on after SIGTERM.
const DRAIN: Duration = Duration::from_secs(1);
/// The time within which it must end: the drain, the last responses, and a busy machine.
pub(crate) const ENDS_WITHIN: Duration = Duration::from_secs(15);
/// The time within which it must listen.
const STARTS_WITHIN: Duration = Duration::from_secs(20);
/// The ports of the servers.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
/// Attempts to find free ports.
const ATTEMPTS: u32 = 10;
/// A limit of descriptors below the number of clients.
const FEW_DESCRIPTORS: u32 = 100;
/// The streams of a client at a time: more than an episode needs.
pub(crate) const MAX_STREAMS: usize = 100;
/// `TIME_WAIT` in the system's list: only the kernel remembers the connection.
const TIME_WAIT: &str = " 06 ";
/// Unused user ids, one for each episode that is short of pipes.
const FIRST_USER: u64 = 1_900_000;

/// The program and the certificate, which all servers of a run share.
pub(crate) struct Workshop {
    folder: TempDir,
    /// The certificate and its key.
    both: String,
    trust: [Arc<ClientConfig>; 2],
    next_port: AtomicU16,
}

impl Workshop {
    /// Copies the program, so that builds during the run have no effect.
    ///
    /// # Errors
    /// There is no such program.
    pub(crate) fn new(program: &Path) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        // Other users must be able to read the folder.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(folder.path(), open)?;
        fs::copy(program, folder.path().join("rendezvous"))
            .with_context(|| format!("there is no server {}: cargo build --release", program.display()))?;
        fs::copy(std::env::current_exe()?, folder.path().join("chaos"))?;
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        fs::write(folder.path().join("certificate.pem"), made.cert.pem())?;
        fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem())?;
        let both = made.cert.pem() + &made.signing_key.serialize_pem();
        let trust = |protocol: &[u8]| trust(made.cert.der().clone(), protocol);
        // Two runs at the same time begin at different ports.
        let next_port = AtomicU16::new(u16::try_from(std::process::id() * 128 % 50_000)?);
        Ok(Self { trust: [trust(b"http/1.1")?, trust(b"h2")?], folder, both, next_port })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The next ports. They are below the range for clients, so that no client gets the ports of a server that is down.
    fn free_ports(&self) -> Ports {
        let port =
            || PORTS.start + self.next_port.fetch_add(1, Ordering::Relaxed) % (PORTS.end - PORTS.start);
        Ports { plain: port(), tls: port() }
    }

    fn dial(&self, ports: Ports) -> Dial {
        Dial {
            server: ports.addresses(),
            proxy: None,
            trust: self.trust.clone(),
            certificate: self.path("certificate.pem"),
        }
    }

    /// Starts the proxy of an episode in front of its server, and adds it to `dial`.
    ///
    /// # Errors
    /// The proxy does not start.
    pub(crate) async fn start_proxy(
        &self,
        proxy: Proxy,
        episode: &Episode,
        dial: &mut Dial,
    ) -> anyhow::Result<RunningProxy> {
        let folder = self.path(&format!("{}-{proxy}", episode.number));
        let mut attempts = 0;
        loop {
            attempts += 1;
            let of_proxy = self.free_ports().addresses();
            let addresses = [of_proxy.plain, of_proxy.tls];
            match RunningProxy::start(proxy, &folder, &self.both, dial.server.plain, addresses).await {
                Ok(running) => {
                    dial.proxy = Some(of_proxy);
                    break Ok(running);
                }
                // As for the server, another program may use the ports.
                Err(_) if attempts < ATTEMPTS => sleep(Duration::from_millis(100)).await,
                Err(error) => break Err(error),
            }
        }
    }
}

fn trust(certificate: CertificateDer<'static>, protocol: &[u8]) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    plain: u16,
    tls: u16,
}

impl Ports {
    fn addresses(self) -> Addresses {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Addresses { plain: at(self.plain), tls: at(self.tls) }
    }
}

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
        let (child, ports) = loop {
            attempts += 1;
            let ports = before.map_or_else(|| workshop.free_ports(), |before| before.ports);
            match launch(workshop, episode, ports, &log).await {
                Ok(child) => break (child, ports),
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
        Ok(Self { child, pid, ports, dial, log, fresh, _hoarder: hoarder })
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

/// Starts the process, and waits until it listens.
async fn launch(workshop: &Workshop, episode: &Episode, ports: Ports, log: &Path) -> anyhow::Result<Child> {
    let stderr = fs::File::options().create(true).append(true).open(log)?;
    let mut command = command(workshop, episode, ports);
    let mut child = command.stdout(Stdio::piped()).stderr(stderr).kill_on_drop(true).spawn()?;
    let stdout = child.stdout.take().context("no output")?;
    let listens = timeout(STARTS_WITHIN, until_it_listens(stdout)).await?;
    listens.with_context(|| fs::read_to_string(log).unwrap_or_default())?;
    Ok(child)
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

/// Root is exempt from the limit on the pipes of a user.
fn run_by_poor_user(command: &mut Command, episode: &Episode) {
    if geteuid().is_root() {
        let user = u32::try_from(FIRST_USER + episode.number % 50_000).unwrap_or(u32::MAX);
        command.uid(user).gid(user);
    }
}

/// Takes all pipes except `left` of the user whose server is about to start.
async fn hoard(workshop: &Workshop, episode: &Episode, left: u32) -> anyhow::Result<Child> {
    let mut command = Command::new(workshop.path("chaos"));
    run_by_poor_user(&mut command, episode);
    command.args(["--hoard", &left.to_string()]).kill_on_drop(true);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut ready = [0];
    child
        .stdout
        .as_mut()
        .context("no output")?
        .read_exact(&mut ready)
        .await
        .context("the process that takes pipes failed")?;
    Ok(child)
}

/// Runs the process that [`hoard`] starts: opens pipes until it gets no more, closes `left` of them, and waits for the end of its
/// input.
///
/// # Errors
/// It cannot write its output.
pub(crate) fn be_hoarder(left: usize) -> io::Result<()> {
    const CAPACITY: usize = 1 << 20;
    let mut pipes = Vec::new();
    while let Ok(ends) = rustix::pipe::pipe()
        && rustix::pipe::fcntl_setpipe_size(&ends.1, CAPACITY).is_ok()
    {
        pipes.push(ends);
    }
    pipes.truncate(pipes.len().saturating_sub(left));
    let mut stdout = io::stdout();
    stdout.write_all(b".")?;
    stdout.flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    drop(pipes);
    Ok(())
}

async fn until_it_listens(stdout: impl tokio::io::AsyncRead + Unpin) -> anyhow::Result<()> {
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await? {
        if line.starts_with("Listening without TLS") {
            return Ok(());
        }
    }
    Err(anyhow!("it ended before it listened"))
}

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
    fn of(pid: Pid) -> io::Result<Self> {
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
    use std::os::unix::fs::OpenOptionsExt;
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().try_into().unwrap_or_default();
    let opened = fs::File::options().read(true).custom_flags(nonblock).open(path);
    // The pipe of the server's output, which this process reads, is not one of its pipes for bodies.
    opened.ok().and_then(|pipe| rustix::io::ioctl_fionread(pipe.as_fd()).ok()).unwrap_or_default()
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
    fn parse(text: &str) -> anyhow::Result<Self> {
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.trim().parse().ok())
                .with_context(|| format!("/metrics does not tell {name}"))
        };
        let streams = |state: &str| value(&format!("rendezvous_streams{{state=\"{state}\"}}"));
        Ok(Self {
            open_connections: value("rendezvous_open_connections")?,
            pipes_in_use: value("rendezvous_pipes_in_use")?,
            busy_streams: streams("source_waits")? + streams("destination_waits")? + streams("streaming")?,
            idle_streams: streams("created")? + streams("ended")?,
        })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_and_a_missing_one_is_no_zero() {
        let text = "rendezvous_open_connections 3\nrendezvous_pipes_in_use 2\n\
                    rendezvous_streams{state=\"created\"} 1\nrendezvous_streams{state=\"source_waits\"} 1\n\
                    rendezvous_streams{state=\"destination_waits\"} 1\nrendezvous_streams{state=\"streaming\"} 1\n\
                    rendezvous_streams{state=\"ended\"} 5\n";
        let metrics = Metrics { open_connections: 3, pipes_in_use: 2, busy_streams: 3, idle_streams: 6 };
        assert_eq!(Metrics::parse(text).unwrap(), metrics);
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
