//! The parsers of the fast lane read nothing otherwise than hyper's do.
//!
//! hyper may accept more, and does: two equal lengths, a chunk size of more than 16 digits that begins with zeros, an LF
//! alone at the start of a trailer. Then the server refuses, which is never a misunderstanding. What the server accepts, hyper
//! must accept with the same meaning.

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Empty};
use http_rendezvous::wire::chunked::{BadChunk, ChunkTracker};
use http_rendezvous::wire::head::{Framing, HeadScanner, with_fields};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use proptest::prelude::*;
use proptest::sample::select;
use tokio::io::AsyncWriteExt;

use crate::client::soon;

/// What hyper makes of a request.
struct Read {
    method: Method,
    uri: Uri,
    length: Option<u64>,
    body: Option<Bytes>,
}

/// `None` where hyper refuses the head.
fn by_hyper(bytes: &[u8]) -> Option<Read> {
    let read = Mutex::new(None);
    let service = service_fn(async |request: Request<Incoming>| {
        let (parts, body) = request.into_parts();
        let length = body.size_hint().exact();
        let body = body.collect().await.ok().map(http_body_util::Collected::to_bytes);
        *read.lock() = Some(Read { method: parts.method, uri: parts.uri, length, body });
        Err::<Response<Empty<Bytes>>, _>(std::io::Error::other("it has been read"))
    });
    let connection = async {
        let (mut client, server) = tokio::io::duplex(bytes.len() + 1024);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        // It ends in an error: by hyper's refusal, or by the service's.
        let _ = http1::Builder::new().half_close(true).serve_connection(TokioIo::new(server), service).await;
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(soon(connection));
    read.into_inner()
}

/// Bytes that are put in, put over one, or take one away.
fn mutations() -> impl Strategy<Value = Vec<(prop::sample::Index, u8, u8)>> {
    let byte = prop_oneof![select(b"\r\n\t :;,019aAfF\0\x7f\x80".to_vec()), any::<u8>()];
    prop::collection::vec((any::<prop::sample::Index>(), byte, 0..3u8), 0..3)
}

fn mutate(mut bytes: Vec<u8>, mutations: Vec<(prop::sample::Index, u8, u8)>) -> Vec<u8> {
    for (at, byte, how) in mutations {
        let at = at.index(bytes.len());
        match how {
            0 => bytes.insert(at, byte),
            1 => bytes[at] = byte,
            _ => drop(bytes.remove(at)),
        }
    }
    bytes
}

fn heads() -> impl Strategy<Value = Vec<u8>> {
    let line = select(vec![
        "GET /stream/a HTTP/1.1",
        "PUT /stream/a HTTP/1.1",
        "PUT http://b/stream/a?x HTTP/1.1",
        "PUT /stream/a HTTP/1.0",
        "x *#y HTTP/1.1",
    ]);
    let name = select(vec![
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "Connection",
        "Expect",
        "X",
        "content-LENGTH",
    ]);
    let value = select(vec![
        "",
        "a",
        "5",
        " 5 ",
        "05",
        "5, 5",
        "+5",
        "18446744073709551615",
        "18446744073709551613",
        "chunked",
        "Chunked",
        "gzip, chunked",
        "chunked,",
        "100-continue",
        "close",
        "\u{e9}",
    ]);
    let shape = select(vec![
        "",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Transfer-Encoding:chunked \r\n",
    ]);
    (line, shape, prop::collection::vec((name, value), 0..3)).prop_map(|(line, shape, fields)| {
        let fields = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
        let fields = fields.collect::<Vec<_>>().concat();
        format!("{line}\r\nHost: a\r\n{shape}{fields}\r\n").into_bytes()
    })
}

fn chunked_bodies() -> impl Strategy<Value = Vec<u8>> {
    let extension = select(vec!["", "", ";", ";a=b", " ", "\t ;a=\"b;c\"", ";\u{e9}", " ; a"]);
    let size = select(vec![0usize, 1, 2, 16]);
    let chunk = (prop::collection::vec(any::<u8>(), 1..40), extension, size, any::<bool>());
    let trailers = select(vec!["", "", "X: 1\r\n", "X: 1\r\ny:\r\n"]);
    (prop::collection::vec(chunk, 0..4), trailers).prop_map(|(chunks, trailers)| {
        let mut body = Vec::new();
        for (data, extension, width, upper) in chunks {
            let size =
                if upper { format!("{:0width$X}", data.len()) } else { format!("{:0width$x}", data.len()) };
            body.extend([size.as_bytes(), extension.as_bytes(), b"\r\n", &data, b"\r\n"].concat());
        }
        body.extend(format!("0\r\n{trailers}\r\n").bytes());
        body
    })
}

/// The data as far as it was decoded, and whether it is whole.
fn decode(bytes: &[u8], split: usize) -> (Vec<u8>, Result<bool, BadChunk>) {
    let (mut tracker, mut input, mut data) = (ChunkTracker::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(split) {
        input.extend_from_slice(piece);
        loop {
            match tracker.decode(&mut input) {
                Ok(Some(more)) => data.extend(more),
                Ok(None) => break,
                Err(bad) => return (data, Err(bad)),
            }
        }
    }
    (data, Ok(tracker.is_done()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_head_that_is_accepted_is_read_by_hyper_alike(head in heads(), mutations in mutations()) {
        let bytes = mutate(head, mutations);
        if let Ok(Some(head)) = HeadScanner::default().scan(&bytes) {
            let bytes = &bytes[..head.length];
            let read = by_hyper(bytes);
            prop_assert!(read.is_some(), "hyper refuses {:?}", String::from_utf8_lossy(bytes));
            let read = read.unwrap();
            let length = match head.framing {
                Framing::Empty => Some(0),
                Framing::Length(length) => Some(length),
                Framing::Chunked => None,
            };
            prop_assert_eq!(read.length, length);
            let line = with_fields(bytes, |fields| Some((fields.method.to_owned(), fields.target.to_owned())));
            let (method, target) = line.unwrap();
            prop_assert_eq!((read.method.as_str(), read.uri), (&method[..], target.parse::<Uri>().unwrap()));
        }
    }

    #[test]
    fn noise_is_no_head_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), head in heads()) {
        let _ = HeadScanner::default().scan(&bytes);
        let _ = HeadScanner::default().scan(&[head, bytes].concat());
    }

    #[test]
    fn a_chunked_body_that_is_accepted_is_read_by_hyper_alike(
        body in chunked_bodies(),
        mutations in mutations(),
        split in 1usize..60,
    ) {
        let bytes = mutate(body, mutations);
        let read = by_hyper(&[b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", &bytes[..]].concat());
        let by_hyper = read.unwrap().body;
        let (data, whole) = decode(&bytes, split);
        let shown = String::from_utf8_lossy(&bytes);
        match by_hyper {
            Some(theirs) if whole == Ok(true) => prop_assert_eq!(&theirs[..], &data[..], "{:?}", shown),
            // hyper is more lenient: with the same data, as far as ours went.
            Some(theirs) => prop_assert!(theirs.starts_with(&data), "{shown:?}: {theirs:?}, {data:?}"),
            None => prop_assert!(whole != Ok(true), "hyper refuses {shown:?}"),
        }
    }
}
