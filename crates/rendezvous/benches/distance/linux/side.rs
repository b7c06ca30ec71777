//! A side of a transfer, of either HTTP version: how it connects, sends a body and receives one.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::certificate::Certificate;
use super::contender::Protocol;
use super::http1::Connection;
use super::http2;

/// What a source sends at a time.
pub(crate) static PIECE: Bytes = Bytes::from_static(&[b'x'; 64 * 1024]);

/// How much a source sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Amount {
    /// A number of bytes, which is declared.
    Exactly(u64),
    /// What is taken within a time, but no more than a number of bytes. The length is not declared.
    Within(Duration, u64),
}

/// A connected client, for one request.
pub(crate) enum Side {
    Http1(Connection),
    Http2(SendRequest<Bytes>),
}

/// A GET whose head is sent.
pub(crate) enum Receiving {
    Http1(Connection),
    Http2(ResponseFuture),
}

impl Side {
    /// Connects `count` clients: with a connection each, or with HTTP/2 over one connection.
    pub(crate) async fn connect(
        protocol: Protocol,
        address: SocketAddrV4,
        count: u32,
        certificate: &Certificate,
    ) -> anyhow::Result<Vec<Self>> {
        if protocol == Protocol::Http2Tls {
            let secure = certificate.client("h2")?.secure(connect(address).await?).await?;
            let requests = http2::handshake(secure).await?;
            return Ok((0..count).map(|_| Self::Http2(requests.clone())).collect());
        }
        let mut connecting = JoinSet::new();
        for _ in 0..count {
            let client = certificate.client("http/1.1")?;
            connecting.spawn(async move {
                let stream = connect(address).await?;
                anyhow::Ok(match protocol {
                    Protocol::Http1 => Connection::new(stream),
                    Protocol::Http1Tls | Protocol::Http2Tls => Connection::new(client.secure(stream).await?),
                })
            });
        }
        let mut sides = Vec::new();
        while let Some(connection) = connecting.join_next().await {
            sides.push(Self::Http1(connection??));
        }
        Ok(sides)
    }

    /// Connects a client over plain HTTP/1.1.
    pub(crate) async fn plain(address: SocketAddrV4) -> anyhow::Result<Self> {
        Ok(Self::Http1(Connection::new(connect(address).await?)))
    }

    /// Uploads, and returns the size of the body when the response is there, which must be a success.
    pub(crate) async fn put(self, path: String, amount: Amount) -> anyhow::Result<u64> {
        let sent = match self {
            Self::Http1(mut connection) => {
                let sent = connection.send_message(&head("PUT", &path), amount).await?;
                connection.response().await.map(|_| sent)
            }
            Self::Http2(requests) => http2::put(requests, &path, amount).await,
        };
        sent.context("PUT")
    }

    /// Sends the head of a GET.
    pub(crate) async fn get(self, path: &str) -> anyhow::Result<Receiving> {
        Ok(match self {
            Self::Http1(mut connection) => {
                connection.send(&format!("{}\r\n", head("GET", path))).await?;
                Receiving::Http1(connection)
            }
            Self::Http2(requests) => Receiving::Http2(http2::get(requests, path).await?),
        })
    }
}

impl Receiving {
    /// Receives the body to its end, and returns its size.
    pub(crate) async fn finish(self) -> anyhow::Result<u64> {
        let received = match self {
            Self::Http1(mut connection) => {
                let head = connection.response().await.context("GET")?;
                connection.discard(&head).await
            }
            Self::Http2(response) => http2::discard(response).await,
        };
        received.context("GET")
    }
}

/// Creates a stream, and returns its path.
pub(crate) async fn new_path(address: SocketAddrV4) -> anyhow::Result<String> {
    let mut connection = Connection::new(connect(address).await?);
    connection.send_message(&head("POST", "/stream"), Amount::Exactly(0)).await?;
    let head = connection.response().await.context("POST")?;
    let created = connection.json(&head).await?;
    let id = created.get("stream").and_then(|id| id.as_str()).context("no id in the response to POST")?;
    Ok(format!("/stream/{id}"))
}

/// The head of a request, without its framing and its end.
fn head(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n")
}

async fn connect(address: SocketAddrV4) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
