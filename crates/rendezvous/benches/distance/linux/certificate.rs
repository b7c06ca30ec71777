//! The certificate of all servers, and the clients that trust it.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, ensure};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CipherSuite, ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const NAME: &str = "localhost";
/// The first choice of the client.
const CIPHER: CipherSuite = CipherSuite::TLS13_AES_256_GCM_SHA384;

/// A self-signed certificate, in files that exist until it is dropped.
pub(crate) struct Certificate {
    folder: TempDir,
    der: CertificateDer<'static>,
}

impl Certificate {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
        let certificate = Self { folder: TempDir::new()?, der: made.cert.der().clone() };
        fs::write(certificate.chain(), made.cert.pem())?;
        fs::write(certificate.key(), made.signing_key.serialize_pem())?;
        Ok(certificate)
    }

    /// The file with the certificate.
    pub(crate) fn chain(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    /// The file with the private key.
    pub(crate) fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// Returns a client that offers `protocol` by ALPN.
    pub(crate) fn client(&self, protocol: &str) -> anyhow::Result<Client> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone())?;
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Ok(Client(Arc::new(config)))
    }
}

/// A client that trusts the certificate.
#[derive(Clone)]
pub(crate) struct Client(Arc<ClientConfig>);

impl Client {
    /// Starts TLS. All connections have the same cipher, because the CPU time depends on it.
    pub(crate) async fn secure(self, stream: TcpStream) -> anyhow::Result<TlsStream<TcpStream>> {
        let secure = TlsConnector::from(self.0).connect(ServerName::try_from(NAME)?, stream).await;
        let secure = secure.context("TLS")?;
        let cipher = secure.get_ref().1.negotiated_cipher_suite().map(|suite| suite.suite());
        ensure!(cipher == Some(CIPHER), "the cipher is {cipher:?}");
        Ok(secure)
    }
}
