//! The flags of `rendezvous serve`, grouped as its help shows them.
//!
//! The first line of a flag's comment is what `-h` shows; `--help` shows all of it, with the lines as they are here.

#![allow(clippy::struct_field_names, reason = "a field has the name of its flag")]

mod cluster;
mod limits;
mod settings;
mod values;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use clap::builder::BoolishValueParser;
use rendezvous_server::config::{CorsOrigin, HostName, PeerTimeout, Period, PublicUrl, Size};
use rendezvous_server::proxies::Network;

use self::cluster::ClusterFlags;
use self::limits::ServerLimits;
use self::values::{DataPathName, TokenFile, address, count, threads, token_file};
use crate::cli::log;

/// The end of both help texts.
macro_rules! variables {
    () => {
        "Every flag is also an environment variable: --tls-cert is RENDEZVOUS_TLS_CERT. A flag on the command line\n\
         takes precedence. In a variable, commas separate the values of a flag that may be repeated."
    };
}

const SHORT_END: &str = concat!(variables!(), "\n\n--help says more about each flag, and has examples.");

const LONG_END: &str = concat!(
    variables!(),
    "

Examples:
  For this machine, to try it:
      rendezvous serve

  For other machines, with TLS, and a token that creating a stream requires:
      rendezvous serve --host 0.0.0.0 --port 443 \\
          --tls-cert /etc/rendezvous/cert.pem --tls-key /etc/rendezvous/key.pem \\
          --create-token-file /etc/rendezvous/create-token

  Behind a proxy on this machine that terminates TLS, with a listener for operators:
      rendezvous serve --trusted-proxy 127.0.0.1 --trusted-proxy ::1 \\
          --admin-listen 127.0.0.1:9998

  For sides that take minutes to connect, and transfers that a restart should wait for:
      rendezvous serve --ttl 10m --drain-timeout 1h"
);

/// Start the server
///
/// SIGINT or SIGTERM shuts it down once running transfers have ended, for which it waits up to
/// --drain-timeout. A second signal ends it at once. SIGHUP reads the certificate again.
#[derive(Debug, Args)]
#[command(
    verbatim_doc_comment,
    after_help = SHORT_END,
    after_long_help = LONG_END,
    mut_args = |flag| flag.hide_env(true)
)]
pub(crate) struct ServeArguments {
    #[command(flatten)]
    listeners: Listeners,
    #[command(flatten)]
    access: Access,
    #[command(flatten)]
    cluster: ClusterFlags,
    #[command(flatten)]
    timeouts: Timeouts,
    #[command(flatten)]
    server: ServerLimits,
    #[command(flatten)]
    client: PerClient,
    #[command(flatten)]
    stream: PerStream,
    #[command(flatten)]
    performance: Performance,
    #[command(flatten)]
    log: Log,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Listeners")]
struct Listeners {
    /// Name or address to listen on
    ///
    /// Only this machine reaches the default; 0.0.0.0 and :: listen on all networks. Of a name, the
    /// first address is used.
    #[arg(long, env = "RENDEZVOUS_HOST", default_value = "127.0.0.1", verbatim_doc_comment)]
    host: String,
    /// Port to listen on; 0 picks a free one
    #[arg(long, env = "RENDEZVOUS_PORT", default_value_t = 9999)]
    port: u16,
    /// Certificate chain, in PEM; --port then speaks TLS
    ///
    /// The server's own certificate comes first. Both files are read again when they change, and
    /// on SIGHUP.
    #[arg(
        long,
        env = "RENDEZVOUS_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key",
        verbatim_doc_comment
    )]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, in PEM
    #[arg(long, env = "RENDEZVOUS_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Additional port of --host, without TLS
    #[arg(long, env = "RENDEZVOUS_PLAIN_PORT", value_name = "PORT", requires = "tls_cert")]
    plain_port: Option<u16>,
    /// Listener for operators, without TLS
    ///
    /// GET /stream, /events, /metrics, /healthz and /readyz are then served only there. Descriptors are
    /// reserved for it, so it responds even when the server is full of clients.
    #[arg(
        long,
        env = "RENDEZVOUS_ADMIN_LISTEN",
        value_name = "ADDR:PORT",
        value_parser = address,
        verbatim_doc_comment
    )]
    admin_listen: Option<SocketAddr>,
    /// URL at which clients reach this very server
    ///
    /// The response to POST /stream then has the URL of the stream. Behind a name that leads to
    /// several servers it is the URL of this one.
    #[arg(long, env = "RENDEZVOUS_PUBLIC_URL", value_name = "URL", verbatim_doc_comment)]
    public_url: Option<PublicUrl>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Access")]
struct Access {
    /// File with the token that POST /stream requires, and the first side of a path
    ///
    /// One line of at least 16 visible ASCII characters, read once, at the start. Without this flag
    /// everybody who reaches the server may create streams.
    #[arg(
        long,
        env = "RENDEZVOUS_CREATE_TOKEN_FILE",
        value_name = "FILE",
        value_parser = token_file,
        verbatim_doc_comment
    )]
    create_token_file: Option<TokenFile>,
    /// Serve no named paths: /p/... then gets 404
    #[arg(long, env = "RENDEZVOUS_NO_PATHS", value_parser = BoolishValueParser::new())]
    no_paths: bool,
    /// File with the token that GET /stream, GET /events and GET /metrics require
    ///
    /// Same format as --create-token-file. Without this flag and --open-list, only loopback listeners
    /// show the list of streams, and only those and --admin-listen show the metrics.
    #[arg(
        long,
        env = "RENDEZVOUS_ADMIN_TOKEN_FILE",
        value_name = "FILE",
        value_parser = token_file,
        verbatim_doc_comment
    )]
    admin_token_file: Option<TokenFile>,
    /// Show the list of streams and the metrics to everybody
    ///
    /// The list has the ids of all streams, and an id gives the right to use its stream.
    #[arg(
        long,
        env = "RENDEZVOUS_OPEN_LIST",
        value_parser = BoolishValueParser::new(),
        verbatim_doc_comment
    )]
    open_list: bool,
    /// Network of proxies that may name the client; may be repeated
    ///
    /// On connections from it, Forwarded or X-Forwarded-For decides which client the limits and the
    /// log refer to. The list and the metrics then need --admin-listen, --admin-token-file or
    /// --open-list, also on loopback.
    #[arg(
        long,
        env = "RENDEZVOUS_TRUSTED_PROXY",
        value_name = "CIDR",
        value_delimiter = ',',
        verbatim_doc_comment
    )]
    trusted_proxy: Vec<Network>,
    /// Origin whose web pages may use the server, or * for any; may be repeated
    #[arg(
        long = "cors-origin",
        env = "RENDEZVOUS_CORS_ORIGIN",
        value_name = "ORIGIN",
        value_delimiter = ','
    )]
    cors_origins: Vec<CorsOrigin>,
    /// Additional name that loopback listeners accept as Host; may be repeated
    ///
    /// They respond to other names with 403, because the name of a web page can resolve to loopback
    /// (DNS rebinding).
    #[arg(
        long,
        env = "RENDEZVOUS_ALLOW_HOST",
        value_name = "NAME",
        value_delimiter = ',',
        verbatim_doc_comment
    )]
    allow_host: Vec<HostName>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Timeouts")]
struct Timeouts {
    /// How long a stream or a path waits for both sides
    ///
    /// Then the waiting side gets 504. A stream that has ended stays visible for the same time.
    /// Periods are seconds, or have a unit: 60, 2.5, 500ms, 60s, 10m, 6h, 2d.
    #[arg(long, env = "RENDEZVOUS_TTL", value_name = "PERIOD", default_value = "60s", verbatim_doc_comment)]
    ttl: Period,
    /// Longest ttl that the creator of a stream may set
    ///
    /// The stream then waits for that time instead of --ttl. The limit is never less than --ttl.
    #[arg(
        long,
        env = "RENDEZVOUS_MAX_TTL",
        value_name = "PERIOD",
        default_value = "24h",
        verbatim_doc_comment
    )]
    max_ttl: Period,
    /// How long a transfer may move no byte before it is aborted
    #[arg(long, env = "RENDEZVOUS_IDLE_TIMEOUT", value_name = "PERIOD", default_value = "6h")]
    idle_timeout: Period,
    /// How long a request head or a JSON body may take
    ///
    /// Also how long a client may read nothing of a response, and how long a TLS handshake may take.
    #[arg(
        long,
        env = "RENDEZVOUS_HEAD_TIMEOUT",
        value_name = "PERIOD",
        default_value = "10s",
        verbatim_doc_comment
    )]
    head_timeout: Period,
    /// How long a connection is kept open between two requests
    ///
    /// Set it higher than the keep-alive timeout of a proxy in front. Otherwise the proxy sends
    /// requests on connections that are being closed.
    #[arg(
        long,
        env = "RENDEZVOUS_KEEP_ALIVE",
        value_name = "PERIOD",
        default_value = "75s",
        verbatim_doc_comment
    )]
    keep_alive: Period,
    /// How long a shutdown waits for streams
    ///
    /// Meanwhile new streams are refused, but sides of existing ones may still connect, and transfers
    /// continue. Then waiting requests get 503 and running transfers are aborted.
    #[arg(
        long,
        env = "RENDEZVOUS_DRAIN_TIMEOUT",
        value_name = "PERIOD",
        default_value = "30s",
        verbatim_doc_comment
    )]
    drain_timeout: Period,
    /// How long a client may acknowledge nothing: 3s to 12h
    ///
    /// A client whose kernel does not even acknowledge keepalive probes for so long counts as
    /// disconnected.
    #[arg(
        long,
        env = "RENDEZVOUS_PEER_TIMEOUT",
        value_name = "PERIOD",
        default_value = "2m",
        verbatim_doc_comment
    )]
    peer_timeout: PeerTimeout,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits per client")]
struct PerClient {
    /// Connections of one client [default: 10000, and no limit on loopback]
    ///
    /// More get 429. A client is an IPv4 address or an IPv6 /64. A limit that is set explicitly also
    /// applies on loopback.
    #[arg(
        long,
        env = "RENDEZVOUS_MAX_CONNECTIONS_PER_CLIENT",
        value_name = "COUNT",
        value_parser = count,
        verbatim_doc_comment
    )]
    max_connections_per_client: Option<usize>,
    /// Streams of one client [default: 1500, and no limit on loopback]
    ///
    /// Only streams that it has created and that have not ended count. More get 429.
    #[arg(
        long,
        env = "RENDEZVOUS_MAX_STREAMS_PER_CLIENT",
        value_name = "COUNT",
        value_parser = count,
        verbatim_doc_comment
    )]
    max_streams_per_client: Option<usize>,
    /// Streams that one client creates per minute [default: 6000, and no limit on loopback]
    ///
    /// More get 429.
    #[arg(
        long,
        env = "RENDEZVOUS_MAX_CREATIONS_PER_MINUTE",
        value_name = "COUNT",
        value_parser = count,
        verbatim_doc_comment
    )]
    max_creations_per_minute: Option<usize>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits per stream")]
struct PerStream {
    /// Bytes of one stream; more get 413 [default: no limit]
    ///
    /// A number with or without a unit: 65536, 64k, 10m, 2g, 1t, where k is 1024.
    #[arg(long, env = "RENDEZVOUS_MAX_STREAM_BYTES", value_name = "BYTES", verbatim_doc_comment)]
    max_stream_bytes: Option<Size>,
    /// Maximum rate of one stream, in bytes per second [default: no limit]
    #[arg(long, env = "RENDEZVOUS_MAX_STREAM_RATE", value_name = "BYTES")]
    max_stream_rate: Option<Size>,
    /// Minimum rate of an upload, in bytes per second [default: no limit]
    ///
    /// Measured over 10 seconds in which the receiver waits for the sender. Slower uploads are
    /// aborted.
    #[arg(long, env = "RENDEZVOUS_MIN_UPLOAD_RATE", value_name = "BYTES", verbatim_doc_comment)]
    min_upload_rate: Option<Size>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Performance")]
struct Performance {
    /// Threads that serve connections [default: one for each core]
    #[arg(long, env = "RENDEZVOUS_THREADS", value_name = "COUNT", value_parser = threads)]
    threads: Option<usize>,
    /// How bodies are moved if neither side uses TLS
    ///
    /// splice moves them inside the Linux kernel; elsewhere, and with copy, they pass through
    /// buffers of the server.
    #[arg(
        long,
        env = "RENDEZVOUS_DATA_PATH",
        value_name = "HOW",
        default_value = "splice",
        verbatim_doc_comment
    )]
    data_path: DataPathName,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Log")]
struct Log {
    /// Lowest level to log
    #[arg(long, env = "RENDEZVOUS_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: log::Level,
    /// Which events to log, instead of --log-level
    ///
    /// A level, or levels for targets: debug, or warn,access=info. Requests and streams have the
    /// target access.
    #[arg(long, env = "RENDEZVOUS_LOG", value_name = "FILTER", verbatim_doc_comment)]
    log: Option<log::Filter>,
    /// Format of the log on standard error
    #[arg(long, env = "RENDEZVOUS_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: log::Format,
}
