//! The head of a request on a hop: what an edge writes, and an owner reads.
//!
//! *Invariant.* The edge copies only fields from its client that the owner uses. So no client can write a field that only an edge may.

use std::io::Write;
use std::net::IpAddr;
use std::time::Duration;

use http::Method;
use rendezvous_codec::body::Framing;
use rendezvous_core::token::{AuthError, WRONG_TOKEN};

use crate::api::access;
use crate::api::head::RequestHead;
use crate::api::transfer::PASSED_HEADERS;

/// The address of the client.
const CLIENT: &str = "rendezvous-client";
/// Whether the client may make the path: [`MAY`], [`WRONG`], or absent if that takes a token and it has none.
const MAY_CREATE: &str = "rendezvous-may-create";
const MAY: &[u8] = b"yes";
const WRONG: &[u8] = b"wrong token";
/// How many milliseconds the side has waited at other nodes. Absent: none.
const WAITED: &str = "rendezvous-waited";
/// The number of the list by which the edge has chosen the owner of a path.
const LIST: &str = "rendezvous-list";
/// The fields that the owner uses, besides those that describe the body.
const PASSED: [&str; 3] = ["prefer", "if-none-match", "last-event-id"];

/// A request that is passed on.
#[derive(Debug, Clone)]
pub(crate) struct HopRequest {
    /// The lines of the head, up to the empty line.
    head: Vec<u8>,
    /// What follows at once.
    body: Vec<u8>,
    /// The method is `HEAD`.
    pub(crate) is_head: bool,
}

impl HopRequest {
    /// Makes a request for the target of `head` on behalf of `client`. `once_paired` is the body that follows once the sides have paired.
    pub(crate) fn of(
        head: &impl RequestHead,
        method: &Method,
        client: IpAddr,
        once_paired: Option<Framing>,
    ) -> Self {
        let mut lines = Vec::with_capacity(512);
        // Writing to a vector does not fail.
        let _ = write!(lines, "{method} {} HTTP/1.1\r\nhost: node\r\n{CLIENT}: {client}\r\n", head.path());
        for name in PASSED.into_iter().chain(PASSED_HEADERS.iter().map(http::HeaderName::as_str)) {
            head.values(name).for_each(|value| line(&mut lines, name, value));
        }
        if let Some(token) = access::token(head.values("authorization"), head.query()) {
            line(&mut lines, "authorization", &[b"Bearer ", token].concat());
        }
        match once_paired {
            Some(Framing::Length(length)) => {
                let _ = write!(lines, "content-length: {length}\r\nexpect: 100-continue\r\n");
            }
            Some(Framing::Chunked) => {
                lines.extend_from_slice(b"transfer-encoding: chunked\r\nexpect: 100-continue\r\n");
            }
            None => {}
        }
        Self { head: lines, body: Vec::new(), is_head: *method == Method::HEAD }
    }

    /// Makes a request for the list of the node's streams.
    pub(crate) fn list() -> Self {
        Self { head: b"GET /stream HTTP/1.1\r\nhost: node\r\n".to_vec(), body: Vec::new(), is_head: false }
    }

    /// Makes a request for the events of the node's streams.
    pub(crate) fn events() -> Self {
        Self { head: b"GET /events HTTP/1.1\r\nhost: node\r\n".to_vec(), body: Vec::new(), is_head: false }
    }

    /// Says whether the client may make the path.
    pub(crate) fn set_creation(&mut self, creation: Result<(), AuthError>) {
        match creation {
            Ok(()) => line(&mut self.head, MAY_CREATE, MAY),
            Err(AuthError::Forbidden(_)) => line(&mut self.head, MAY_CREATE, WRONG),
            Err(AuthError::Unauthorized) => {}
        }
    }

    /// Says how long the side has waited at other nodes.
    pub(crate) fn set_waited(&mut self, waited: Duration) {
        if !waited.is_zero() {
            line(&mut self.head, WAITED, waited.as_millis().to_string().as_bytes());
        }
    }

    /// Adds a body that is sent with the head.
    pub(crate) fn with_body(mut self, body: Vec<u8>) -> Self {
        let _ = write!(self.head, "content-length: {}\r\n", body.len());
        Self { body, ..self }
    }

    /// Returns the whole head, with the number of the list by which the owner was chosen.
    pub(crate) fn encode(&self, list: u64) -> Vec<u8> {
        let mut head = self.head.clone();
        let _ = write!(head, "{LIST}: {list}\r\n\r\n");
        head.extend_from_slice(&self.body);
        head
    }
}

fn line(lines: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        lines.extend_from_slice(part);
    }
}

/// Returns the client of a request on a hop.
pub(crate) fn client(head: &impl RequestHead) -> Option<IpAddr> {
    text(head, CLIENT)?.parse().ok()
}

/// Returns whether the client of a request on a hop may make a path.
///
/// # Errors
/// [`AuthError`] if it may not.
pub(crate) fn creation(head: &impl RequestHead) -> Result<(), AuthError> {
    match head.values(MAY_CREATE).next() {
        Some(MAY) => Ok(()),
        Some(_) => Err(AuthError::Forbidden(WRONG_TOKEN)),
        None => Err(AuthError::Unauthorized),
    }
}

/// Returns how long the side has waited at other nodes.
pub(crate) fn waited(head: &impl RequestHead) -> Duration {
    let millis = text(head, WAITED).and_then(|text| text.parse().ok());
    millis.map_or(Duration::ZERO, Duration::from_millis)
}

/// Returns the number of the list by which the edge has chosen this node.
pub(crate) fn list(head: &impl RequestHead) -> Option<u64> {
    text(head, LIST)?.parse().ok()
}

fn text<'a>(head: &'a impl RequestHead, name: &str) -> Option<&'a str> {
    std::str::from_utf8(head.values(name).next()?).ok()
}
