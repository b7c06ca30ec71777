//! A strict parser for HTTP/1 request heads (docs/api.md; RFC 9112, sections 2 to 6).
//!
//! [`HeadScanner`] finds the end of a head in the bytes received so far; [`parse`] turns the head into a [`Head`]. A head
//! whose framing is ambiguous is an error, so that no proxy in front of the server can disagree with it about where the
//! message ends.

mod scanner;

use std::time::Duration;

use http::uri::Authority;
use http::{Method, Uri, Version};

use super::body::Framing;
pub use scanner::HeadScanner;

/// Limit on the fields of a head.
pub const MAX_HEAD_FIELDS: usize = 100;
/// How many fields a node adds to a request that it passes on, at most.
pub const NODE_FIELDS: usize = 16;

/// A complete, well-formed request head.
#[derive(Debug)]
pub struct Head<'a> {
    /// The method, which may be any token.
    pub method: Method,
    /// The request target (RFC 9112, section 3.2): a path with a query, an absolute URI, an authority, or `*`.
    pub target: Uri,
    /// HTTP/1.0 or HTTP/1.1.
    pub version: Version,
    /// How the body is framed. [`Framing::NONE`] without a body.
    pub framing: Framing,
    /// Whether the client waits for a `100 Continue` before it sends the body. Always false for HTTP/1.0 (RFC 9110,
    /// section 10.1.1).
    pub expects_continue: bool,
    /// Whether the connection closes after this request: `Connection: close`, or HTTP/1.0.
    pub closes: bool,
    fields: &'a [httparse::Header<'a>],
}

/// Why a request head is rejected. The connection must be closed after the response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// The head is not HTTP/1, or its framing is ambiguous. The text describes the violation.
    #[error("The request head cannot be understood: {0}")]
    Malformed(String),
    /// The head has more than this number of bytes.
    #[error("The request head is over the limit of {0} bytes")]
    TooLong(usize),
    /// The head has more than [`MAX_HEAD_FIELDS`] fields.
    #[error("The request head is over the limit of {MAX_HEAD_FIELDS} fields")]
    TooManyFields,
    /// The head was not complete before this timeout.
    #[error("The request was not complete after {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
}

/// Parses a head whose end [`HeadScanner::scan`] has found, and returns the result of `visit`. The head borrows from a
/// buffer of this call, so it cannot be returned.
///
/// ```
/// use rendezvous_codec::body::Framing;
/// use rendezvous_codec::head::parse;
///
/// let head = b"PUT /stream/a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
/// let seen = parse(head, |head| (head.method.clone(), head.framing));
/// assert_eq!(seen, Ok((http::Method::PUT, Framing::Length(5))));
///
/// // Two framings are ambiguous.
/// let head = b"PUT /stream/a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
/// assert!(parse(head, |_| ()).is_err());
/// ```
///
/// # Errors
/// [`HeadError::Malformed`] or [`HeadError::TooManyFields`].
pub fn parse<T>(bytes: &[u8], visit: impl FnOnce(&Head<'_>) -> T) -> Result<T, HeadError> {
    parse_fields::<MAX_HEAD_FIELDS, T>(bytes, visit)
}

/// As [`parse`], for a head that a node has passed on from its client: it may have [`NODE_FIELDS`] more.
///
/// # Errors
/// As [`parse`].
pub fn parse_passed_on<T>(bytes: &[u8], visit: impl FnOnce(&Head<'_>) -> T) -> Result<T, HeadError> {
    parse_fields::<{ MAX_HEAD_FIELDS + NODE_FIELDS }, T>(bytes, visit)
}

fn parse_fields<const FIELDS: usize, T>(
    bytes: &[u8],
    visit: impl FnOnce(&Head<'_>) -> T,
) -> Result<T, HeadError> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(malformed("an empty line inside the head")),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyFields),
        Err(error) => return Err(malformed(&error.to_string())),
    }
    let version = if request.version == Some(1) { Version::HTTP_11 } else { Version::HTTP_10 };
    let method = Method::from_bytes(request.method.unwrap_or_default().as_bytes());
    let target = request.path.unwrap_or_default().parse();

    let mut framing_fields = FramingFields::default();
    for field in request.headers.iter() {
        framing_fields.add(field)?;
    }
    Ok(visit(&Head {
        method: method.map_err(|_| malformed("an invalid method"))?,
        target: target.map_err(|_| malformed("an invalid request target"))?,
        version,
        framing: framing_fields.framing(version)?,
        expects_continue: version == Version::HTTP_11 && framing_fields.expects_continue,
        closes: version == Version::HTTP_10 || framing_fields.closes,
        fields: request.headers,
    }))
}

impl Head<'_> {
    /// Returns the values of the fields with this name, in order. Names are case-insensitive.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let is_named = move |field: &&httparse::Header<'_>| field.name.eq_ignore_ascii_case(name);
        self.fields.iter().filter(is_named).map(|field| field.value)
    }
}

/// Returns whether these `Expect` values contain `100-continue`, which is case-insensitive and may be a member of a list
/// (RFC 9110, section 10.1.1). Unknown expectations are ignored.
pub fn expects_continue<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> bool {
    values.into_iter().any(|value| has_member(value, b"100-continue"))
}

/// Returns whether a list (RFC 9110, section 5.6.1) contains this member, case-insensitively.
fn has_member(list: &[u8], wanted: &[u8]) -> bool {
    list.split(|byte| *byte == b',').any(|member| member.trim_ascii().eq_ignore_ascii_case(wanted))
}

/// The fields that determine the framing of a message and whether the connection is kept.
#[derive(Default)]
pub(crate) struct FramingFields {
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
    expects_continue: bool,
    closes: bool,
}

impl FramingFields {
    pub(crate) fn add(&mut self, field: &httparse::Header<'_>) -> Result<(), HeadError> {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("host") {
            self.hosts += 1;
            if !field.value.is_empty() && Authority::try_from(field.value).is_err() {
                return Err(malformed("an invalid Host"));
            }
        } else if is("content-length") {
            if self.length.replace(decimal(field.value)?).is_some() {
                return Err(malformed("two Content-Length fields"));
            }
        } else if is("transfer-encoding") {
            if self.chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(malformed("a Transfer-Encoding other than chunked"));
            }
            self.chunked = true;
        } else if is("expect") {
            self.expects_continue |= expects_continue([field.value]);
        } else if is("connection") {
            self.closes |= has_member(field.value, b"close");
        }
        Ok(())
    }

    fn framing(&self, version: Version) -> Result<Framing, HeadError> {
        let is_http11 = version == Version::HTTP_11;
        match self.hosts {
            1 => {}
            0 if !is_http11 => {}
            0 => return Err(malformed("no Host field")),
            _ => return Err(malformed("two Host fields")),
        }
        match (self.length, self.chunked) {
            (Some(_), true) => Err(malformed("both Content-Length and Transfer-Encoding")),
            (None, true) if !is_http11 => Err(malformed("a Transfer-Encoding in an HTTP/1.0 request")),
            (None, true) => Ok(Framing::Chunked),
            (length, false) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }

    /// Returns whether the connection closes after the message.
    pub(crate) fn closes(&self) -> bool {
        self.closes
    }

    /// Returns the framing of a response (RFC 9112, section 6.3), if its head says it.
    pub(crate) fn of_response(&self, status: u16) -> Result<Option<Framing>, HeadError> {
        let has_body = !matches!(status, 100..=199 | 204 | 304);
        match (self.length, self.chunked) {
            (Some(_), true) => Err(malformed("both Content-Length and Transfer-Encoding")),
            _ if !has_body => Ok(Some(Framing::NONE)),
            (None, true) => Ok(Some(Framing::Chunked)),
            (length, false) => Ok(length.map(Framing::Length)),
        }
    }
}

fn decimal(value: &[u8]) -> Result<u64, HeadError> {
    std::str::from_utf8(value)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| malformed("a Content-Length that is not one decimal number of bytes"))
}

pub(crate) fn malformed(reason: &str) -> HeadError {
    HeadError::Malformed(reason.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 16 * 1024;

    fn read<T>(bytes: &[u8], visit: impl FnOnce(&Head<'_>) -> T) -> Result<Option<T>, HeadError> {
        let length = HeadScanner::default().scan(bytes, LIMIT)?;
        length.map(|length| parse(&bytes[..length], visit)).transpose()
    }

    fn framing(fields: &str) -> Result<Framing, HeadError> {
        let head = format!("PUT /stream/x HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        read(head.as_bytes(), |head| head.framing).map(Option::unwrap)
    }

    #[test]
    fn the_framing_of_a_body_is_read_from_the_head() {
        for (fields, expected) in [
            ("", Framing::NONE),
            ("Content-Length: 0\r\n", Framing::NONE),
            ("content-length:  5 \r\n", Framing::Length(5)),
            ("Content-Length: 18446744073709551615\r\n", Framing::Length(u64::MAX)),
            ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
            ("TRANSFER-ENCODING: Chunked\r\n", Framing::Chunked),
        ] {
            assert_eq!(framing(fields), Ok(expected), "{fields:?}");
        }
    }

    #[test]
    fn an_ambiguous_framing_is_rejected() {
        for fields in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
            "Content-Length: 3\r\nContent-Length: 3\r\n",
            "Content-Length: 3, 3\r\n",
            "Content-Length: +3\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 0x3\r\n",
            "Content-Length: \r\n",
            "Content-Length: 18446744073709551616\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, chunked\r\n",
            "Transfer-Encoding: \r\n",
            "Host: b\r\n",
            "X-A : 1\r\n",
            "X-A: 1\r\n 2\r\n",
            "X-A: a\0b\r\n",
            "X-A: a\rb\r\n",
            "X-A: a\nX-B: b\r\n",
            "no colon\r\n",
        ] {
            assert!(framing(fields).is_err(), "{fields:?}");
        }
    }

    #[test]
    fn a_head_that_is_not_http_1_is_rejected_at_the_first_invalid_byte() {
        for bytes in [
            &b"\x16\x03\x01"[..],
            b"\x00",
            b" GET / HTTP/1.1\r\n",
            b"GET / HTTP/1.1\n",
            b"GET / HTTP/1.1\rX",
            b"\n",
            b"PRI * HTTP/2.0\r\n\r\n",
            b"GET /ping\r\n\r\n",
            b"GET /ping HTTP/1.2\r\nHost: a\r\n\r\n",
            b"GET  /ping HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /ping HTTP/1.1\r\n\r\n",
            b"GET /ping HTTP/1.1\r\nHost: a b\r\n\r\n",
            b"PUT /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert!(
                matches!(read(bytes, |_| ()), Err(HeadError::Malformed(_))),
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    #[test]
    fn an_incomplete_head_needs_more_bytes_and_empty_lines_before_it_are_skipped() {
        let head = b"\r\n\r\nGET /ping HTTP/1.1\r\nHost: a\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(HeadScanner::default().scan(&head[..end], LIMIT), Ok(None), "{end} bytes");
        }
        let followed = [head, &b"PUT"[..]].concat();
        assert_eq!(HeadScanner::default().scan(&followed, LIMIT), Ok(Some(head.len())));
        let seen = read(&followed, |head| (head.method.clone(), head.target.path().to_owned(), head.version));
        assert_eq!(seen, Ok(Some((Method::GET, "/ping".to_owned(), Version::HTTP_11))));
    }

    #[test]
    fn a_head_is_limited_in_bytes_and_fields() {
        let with =
            |fields: &str| read(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes(), |_| ());
        let padded = |bytes: usize| with(&format!("X: {}\r\n", "a".repeat(bytes)));
        let around = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
        assert!(padded(LIMIT - around).unwrap().is_some());
        assert_eq!(padded(LIMIT - around + 1), Err(HeadError::TooLong(LIMIT)));
        assert_eq!(read(&[b'A'; LIMIT], |_| ()), Err(HeadError::TooLong(LIMIT)));
        assert!(with(&"a: 1\r\n".repeat(MAX_HEAD_FIELDS - 1)).unwrap().is_some());
        assert_eq!(with(&"a: 1\r\n".repeat(MAX_HEAD_FIELDS)), Err(HeadError::TooManyFields));
        let passed_on = |fields: usize| {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: 1\r\n".repeat(fields - 1));
            parse_passed_on(head.as_bytes(), |_| ())
        };
        assert_eq!(passed_on(MAX_HEAD_FIELDS + NODE_FIELDS), Ok(()));
        assert_eq!(passed_on(MAX_HEAD_FIELDS + NODE_FIELDS + 1), Err(HeadError::TooManyFields));
    }

    #[test]
    fn only_http_1_1_can_expect_a_100() {
        let expects = |version: &str| {
            let head = format!("PUT / HTTP/{version}\r\nHost: a\r\nExpect: 100-Continue\r\n\r\n");
            read(head.as_bytes(), |head| head.expects_continue).unwrap().unwrap()
        };
        assert!(expects("1.1"));
        assert!(!expects("1.0"));
    }

    #[test]
    fn a_connection_is_kept_unless_the_request_closes_it_or_is_http_1_0() {
        for (version, field, closes) in [
            ("1.1", "", false),
            ("1.1", "Connection: keep-alive\r\n", false),
            ("1.1", "Connection: Close\r\n", true),
            ("1.1", "Connection: a, close\r\nConnection: b\r\n", true),
            ("1.1", "Connection: closed\r\n", false),
            ("1.0", "", true),
            ("1.0", "Connection: keep-alive\r\n", true),
        ] {
            let head = format!("GET / HTTP/{version}\r\nHost: a\r\n{field}\r\n");
            assert_eq!(read(head.as_bytes(), |head| head.closes), Ok(Some(closes)), "{head:?}");
        }
    }

    proptest! {
        #[test]
        fn a_head_means_the_same_however_it_is_split(
            bytes in prop::collection::vec(prop_oneof![
                Just(b'\r'), Just(b'\n'), Just(b' '), Just(b':'), Just(b'a'), any::<u8>()
            ], 0..64),
            cuts in prop::collection::vec(0usize..200, 0..6),
        ) {
            let bytes = [b"GET / HTTP/1.1\r\nHost: a\r\n".as_slice(), &bytes, b"\r\n\r\n"].concat();
            let at_once = HeadScanner::default().scan(&bytes, LIMIT);
            let mut scanner = HeadScanner::default();
            let mut cuts: Vec<_> = cuts.into_iter().filter(|cut| *cut < bytes.len()).collect();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let piecewise = cuts.iter().map(|cut| scanner.scan(&bytes[..*cut], LIMIT)).find(|seen| seen != &Ok(None));
            prop_assert_eq!(piecewise.unwrap_or(Ok(None)), at_once);
        }
    }
}
