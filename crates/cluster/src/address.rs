//! [`NodeAddress`]: where the other nodes reach one, and the default for it.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UdpSocket, lookup_host};
use tokio::time::timeout;

/// Time limit of [`address_towards`], which waits for the name service only.
const LOOKUP: Duration = Duration::from_secs(5);

/// The address at which the other nodes reach a node: a host and a port. The host is an IP address, or a name that every node can resolve.
///
/// ```
/// use rendezvous_cluster::NodeAddress;
///
/// assert_eq!("10.0.0.7:7780".parse::<NodeAddress>()?.port(), 7780);
/// assert!("0.0.0.0:7780".parse::<NodeAddress>().is_err());
/// # Ok::<_, rendezvous_cluster::BadNodeAddress>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeAddress {
    host: Host,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Host {
    Ip(IpAddr),
    /// Cheap to clone, because each request to the node does.
    Name(Arc<str>),
}

/// The text is not a [`NodeAddress`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no address at which other nodes could reach this one: give HOST:PORT, such as 10.0.0.7:7780, \
     [fd00::7]:7780 or node-1.internal:7780"
)]
pub struct BadNodeAddress(String);

impl NodeAddress {
    /// The longest name that DNS has (RFC 1035, section 2.3.4).
    const MAX_NAME: usize = 253;

    /// Creates the address of this IP address and port.
    #[must_use]
    pub fn new(ip: IpAddr, port: u16) -> Self {
        Self { host: Host::Ip(ip), port }
    }

    /// Returns the same host with another port.
    #[must_use]
    pub fn with_port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns whether only processes of the same machine reach this address. A name is looked at only as far as it is `localhost`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Ip(ip) => ip.to_canonical().is_loopback(),
            Host::Name(name) => is_localhost(name),
        }
    }
}

/// Returns whether the name is `localhost` or below it (RFC 6761, section 6.3).
pub(crate) fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

impl FromStr for NodeAddress {
    type Err = BadNodeAddress;

    fn from_str(text: &str) -> Result<Self, BadNodeAddress> {
        parse(text).ok_or_else(|| BadNodeAddress(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<NodeAddress> {
    let (host, port) = text.rsplit_once(':')?;
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.then(|| port.parse().ok()).flatten().filter(|port| *port != 0)?;
    let host = if let Some(bracketed) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Host::Ip(IpAddr::V6(bracketed.parse::<Ipv6Addr>().ok()?))
    } else if let Ok(ip) = host.parse::<Ipv4Addr>() {
        Host::Ip(IpAddr::V4(ip))
    } else {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        // A name whose last label is a number is a mistyped IPv4 address.
        let last = host.trim_end_matches('.').rsplit('.').next()?;
        let is_name = (1..=NodeAddress::MAX_NAME).contains(&host.len())
            && host.bytes().all(legal)
            && last.bytes().any(|byte| !byte.is_ascii_digit());
        Host::Name(is_name.then(|| host.into())?)
    };
    match &host {
        Host::Ip(ip) if ip.is_unspecified() || ip.is_multicast() => None,
        _ => Some(NodeAddress { host, port }),
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Ip(IpAddr::V4(ip)) => write!(f, "{ip}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Returns the address of this machine on the route to a host, as the default for the advertised address: a network that leads to the
/// engine leads to the other nodes as well, mostly. Sends nothing to the host.
///
/// # Errors
/// The name service does not know the host or does not answer within 5 seconds, or no route leads there.
pub async fn address_towards(host: &str, port: u16) -> io::Result<IpAddr> {
    let no_answer = || io::Error::new(io::ErrorKind::TimedOut, "the name service does not answer");
    let addresses = timeout(LOOKUP, lookup_host((host, port))).await.map_err(|_| no_answer())??;
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        let any: IpAddr =
            if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).await?;
        match socket.connect(address).await {
            Ok(()) => return Ok(socket.local_addr()?.ip()),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_displayed_as_it_is_parsed() {
        for good in ["10.0.0.7:7780", "[fd00::7]:1", "node-1.internal:65535", "localhost:7780", "a_b:7780"] {
            assert_eq!(good.parse::<NodeAddress>().unwrap().to_string(), good);
        }
    }

    #[test]
    fn other_nodes_could_not_reach_these() {
        let long = format!("{}:7780", "n".repeat(254));
        for bad in [
            "",
            ":7780",
            "10.0.0.7",
            "10.0.0.7:",
            "10.0.0.7:0",
            "10.0.0.7:65536",
            "10.0.0.7:+80",
            "10.0.0:7780",
            "10.0.0.256:7780",
            "0.0.0.0:7780",
            "[::]:7780",
            "224.0.0.1:7780",
            "fd00::7:7780",
            "[fd00::7]",
            "[10.0.0.7]:7780",
            "a b:7780",
            "a/b:7780",
            "http://a:7780",
            "é:7780",
            "a\n:7780",
            &long,
        ] {
            assert!(bad.parse::<NodeAddress>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn loopback_is_recognized_in_all_its_forms() {
        for (text, loopback) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("LocalHost:1", true),
            ("a.localhost.:1", true),
            ("10.0.0.7:1", false),
            ("localhost.example:1", false),
        ] {
            assert_eq!(text.parse::<NodeAddress>().unwrap().is_loopback(), loopback, "{text}");
        }
    }

    #[tokio::test]
    async fn the_route_to_loopback_begins_at_loopback() {
        assert!(address_towards("127.0.0.1", 6379).await.unwrap().is_loopback());
    }
}
