//! Whether connections between nodes are plain or over TLS.
//!
//! *Invariant.* TLS proves nothing about who is at the other end: each node makes a certificate when it starts, and any certificate is taken.
//! The handshake of nodes that follows proves it: it covers the channel binding of the TLS connection, so whoever ends TLS in between cannot pass it
//! on (RFC 9266).
//!
//! *Bounds.* One certificate for the life of the process.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rendezvous_net::socket::Socket;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ClientConfig, DigitallySignedStruct, Error, PeerIncompatible, ServerConfig, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The name in the certificates of nodes, which nobody compares.
const NAME: &str = "rendezvous-node";

/// What connections between nodes are made of.
pub(crate) enum Transport {
    /// TCP alone.
    Plain,
    /// TLS 1.3.
    Tls { acceptor: TlsAcceptor, connector: TlsConnector },
}

impl Transport {
    /// TLS with a new certificate, or TCP alone.
    ///
    /// # Errors
    /// The system provides no random bytes.
    pub(crate) fn new(tls: bool) -> io::Result<Self> {
        if !tls {
            return Ok(Self::Plain);
        }
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).map_err(io::Error::other)?;
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(io::Error::other)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let any = AnyCertificate { algorithms: provider.signature_verification_algorithms };
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .and_then(|server| {
                server.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key)
            });
        let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]);
        let client = client.map(|client| {
            client.dangerous().with_custom_certificate_verifier(Arc::new(any)).with_no_client_auth()
        });
        Ok(Self::Tls {
            acceptor: Arc::new(server.map_err(io::Error::other)?).into(),
            connector: Arc::new(client.map_err(io::Error::other)?).into(),
        })
    }

    /// Makes a connection that was opened one between nodes.
    ///
    /// # Errors
    /// The TLS handshake fails.
    pub(super) async fn connect(&self, stream: TcpStream, peer_timeout: Duration) -> io::Result<Socket> {
        match self {
            Self::Plain => Ok(Socket::without_urgent_data(stream, peer_timeout)),
            Self::Tls { connector, .. } => {
                let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
                let secured = Socket::secure_as_client(stream, peer_timeout, connector, name).await;
                secured.map_err(|error| explained(&error))
            }
        }
    }

    /// Makes a connection that was accepted one between nodes.
    ///
    /// # Errors
    /// The TLS handshake fails.
    pub(super) async fn accept(&self, stream: TcpStream, peer_timeout: Duration) -> io::Result<Socket> {
        match self {
            Self::Plain => Ok(Socket::without_urgent_data(stream, peer_timeout)),
            Self::Tls { acceptor, .. } => {
                let secured = Socket::secure(stream, peer_timeout, acceptor).await;
                secured.map_err(|error| explained(&error))
            }
        }
    }
}

fn explained(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{error}: --cluster-tls must be set on all nodes or on none"))
}

/// Takes any certificate, whose key must still have signed the handshake.
#[derive(Debug)]
struct AnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
