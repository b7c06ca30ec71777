//! Reads requests with hyper.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt;
use tokio::runtime::{Builder, Runtime};

/// A request as hyper reads it.
pub(crate) struct Read {
    pub method: Method,
    pub uri: Uri,
    pub length: Option<u64>,
    /// `None` if hyper refuses the body.
    pub body: Option<Bytes>,
}

/// The request at the start of `bytes`, or `None` if hyper refuses its head.
pub(crate) fn request(bytes: &[u8]) -> Option<Read> {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().build().unwrap());
    let read = Mutex::new(None);
    let service = service_fn(async |request: Request<Incoming>| {
        let (parts, body) = request.into_parts();
        let length = body.size_hint().exact();
        let body = body.collect().await.ok().map(http_body_util::Collected::to_bytes);
        *read.lock() = Some(Read { method: parts.method, uri: parts.uri, length, body });
        Err::<Response<Empty<Bytes>>, _>(std::io::Error::other("the request has been read"))
    });
    let connection = async {
        let (mut client, server) = tokio::io::duplex(bytes.len() + 1024);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        // The connection ends with an error, either hyper's or the service's.
        let _ = http1::Builder::new().half_close(true).serve_connection(TokioIo::new(server), service).await;
    };
    RUNTIME.block_on(connection);
    read.into_inner()
}
