//! [`EngineUrl`]: where Redis or Valkey is, and how it is operated. Pure.
//!
//! ```text
//! redis://[[USER]:PASSWORD@]HOST[:6379][/DB]                          one engine
//! redis+sentinel://[[USER]:PASSWORD@]HOST[:26379],…/SERVICE[/DB]      the master that Sentinel names
//! redis+cluster://[[USER]:PASSWORD@]HOST[:6379],…                     Redis Cluster
//! ```
//!
//! `rediss`, `rediss+sentinel` and `rediss+cluster` are the same over TLS.
//!
//! *Invariants.* Neither `Display` nor `Debug` nor an error shows the password.
//!
//! *Bounds.* At most 16 hosts.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use zeroize::Zeroizing;

use crate::address::is_localhost;

/// Maximum number of hosts in a URL.
const MAX_HOSTS: usize = 16;

/// The URL of the engine.
///
/// ```
/// use rendezvous_cluster::EngineUrl;
///
/// let url: EngineUrl = "redis+sentinel://:secret@10.0.0.1,10.0.0.2/mymaster".parse()?;
/// assert_eq!(url.to_string(), "redis+sentinel://10.0.0.1:26379,10.0.0.2:26379/mymaster");
/// assert!("http://10.0.0.1".parse::<EngineUrl>().is_err());
/// # Ok::<_, rendezvous_cluster::BadEngineUrl>(())
/// ```
#[derive(Clone)]
pub struct EngineUrl {
    pub(crate) topology: Topology,
    pub(crate) tls: bool,
    pub(crate) hosts: Vec<Endpoint>,
    pub(crate) credential: Option<Credential>,
    pub(crate) db: u16,
}

/// How the engine is operated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Topology {
    /// One address, possibly that of a proxy or of a rented engine that fails over by itself.
    Single,
    /// Sentinel knows the master of this service.
    Sentinel(String),
    /// Redis Cluster: the hosts know where a key is.
    Cluster,
}

/// A host and a port of the engine or of Sentinel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// A name or an IP address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// What the engine asks for. The user is `None` for engines that have no users.
#[derive(Clone)]
pub(crate) struct Credential {
    pub(crate) user: Option<String>,
    pub(crate) password: Zeroizing<String>,
}

/// Why a text is not an [`EngineUrl`]. The messages do not quote it, since it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEngineUrl {
    /// The scheme is another one.
    #[error(
        "it must begin with redis://, redis+sentinel:// or redis+cluster://, or over TLS with rediss://, rediss+sentinel:// or \
         rediss+cluster://; for Valkey too"
    )]
    Scheme,
    /// A host is missing or malformed.
    #[error("host {0} of the URL is not HOST or HOST:PORT, such as redis.internal:6379 or [fd00::1]:6379")]
    Host(usize),
    /// `redis://` with several hosts.
    #[error(
        "redis:// takes one host: for several use redis+sentinel://HOST,…/SERVICE or redis+cluster://HOST,…"
    )]
    OneHost,
    /// Too many hosts.
    #[error("it has {0} hosts, and {MAX_HOSTS} are enough: any of them names the others")]
    Hosts(usize),
    /// The part before the `@` is malformed.
    #[error(
        "the part before the @ must be :PASSWORD or USER:PASSWORD, with characters such as @ / : % \
        written as %40 %2F %3A %25"
    )]
    Credential,
    /// Sentinel needs the name of the service.
    #[error(
        "redis+sentinel:// needs the name of the service as it stands in sentinel.conf: redis+sentinel://HOST,…/mymaster"
    )]
    Service,
    /// The database is no number.
    #[error("the database behind the last / must be a number, such as 0")]
    Database,
    /// Redis Cluster has no databases.
    #[error("Redis Cluster has the database 0 only: leave out what follows the hosts")]
    ClusterDatabase,
    /// There is a query or a fragment.
    #[error("it must end after the database: it takes no ? or # (in a password they are %3F and %23)")]
    Query,
}

impl EngineUrl {
    /// Returns whether all hosts are this machine's loopback.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.hosts.iter().all(|Endpoint { host, .. }| {
            host.parse::<IpAddr>().map_or_else(|_| is_localhost(host), |ip| ip.to_canonical().is_loopback())
        })
    }

    /// Returns the first host and its port, for [`crate::address_towards`].
    #[must_use]
    pub fn first_host(&self) -> (&str, u16) {
        self.hosts.first().map_or(("localhost", 0), |first| (&first.host, first.port))
    }
}

impl FromStr for EngineUrl {
    type Err = BadEngineUrl;

    fn from_str(text: &str) -> Result<Self, BadEngineUrl> {
        let (scheme, rest) = text.split_once("://").ok_or(BadEngineUrl::Scheme)?;
        let (tls, kind) = match scheme.split_once('+').unwrap_or((scheme, "")) {
            ("redis", kind) => (false, kind),
            ("rediss", kind) => (true, kind),
            _ => return Err(BadEngineUrl::Scheme),
        };
        if rest.contains(['?', '#']) {
            return Err(BadEngineUrl::Query);
        }
        let (credential, rest) = match rest.rsplit_once('@') {
            Some((credential, rest)) => (Some(parse_credential(credential)?), rest),
            None => (None, rest),
        };
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
        let default_port = if kind == "sentinel" { 26379 } else { 6379 };
        let hosts = parse_hosts(hosts, default_port)?;
        let (topology, db) = match kind {
            "" if hosts.len() > 1 => return Err(BadEngineUrl::OneHost),
            "" => (Topology::Single, parse_database(path)?),
            "sentinel" => {
                let (service, db) = path.split_once('/').unwrap_or((path, ""));
                let service = decode(service).filter(|name| !name.is_empty()).ok_or(BadEngineUrl::Service)?;
                (Topology::Sentinel(service.to_string()), parse_database(db)?)
            }
            "cluster" if parse_database(path) == Ok(0) => (Topology::Cluster, 0),
            "cluster" => return Err(BadEngineUrl::ClusterDatabase),
            _ => return Err(BadEngineUrl::Scheme),
        };
        Ok(Self { topology, tls, hosts, credential, db })
    }
}

fn parse_hosts(text: &str, default_port: u16) -> Result<Vec<Endpoint>, BadEngineUrl> {
    let count = text.split(',').count();
    if count > MAX_HOSTS {
        return Err(BadEngineUrl::Hosts(count));
    }
    let parse = |(at, text)| Endpoint::parse(text, default_port).ok_or(BadEngineUrl::Host(at + 1));
    text.split(',').enumerate().map(parse).collect()
}

fn parse_database(text: &str) -> Result<u16, BadEngineUrl> {
    match text {
        "" => Ok(0),
        text if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map_err(|_| BadEngineUrl::Database)
        }
        _ => Err(BadEngineUrl::Database),
    }
}

fn parse_credential(text: &str) -> Result<Credential, BadEngineUrl> {
    let (user, password) = text.split_once(':').ok_or(BadEngineUrl::Credential)?;
    let part = |text: &str| if text.contains(['@', '/', ':']) { None } else { decode(text) };
    let (user, password) = part(user).zip(part(password)).ok_or(BadEngineUrl::Credential)?;
    if password.is_empty() {
        return Err(BadEngineUrl::Credential);
    }
    Ok(Credential { user: (!user.is_empty()).then(|| user.to_string()), password })
}

/// Decodes `%` escapes (RFC 3986, section 2.1). Returns `None` for bad ones, and if the result is not UTF-8.
fn decode(text: &str) -> Option<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let (high, low) =
                (char::from(rest.next()?).to_digit(16)?, char::from(rest.next()?).to_digit(16)?);
            bytes.push(u8::try_from(16 * high + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    std::str::from_utf8(&bytes).ok().map(|text| Zeroizing::new(text.to_owned()))
}

impl Endpoint {
    /// Parses `HOST` or `HOST:PORT`. An IPv6 address has brackets.
    pub(crate) fn parse(text: &str, default_port: u16) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[') {
            Some(bracketed) => {
                let (host, port) = bracketed.split_once(']')?;
                host.parse::<Ipv6Addr>().ok()?;
                (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
            }
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            None => default_port,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                port.parse().ok().filter(|port| *port != 0)?
            }
            Some(_) => return None,
        };
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        let is_host = (1..=253).contains(&host.len()) && host.bytes().all(legal);
        is_host.then(|| Self { host: host.to_owned(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl fmt::Display for EngineUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tls { "rediss" } else { "redis" })?;
        f.write_str(match self.topology {
            Topology::Single => "://",
            Topology::Sentinel(_) => "+sentinel://",
            Topology::Cluster => "+cluster://",
        })?;
        for (at, host) in self.hosts.iter().enumerate() {
            write!(f, "{}{host}", if at == 0 { "" } else { "," })?;
        }
        if let Topology::Sentinel(service) = &self.topology {
            write!(f, "/{service}")?;
        }
        if self.db == 0 { Ok(()) } else { write!(f, "/{}", self.db) }
    }
}

impl fmt::Debug for EngineUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EngineUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> EngineUrl {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_url_is_displayed_with_its_defaults_and_without_its_password() {
        for (text, shown) in [
            ("redis://10.0.0.1", "redis://10.0.0.1:6379"),
            ("rediss://redis.internal:6380/2", "rediss://redis.internal:6380/2"),
            ("redis://[fd00::1]/0", "redis://[fd00::1]:6379"),
            ("redis://user:p%40ss@[fd00::1]:1", "redis://[fd00::1]:1"),
            (
                "redis+sentinel://:s3cret@a,b:1,c/mymaster/3",
                "redis+sentinel://a:26379,b:1,c:26379/mymaster/3",
            ),
            ("rediss+sentinel://a/my%20master", "rediss+sentinel://a:26379/my master"),
            ("redis+cluster://a,b:1/", "redis+cluster://a:6379,b:1"),
            ("rediss+cluster://user:p%40ss@a/0", "rediss+cluster://a:6379"),
        ] {
            assert_eq!(parse(text).to_string(), shown);
            assert_eq!(format!("{:?}", parse(text)), format!("EngineUrl({shown})"));
        }
    }

    #[test]
    fn a_credential_is_decoded() {
        for (text, user, password) in [
            ("redis://:p%40%2f%25@a", None, "p@/%"),
            ("redis://me:ünï@a", Some("me"), "ünï"),
            ("redis+cluster://a%3Ab:c@a,b", Some("a:b"), "c"),
        ] {
            let credential = parse(text).credential.unwrap();
            assert_eq!(
                (credential.user.as_deref(), credential.password.as_str()),
                (user, password),
                "{text}"
            );
        }
        assert!(parse("redis://a").credential.is_none());
    }

    #[test]
    fn each_mistake_is_named() {
        use BadEngineUrl as Bad;
        let seventeen = vec!["a"; 17].join(",");
        for (text, error) in [
            ("", Bad::Scheme),
            ("localhost:6379", Bad::Scheme),
            ("http://a", Bad::Scheme),
            ("valkey://a", Bad::Scheme),
            ("redis+unix://a", Bad::Scheme),
            ("REDIS://a", Bad::Scheme),
            ("redis://", Bad::Host(1)),
            ("redis://a:", Bad::Host(1)),
            ("redis://a:0", Bad::Host(1)),
            ("redis://a:65536", Bad::Host(1)),
            ("redis://fd00::1", Bad::Host(1)),
            ("redis://[fd00::1", Bad::Host(1)),
            ("redis://[fd00::1]6379", Bad::Host(1)),
            ("redis://[a]", Bad::Host(1)),
            ("redis://a b", Bad::Host(1)),
            ("redis+cluster://a,,b", Bad::Host(2)),
            ("redis://a,b", Bad::OneHost),
            (&format!("redis+cluster://{seventeen}"), Bad::Hosts(17)),
            ("redis://secret@a", Bad::Credential),
            ("redis://user:@a", Bad::Credential),
            ("redis://:a%4@a", Bad::Credential),
            ("redis://:a%zz@a", Bad::Credential),
            ("redis://:%ff@a", Bad::Credential),
            ("redis://:a@b@c", Bad::Credential),
            ("redis://:a/b@c", Bad::Credential),
            ("redis+sentinel://a", Bad::Service),
            ("redis+sentinel://a/", Bad::Service),
            ("redis+sentinel://a//0", Bad::Service),
            ("redis://a/b", Bad::Database),
            ("redis://a/-1", Bad::Database),
            ("redis://a/99999", Bad::Database),
            ("redis+sentinel://a/mymaster/x", Bad::Database),
            ("redis+cluster://a/1", Bad::ClusterDatabase),
            ("redis://a?db=1", Bad::Query),
            ("redis://a#insecure", Bad::Query),
        ] {
            assert_eq!(text.parse::<EngineUrl>().map(|url| url.to_string()), Err(error), "{text}");
        }
    }

    #[test]
    fn no_error_shows_a_password() {
        for text in [
            "redis://:hunter2@a b",
            "redis://:hunter2",
            "redis://user:hunter2@a/x",
            "http://:hunter2@a",
            "redis://:hunter2%@a",
        ] {
            let error = text.parse::<EngineUrl>().unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn an_engine_is_on_loopback_if_all_its_hosts_are() {
        for (text, loopback) in [
            ("redis://127.0.0.1", true),
            ("redis://[::1]", true),
            ("redis://localhost", true),
            ("redis+sentinel://localhost,127.0.0.2/m", true),
            ("redis+sentinel://localhost,10.0.0.1/m", false),
            ("redis://10.0.0.1", false),
        ] {
            assert_eq!(parse(text).is_loopback(), loopback, "{text}");
        }
    }
}
