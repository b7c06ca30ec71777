//! The connections of the sides: an HTTP/1 connection for each, or HTTP/2 connections for many.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures_util::future::MaybeDone;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::{Request, Response};
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::AT_ONCE;
use crate::answer::Answer;
use crate::server::{Server, connect, head};

/// The sides that may wait on an HTTP/2 connection at the same time: all but one of the requests that the server allows by default.
const WAITING: usize = 99;

/// The HTTP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Over {
    /// HTTP/1: each side uses a descriptor here and one in the server
    H1,
    /// HTTP/2 without TLS: 99 sides share these descriptors
    H2,
}

impl Over {
    /// The connections for this number of waiting sides.
    pub(super) fn connections(self, sides: usize) -> usize {
        match self {
            Self::H1 => sides,
            Self::H2 => sides.div_ceil(WAITING),
        }
    }
}

impl fmt::Display for Over {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::H1 => "HTTP/1",
            Self::H2 => "HTTP/2",
        })
    }
}

/// When the clients' kernel acknowledges bytes of an HTTP/2 connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Acks {
    /// After each read
    AtOnce,
    /// By its default: Linux delays some by up to 40 ms
    Delayed,
}

impl fmt::Display for Acks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AtOnce => "at once",
            Self::Delayed => "delayed",
        })
    }
}

/// The connections of all sides to a server.
pub(super) enum Way<'a> {
    Http1(&'a Server),
    Http2 {
        /// Connections of the waiting sides.
        waiting: Pool,
        /// Connections of the second sides. On a connection with waiting sides, a second side would cost less the fewer of these there
        /// are.
        coming: Pool,
    },
}

/// Whether a side connects first or second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finds {
    Nobody,
    TheOther,
}

/// The request of a side.
pub(super) struct Asks {
    pub(super) method: &'static str,
    pub(super) path: String,
    /// The length of its body, if it has one, and the part that it sends.
    pub(super) body: Option<(usize, Vec<u8>)>,
}

/// A side that has sent its request. When dropped, it leaves.
pub(super) enum Asked {
    Http1(TcpStream),
    Http2 {
        response: Pin<Box<MaybeDone<ResponseFuture>>>,
        /// When dropped inside a body, it resets the HTTP/2 stream.
        _upload: SendStream<Bytes>,
    },
}

impl<'a> Way<'a> {
    /// Opens the shared connections: `waiting` for the waiting sides, and `coming` for the others.
    pub(super) async fn open(
        server: &'a Server,
        over: Over,
        acks: Acks,
        waiting: usize,
        coming: usize,
    ) -> anyhow::Result<Self> {
        Ok(match over {
            Over::H1 => Self::Http1(server),
            Over::H2 => Self::Http2 {
                waiting: Pool::open(server, acks, waiting).await?,
                coming: Pool::open(server, acks, coming).await?,
            },
        })
    }

    /// The connection for [`Connected::ask`].
    pub(super) async fn connect(&self, finds: Finds) -> anyhow::Result<Connected> {
        Ok(match self {
            Self::Http1(server) => Connected::Http1(server.connect().await.context("cannot connect")?),
            Self::Http2 { waiting, coming } => {
                let pool = if finds == Finds::Nobody { waiting } else { coming };
                Connected::Http2(pool.next()?.ready().await?)
            }
        })
    }
}

/// A connection that is ready for a request.
pub(super) enum Connected {
    Http1(TcpStream),
    Http2(SendRequest<Bytes>),
}

impl Connected {
    pub(super) async fn ask(self, asks: Asks) -> anyhow::Result<Asked> {
        let Asks { method, path, body } = asks;
        match self {
            Self::Http1(mut stream) => {
                let length = body.as_ref().map(|(length, _)| format!("Content-Length: {length}\r\n"));
                let mut request = head(method, &path, &length.unwrap_or_default()).into_bytes();
                request.extend(body.into_iter().flat_map(|(_, sent)| sent));
                stream.write_all(&request).await?;
                Ok(Asked::Http1(stream))
            }
            Self::Http2(mut send) => {
                let mut request = Request::builder().method(method).uri(format!("http://localhost{path}"));
                if let Some((length, _)) = &body {
                    request = request.header(CONTENT_LENGTH, *length);
                }
                let (response, mut upload) = send.send_request(request.body(())?, body.is_none())?;
                if let Some((length, sent)) = body {
                    let is_all = sent.len() == length;
                    upload.send_data(sent.into(), is_all)?;
                }
                Ok(Asked::Http2 { response: Box::pin(MaybeDone::Future(response)), _upload: upload })
            }
        }
    }
}

impl Asked {
    /// Waits for the head of its response.
    pub(super) async fn begun(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Http1(stream) => stream.readable().await?,
            Self::Http2 { response, .. } => response.as_mut().await,
        }
        Ok(())
    }

    pub(super) async fn answer(mut self) -> anyhow::Result<Answer> {
        self.begun().await?;
        match self {
            Self::Http1(stream) => Answer::read(&mut BufReader::new(stream)).await,
            Self::Http2 { mut response, .. } => {
                let response = response.as_mut().take_output().context("the answer was taken before")?;
                read(response?).await
            }
        }
    }
}

async fn read(response: Response<RecvStream>) -> anyhow::Result<Answer> {
    let (parts, mut incoming) = response.into_parts();
    let (mut body, mut is_whole) = (Vec::new(), true);
    while let Some(data) = incoming.data().await {
        match data {
            Ok(data) => {
                incoming.flow_control().release_capacity(data.len())?;
                body.extend(data);
            }
            Err(error) => {
                ensure!(error.is_reset(), "the answer's body: {error}");
                is_whole = false;
                break;
            }
        }
    }
    Ok(Answer { status: parts.status.as_u16(), body, is_whole })
}

/// Connections that are used in turn.
pub(super) struct Pool {
    connections: Vec<SendRequest<Bytes>>,
    turn: Cell<usize>,
    /// The connections' tasks, which end with this.
    _drivers: JoinSet<()>,
}

impl Pool {
    /// Opens them and sends one request on each: memory that a first request allocates is a cost of the connection.
    async fn open(server: &Server, acks: Acks, count: usize) -> anyhow::Result<Self> {
        let open = async || {
            let stream = Acking { stream: connect(server.plain).await?, acks };
            anyhow::Ok(h2::client::handshake(stream).await?)
        };
        let opened: Vec<_> =
            stream::iter(0..count).map(|_| open()).buffer_unordered(AT_ONCE).try_collect().await?;
        let mut drivers = JoinSet::new();
        let mut connections = Vec::with_capacity(count);
        for (send, connection) in opened {
            // Its requests show how it ended.
            drivers.spawn(async { drop(connection.await) });
            connections.push(send);
        }
        let pool = Self { connections, turn: Cell::new(0), _drivers: drivers };
        for _ in 0..count {
            let ping = Asks { method: "GET", path: "/ping".to_owned(), body: None };
            let asked = Connected::Http2(pool.next()?.ready().await?).ask(ping).await?;
            asked.answer().await?.expect(200)?;
        }
        Ok(pool)
    }

    fn next(&self) -> anyhow::Result<SendRequest<Bytes>> {
        let turn = self.turn.replace(self.turn.get() + 1);
        let next = self.connections.get(turn % self.connections.len());
        next.cloned().context("there is no connection")
    }
}

/// A connection whose kernel acknowledges as configured.
struct Acking {
    stream: TcpStream,
    acks: Acks,
}

impl AsyncRead for Acking {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.acks == Acks::AtOnce && read.is_ready() {
            // The kernel resets this option by itself. It fails only on a broken connection.
            let _ = sockopt::set_tcp_quickack(&self.stream, true);
        }
        read
    }
}

impl AsyncWrite for Acking {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut TaskContext<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
