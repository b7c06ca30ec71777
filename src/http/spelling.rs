//! Header names on the wire, spelled as they were given.
//!
//! `http::HeaderMap` folds names to lower case. hyper restores a response's spelling only from an extension
//! of a private type that its own parser makes. So the parser is given a request with the wanted names, in
//! memory, and what it makes of it is put on the response.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Extensions, Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The extensions of a response whose headers of these names are to be spelled so.
pub async fn extensions<'a>(names: impl Iterator<Item = &'a str>) -> Extensions {
    let mut head = String::from("GET / HTTP/1.1\r\n");
    let mut lines = 0;
    for name in names {
        lines += 1;
        head.push_str(name);
        // Any value that is right for every header; a Content-Length must be a number.
        head.push_str(": 0\r\n");
    }
    head.push_str("\r\n");

    let parsed = Mutex::new(Extensions::new());
    let keep = service_fn(|request: Request<Incoming>| {
        *parsed.lock() = request.extensions().clone();
        async { Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new())) }
    });
    let connection = http1::Builder::new()
        .preserve_header_case(true)
        .max_headers(lines)
        .serve_connection(TokioIo::new(Script(head)), keep);
    // Names that are no header names give no extension, and their response would not have passed
    // `HeaderSet::parse`.
    let _ = connection.await;
    parsed.into_inner()
}

/// A connection that says one thing, and whose answers nobody hears.
struct Script(String);

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let now = self.0.len().min(buffer.remaining());
        buffer.put_slice(self.0.drain(..now).as_str().as_bytes());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
