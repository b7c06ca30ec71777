//! Parses the bytes that a client has sent into requests.

use http::Method;
use rendezvous_codec::body::Framing;
use rendezvous_codec::head::{HeadScanner, parse};

use super::super::chunked::{Body, End};
use super::super::head::MAX_HEAD_BYTES;

/// A request whose head is complete.
#[derive(Debug)]
pub(super) struct Request {
    pub is_head: bool,
    pub is_put: bool,
    /// The body, as far as it was sent.
    pub body: Vec<u8>,
    /// The position of the body, if it is chunked.
    pub chunked_from: Option<usize>,
}

/// The requests in `output`, up to the first that is refused or incomplete.
pub(super) fn requests(output: &[u8]) -> Vec<Request> {
    let (mut requests, mut at) = (Vec::new(), 0);
    while let Ok(Some(length)) = HeadScanner::default().scan(&output[at..], MAX_HEAD_BYTES) {
        let Ok((method, framing)) =
            parse(&output[at..at + length], |head| (head.method.clone(), head.framing))
        else {
            break;
        };
        at += length;
        let rest = &output[at..];
        let (body, next) = match framing {
            Framing::Length(length) => {
                let here = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
                (rest[..here].to_vec(), Some(at + here))
            }
            Framing::Chunked => {
                let body = Body::read(rest);
                let next = if let End::Whole(length) = body.end { Some(at + length) } else { None };
                (body.data, next)
            }
        };
        let chunked_from = (framing == Framing::Chunked).then_some(at);
        requests.push(Request {
            is_head: method == Method::HEAD,
            is_put: method == Method::PUT,
            body,
            chunked_from,
        });
        match next {
            Some(next) => at = next,
            None => break,
        }
    }
    requests
}
