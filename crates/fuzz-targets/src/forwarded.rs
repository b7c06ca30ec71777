//! Forwarding fields behind a trusted proxy: the address that the proxy adds identifies the client, no matter what fields the
//! client sends.

use std::net::IpAddr;

use rendezvous_server::proxies::TrustedProxies;

const CLIENT: &str = "192.0.2.1";
const PROXIES: [&str; 3] = ["10.0.0.0/8", "192.168.1.1", "fd00::/8"];

/// Checks the lines of a field, as the client sent them.
pub fn check(data: &[u8]) {
    let proxies: TrustedProxies = PROXIES.iter().map(|text| text.parse().unwrap()).collect();
    let client: Option<IpAddr> = CLIENT.parse().ok();
    let sent: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    let identified = |forwarded: &[&[u8]], x_forwarded_for: &[&[u8]]| {
        let identified = proxies.client(forwarded.iter().copied(), x_forwarded_for.iter().copied());
        assert!(identified.is_none_or(|address| !proxies.contains(address)), "{identified:?} is a proxy");
        identified
    };

    let (forwarded, x_forwarded_for) = (identified(&sent, &[]), identified(&[], &sent));
    let both = identified(&sent, &[CLIENT.as_bytes()]);
    assert_eq!(both, forwarded, "X-Forwarded-For counts in addition to Forwarded");

    // A proxy adds another line.
    assert_eq!(identified(&[&sent[..], &[b"for=192.0.2.1"]].concat(), &[]), client);
    assert_eq!(identified(&[], &[&sent[..], &[CLIENT.as_bytes()]].concat()), client);
    // A further trusted proxy changes nothing.
    assert_eq!(identified(&[&sent[..], &[b"for=10.1.2.3"]].concat(), &[]), forwarded);
    assert_eq!(identified(&[], &[&sent[..], &[b"10.1.2.3"]].concat()), x_forwarded_for);

    // A proxy appends to the last line. An unterminated quote of the client may hide the client, but not impersonate another.
    let joined = |added: &str| [data, added.as_bytes()].concat();
    let (added, hop) = (joined(", for=192.0.2.1"), joined(", 192.0.2.1"));
    let added: Vec<&[u8]> = added.split(|byte| *byte == b'\n').collect();
    let hop: Vec<&[u8]> = hop.split(|byte| *byte == b'\n').collect();
    let read = identified(&added, &[]);
    assert!(read == client || read.is_none(), "{read:?}");
    assert_eq!(identified(&[], &hop), client);
}
