//! Tests of the handshake: which peers prove themselves, and which do not.

use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{duplex, sink};

use super::*;
use crate::record::tests::{cluster, secrets};

const DIALER: [u8; 4] = [1; 4];
const ACCEPTOR: [u8; 4] = [2; 4];
const LIMIT: Duration = Duration::from_secs(1);

/// One end of a handshake, with all that can differ.
struct End {
    cluster: ClusterName,
    secrets: Secrets,
    tag: Tag,
    versions: Versions,
    role: Role,
    exporter: Vec<u8>,
}

impl End {
    fn dialer() -> Self {
        let role = Role::Dialer { to: Tag::from(ACCEPTOR), purpose: Purpose::Hop };
        Self { role, tag: Tag::from(DIALER), ..Self::acceptor() }
    }

    fn acceptor() -> Self {
        Self {
            cluster: cluster(),
            secrets: secrets(),
            tag: Tag::from(ACCEPTOR),
            versions: versions(1, 1),
            role: Role::Acceptor,
            exporter: Vec::new(),
        }
    }

    fn identity(&self) -> Identity<'_> {
        Identity { cluster: &self.cluster, secrets: &self.secrets, tag: self.tag, versions: self.versions }
    }

    fn start(&self) -> Handshake<'_> {
        Handshake::start(self.identity(), self.role, &self.exporter).unwrap()
    }
}

fn versions(low: u16, high: u16) -> Versions {
    Versions::new(low, high).unwrap()
}

/// Runs a handshake over a connection in memory.
async fn meet(dialer: &End, acceptor: &End) -> [Result<Peer, HandshakeError>; 2] {
    let (mut one, mut other) = duplex(1024);
    let dial = async {
        let result = authenticate(&mut one, dialer.identity(), dialer.role, &dialer.exporter, LIMIT).await;
        drop(one);
        result
    };
    let accept = async {
        let result =
            authenticate(&mut other, acceptor.identity(), acceptor.role, &acceptor.exporter, LIMIT).await;
        drop(other);
        result
    };
    <[_; 2]>::from(tokio::join!(dial, accept))
}

#[tokio::test(start_paused = true)]
async fn two_nodes_of_a_cluster_prove_themselves() {
    let [dialed, accepted] = meet(&End::dialer(), &End::acceptor()).await;
    assert_eq!(dialed.unwrap(), Peer { tag: Tag::from(ACCEPTOR), version: 1, purpose: Purpose::Hop });
    assert_eq!(accepted.unwrap(), Peer { tag: Tag::from(DIALER), version: 1, purpose: Purpose::Hop });
}

#[tokio::test(start_paused = true)]
async fn the_highest_common_version_is_agreed_on() {
    let (dialer, acceptor) = (
        End { versions: versions(1, 3), ..End::dialer() },
        End { versions: versions(2, 9), ..End::acceptor() },
    );
    for peer in meet(&dialer, &acceptor).await {
        assert_eq!(peer.unwrap().version, 3);
    }
    let acceptor = End { versions: versions(4, 9), ..End::acceptor() };
    for peer in meet(&dialer, &acceptor).await {
        assert!(matches!(peer, Err(HandshakeError::Version { .. } | HandshakeError::Io(_))), "{peer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_in_the_middle_of_a_rotation_prove_themselves() {
    let (old, new) = ("0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210");
    let dialer = End { secrets: Secrets::parse(&format!("{old}\n{new}")).unwrap(), ..End::dialer() };
    let acceptor = End { secrets: Secrets::parse(&format!("{new}\n{old}")).unwrap(), ..End::acceptor() };
    for peer in meet(&dialer, &acceptor).await {
        assert!(peer.is_ok(), "{peer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_differs_in_anything_does_not_prove_itself() {
    let other = "fedcba9876543210fedcba9876543210";
    let cases = [
        ("secret", End { secrets: Secrets::parse(other).unwrap(), ..End::acceptor() }),
        ("cluster", End { cluster: "other".parse().unwrap(), ..End::acceptor() }),
        ("TLS session", End { exporter: vec![7; 32], ..End::acceptor() }),
    ];
    for (what, acceptor) in cases {
        let results = meet(&End::dialer(), &acceptor).await;
        let wrong = |result: &Result<_, _>| matches!(result, Err(HandshakeError::WrongProof(_)));
        assert!(results.iter().all(wrong), "{what}: {results:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dialer_notices_another_node_at_the_address_and_itself() {
    let another = End { tag: Tag::from([3; 4]), ..End::acceptor() };
    let [dialed, _] = meet(&End::dialer(), &another).await;
    assert!(matches!(dialed, Err(HandshakeError::AnotherNode { .. })), "{dialed:?}");
    let itself = End { tag: Tag::from(DIALER), ..End::acceptor() };
    let [dialed, accepted] = meet(&End::dialer(), &itself).await;
    assert!(matches!(dialed, Err(HandshakeError::Itself)), "{dialed:?}");
    assert!(matches!(accepted, Err(HandshakeError::Itself | HandshakeError::Io(_))), "{accepted:?}");
}

#[test]
fn a_proof_cannot_be_replayed_or_reflected() {
    let (dialer, acceptor) = (End::dialer(), End::acceptor());
    let (first, other_end) = (dialer.start(), acceptor.start());
    let first_hello = *first.hello();
    let (proving, own_proof) = first.receive(other_end.hello()).unwrap();
    let (_, earlier_proof) = other_end.receive(&first_hello).unwrap();
    // Reflected: the dialer gets its own proof back.
    assert!(matches!(proving.receive(&own_proof), Err(HandshakeError::WrongProof(_))));
    // Replayed: the acceptor's proof of the first connection, in a second one with the same hello of the acceptor.
    let again = acceptor.start();
    let (proving, _) = dialer.start().receive(again.hello()).unwrap();
    assert!(matches!(proving.receive(&earlier_proof), Err(HandshakeError::WrongProof(_))));
}

#[test]
fn a_reflected_hello_is_recognized() {
    let dialer = End::dialer();
    let handshake = dialer.start();
    let own = *handshake.hello();
    assert!(matches!(handshake.receive(&own), Err(HandshakeError::Itself)));
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_says_nothing_is_given_up_at_the_limit() {
    let (mut one, _other) = duplex(1024);
    let acceptor = End::acceptor();
    let result = authenticate(&mut one, acceptor.identity(), Role::Acceptor, &[], LIMIT).await;
    assert!(matches!(result, Err(HandshakeError::Timeout(LIMIT))), "{result:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_of_another_protocol_gets_no_proof() {
    let (mut one, mut other) = duplex(1024);
    let acceptor = End::acceptor();
    other.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let result = authenticate(&mut one, acceptor.identity(), Role::Acceptor, &[], LIMIT).await;
    assert!(matches!(result, Err(HandshakeError::NotANode)), "{result:?}");
    drop(one);
    let sent = tokio::io::copy(&mut other, &mut sink()).await.unwrap();
    assert_eq!(usize::try_from(sent).unwrap(), HELLO_BYTES);
}

proptest! {
    #[test]
    fn a_hello_with_any_byte_changed_on_the_way_yields_no_peer(at in 0..HELLO_BYTES, change in 1..=u8::MAX) {
        let (dialer, acceptor) = (End::dialer(), End::acceptor());
        let (one, other) = (dialer.start(), acceptor.start());
        let mut changed = *one.hello();
        changed[at] ^= change;
        let (proving, _) = one.receive(other.hello()).unwrap();
        // The dialer must not accept whatever the acceptor makes of it.
        if let Ok((_, proof)) = other.receive(&changed) {
            prop_assert!(proving.receive(&proof).is_err());
        }
    }

    #[test]
    fn no_hello_makes_a_node_panic(hello in vec(any::<u8>(), HELLO_BYTES), magic: bool) {
        let mut hello: [u8; HELLO_BYTES] = hello.try_into().unwrap();
        if magic {
            hello[..4].copy_from_slice(&MAGIC);
        }
        let acceptor = End::acceptor();
        if let Ok((proving, proof)) = acceptor.start().receive(&hello) {
            prop_assert!(proving.receive(&proof).is_err());
        }
    }
}
