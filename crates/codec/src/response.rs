//! A strict parser for the heads of HTTP/1.1 responses that one node of a cluster sends another (RFC 9112, section 4).
//!
//! The end of a head is found by [`HeadScanner`](crate::head::HeadScanner), as that of a request.

use std::mem::MaybeUninit;

use httparse::ParserConfig;

use crate::body::Framing;
use crate::head::{FramingFields, HeadError, MAX_HEAD_FIELDS, malformed};

/// The fields of a response: those of a source's request, those that a stream's creator has added, and the server's own.
const MAX_FIELDS: usize = 2 * MAX_HEAD_FIELDS + 32;

/// A complete, well-formed response head.
#[derive(Debug)]
pub struct ResponseHead<'a> {
    /// The status code, from 100 to 999.
    pub status: u16,
    /// How the body is framed. [`Framing::NONE`] without a body. `None` if the head does not say, as that of the response to a `HEAD`.
    pub framing: Option<Framing>,
    /// Whether the connection closes after this response.
    pub closes: bool,
    fields: &'a [httparse::Header<'a>],
}

impl ResponseHead<'_> {
    /// Returns the names, as they are spelled, and the values of all fields in order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|field| (field.name, field.value))
    }
}

/// Parses a head whose end [`HeadScanner::scan`](crate::head::HeadScanner::scan) has found, and returns the result of `visit`. The head
/// borrows from a buffer of this call, so it cannot be returned.
///
/// ```
/// use rendezvous_codec::body::Framing;
/// use rendezvous_codec::response::parse;
///
/// let head = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n";
/// assert_eq!(parse(head, |head| (head.status, head.framing)), Ok((200, Some(Framing::Length(5)))));
/// ```
///
/// # Errors
/// [`HeadError::Malformed`] or [`HeadError::TooManyFields`].
pub fn parse<T>(bytes: &[u8], visit: impl FnOnce(&ResponseHead<'_>) -> T) -> Result<T, HeadError> {
    let (mut fields, mut response) = ([MaybeUninit::uninit(); MAX_FIELDS], httparse::Response::new(&mut []));
    match ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, &mut fields) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(malformed("an empty line inside the head")),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyFields),
        Err(error) => return Err(malformed(&error.to_string())),
    }
    let status = response.code.filter(|status| *status >= 100 && response.version == Some(1));
    let status = status.ok_or_else(|| malformed("an invalid status line"))?;
    let mut framing = FramingFields::default();
    for field in response.headers.iter() {
        framing.add(field)?;
    }
    Ok(visit(&ResponseHead {
        status,
        framing: framing.of_response(status)?,
        closes: framing.closes(),
        fields: response.headers,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing(status: u16, fields: &str) -> Result<Option<Framing>, HeadError> {
        parse(format!("HTTP/1.1 {status} X\r\n{fields}\r\n").as_bytes(), |head| head.framing)
    }

    #[test]
    fn a_response_declares_the_end_of_its_body() {
        for (status, fields, expected) in [
            (200, "Content-Length: 0\r\n", Some(Framing::NONE)),
            (200, "content-length: 5\r\n", Some(Framing::Length(5))),
            (502, "transfer-encoding: chunked\r\n", Some(Framing::Chunked)),
            (100, "", Some(Framing::NONE)),
            (204, "", Some(Framing::NONE)),
            (304, "etag: W/\"1\"\r\n", Some(Framing::NONE)),
            (200, "", None),
            (404, "date: x\r\n", None),
        ] {
            assert_eq!(framing(status, fields), Ok(expected), "{status} {fields}");
        }
    }

    #[test]
    fn a_response_with_an_ambiguous_end_is_rejected() {
        for (status, fields) in [
            (200, "content-length: 5\r\ncontent-length: 5\r\n"),
            (200, "content-length: 5\r\ntransfer-encoding: chunked\r\n"),
            (200, "content-length: +5\r\n"),
            (200, "transfer-encoding: gzip\r\n"),
            (99, "content-length: 0\r\n"),
            (200, "content-length: 5\r\n folded\r\n"),
        ] {
            assert!(framing(status, fields).is_err(), "{status} {fields}");
        }
        assert!(parse(b"HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", |_| ()).is_err());
        assert!(parse(b"GET / HTTP/1.1\r\ncontent-length: 0\r\n\r\n", |_| ()).is_err());
    }

    #[test]
    fn a_response_has_room_for_the_fields_of_both_sides_and_of_the_server() {
        let with = |count: usize| framing(204, &"a: 1\r\n".repeat(count)).map(|_| ());
        assert_eq!(with(2 * MAX_HEAD_FIELDS + 32), Ok(()));
        assert_eq!(with(2 * MAX_HEAD_FIELDS + 33), Err(HeadError::TooManyFields));
    }

    #[test]
    fn the_fields_keep_their_spelling_and_order() {
        let head = b"HTTP/1.1 200 OK\r\nX-Up: 1\r\nconnection: close\r\nx-up: 2\r\ncontent-length: 0\r\n\r\n";
        let (fields, closes) = parse(head, |head| {
            let owned = |(name, value): (&str, &[u8])| (name.to_owned(), value.to_vec());
            (head.fields().map(owned).collect::<Vec<_>>(), head.closes)
        })
        .unwrap();
        let names: Vec<_> = fields.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["X-Up", "connection", "x-up", "content-length"]);
        assert_eq!(fields[2].1, b"2");
        assert!(closes);
    }
}
