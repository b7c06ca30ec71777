//! `rendezvous serve`.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use rendezvous_server::config::{
    ClientLimits, Config, CorsOrigin, DataPath, HostName, PeerTimeout, Period, Size, StreamLimits, TlsFiles,
    Token,
};
use rendezvous_server::proxies::Network;
use rendezvous_server::{Inherited, ListenerKind, SHUTDOWN_GRACE, Server};
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{log, systemd};

/// More are a mistake.
const MAX_THREADS: usize = 1024;

/// Start the server. SIGINT or SIGTERM ends it once running streams have ended; a second one ends it at once.
#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// Name or address to listen on
    #[arg(long, env = "RENDEZVOUS_HOST", default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 picks a free one
    #[arg(long, env = "RENDEZVOUS_PORT", default_value_t = 9999)]
    port: u16,
    /// The certificate chain, in PEM: with it, --port speaks TLS. Read again when it changes, and on SIGHUP
    #[arg(long, env = "RENDEZVOUS_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM
    #[arg(long, env = "RENDEZVOUS_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// A further port of the host, without TLS
    #[arg(long, env = "RENDEZVOUS_PLAIN_PORT", value_name = "PORT", requires = "tls_cert")]
    plain_port: Option<u16>,
    /// How long a stream waits for both sides, and stays visible after its end: 60, 2.5, 500ms, 60s, 10m, 6h
    #[arg(long, env = "RENDEZVOUS_TTL", value_name = "PERIOD", default_value = "60s")]
    ttl: Period,
    /// How long a running stream may stand still
    #[arg(long, env = "RENDEZVOUS_IDLE_TIMEOUT", value_name = "PERIOD", default_value = "6h")]
    idle_timeout: Period,
    /// How long a request head (or a JSON body) may take
    #[arg(long, env = "RENDEZVOUS_HEAD_TIMEOUT", value_name = "PERIOD", default_value = "10s")]
    head_timeout: Period,
    /// How long a connection is kept between two requests: longer than a proxy in front keeps it
    #[arg(long, env = "RENDEZVOUS_KEEP_ALIVE", value_name = "PERIOD", default_value = "75s")]
    keep_alive: Period,
    /// How long sides may still meet, and streams go on, after a signal to end
    #[arg(long, env = "RENDEZVOUS_DRAIN_TIMEOUT", value_name = "PERIOD", default_value = "30s")]
    drain_timeout: Period,
    /// How long a client may answer nothing, not even a keepalive, before it counts as gone: 3s to 12h
    #[arg(long, env = "RENDEZVOUS_PEER_TIMEOUT", value_name = "PERIOD", default_value = "2m")]
    peer_timeout: PeerTimeout,
    /// Streams at a time that have not ended; more are refused with 503
    #[arg(long, env = "RENDEZVOUS_MAX_STREAMS", value_name = "COUNT", default_value = "100000", value_parser = count)]
    max_streams: usize,
    /// Memory of the header sets, error reports and JSON bodies of all streams together; requests that need more get 503
    #[arg(long, env = "RENDEZVOUS_MAX_METADATA_BYTES", value_name = "BYTES", default_value = "64m")]
    max_metadata_bytes: Size,
    /// Connections of clients at a time; more are refused with 503
    #[arg(long, env = "RENDEZVOUS_MAX_CONNECTIONS", value_name = "COUNT", default_value = "210000", value_parser = count)]
    max_connections: usize,
    /// Connections of one client at a time; more are refused with 429 [default: 10000, and no limit on loopback]
    #[arg(long, env = "RENDEZVOUS_MAX_CONNECTIONS_PER_CLIENT", value_name = "COUNT", value_parser = count)]
    max_connections_per_client: Option<usize>,
    /// Streams that one client has made and that have not ended; more are refused with 429 [default: 1500, and no
    /// limit on loopback]
    #[arg(long, env = "RENDEZVOUS_MAX_STREAMS_PER_CLIENT", value_name = "COUNT", value_parser = count)]
    max_streams_per_client: Option<usize>,
    /// Streams that one client makes in a minute; more are refused with 429 [default: 6000, and no limit on loopback]
    #[arg(long, env = "RENDEZVOUS_MAX_CREATIONS_PER_MINUTE", value_name = "COUNT", value_parser = count)]
    max_creations_per_minute: Option<usize>,
    /// Proxies whose Forwarded or X-Forwarded-For says who the client is, as networks; may be given several times
    #[arg(long, env = "RENDEZVOUS_TRUSTED_PROXY", value_name = "CIDR", value_delimiter = ',')]
    trusted_proxy: Vec<Network>,
    /// Bytes of a stream; more are refused with 413: 65536, 64k, 10m, 2g, 1t [default: no limit]
    #[arg(long, env = "RENDEZVOUS_MAX_STREAM_BYTES", value_name = "BYTES")]
    max_stream_bytes: Option<Size>,
    /// Bytes per second that a stream passes on at most [default: no limit]
    #[arg(long, env = "RENDEZVOUS_MAX_STREAM_RATE", value_name = "BYTES")]
    max_stream_rate: Option<Size>,
    /// Bytes per second that a sender brings at least, over 10 seconds in which the receiver waits for it [default: no
    /// limit]
    #[arg(long, env = "RENDEZVOUS_MIN_UPLOAD_RATE", value_name = "BYTES")]
    min_upload_rate: Option<Size>,
    /// Threads that serve [default: one for each core]
    #[arg(long, env = "RENDEZVOUS_THREADS", value_name = "COUNT", value_parser = threads)]
    threads: Option<usize>,
    /// How the bodies of streams without TLS are moved: by splice where the system has it, or by copying
    #[arg(long, env = "RENDEZVOUS_DATA_PATH", default_value = "splice")]
    data_path: DataPathName,
    /// File with the token that POST /stream needs then
    #[arg(long, env = "RENDEZVOUS_CREATE_TOKEN_FILE", value_name = "FILE", value_parser = token_file)]
    create_token_file: Option<Token>,
    /// File with the token that the list, GET /stream, and the metrics, GET /metrics, need then
    #[arg(long, env = "RENDEZVOUS_ADMIN_TOKEN_FILE", value_name = "FILE", value_parser = token_file)]
    admin_token_file: Option<Token>,
    /// Show the list, which has the ids of all streams, and the metrics to everybody who reaches them
    #[arg(long, env = "RENDEZVOUS_OPEN_LIST", value_parser = BoolishValueParser::new())]
    open_list: bool,
    /// A listener for the operators, to which the list, /metrics, /healthz and /readyz move. It also answers where the server is
    /// full
    #[arg(long, env = "RENDEZVOUS_ADMIN_LISTEN", value_name = "ADDR:PORT", value_parser = address)]
    admin_listen: Option<SocketAddr>,
    /// An origin whose web pages may use the server, or * for any; may be given again
    #[arg(
        long = "cors-origin",
        env = "RENDEZVOUS_CORS_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ','
    )]
    cors_origins: Vec<CorsOrigin>,
    /// A further name that listeners on loopback accept as Host; may be given several times
    #[arg(long, env = "RENDEZVOUS_ALLOW_HOST", value_name = "NAME", value_delimiter = ',')]
    allow_host: Vec<HostName>,
    /// The least important events to log
    #[arg(long, env = "RENDEZVOUS_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: log::Level,
    /// Which events to log, in place of --log-level: a level, or levels for targets such as warn,access=info
    #[arg(long, env = "RENDEZVOUS_LOG", value_name = "FILTER")]
    log: Option<log::Filter>,
    /// How to log, to standard error
    #[arg(long, env = "RENDEZVOUS_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: log::Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DataPathName {
    Splice,
    Copy,
}

fn threads(text: &str) -> Result<usize, String> {
    let threads = text.parse().ok().filter(|threads| (1..=MAX_THREADS).contains(threads));
    threads.ok_or_else(|| format!("give a whole number from 1 to {MAX_THREADS}"))
}

fn count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| *count >= 1 && u32::try_from(*count).is_ok());
    count.ok_or_else(|| format!("give a whole number from 1 to {}", u32::MAX))
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "give an address and a port, such as 127.0.0.1:9998 or [::1]:0".to_owned())
}

fn token_file(path: &str) -> Result<Token, String> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("the file can not be read: {error}"))?;
    Token::parse(text.trim()).map_err(|error| format!("the file holds no token: {error}"))
}

impl ServeArguments {
    /// `descriptors` are what the process may have.
    fn config(&self, descriptors: Option<usize>) -> Config {
        Config {
            host: self.host.clone(),
            port: self.port,
            ttl: self.ttl,
            idle_timeout: self.idle_timeout,
            head_timeout: self.head_timeout,
            keep_alive: self.keep_alive,
            drain_timeout: self.drain_timeout,
            peer_timeout: self.peer_timeout,
            max_streams: self.max_streams,
            max_metadata_bytes: self.max_metadata_bytes,
            max_connections: self.max_connections,
            descriptors,
            clients: ClientLimits {
                max_connections: self.max_connections_per_client,
                max_streams: self.max_streams_per_client,
                max_creations_per_minute: self.max_creations_per_minute,
            },
            trusted_proxies: self.trusted_proxy.iter().copied().collect(),
            streams: StreamLimits {
                max_bytes: self.max_stream_bytes,
                max_rate: self.max_stream_rate,
                min_upload_rate: self.min_upload_rate,
            },
            data_path: match self.data_path {
                DataPathName::Splice => DataPath::Splice,
                DataPathName::Copy => DataPath::Copy,
            },
            tls: self
                .tls_cert
                .clone()
                .zip(self.tls_key.clone())
                .map(|(certificate, key)| TlsFiles { certificate, key }),
            plain_port: self.plain_port,
            admin_listen: self.admin_listen,
            create_token: self.create_token_file.clone(),
            admin_token: self.admin_token_file.clone(),
            open_list: self.open_list,
            cors_origins: self.cors_origins.clone(),
            allowed_hosts: self.allow_host.clone(),
        }
    }
}

/// Runs the server until it is told to end.
pub(crate) fn run(arguments: &ServeArguments) -> anyhow::Result<()> {
    // Before the log and the runtime start their threads.
    let inherited = systemd::sockets()?;
    let filter = arguments.log.clone().unwrap_or_else(|| arguments.log_level.into());
    let _until_all_is_logged = log::start(filter, arguments.log_format);
    let config = arguments.config(raise_descriptor_limit());
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = arguments.threads {
        runtime.worker_threads(threads);
    }
    let runtime = runtime.enable_all().build().context("cannot start")?;
    // On a worker of the runtime, so that a connection begins where it was accepted, and not on another
    // thread.
    let ended = runtime.block_on(runtime.spawn(serve(config, inherited)));
    // Whatever is left has had its time, or was not to have any; a file system that hangs may never answer.
    runtime.shutdown_background();
    ended.context("the server panicked")?
}

async fn serve(config: Config, inherited: Vec<Inherited>) -> anyhow::Result<()> {
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let mut hangup = signal(SignalKind::hangup()).context("cannot listen for signals")?;
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let drain = config.drain_timeout.get() + SHUTDOWN_GRACE;
    let server = tokio::select! {
        bound = Server::bind(config, inherited) => bound?,
        // There is nothing to drain yet.
        () = signals.next() => return Ok(()),
    };
    if let Some(address) = server.address(ListenerKind::Main) {
        let base = format!("{scheme}://{address}");
        // Nobody has to read it.
        let _ = greet(&base, &server);
        systemd::ready(base);
    }
    let reload = server.reload();
    let stop = CancellationToken::new();
    tokio::select! {
        () = server.run(stop.cancelled()) => Ok(()),
        () = systemd::keep_watchdog_calm() => Ok(()),
        () = async { while hangup.recv().await.is_some() { reload.notify_one() } } => Ok(()),
        () = async {
            signals.next().await;
            systemd::stopping(drain);
            stop.cancel();
            signals.next().await;
        } => anyhow::bail!("ended at once by a second signal; streams that ran were cut"),
    }
}

/// What a newcomer needs: where it is, and how to try it.
fn greet(base: &str, server: &Server) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "Listening on {base}")?;
    writeln!(out, r#"  id=$(curl -s -X POST {base}/stream | cut -d'"' -f4); curl -s {base}/stream/$id &"#)?;
    writeln!(out, "  echo hello | curl -T - {base}/stream/$id")?;
    if let Some(plain) = server.address(ListenerKind::Plain) {
        writeln!(out, "Listening without TLS on http://{plain}")?;
    }
    if let Some(admin) = server.address(ListenerKind::Admin) {
        writeln!(out, "Listening for operators on http://{admin}")?;
    }
    out.flush()
}

/// Every connection is a descriptor: takes as many as the system allows, and says how many, where that is bounded.
fn raise_descriptor_limit() -> Option<usize> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Refused or not, what holds now is read below.
    let _ = setrlimit(Resource::Nofile, limit);
    let descriptors = getrlimit(Resource::Nofile).current?;
    Some(usize::try_from(descriptors).unwrap_or(usize::MAX))
}

/// SIGINT and SIGTERM.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
