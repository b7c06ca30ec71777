//! Encodes the head of an HTTP/1 response.

use std::io::Write;
use std::time::SystemTime;

use http::{Version, header};
use rendezvous_codec::body::Framing;

use super::response::ResponseHead;
use crate::wire::CONTINUE;

/// Encodes the head of a response, including the empty line (RFC 9112, sections 4 and 5).
///
/// `framing` is `None` if the end of the connection ends the body, or if the status allows no body.
#[must_use]
pub fn head(response: &ResponseHead, version: Version, framing: Option<Framing>) -> Vec<u8> {
    let mut head = Vec::with_capacity(512);
    if response.says_paired {
        head.extend_from_slice(CONTINUE);
    }
    let version = if version == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" };
    let reason = response.status.canonical_reason().unwrap_or("<none>");

    // Writing to a vector cannot fail.
    let _ = write!(head, "{version} {} {reason}\r\n", response.status.as_str());
    for (name, value) in &response.headers {
        let spelling = response.spellings.as_ref().and_then(|spellings| spellings.of(name));
        head.extend_from_slice(spelling.unwrap_or(name.as_str()).as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    if response.closes {
        head.extend_from_slice(b"connection: close\r\n");
    }
    match framing {
        Some(Framing::Length(length)) if !response.headers.contains_key(header::CONTENT_LENGTH) => {
            let _ = write!(head, "content-length: {length}\r\n");
        }
        Some(Framing::Chunked) => head.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Some(Framing::Length(_)) | None => {}
    }
    let _ = write!(head, "date: {}\r\n\r\n", date());
    head
}

/// Returns the current time as a value of the `Date` field (RFC 9110, section 6.6.1).
#[must_use]
pub(crate) fn date() -> String {
    httpdate::HttpDate::from(SystemTime::now()).to_string()
}
