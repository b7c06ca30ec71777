//! The settings of the server, as types that hold only valid values. Independent of the command line.

mod limits;
mod public_url;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use http::Uri;
pub use limits::{
    BadHeadLimit, BadPeerTimeout, BadStreamsPerConnection, HeadLimit, PeerTimeout, StreamsPerConnection,
};
pub use public_url::{BadPublicUrl, PublicUrl};
pub use rendezvous_cluster::secret::SecretError;
pub use rendezvous_cluster::{
    BadClusterName, BadEngineUrl, BadNodeAddress, ClusterName, EngineUrl, NodeAddress, Secrets,
};
pub use rendezvous_core::clients::ClientLimits;
pub use rendezvous_core::token::{BadToken, Token};
pub use rendezvous_core::transfer::StreamLimits;
pub use rendezvous_protocol::{BadPeriod, BadSize, Period, Size};

use crate::proxies::TrustedProxies;

/// All settings of a server. [`Config::default`] serves this machine on port 9999.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The name or address to listen on; `127.0.0.1` by default. Of a name, the first address is used. On a loopback address,
    /// requests get 403 if their `Host` is neither local, nor this, nor in `allowed_hosts`.
    pub host: String,
    /// The port to listen on; 9999 by default. With 0 the system picks one.
    pub port: u16,
    /// How long a stream waits for both sides, from its creation; 60 s by default. Then the waiting side gets 504. A stream that has
    /// ended stays visible for the same time.
    pub ttl: Period,
    /// The longest time that the creator of a stream may make it wait for both sides, instead of `ttl`; 24 h by default. Never less than
    /// `ttl`.
    pub max_ttl: Period,
    /// How long a running transfer may move no byte; 6 h by default. Then the transfer is aborted, and the `PUT` gets 502.
    pub idle_timeout: Period,
    /// How long a TLS handshake, a request head and a JSON body may each take, and how long a client may read nothing of a response;
    /// 10 s by default. Then the connection is closed; an incomplete head or JSON body gets 408 first.
    pub head_timeout: Period,
    /// How long a connection is kept open between two requests; 75 s by default, which is longer than the keep-alive timeout of common
    /// proxies. If it were shorter, a proxy would send requests on connections that are being closed.
    pub keep_alive: Period,
    /// How long a shutdown waits for streams; 30 s by default. Then waiting requests get 503 and running transfers are aborted.
    pub drain_timeout: Period,
    /// How long a client's kernel may acknowledge nothing; 2 min by default. Then the client counts as disconnected.
    pub peer_timeout: PeerTimeout,
    /// The maximum number of streams that have not ended, at least 1; 100 000 by default. `POST /stream` gets 503 beyond it.
    pub max_streams: usize,
    /// Whether there are no named paths: `/p/…` then gets 404; `false` by default.
    pub no_paths: bool,
    /// Memory in bytes for all header sets, error reports and JSON bodies together, and again as much for large responses that
    /// describe streams; 64 MiB by default. Requests that need more get 503. Streams without header sets and reports do not count.
    pub max_metadata_bytes: Size,
    /// Memory in bytes for the bodies of HTTP/2 uploads of all connections; 256 MiB by default. A waiting upload uses at most 64 KiB of it, and
    /// gets 503 if none is left. Windows over 64 KiB, which grow to 8 MiB as the distance needs, use at most half of it. The first 64 KiB of a
    /// running upload do not count.
    pub max_http2_body_bytes: Size,
    /// The maximum number of concurrent requests of an HTTP/2 connection; 100 by default. All but one of them may wait for another side; a
    /// further one that would wait gets 503.
    pub max_streams_per_connection: StreamsPerConnection,
    /// The maximum length of a request head in bytes; 16 KiB by default. Longer heads get 431. A connection uses this much memory only
    /// while it receives a head of that size.
    pub max_head_bytes: HeadLimit,
    /// The maximum number of open connections of clients, at least 1; 210 000 by default: both sides of `max_streams`, and 10 000 more.
    /// Further ones get 503.
    pub max_connections: usize,
    /// The number of file descriptors that the process may open; `None`, the default, is no limit. If it is too small for
    /// `max_connections`, pipes and other uses together, the limit on connections is lowered, and a warning is logged.
    pub descriptors: Option<usize>,
    /// The limits of each client; by default 10 000 connections, 1500 streams and 6000 creations per minute, and none on loopback.
    /// Requests and connections beyond them get 429.
    pub clients: ClientLimits,
    /// The proxies whose `Forwarded` or `X-Forwarded-For` names the client; none by default. Limits and log then refer to that
    /// client. If there are any, loopback listeners for clients show neither the list nor the metrics, unless `open_list` or
    /// `admin_token` is set, because the proxy may run on this machine.
    pub trusted_proxies: TrustedProxies,
    /// The limits on the size and the rates of each stream; none by default. A longer or slower upload is aborted, with the outcome
    /// `too_long` or `too_slow`. A faster one is slowed down.
    pub streams: StreamLimits,
    /// How bodies are moved; by default [`DataPath::Splice`], which costs the least CPU.
    pub data_path: DataPath,
    /// The certificate of the listener on `port`, which then speaks TLS; `None` by default.
    pub tls: Option<TlsFiles>,
    /// An additional port of `host`, without TLS; `None` by default. With 0 the system picks one.
    pub plain_port: Option<u16>,
    /// A separate admin listener, without TLS; `None` by default. When set, the list, metrics and health routes are served only there.
    pub admin_listen: Option<SocketAddr>,
    /// The URL at which clients reach this very server, and no other one behind the same name; `None` by default. The response to `POST
    /// /stream` then has the `url` of the stream. Loopback listeners accept its host as `Host`.
    pub public_url: Option<PublicUrl>,
    /// The token that `POST /stream` requires; `None` by default: everybody who reaches the server may create streams.
    pub create_token: Option<Token>,
    /// The token that the list and the metrics require; `None` by default: loopback listeners show both, the admin listener shows the
    /// metrics, and other listeners show neither.
    pub admin_token: Option<Token>,
    /// Shows the list and the metrics to everybody, on every listener that serves them, unless there is an `admin_token`; `false` by
    /// default. The list has the ids of all streams, and an id gives the right to use its stream.
    pub open_list: bool,
    /// The origins whose web pages may use the server; none by default. Requests from pages of other sites get 403.
    pub cors_origins: Vec<CorsOrigin>,
    /// The names that loopback listeners accept as `Host`, besides local ones and `host`; none by default. Requests with other names
    /// get 403, because the name of a web page can resolve to loopback (DNS rebinding).
    pub allowed_hosts: Vec<HostName>,
}

/// A host name or an IP address, without a port.
///
/// ```
/// use rendezvous_server::config::HostName;
///
/// assert_eq!("Relay.Example.".parse(), Ok(HostName::Name("relay.example".to_owned())));
/// assert_eq!("[::1]".parse(), Ok(HostName::Address([0, 0, 0, 0, 0, 0, 0, 1].into())));
/// assert!("relay.example:80".parse::<HostName>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostName {
    /// An IP address.
    Address(IpAddr),
    /// A name in lower case, without the dot of the root.
    Name(String),
}

/// A text that is not a [`HostName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a host: give a name or an address, without a scheme, port or path, such as relay.example or 10.0.0.5"
)]
pub struct BadHost(String);

impl HostName {
    /// Whether no page of the public web can have this host: a loopback address, `localhost` or a name below it (RFC 6761, section
    /// 6.3), or a name without a dot. A name without a dot belongs to this machine or its network (a hosts file, a container, a
    /// search domain), because the public DNS has none (RFC 7085 and ICANN's SAC 053 give the reasons).
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Address(address) => address.to_canonical().is_loopback(),
            Self::Name(name) => !name.contains('.') || name.ends_with(".localhost"),
        }
    }
}

impl FromStr for HostName {
    type Err = BadHost;

    /// Parses a name or an address; an IPv6 address may be in brackets.
    fn from_str(text: &str) -> Result<Self, BadHost> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse() {
            return Ok(Self::Address(address));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_name = |label: &str| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        if name.split('.').all(is_name) {
            Ok(Self::Name(name.to_ascii_lowercase()))
        } else {
            Err(BadHost(text.to_owned()))
        }
    }
}

/// An origin whose web pages may use the server.
///
/// ```
/// use rendezvous_server::config::CorsOrigin;
///
/// assert_eq!("*".parse(), Ok(CorsOrigin::Any));
/// assert_eq!("https://App.example".parse(), Ok(CorsOrigin::This("https://app.example".to_owned())));
/// assert!("app.example".parse::<CorsOrigin>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigin {
    /// Every origin.
    Any,
    /// One origin, as browsers serialize it (RFC 6454, section 6.2).
    This(String),
}

/// A text that is not a [`CorsOrigin`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an origin: give a scheme, a host, and a port if it is not the scheme's default, such as https://app.example or http://localhost:3000; or * alone for any"
)]
pub struct BadOrigin(String);

impl FromStr for CorsOrigin {
    type Err = BadOrigin;

    fn from_str(text: &str) -> Result<Self, BadOrigin> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let origin = text.to_ascii_lowercase();
        let serialized = origin.parse().ok().as_ref().and_then(serialized);
        let is_origin = serialized.is_some_and(|serialized| serialized == origin) && !origin.contains('*');
        if is_origin { Ok(Self::This(origin)) } else { Err(BadOrigin(text.to_owned())) }
    }
}

/// The origin of `uri`, as browsers serialize it (RFC 6454, section 6.2): without the default port of the scheme.
fn serialized(uri: &Uri) -> Option<String> {
    let (scheme, host) = (uri.scheme_str()?, uri.host()?);
    match (scheme, uri.port_u16()) {
        (_, None) | ("http", Some(80)) | ("https", Some(443)) => Some(format!("{scheme}://{host}")),
        (_, Some(port)) => Some(format!("{scheme}://{host}:{port}")),
    }
}

/// The files of a certificate, in PEM. They are read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// The private key of the certificate.
    pub key: PathBuf,
}

/// How bodies of known length, from 64 KiB on, are moved between two HTTP/1 connections without TLS. All others are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataPath {
    /// By splice(2), inside the kernel. Systems other than Linux copy them.
    Splice,
    /// Through buffers of the server.
    Copy,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 9999,
            ttl: Period::from_secs(60),
            max_ttl: Period::from_secs(24 * 60 * 60),
            idle_timeout: Period::from_secs(6 * 60 * 60),
            head_timeout: Period::from_secs(10),
            keep_alive: Period::from_secs(75),
            drain_timeout: Period::from_secs(30),
            peer_timeout: PeerTimeout::default(),
            max_streams: 100_000,
            no_paths: false,
            max_metadata_bytes: Size::bytes(64 << 20),
            max_http2_body_bytes: Size::bytes(256 << 20),
            max_streams_per_connection: StreamsPerConnection::default(),
            max_head_bytes: HeadLimit::default(),
            // Both sides of every stream, and some other requests.
            max_connections: 2 * 100_000 + 10_000,
            descriptors: None,
            clients: ClientLimits::default(),
            trusted_proxies: TrustedProxies::default(),
            streams: StreamLimits::default(),
            data_path: DataPath::Splice,
            tls: None,
            plain_port: None,
            admin_listen: None,
            public_url: None,
            create_token: None,
            admin_token: None,
            open_list: false,
            cors_origins: Vec::new(),
            allowed_hosts: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_parsed_to_the_form_that_browsers_send() {
        assert_eq!("*".parse(), Ok(CorsOrigin::Any));
        for (text, origin) in [
            ("https://app.example", "https://app.example"),
            ("HTTPS://App.Example", "https://app.example"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("moz-extension://0f-a1", "moz-extension://0f-a1"),
        ] {
            assert_eq!(text.parse(), Ok(CorsOrigin::This(origin.into())), "{text}");
        }
    }

    #[test]
    fn a_text_that_no_browser_sends_as_an_origin_is_refused() {
        for text in [
            "",
            "null",
            "app.example",
            "localhost:3000",
            "https://",
            "https://app.example/",
            "https://app.example/path",
            "https://app.example?x",
            "https://app.example:443",
            "http://app.example:080",
            "http://app.example:",
            "http://app.example:99999",
            "https://user@app.example",
            "https://*.example",
            "https://ä.example",
            " https://app.example",
        ] {
            let error = text.parse::<CorsOrigin>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{text:?} is not an origin: give a scheme, a host")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_without_a_scheme_port_or_path() {
        for (text, host, is_local) in [
            ("LocalHost", HostName::Name("localhost".into()), true),
            ("localhost.", HostName::Name("localhost".into()), true),
            ("a.localhost", HostName::Name("a.localhost".into()), true),
            ("Relay.example", HostName::Name("relay.example".into()), false),
            ("my-machine", HostName::Name("my-machine".into()), true),
            ("a.notlocalhost", HostName::Name("a.notlocalhost".into()), false),
            ("localhost.evil.example", HostName::Name("localhost.evil.example".into()), false),
            ("127.0.0.1", HostName::Address([127, 0, 0, 1].into()), true),
            ("127.8.9.10", HostName::Address([127, 8, 9, 10].into()), true),
            ("10.0.0.5", HostName::Address([10, 0, 0, 5].into()), false),
            ("0.0.0.0", HostName::Address([0, 0, 0, 0].into()), false),
            ("[::1]", HostName::Address("::1".parse().unwrap()), true),
            ("::1", HostName::Address("::1".parse().unwrap()), true),
            ("[::ffff:127.0.0.1]", HostName::Address("::ffff:127.0.0.1".parse().unwrap()), true),
            ("[fd00::1]", HostName::Address("fd00::1".parse().unwrap()), false),
            ("127.0.0.1.evil.example", HostName::Name("127.0.0.1.evil.example".into()), false),
        ] {
            let parsed: HostName = text.parse().unwrap();
            assert_eq!(parsed.is_local(), is_local, "{text}");
            assert_eq!(parsed, host, "{text}");
        }
        for text in [
            "",
            ".",
            "a..b",
            "a:80",
            "http://a",
            "a/b",
            "a b",
            "*",
            "*.a",
            "user@a",
            "[::1",
            "[::1]:80",
            "ä.example",
        ] {
            let error = text.parse::<HostName>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{text:?} is not a host: give a name or an address")),
                "{error}"
            );
        }
    }
}
