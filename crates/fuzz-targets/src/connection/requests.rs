//! Parses the bytes that a client has sent into requests.

use http::{Method, Uri};
use rendezvous_codec::body::Framing;
use rendezvous_codec::head::{Head, HeadScanner, parse};

use super::super::chunked::{Body, End};
use super::super::head::MAX_HEAD_BYTES;

/// A request whose head is complete.
#[derive(Debug)]
pub(super) struct Request {
    pub method: Method,
    /// What its target is.
    pub target: Target,
    /// The body, as far as it was sent.
    pub body: Vec<u8>,
    /// The position of the body, if it is chunked.
    pub chunked_from: Option<usize>,
}

/// What the target of a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// `/stream/:id`.
    Stream,
    /// `/p/:path`.
    Path,
    Other,
}

impl Target {
    fn of(uri: &Uri) -> Self {
        let path = uri.path();
        let id = path.strip_prefix("/stream/").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        match id {
            Some(id) if !id.contains('/') => Self::Stream,
            _ if path.starts_with("/p/") => Self::Path,
            _ => Self::Other,
        }
    }
}

impl Request {
    /// Whether its body is that of a source, if it gets a seat.
    pub(super) fn is_upload(&self) -> bool {
        self.method == Method::PUT || self.method == Method::POST && self.target == Target::Path
    }

    /// Whether it asks for a download.
    pub(super) fn is_download(&self) -> bool {
        self.method == Method::GET && self.target != Target::Other
    }
}

/// The requests in `output`, up to the first that is refused or incomplete.
pub(super) fn requests(output: &[u8]) -> Vec<Request> {
    let (mut requests, mut at) = (Vec::new(), 0);
    while let Ok(Some(length)) = HeadScanner::default().scan(&output[at..], MAX_HEAD_BYTES) {
        let read = |head: &Head<'_>| (head.method.clone(), Target::of(&head.target), head.framing);
        let Ok((method, target, framing)) = parse(&output[at..at + length], read) else {
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
        requests.push(Request { method, target, body, chunked_from });
        match next {
            Some(next) => at = next,
            None => break,
        }
    }
    requests
}
