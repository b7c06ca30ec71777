//! The head of an HTTP/1 response as bytes.

use std::io::Write;
use std::time::SystemTime;

use http::{Version, header};
use rendezvous_codec::body::Framing;

use super::response::ResponseHead;

/// The head of a response, up to and with the empty line. Without a `framing` its body is ended by the end of the connection, or has
/// none by its status.
#[must_use]
pub fn head(response: &ResponseHead, version: Version, framing: Option<Framing>) -> Vec<u8> {
    let mut head = Vec::with_capacity(512);
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

/// The present time, as the `Date` field of a response has it (RFC 9110, section 6.6.1).
#[must_use]
pub fn date() -> String {
    httpdate::HttpDate::from(SystemTime::now()).to_string()
}
