//! The head of an answer as bytes, for what does not go through hyper: just as hyper would write it.

use std::io::Write;
use std::time::SystemTime;

use http::response::Parts;
use http::{Version, header};

use crate::header_set::Spellings;

/// How the body of an answer is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// By its length in bytes.
    Length(u64),
    /// By chunks.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// The head of an answer, up to and with the empty line.
#[must_use]
pub fn head(parts: &Parts, framing: BodyFraming) -> Vec<u8> {
    let mut head = Vec::with_capacity(512);
    let version = if parts.version == Version::HTTP_10 { "HTTP/1.0" } else { "HTTP/1.1" };
    let reason = parts.status.canonical_reason().unwrap_or("<none>");
    let spellings = parts.extensions.get::<Spellings>();

    // Writing to a vector can not fail.
    let _ = write!(head, "{version} {} {reason}\r\n", parts.status.as_str());
    for (name, value) in &parts.headers {
        let spelling = spellings.and_then(|spellings| spellings.of(name)).unwrap_or(name.as_str());
        head.extend_from_slice(spelling.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    match framing {
        BodyFraming::Length(length) if !parts.headers.contains_key(header::CONTENT_LENGTH) => {
            let _ = write!(head, "content-length: {length}\r\n");
        }
        BodyFraming::Chunked => head.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        BodyFraming::Length(_) | BodyFraming::UntilClose => {}
    }
    let _ = write!(head, "date: {}\r\n\r\n", date());
    head
}

/// The present time, as the `Date` field of an answer tells it (RFC 9110, section 6.6.1).
#[must_use]
pub fn date() -> String {
    httpdate::HttpDate::from(SystemTime::now()).to_string()
}
