//! What a client has said, as requests.

use http_rendezvous::wire::head::{Framing, HeadScanner, with_fields};

use super::super::chunked::{Body, End};

/// A request whose head is whole.
#[derive(Debug)]
pub struct Request {
    pub is_head: bool,
    pub is_put: bool,
    /// As far as it was said.
    pub body: Vec<u8>,
    /// Where that starts, if it is chunked.
    pub chunked_from: Option<usize>,
}

/// The requests in `said`, up to the first `PUT`, behind which there is nothing but its body.
pub fn requests(said: &[u8]) -> Vec<Request> {
    let (mut requests, mut at) = (Vec::new(), 0);
    while let Ok(Some(head)) = HeadScanner::default().scan(&said[at..]) {
        let method = with_fields(&said[at..at + head.length], |fields| Some(fields.method == "HEAD"));
        at += head.length;
        let rest = &said[at..];
        let (body, next) = match head.framing {
            Framing::Empty => (Vec::new(), Some(at)),
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
        let chunked_from = (head.framing == Framing::Chunked).then_some(at);
        requests.push(Request { is_head: method == Some(true), is_put: head.is_put, body, chunked_from });
        match next {
            Some(next) if !head.is_put => at = next,
            _ => break,
        }
    }
    requests
}
