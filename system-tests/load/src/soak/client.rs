//! A client of a soak: one connection, HTTP/1.1 or HTTP/2, with or without TLS. Dropping it inside an exchange equals a kill.

use std::convert::Infallible;
use std::net::SocketAddrV4;
use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::plan::Speech;
use crate::server::{Server, connect};

pub(crate) type RequestBody = UnsyncBoxBody<Bytes, Infallible>;

/// A certificate for `localhost`: files for a server, and connectors that trust it.
pub(crate) struct Certificate {
    folder: TempDir,
    roots: RootCertStore,
}

impl Certificate {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone())?;
        let certificate = Self { folder: TempDir::new()?, roots };
        std::fs::write(certificate.file(), made.cert.pem())?;
        std::fs::write(certificate.key_file(), made.signing_key.serialize_pem())?;
        Ok(certificate)
    }

    pub(crate) fn file(&self) -> String {
        self.folder.path().join("certificate.pem").display().to_string()
    }

    pub(crate) fn key_file(&self) -> String {
        self.folder.path().join("key.pem").display().to_string()
    }

    /// Connectors for servers with this certificate.
    pub(crate) fn connectors(&self) -> Connectors {
        let connector = |protocol: &[u8]| {
            let mut config =
                ClientConfig::builder().with_root_certificates(self.roots.clone()).with_no_client_auth();
            config.alpn_protocols = vec![protocol.to_vec()];
            TlsConnector::from(Arc::new(config))
        };
        Connectors { http1: connector(b"http/1.1"), http2: connector(b"h2") }
    }
}

/// TLS for each version of HTTP.
pub(crate) struct Connectors {
    http1: TlsConnector,
    http2: TlsConnector,
}

pub(crate) struct Client {
    sender: Sender,
    /// The connection's task, which ends with this.
    _driver: JoinSet<()>,
}

enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>),
}

impl Client {
    pub(crate) async fn connect(
        server: &Server,
        connectors: &Connectors,
        speech: Speech,
    ) -> anyhow::Result<Self> {
        if !speech.is_tls {
            return Self::begin(connect(server.plain).await?, speech).await;
        }
        let address: SocketAddrV4 = server.secure.context("the server does not speak TLS")?;
        let connector = if speech.is_http2 { &connectors.http2 } else { &connectors.http1 };
        let stream = connector.connect(ServerName::try_from("localhost")?, connect(address).await?).await?;
        Self::begin(stream, speech).await
    }

    async fn begin<T>(stream: T, speech: Speech) -> anyhow::Result<Self>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut driver = JoinSet::new();
        let io = TokioIo::new(stream);
        // Its requests show how it ended.
        let sender = if speech.is_http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            driver.spawn(async { drop(connection.await) });
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            driver.spawn(async { drop(connection.await) });
            Sender::Http1(sender)
        };
        Ok(Self { sender, _driver: driver })
    }

    /// Sends a request. Returns its response once the head has arrived.
    pub(crate) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        body: RequestBody,
    ) -> hyper::Result<Response<Incoming>> {
        let uri = match self.sender {
            Sender::Http1(_) => path.to_owned(),
            Sender::Http2(_) => format!("http://localhost{path}"),
        };
        let mut request = Request::new(body);
        *request.method_mut() = method.parse().unwrap_or_default();
        *request.uri_mut() = uri.parse().unwrap_or_default();
        request.headers_mut().insert(http::header::HOST, http::HeaderValue::from_static("localhost"));
        match &mut self.sender {
            Sender::Http1(sender) => sender.send_request(request).await,
            Sender::Http2(sender) => sender.send_request(request).await,
        }
    }
}
