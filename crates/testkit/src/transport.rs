//! The transport of a test's client: plain TCP or TLS.
//!
//! The environment variable `RENDEZVOUS_TRANSPORT=tls` runs a whole test suite over TLS.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use rendezvous_server::config::TlsFiles;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A self-signed certificate for `localhost`, in files that exist until it is dropped.
pub struct Certificate {
    folder: TempDir,
    der: CertificateDer<'static>,
}

impl Default for Certificate {
    fn default() -> Self {
        Self::new()
    }
}

impl Certificate {
    /// Generates a certificate and writes it to a temporary folder.
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let folder = TempDir::new().unwrap();
        let certificate = Self { folder, der: made.cert.der().clone() };
        let files = certificate.files();
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        certificate
    }

    /// Returns the paths of the files, for the server's configuration.
    pub fn files(&self) -> TlsFiles {
        let path = |name: &str| -> PathBuf { self.folder.path().join(name) };
        TlsFiles { certificate: path("certificate.pem"), key: path("key.pem") }
    }

    /// Connects over TLS to a server with this certificate, and offers `protocols` by ALPN.
    ///
    /// # Errors
    /// If the connection or the handshake fails.
    pub async fn connect(&self, address: SocketAddr, protocols: &[&str]) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        self.secure(stream, protocols).await
    }

    /// Like [`Certificate::connect`], over an existing TCP connection.
    ///
    /// # Errors
    /// If the handshake fails.
    pub async fn secure(&self, stream: TcpStream, protocols: &[&str]) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

/// The certificate of all servers in a run over TLS.
pub static CERTIFICATE: LazyLock<Certificate> = LazyLock::new(Certificate::new);

/// Returns whether the whole test suite runs over TLS (`RENDEZVOUS_TRANSPORT=tls`).
pub fn is_tls() -> bool {
    std::env::var("RENDEZVOUS_TRANSPORT").as_deref() == Ok("tls")
}

/// A connected transport.
pub enum Transport {
    /// Plain TCP.
    Plain(TcpStream),
    /// TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// Sends `bytes` and marks the last one, or over TLS the last byte of its record, as urgent data (tcp(7)).
    ///
    /// # Errors
    /// If the socket or the TLS session fails.
    pub async fn write_urgent(&mut self, bytes: &[u8]) -> io::Result<()> {
        let bytes = match self {
            Self::Plain(_) => bytes.to_vec(),
            Self::Tls(stream) => {
                let mut records = Vec::new();
                let (_, session) = stream.get_mut();
                session.writer().write_all(bytes)?;
                while session.wants_write() {
                    session.write_tls(&mut records)?;
                }
                records
            }
        };
        let send = || Ok(rustix::net::send(self.tcp(), &bytes, rustix::net::SendFlags::OOB)?);
        assert_eq!(self.tcp().async_io(Interest::WRITABLE, send).await?, bytes.len());
        Ok(())
    }

    /// Returns the TCP connection.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
