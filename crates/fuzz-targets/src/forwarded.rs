//! Whom a trusted proxy speaks for: whatever the client writes, what the proxy adds is what counts.

use std::net::IpAddr;

use rendezvous_server::proxies::TrustedProxies;

const CLIENT: &str = "192.0.2.1";
const PROXIES: [&str; 3] = ["10.0.0.0/8", "192.168.1.1", "fd00::/8"];

/// The lines of a field, as the client sent them.
pub fn hold(data: &[u8]) {
    let proxies: TrustedProxies = PROXIES.iter().map(|text| text.parse().unwrap()).collect();
    let client: Option<IpAddr> = CLIENT.parse().ok();
    let sent: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    let told = |forwarded: &[&[u8]], x_forwarded_for: &[&[u8]]| {
        let told = proxies.client(forwarded.iter().copied(), x_forwarded_for.iter().copied());
        assert!(told.is_none_or(|told| !proxies.contain(told)), "{told:?} is a proxy");
        told
    };

    let (forwarded, x_forwarded_for) = (told(&sent, &[]), told(&[], &sent));
    assert_eq!(told(&sent, &[CLIENT.as_bytes()]), forwarded, "X-Forwarded-For counts beside Forwarded");

    // A proxy adds a line of its own.
    assert_eq!(told(&[&sent[..], &[b"for=192.0.2.1"]].concat(), &[]), client);
    assert_eq!(told(&[], &[&sent[..], &[CLIENT.as_bytes()]].concat()), client);
    // A trusted proxy behind that one changes nothing.
    assert_eq!(told(&[&sent[..], &[b"for=10.1.2.3"]].concat(), &[]), forwarded);
    assert_eq!(told(&[], &[&sent[..], &[b"10.1.2.3"]].concat()), x_forwarded_for);

    // A proxy adds to the last line. A quote that the client left open may hide the client, and makes nobody of it.
    let joined = |added: &str| [data, added.as_bytes()].concat();
    let (added, hop) = (joined(", for=192.0.2.1"), joined(", 192.0.2.1"));
    let added: Vec<&[u8]> = added.split(|byte| *byte == b'\n').collect();
    let hop: Vec<&[u8]> = hop.split(|byte| *byte == b'\n').collect();
    let read = told(&added, &[]);
    assert!(read == client || read.is_none(), "{read:?}");
    assert_eq!(told(&[], &hop), client);
}
