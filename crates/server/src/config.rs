//! The server's settings, validated. Knows nothing of a command line.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use http::Uri;
pub use rendezvous_core::clients::ClientLimits;
pub use rendezvous_core::token::{BadToken, Token};
pub use rendezvous_core::transfer::StreamLimits;
pub use rendezvous_protocol::{BadPeriod, BadSize, Period, Size};

use crate::proxies::TrustedProxies;

/// All settings of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name or address to listen on.
    pub host: String,
    /// Port to listen on; 0 lets the system pick one.
    pub port: u16,
    /// How long a stream waits for both sides, and stays visible after its end.
    pub ttl: Period,
    /// How long a running transfer may stand still.
    pub idle_timeout: Period,
    /// How long a request head, or a JSON body, may take, and how long a client may take none of an answer.
    pub head_timeout: Period,
    /// How long a connection is kept between two requests.
    pub keep_alive: Period,
    /// How long running transfers may go on after the server was asked to end.
    pub drain_timeout: Period,
    /// After how long a client that answers nothing, not even its kernel, counts as gone.
    pub peer_timeout: PeerTimeout,
    /// Streams at a time that have not ended, at least 1.
    pub max_streams: usize,
    /// Memory of all header sets, error reports and JSON bodies together, in bytes; and again as much for large answers that
    /// describe streams. Requests that need more get 503. Streams without header sets and reports are not counted.
    pub max_metadata_bytes: Size,
    /// Connections of clients at a time, at least 1.
    pub max_connections: usize,
    /// Descriptors that the process may have, where that is bounded; connections, pipes and all else must fit.
    pub descriptors: Option<usize>,
    /// What each client may have.
    pub clients: ClientLimits,
    /// The proxies whose word is taken for whom they speak for.
    pub trusted_proxies: TrustedProxies,
    /// What each stream may carry, and how fast.
    pub streams: StreamLimits,
    /// How bodies are moved.
    pub data_path: DataPath,
    /// The certificate of `host` and `port`, which then speak TLS.
    pub tls: Option<TlsFiles>,
    /// A further port of `host`, without TLS.
    pub plain_port: Option<u16>,
    /// A listener of the operators' own, to which what is theirs alone moves.
    pub admin_listen: Option<SocketAddr>,
    /// Needed to make a stream.
    pub create_token: Option<Token>,
    /// Needed to see the list of streams.
    pub admin_token: Option<Token>,
    /// Everybody who can reach the server may see the list of streams.
    pub open_list: bool,
    /// The origins whose web pages may use the server.
    pub cors_origins: Vec<CorsOrigin>,
    /// The names that listeners on loopback accept as `Host`, besides those of loopback and `host`. Requests with other names get
    /// 403, because the name of a web page can resolve to loopback (DNS rebinding).
    pub allowed_hosts: Vec<HostName>,
}

/// A host name or an address, without a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostName {
    /// An address.
    Address(IpAddr),
    /// A name, in lower case and without the root's dot.
    Name(String),
}

/// A text that is no [`HostName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no host: give a name or an address, without a scheme, port or path, such as relay.example or 10.0.0.5"
)]
pub struct BadHost(String);

impl HostName {
    /// Whether no page of the web can have it: a loopback address, `localhost` or a name below it (RFC 6761, section 6.3), or a name
    /// without a dot. Those are of this machine or its network (a hosts file, a container, a search domain): the public DNS has
    /// none (RFC 7085 and ICANN's SAC 053 tell why).
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Address(address) => address.to_canonical().is_loopback(),
            Self::Name(name) => !name.contains('.') || name.ends_with(".localhost"),
        }
    }
}

impl FromStr for HostName {
    type Err = BadHost;

    /// An IPv6 address may be in brackets.
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

/// Whose web pages may use the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CorsOrigin {
    /// Everybody's.
    Any,
    /// Those of this origin, as browsers write it.
    This(String),
}

/// A text that is no [`CorsOrigin`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no origin: give a scheme, a host, and a port where it is not the scheme's own, such as https://app.example or http://localhost:3000; or * alone for any"
)]
pub struct BadOrigin(String);

impl FromStr for CorsOrigin {
    type Err = BadOrigin;

    fn from_str(text: &str) -> Result<Self, BadOrigin> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let origin = text.to_ascii_lowercase();
        let as_written = origin.parse().ok().as_ref().and_then(written);
        let is_origin = as_written.is_some_and(|as_written| as_written == origin) && !origin.contains('*');
        if is_origin { Ok(Self::This(origin)) } else { Err(BadOrigin(text.to_owned())) }
    }
}

/// The origin of `uri`, as browsers write it.
fn written(uri: &Uri) -> Option<String> {
    let (scheme, host) = (uri.scheme_str()?, uri.host()?);
    match (scheme, uri.port_u16()) {
        (_, None) | ("http", Some(80)) | ("https", Some(443)) => Some(format!("{scheme}://{host}")),
        (_, Some(port)) => Some(format!("{scheme}://{host}:{port}")),
    }
}

/// Where the certificate is, in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The chain, the server's own certificate first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// How the bodies of plain HTTP/1 streams of a known length are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataPath {
    /// By splice(2), without a copy through the program. Only on Linux; elsewhere they are copied.
    Splice,
    /// Through the program's own buffers, as all others.
    Copy,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 9999,
            ttl: Period::from_secs(60),
            idle_timeout: Period::from_secs(6 * 60 * 60),
            head_timeout: Period::from_secs(10),
            keep_alive: Period::from_secs(75),
            drain_timeout: Period::from_secs(30),
            peer_timeout: PeerTimeout::default(),
            max_streams: 100_000,
            max_metadata_bytes: Size::bytes(64 << 20),
            // Both sides of every stream, and some who ask.
            max_connections: 2 * 100_000 + 10_000,
            descriptors: None,
            clients: ClientLimits::default(),
            trusted_proxies: TrustedProxies::default(),
            streams: StreamLimits::default(),
            data_path: DataPath::Splice,
            tls: None,
            plain_port: None,
            admin_listen: None,
            create_token: None,
            admin_token: None,
            open_list: false,
            cors_origins: Vec::new(),
            allowed_hosts: Vec::new(),
        }
    }
}

/// How long a client's kernel may leave everything unanswered, from 3 seconds to 12 hours; 2 minutes by default: a router
/// that starts anew takes about one, and a transfer that is cut has to begin again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerTimeout(Period);

/// A text that is no [`PeerTimeout`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no time after which a silent client counts as gone: give one from 3s to 12h, such as 30s or 2m"
)]
pub struct BadPeerTimeout(String);

impl PeerTimeout {
    /// Room for several questions, of which each may be lost.
    const MIN: Duration = Duration::from_secs(3);
    /// Keepalive can not wait for much longer: it takes 15 bits of seconds.
    const MAX: Duration = Duration::from_hours(12);

    /// The duration.
    #[must_use]
    pub fn get(self) -> Duration {
        self.0.get()
    }
}

impl Default for PeerTimeout {
    fn default() -> Self {
        Self(Period::from_secs(2 * 60))
    }
}

impl FromStr for PeerTimeout {
    type Err = BadPeerTimeout;

    fn from_str(text: &str) -> Result<Self, BadPeerTimeout> {
        let period =
            text.parse().ok().filter(|period: &Period| (Self::MIN..=Self::MAX).contains(&period.get()));
        period.map(Self).ok_or_else(|| BadPeerTimeout(text.to_owned()))
    }
}

impl fmt::Display for PeerTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_as_browsers_write_it() {
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
    fn what_no_browser_would_send_as_an_origin_is_refused() {
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
            assert!(error.starts_with(&format!("{text:?} is no origin: give a scheme, a host")), "{error}");
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_nothing_around_it() {
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
            assert!(error.starts_with(&format!("{text:?} is no host: give a name or an address")), "{error}");
        }
    }

    #[test]
    fn a_peer_timeout_has_room_for_questions_and_fits_keepalive() {
        for (text, seconds) in [("3s", 3), ("90", 90), ("2m", 120), ("12h", 43_200)] {
            assert_eq!(text.parse::<PeerTimeout>().unwrap().get(), Duration::from_secs(seconds));
        }
        for text in ["2.999s", "0", "43201s", "1d", "", "soon"] {
            let error = text.parse::<PeerTimeout>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{text:?} is no time after which a silent client")),
                "{error}"
            );
        }
    }
}
