//! The handshake of connections between nodes: both prove that they know the secret of the cluster, before anything else is sent.
//!
//! ```text
//!   dialer ── hello: magic, versions, purpose, tag, 32 random bytes ──►
//!          ◄─ hello ──────────────────────────────────────────────────    acceptor; both hellos may cross
//!          ── proof: HMAC(secret, role, both hellos, …) ──────────────►
//!          ◄─ proof ──────────────────────────────────────────────────    both proofs may cross
//! ```
//!
//! A proof covers the role of its sender, both hellos (so both tags, both random values and what versions were offered), the version that
//! follows from them, the name of the cluster, and over TLS the exporter of the connection (RFC 9266). So it cannot be replayed, reflected,
//! moved to another connection, or used to agree on an older version.
//!
//! *Invariants.* The types do not allow another order, and there is no way to a [`Peer`] without a valid proof. No clock, and no memory of
//! earlier connections.
//!
//! *Bounds.* A connection sends and reads [`HELLO_BYTES`] and [`PROOF_BYTES`], no matter who the peer is, and [`authenticate`] has a time
//! limit.

use std::io;
use std::time::Duration;

use aws_lc_rs::rand;
use rendezvous_protocol::Tag;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::name::ClusterName;
use crate::record::Versions;
use crate::secret::{CODE_BYTES, Secrets};

/// The length of a hello: magic, lowest and highest version, purpose, tag, random bytes.
pub const HELLO_BYTES: usize = 4 + 2 + 2 + 1 + Tag::BYTES + RANDOM_BYTES;
/// The length of a proof.
pub const PROOF_BYTES: usize = CODE_BYTES;

const RANDOM_BYTES: usize = 32;
const MAGIC: [u8; 4] = *b"RVN\x01";
const LABEL: &str = "rendezvous cluster handshake";

/// What a connection is for. The dialer chooses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The one link of two nodes: pings, draining, events.
    Link,
    /// Requests of clients that are passed on.
    Hop,
}

/// Which side of the connection this node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It has connected.
    Dialer {
        /// The node that it wants to reach.
        to: Tag,
        /// What for.
        purpose: Purpose,
    },
    /// It has accepted the connection.
    Acceptor,
}

/// What this node brings to each handshake.
#[derive(Debug, Clone, Copy)]
pub struct Identity<'a> {
    /// The name of the cluster.
    pub cluster: &'a ClusterName,
    /// The secret of the cluster.
    pub secrets: &'a Secrets,
    /// The tag of this node.
    pub tag: Tag,
    /// The versions of the protocol that this node speaks.
    pub versions: Versions,
}

/// The other node, proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its tag.
    pub tag: Tag,
    /// The version that both speak from here on.
    pub version: u16,
    /// What the connection is for.
    pub purpose: Purpose,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The peer closed the connection or the network failed.
    #[error("the connection ended before the node had proved itself")]
    Io(#[from] io::Error),
    /// The time limit is over.
    #[error("the node did not prove itself within {0:?}")]
    Timeout(Duration),
    /// The peer speaks something else.
    #[error(
        "what connected or answered there is not a node: --cluster-listen is for the other nodes only, and --cluster-tls must be set on all of them or on none"
    )]
    NotANode,
    /// No common version.
    #[error(
        "node {tag} speaks versions {theirs} of the protocol between nodes, this one {ours}: update the \
        older of both"
    )]
    Version {
        /// The peer's tag, not proved.
        tag: Tag,
        /// The peer's versions.
        theirs: Versions,
        /// This node's versions.
        ours: Versions,
    },
    /// Another node answers at the address.
    #[error(
        "node {found} answers at the address of node {wanted}: --cluster-advertise of one of them is \
        wrong, or it has restarted"
    )]
    AnotherNode {
        /// The node that was to be reached.
        wanted: Tag,
        /// The node that answered, not proved.
        found: Tag,
    },
    /// The peer has this node's tag.
    #[error(
        "this node has reached itself: another process had this address before, or --cluster-advertise of another node is wrong"
    )]
    Itself,
    /// The proof is wrong.
    #[error(
        "node {0} has another secret, or is of another cluster: compare --cluster-secret-file and \
        --cluster-name on both"
    )]
    WrongProof(Tag),
    /// The system has no random bytes.
    #[error("the system provides no random bytes")]
    NoRandomness,
}

/// A handshake whose hello is to be sent, and that waits for the peer's.
#[derive(Debug)]
pub struct Handshake<'a> {
    identity: Identity<'a>,
    role: Role,
    exporter: &'a [u8],
    hello: [u8; HELLO_BYTES],
}

/// A handshake that waits for the peer's proof.
#[derive(Debug)]
pub struct Proving<'a> {
    secrets: &'a Secrets,
    peer: Peer,
    /// What the peer's proof covers.
    transcript: Transcript<'a>,
}

#[derive(Debug, Clone, Copy)]
struct Transcript<'a> {
    cluster: &'a ClusterName,
    dialer: [u8; HELLO_BYTES],
    acceptor: [u8; HELLO_BYTES],
    version: u16,
    exporter: &'a [u8],
    by_dialer: bool,
}

impl<'a> Handshake<'a> {
    /// Starts a handshake. `exporter` is keying material of the TLS session by label `EXPORTER-Channel-Binding` (RFC 9266), and empty
    /// without TLS.
    ///
    /// # Errors
    /// [`HandshakeError::NoRandomness`]
    pub fn start(identity: Identity<'a>, role: Role, exporter: &'a [u8]) -> Result<Self, HandshakeError> {
        let mut random = [0; RANDOM_BYTES];
        rand::fill(&mut random).map_err(|_| HandshakeError::NoRandomness)?;
        let hello = Hello { versions: identity.versions, purpose: role.purpose(), tag: identity.tag, random };
        Ok(Self { identity, role, exporter, hello: hello.encode() })
    }

    /// Returns the first bytes to send.
    #[must_use]
    pub fn hello(&self) -> &[u8; HELLO_BYTES] {
        &self.hello
    }

    /// Takes the hello of the peer. Returns the proof to send, and what waits for the peer's.
    ///
    /// # Errors
    /// [`HandshakeError`] if the peer is no node, another one than wanted, or of another protocol. Then nothing more is to be sent.
    pub fn receive(
        self,
        hello: &[u8; HELLO_BYTES],
    ) -> Result<(Proving<'a>, [u8; PROOF_BYTES]), HandshakeError> {
        let theirs = Hello::parse(hello).ok_or(HandshakeError::NotANode)?;
        let Identity { cluster, secrets, tag, versions } = self.identity;
        if theirs.tag == tag {
            return Err(HandshakeError::Itself);
        }
        let by_dialer = matches!(self.role, Role::Dialer { .. });
        let purpose = match (self.role, theirs.purpose) {
            (Role::Dialer { to, .. }, None) if to != theirs.tag => {
                return Err(HandshakeError::AnotherNode { wanted: to, found: theirs.tag });
            }
            (Role::Dialer { purpose, .. }, None) | (Role::Acceptor, Some(purpose)) => purpose,
            // Two dialers or two acceptors.
            (Role::Dialer { .. }, Some(_)) | (Role::Acceptor, None) => return Err(HandshakeError::NotANode),
        };
        let version = versions.common(theirs.versions).ok_or(HandshakeError::Version {
            tag: theirs.tag,
            theirs: theirs.versions,
            ours: versions,
        })?;
        let (dialer, acceptor) = if by_dialer { (self.hello, *hello) } else { (*hello, self.hello) };
        let own = Transcript { cluster, dialer, acceptor, version, exporter: self.exporter, by_dialer };
        let transcript = Transcript { by_dialer: !by_dialer, ..own };
        let peer = Peer { tag: theirs.tag, version, purpose };
        Ok((Proving { secrets, peer, transcript }, own.prove(secrets)))
    }
}

impl Proving<'_> {
    /// Takes the proof of the peer.
    ///
    /// # Errors
    /// [`HandshakeError::WrongProof`]
    pub fn receive(self, proof: &[u8; PROOF_BYTES]) -> Result<Peer, HandshakeError> {
        let Self { secrets, peer, transcript } = self;
        if transcript.is_proved(secrets, proof) {
            Ok(peer)
        } else {
            Err(HandshakeError::WrongProof(peer.tag))
        }
    }
}

impl Transcript<'_> {
    fn prove(&self, secrets: &Secrets) -> [u8; PROOF_BYTES] {
        secrets.sign(LABEL, &self.parts(&self.version.to_be_bytes()))
    }

    fn is_proved(&self, secrets: &Secrets, proof: &[u8; PROOF_BYTES]) -> bool {
        secrets.verify(LABEL, &self.parts(&self.version.to_be_bytes()), proof)
    }

    fn parts<'b>(&'b self, version: &'b [u8]) -> [&'b [u8]; 6] {
        let role: &[u8] = if self.by_dialer { b"dialer" } else { b"acceptor" };
        [role, self.cluster.as_str().as_bytes(), &self.dialer, &self.acceptor, version, self.exporter]
    }
}

impl Role {
    fn purpose(self) -> Option<Purpose> {
        match self {
            Self::Dialer { purpose, .. } => Some(purpose),
            Self::Acceptor => None,
        }
    }
}

/// The fields of a hello. `purpose` is that of a dialer.
struct Hello {
    versions: Versions,
    purpose: Option<Purpose>,
    tag: Tag,
    random: [u8; RANDOM_BYTES],
}

impl Hello {
    fn encode(&self) -> [u8; HELLO_BYTES] {
        let purpose = match self.purpose {
            None => 0,
            Some(Purpose::Link) => 1,
            Some(Purpose::Hop) => 2,
        };
        let (low, high) = (self.versions.low().to_be_bytes(), self.versions.high().to_be_bytes());
        let tag = self.tag.to_bytes();
        let fields: [&[u8]; 6] = [&MAGIC, &low, &high, &[purpose], &tag, &self.random];
        let mut hello = [0; HELLO_BYTES];
        for (to, from) in hello.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        hello
    }

    fn parse(hello: &[u8; HELLO_BYTES]) -> Option<Self> {
        let (magic, rest) = hello.split_first_chunk()?;
        let (low, rest) = rest.split_first_chunk()?;
        let (high, rest) = rest.split_first_chunk()?;
        let (purpose, rest) = rest.split_first()?;
        let (tag, rest) = rest.split_first_chunk()?;
        let purpose = match *purpose {
            0 => None,
            1 => Some(Purpose::Link),
            2 => Some(Purpose::Hop),
            _ => return None,
        };
        let versions = Versions::new(u16::from_be_bytes(*low), u16::from_be_bytes(*high))?;
        (*magic == MAGIC).then_some(Self {
            versions,
            purpose,
            tag: Tag::from(*tag),
            random: *rest.first_chunk()?,
        })
    }
}

/// Authenticates both ends of a connection. Sends nothing beyond the proof, and reads nothing beyond the peer's. If this fails, the
/// connection is to be closed.
///
/// # Errors
/// [`HandshakeError`] if the peer is not the wanted node of this cluster, or has not proved it within `limit`.
pub async fn authenticate<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    identity: Identity<'_>,
    role: Role,
    exporter: &[u8],
    limit: Duration,
) -> Result<Peer, HandshakeError> {
    let exchange = async {
        let handshake = Handshake::start(identity, role, exporter)?;
        stream.write_all(handshake.hello()).await?;
        stream.flush().await?;
        let mut hello = [0; HELLO_BYTES];
        read_hello(stream, &mut hello).await?;
        let (proving, proof) = handshake.receive(&hello)?;
        stream.write_all(&proof).await?;
        stream.flush().await?;
        let mut proof = [0; PROOF_BYTES];
        stream.read_exact(&mut proof).await?;
        proving.receive(&proof)
    };
    timeout(limit, exchange).await.unwrap_or(Err(HandshakeError::Timeout(limit)))
}

/// Reads a hello, and fails at its first bytes if they are not those of a node: a client of another protocol might send no more.
async fn read_hello<S: AsyncRead + Unpin>(
    stream: &mut S,
    hello: &mut [u8; HELLO_BYTES],
) -> Result<(), HandshakeError> {
    let (magic, rest) = hello.split_at_mut(MAGIC.len());
    stream.read_exact(magic).await?;
    if *magic != MAGIC {
        return Err(HandshakeError::NotANode);
    }
    stream.read_exact(rest).await?;
    Ok(())
}

#[cfg(test)]
mod tests;
