//! Finds the address of the client behind a trusted proxy in `Forwarded` (RFC 7239) or `X-Forwarded-For`. Pure.
//!
//! *Invariant.* A client cannot choose its address by sending these fields. They are used only on connections of proxies that the operator
//! has named, and only from the right, up to the first address that is not a trusted proxy's: trusted proxies have added this part.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

use crate::quoted::{split, unquote};

/// A network of trusted proxies, written as `10.0.0.0/8`, `fd00::/8` or one address.
///
/// ```
/// use rendezvous_server::proxies::{Network, TrustedProxies};
///
/// let network: Network = "10.0.0.0/8".parse()?;
/// assert!(TrustedProxies::from_iter([network]).contains([10, 1, 2, 3].into()));
/// # Ok::<_, rendezvous_server::proxies::BadNetwork>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

/// A text that is not a [`Network`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a network: give one such as 10.0.0.0/8 or fd00::/8, or an address")]
pub struct BadNetwork(String);

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(Self).map_err(|_| BadNetwork(text.to_owned()))
    }
}

/// The networks of the proxies that may name the client. By default there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<Network>);

impl FromIterator<Network> for TrustedProxies {
    fn from_iter<I: IntoIterator<Item = Network>>(networks: I) -> Self {
        Self(networks.into_iter().collect())
    }
}

impl TrustedProxies {
    /// Whether there are no trusted proxies.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `address` belongs to a trusted proxy. An IPv4-mapped IPv6 address counts as the IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        !self.0.is_empty() && self.0.iter().any(|network| network.0.contains(&address.to_canonical()))
    }

    /// Returns the client of a request that came from a trusted proxy: the rightmost address in the lines of `Forwarded`, or without
    /// those in the lines of `X-Forwarded-For`, that does not belong to a trusted proxy. `None` if there is none, or if an element to
    /// the right of it cannot be parsed.
    pub fn client<'a>(
        &self,
        forwarded: impl IntoIterator<Item = &'a [u8]>,
        x_forwarded_for: impl IntoIterator<Item = &'a [u8]>,
    ) -> Option<IpAddr> {
        let mut forwarded = forwarded.into_iter().peekable();
        if forwarded.peek().is_some() {
            self.rightmost(forwarded.flat_map(|line| split(line, b',')).map(forwarded_for))
        } else {
            let elements = x_forwarded_for.into_iter().flat_map(|line| line.split(|byte| *byte == b','));
            self.rightmost(elements.map(|element| node(element.trim_ascii())))
        }
    }

    /// An element that cannot be parsed invalidates everything to its left.
    fn rightmost(&self, hops: impl Iterator<Item = Option<IpAddr>>) -> Option<IpAddr> {
        hops.fold(None, |client, hop| match hop {
            Some(address) if self.contains(address) => client,
            hop => hop,
        })
    }
}

/// The `for` parameter of one element of `Forwarded`; `None` if there are none or two, or if the element is malformed.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    for pair in split(element, b';') {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (pair.get(..at)?.trim_ascii(), unquote(pair.get(at + 1..)?.trim_ascii())?);
        // A quote that the client left open would otherwise swallow the element that its proxy added.
        if name.contains(&b'"') {
            return None;
        }
        if name.eq_ignore_ascii_case(b"for") && found.replace(node(value)?).is_some() {
            return None;
        }
    }
    found
}

/// Parses a node of RFC 7239, section 6: an address with or without a port. With a port, an IPv6 address is in brackets.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let address = if let Some(rest) = text.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        IpAddr::V6(address.parse::<Ipv6Addr>().ok().filter(|_| is_port)?)
    } else {
        match text.split_once(':') {
            Some((address, port)) if is_port(port) => IpAddr::V4(address.parse().ok()?),
            _ => text.parse().ok()?,
        }
    };
    Some(address.to_canonical())
}

/// Whether `text` is a port: a number, or an obfuscated name (RFC 7239, section 6.3).
fn is_port(text: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let is_number = (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number || text.strip_prefix('_').is_some_and(is_name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn proxies() -> TrustedProxies {
        ["10.0.0.0/8", "192.168.1.1", "fd00::/8"].into_iter().map(|text| text.parse().unwrap()).collect()
    }

    fn lines<'a>(lines: &[&'a str]) -> Vec<&'a [u8]> {
        lines.iter().map(|line| line.as_bytes()).collect()
    }

    #[test]
    fn the_client_is_the_rightmost_address_that_is_not_a_trusted_proxys() {
        for (line, client) in [
            ("for=192.0.2.43", Some("192.0.2.43")),
            ("FOR=192.0.2.43 ; proto=https;by=10.0.0.1", Some("192.0.2.43")),
            ("for=\"192.0.2.43:4711\"", Some("192.0.2.43")),
            ("for=192.0.2.43:_port", Some("192.0.2.43")),
            ("For=\"[2001:db8:cafe::17]:4711\"", Some("2001:db8:cafe::17")),
            ("for=\"[2001:db8:cafe::17]\"", Some("2001:db8:cafe::17")),
            ("for=\"[::ffff:192.0.2.1]\"", Some("192.0.2.1")),
            ("for=1.1.1.1, for=192.0.2.43", Some("192.0.2.43")),
            ("for=192.0.2.43, for=10.1.2.3,for=\"[fd00::1]:1\"", Some("192.0.2.43")),
            ("for=192.0.2.43, for=192.168.1.1", Some("192.0.2.43")),
            ("for=192.0.2.43, for=192.168.1.2", Some("192.168.1.2")),
            ("host=\"a,b;c\\\",\";for=192.0.2.43", Some("192.0.2.43")),
            ("for=unknown, for=192.0.2.43", Some("192.0.2.43")),
            ("for=192.0.2.43, for=unknown", None),
            ("for=192.0.2.43, for=_hidden, for=10.0.0.1", None),
            ("for=192.0.2.43, proto=http", None),
            ("for=10.0.0.1", None),
            ("for=192.0.2.43;for=192.0.2.44", None),
            ("for=\"192.0.2.43", None),
            ("for=2001:db8::1:", None),
            ("for=\"[2001:db8::1\"", None),
            ("for=\"[192.0.2.43]\"", None),
            ("for=192.0.2.43:123456", None),
            ("for=192.0.2.256", None),
            ("for=192.0.2.43,", None),
            ("for", None),
            ("", None),
            // A quote that a client left open must not swallow the element that its proxy added.
            ("for=9.9.9.9;x=\", for=192.0.2.43", None),
            ("for=9.9.9.9;x=\", for=192.0.2.43;by=\"_a\"", None),
            ("for=9.9.9.9;x\", for=192.0.2.43", None),
            ("for=9.9.9.9;x=\", for=\"[2001:db8::1]\";by=\"[fd00::1]\"", None),
        ] {
            let client = client.map(|client| client.parse().unwrap());
            assert_eq!(proxies().client(lines(&[line]), lines(&["8.8.8.8"])), client, "{line}");
        }
        for (line, client) in [
            ("192.0.2.43", Some("192.0.2.43")),
            ("1.1.1.1,192.0.2.43 , 10.0.0.1", Some("192.0.2.43")),
            ("192.0.2.43:4711", Some("192.0.2.43")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]:80", Some("2001:db8::1")),
            ("192.0.2.43, unknown", None),
            ("10.0.0.1, 10.0.0.2", None),
            ("192.0.2.43,", None),
            ("fe80::1%eth0", None),
            ("", None),
        ] {
            let client = client.map(|client| client.parse().unwrap());
            assert_eq!(proxies().client([], lines(&[line])), client, "{line}");
        }
        let two_lines = lines(&["1.1.1.1, 192.0.2.43", "10.0.0.1"]);
        assert_eq!(proxies().client([], two_lines), "192.0.2.43".parse().ok());
        assert_eq!(proxies().client([], []), None);
    }

    #[test]
    fn an_address_outside_of_the_networks_is_not_trusted() {
        for (address, trusted) in [
            ("10.255.0.1", true),
            ("::ffff:10.255.0.1", true),
            ("fd12::1", true),
            ("11.0.0.1", false),
            ("192.168.1.2", false),
            ("::1", false),
        ] {
            assert_eq!(proxies().contains(address.parse().unwrap()), trusted, "{address}");
            assert!(!TrustedProxies::default().contains(address.parse().unwrap()));
        }
    }

    #[test]
    fn a_bad_network_is_refused_with_an_example_of_a_valid_one() {
        for text in ["", "10.0.0.0/33", "10.0.0/8", "localhost", "10.0.0.0/8,", "fd00::/129"] {
            let error = text.parse::<Network>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} is not a network: give one such as")), "{error}");
        }
    }

    proptest! {
        #[test]
        fn random_fields_cause_no_panic_and_give_no_trusted_address(
            forwarded in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..3),
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "for=", "\"", "[", "]", ":", ";", ",", "\\", "=", " ", "10.0.0.1", "192.0.2.1", "fd00::1", "80", "_x",
                ]),
                0..20,
            ),
        ) {
            let made = pieces.concat();
            for forwarded in [forwarded.iter().map(Vec::as_slice).collect(), lines(&[&made]), Vec::new()] {
                let client = proxies().client(forwarded, lines(&[&made]));
                prop_assert!(client.is_none_or(|client| !proxies().contains(client)));
            }
        }

        #[test]
        fn the_address_that_a_proxy_adds_counts_whatever_its_client_sent(
            sent in "[ -~]{0,60}",
            client in any::<std::net::Ipv4Addr>(),
        ) {
            let client = IpAddr::V4(client);
            prop_assume!(!proxies().contains(client));
            let x = format!("{sent}, {client}");
            prop_assert_eq!(proxies().client([], lines(&[&x])), Some(client));
            let added = format!("{sent}, for={client}");
            let read = proxies().client(lines(&[&added]), []);
            prop_assert!(read == Some(client) || read.is_none(), "{:?}", read);
            let own_line = format!("for={client}");
            prop_assert_eq!(proxies().client(lines(&[&sent, &own_line]), []), Some(client));
        }
    }
}
