//! What a test's client speaks HTTP over: plain TCP, or TLS.

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

/// A certificate for `localhost`, in files.
pub struct Certificate {
    folder: TempDir,
    der: CertificateDer<'static>,
}

impl Certificate {
    pub fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let folder = TempDir::new().unwrap();
        let certificate = Self { folder, der: made.cert.der().clone() };
        let files = certificate.files();
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        certificate
    }

    pub fn files(&self) -> TlsFiles {
        let path = |name: &str| -> PathBuf { self.folder.path().join(name) };
        TlsFiles { certificate: path("certificate.pem"), key: path("key.pem") }
    }

    /// Connects, and shakes hands with whoever shows this certificate.
    pub async fn connect(&self, address: SocketAddr, protocols: &[&str]) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        self.secure(stream, protocols).await
    }

    pub async fn secure(&self, stream: TcpStream, protocols: &[&str]) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }
}

/// The certificate that all servers of a run over TLS share.
pub static CERTIFICATE: LazyLock<Certificate> = LazyLock::new(Certificate::new);

/// `RENDEZVOUS_TRANSPORT=tls` runs the whole suite over TLS.
pub fn is_tls() -> bool {
    std::env::var("RENDEZVOUS_TRANSPORT").as_deref() == Ok("tls")
}

pub enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// Sends `bytes`, the last that goes out for them as urgent data.
    pub async fn write_urgently(&mut self, bytes: &[u8]) -> io::Result<()> {
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
