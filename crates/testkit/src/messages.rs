//! Requests and bodies of HTTP/1, as the bytes that a client sends.

use crate::client::Response;

/// The field line of a chunked upload.
pub const CHUNKED: &str = "Transfer-Encoding: chunked\r\n";

/// Returns a request without a body. `fields` are whole field lines, each with its CRLF.
pub fn request(method: &str, target: &str, fields: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: test\r\n{fields}\r\n")
}

/// Returns the field line of a bearer token (RFC 6750, section 2.1).
pub fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// Returns `length` bytes of a pattern. Its period, 251, divides no buffer size, so a misplaced byte is detected.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..251).cycle().take(length).collect()
}

/// Returns the chunked form of `body` (RFC 9112, section 7.1), in one chunk.
pub fn chunked(body: &[u8]) -> Vec<u8> {
    let end = b"0\r\n\r\n";
    if body.is_empty() {
        return end.to_vec();
    }
    [format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n", end].concat()
}

/// Returns the framing field line of an upload of `body`, and its encoded body.
pub fn framed(body: &[u8], is_chunked: bool) -> (String, Vec<u8>) {
    if is_chunked {
        (CHUNKED.to_owned(), chunked(body))
    } else {
        (format!("Content-Length: {}\r\n", body.len()), body.to_vec())
    }
}

impl Response {
    /// Returns the id of the stream from a response to `POST /stream`.
    pub fn stream_id(&self) -> String {
        self.json()["stream"].as_str().unwrap_or_else(|| panic!("{self:?}")).to_owned()
    }
}
