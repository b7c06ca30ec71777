//! Request heads, strictly: what is ambiguous is refused, never guessed at (contract, section 8; RFC 9112).
//!
//! hyper's own parser is lenient where two readers of one connection could disagree about where a message
//! ends, which is how requests are smuggled. So every head passes this scanner before hyper sees it. Pure:
//! bytes in, verdict out.

use http::Uri;
use http::uri::Authority;

use crate::outcome::Refusal;

/// Bytes of a head, from the first of the request line to the empty line's last.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;
/// The longest body that hyper can count, in bytes.
pub const MAX_LENGTH: u64 = u64::MAX - 2;
/// Fields of a head.
pub const MAX_HEAD_FIELDS: usize = 100;

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    Empty,
    /// A body of so many bytes, at least one.
    Length(u64),
    /// A chunked body.
    Chunked,
}

/// A whole, well-formed request head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the head, with empty lines before it.
    pub length: usize,
    /// The request is a `PUT`.
    pub is_put: bool,
    /// The request is HTTP/1.1, and not 1.0.
    pub is_http11: bool,
    /// What follows.
    pub framing: Framing,
    /// The client waits for a `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

/// Looks for the end of a head in a growing buffer, and never at one byte twice.
#[derive(Debug, Default)]
pub struct HeadScanner {
    scanned: usize,
    line_start: usize,
    in_head: bool,
}

impl HeadScanner {
    /// The head at the start of `buffer`, which is what the last call had with more behind; `None` where it
    /// is not whole yet.
    ///
    /// # Errors
    /// [`Refusal::BadRequest`] or [`Refusal::HeadTooLarge`]; the connection can not go on after it.
    pub fn scan(&mut self, buffer: &[u8]) -> Result<Option<Head>, Refusal> {
        match self.find_end(buffer)? {
            Some(head) if head.len() <= MAX_HEAD_BYTES => parse(head).map(Some),
            None if buffer.len() < MAX_HEAD_BYTES => Ok(None),
            _ => Err(too_large(&format!("{MAX_HEAD_BYTES} bytes"))),
        }
    }

    fn find_end<'a>(&mut self, buffer: &'a [u8]) -> Result<Option<&'a [u8]>, Refusal> {
        while let Some(&byte) = buffer.get(self.scanned) {
            let next = buffer.get(self.scanned + 1);
            match (byte, next) {
                (b'\r', None) => return Ok(None),
                (b'\r', Some(b'\n')) => {
                    let empty = self.scanned == self.line_start;
                    self.scanned += 2;
                    self.line_start = self.scanned;
                    if empty && self.in_head {
                        return Ok(buffer.get(..self.scanned));
                    }
                }
                (b'\r', Some(_)) => return Err(bad("a CR without LF in the head")),
                (b'\n', _) => return Err(bad("a LF without CR in the head")),
                _ if !self.in_head && !is_token_byte(byte) => {
                    return Err(bad("this is not HTTP/1.1: the request line must begin with a method"));
                }
                _ => {
                    self.in_head = true;
                    self.scanned += 1;
                }
            }
        }
        Ok(None)
    }
}

fn parse(bytes: &[u8]) -> Result<Head, Refusal> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEAD_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(bad("an empty line inside the head")),
        Err(httparse::Error::TooManyHeaders) => return Err(too_many_fields()),
        Err(error) => return Err(bad(&error.to_string())),
    }
    let is_http11 = request.version == Some(1);
    request.path.unwrap_or_default().parse::<Uri>().map_err(|_| bad("an invalid request target"))?;

    let mut fields = Shape::default();
    for field in request.headers.iter() {
        fields.take(field)?;
    }
    Ok(Head {
        length: bytes.len(),
        is_put: request.method == Some("PUT"),
        is_http11,
        framing: fields.framing(is_http11)?,
        expects_continue: is_http11 && fields.expects_continue,
    })
}

/// The request line and the fields of a head that was scanned.
pub struct Fields<'a, 'b> {
    /// The method.
    pub method: &'b str,
    /// The request target.
    pub target: &'b str,
    lines: &'a [httparse::Header<'b>],
}

impl<'b> Fields<'_, 'b> {
    /// The values of the fields of this name.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &'b [u8]> {
        let named = move |field: &&httparse::Header<'_>| field.name.eq_ignore_ascii_case(name);
        self.lines.iter().filter(named).map(|field| field.value)
    }

    /// Whether there is a field of this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }
}

/// Looks at the fields of a whole head, as [`HeadScanner::scan`] found it.
pub fn with_fields<T>(head: &[u8], look: impl FnOnce(&Fields<'_, '_>) -> Option<T>) -> Option<T> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_HEAD_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    request.parse(head).ok()?;
    look(&Fields { method: request.method?, target: request.path?, lines: request.headers })
}

/// Whether these values of `Expect` ask for a `100 Continue`: it compares without case, and may stand in a list (RFC 9110,
/// section 10.1.1). Expectations that nobody knows are passed over.
pub fn expects_continue<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> bool {
    let mut members = values.into_iter().flat_map(|value| value.split(|byte| *byte == b','));
    members.any(|member| member.trim_ascii().eq_ignore_ascii_case(b"100-continue"))
}

/// The fields that decide about the message's shape.
#[derive(Default)]
struct Shape {
    hosts: usize,
    length: Option<u64>,
    chunked: bool,
    expects_continue: bool,
}

impl Shape {
    fn take(&mut self, field: &httparse::Header<'_>) -> Result<(), Refusal> {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("host") {
            self.hosts += 1;
            if !field.value.is_empty() && Authority::try_from(field.value).is_err() {
                return Err(bad("an invalid Host"));
            }
        } else if is("content-length") {
            if self.length.replace(decimal(field.value)?).is_some() {
                return Err(bad("two Content-Length fields"));
            }
        } else if is("transfer-encoding") {
            if self.chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(bad("a Transfer-Encoding other than chunked"));
            }
            self.chunked = true;
        } else if is("expect") {
            self.expects_continue |= expects_continue([field.value]);
        }
        Ok(())
    }

    fn framing(&self, is_http11: bool) -> Result<Framing, Refusal> {
        match self.hosts {
            1 => {}
            0 if !is_http11 => {}
            0 => return Err(bad("no Host field")),
            _ => return Err(bad("two Host fields")),
        }
        match (self.length, self.chunked) {
            (Some(_), true) => Err(bad("both Content-Length and Transfer-Encoding")),
            (None, true) if !is_http11 => Err(bad("a Transfer-Encoding in an HTTP/1.0 request")),
            (None, true) => Ok(Framing::Chunked),
            (None | Some(0), false) => Ok(Framing::Empty),
            (Some(length), false) => Ok(Framing::Length(length)),
        }
    }
}

fn decimal(value: &[u8]) -> Result<u64, Refusal> {
    std::str::from_utf8(value)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse().ok())
        .filter(|length| *length <= MAX_LENGTH)
        .ok_or_else(|| bad("a Content-Length that is not one decimal number of bytes"))
}

/// tchar of RFC 9110, section 5.6.2.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn bad(what: &str) -> Refusal {
    Refusal::BadRequest(format!("The request head can not be understood: {what}"))
}

/// A head with more than [`MAX_HEAD_FIELDS`].
#[must_use]
pub fn too_many_fields() -> Refusal {
    too_large(&format!("{MAX_HEAD_FIELDS} fields"))
}

fn too_large(limit: &str) -> Refusal {
    Refusal::HeadTooLarge(format!("The request head is over the limit of {limit}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scan(bytes: &[u8]) -> Result<Option<Head>, Refusal> {
        HeadScanner::default().scan(bytes)
    }

    fn framing(fields: &str) -> Result<Framing, String> {
        let head = format!("PUT /stream/x HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        scan(head.as_bytes()).map(|head| head.unwrap().framing).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn the_framing_of_a_body_is_read_from_the_head() {
        for (fields, expected) in [
            ("", Framing::Empty),
            ("Content-Length: 0\r\n", Framing::Empty),
            ("content-length:  5 \r\n", Framing::Length(5)),
            ("Content-Length: 18446744073709551613\r\n", Framing::Length(MAX_LENGTH)),
            ("Transfer-Encoding: chunked\r\n", Framing::Chunked),
            ("TRANSFER-ENCODING: Chunked\r\n", Framing::Chunked),
        ] {
            assert_eq!(framing(fields), Ok(expected), "{fields:?}");
        }
    }

    #[test]
    fn an_ambiguous_framing_is_refused() {
        for fields in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n",
            "Content-Length: 3\r\nContent-Length: 3\r\n",
            "Content-Length: 3, 3\r\n",
            "Content-Length: +3\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 0x3\r\n",
            "Content-Length: \r\n",
            "Content-Length: 18446744073709551614\r\n",
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
    fn a_head_that_is_no_http_1_is_refused_as_early_as_can_be_seen() {
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
                matches!(scan(bytes), Err(Refusal::BadRequest(_))),
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    #[test]
    fn an_unfinished_head_is_waited_for_and_empty_lines_before_it_are_passed_over() {
        let head = b"\r\n\r\nGET /ping HTTP/1.1\r\nHost: a\r\n\r\n";
        for end in 0..head.len() {
            assert_eq!(scan(&head[..end]), Ok(None), "{end} bytes");
        }
        let whole = scan(&[head, &b"PUT"[..]].concat()).unwrap().unwrap();
        assert_eq!((whole.length, whole.is_put, whole.is_http11), (head.len(), false, true));
    }

    #[test]
    fn a_head_is_limited_in_bytes_and_fields() {
        let with = |fields: &str| scan(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes());
        let padded = |bytes: usize| with(&format!("X: {}\r\n", "a".repeat(bytes)));
        let around = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
        assert!(padded(MAX_HEAD_BYTES - around).unwrap().is_some());
        assert!(matches!(padded(MAX_HEAD_BYTES - around + 1), Err(Refusal::HeadTooLarge(_))));
        assert!(matches!(scan(&vec![b'A'; MAX_HEAD_BYTES]), Err(Refusal::HeadTooLarge(_))));
        assert!(with(&"a: 1\r\n".repeat(MAX_HEAD_FIELDS - 1)).unwrap().is_some());
        assert!(matches!(with(&"a: 1\r\n".repeat(MAX_HEAD_FIELDS)), Err(Refusal::HeadTooLarge(_))));
    }

    #[test]
    fn only_http_1_1_can_expect_a_100() {
        let expects = |version: &str| {
            let head = format!("PUT / HTTP/{version}\r\nHost: a\r\nExpect: 100-Continue\r\n\r\n");
            scan(head.as_bytes()).unwrap().unwrap().expects_continue
        };
        assert!(expects("1.1"));
        assert!(!expects("1.0"));
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
            let at_once = scan(&bytes);
            let mut scanner = HeadScanner::default();
            let mut cuts: Vec<_> = cuts.into_iter().filter(|cut| *cut < bytes.len()).collect();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let piecewise = cuts.iter().map(|cut| scanner.scan(&bytes[..*cut])).find(|seen| seen != &Ok(None));
            prop_assert_eq!(piecewise.unwrap_or(Ok(None)), at_once);
        }
    }
}
