//! Finds the end of a request head in the bytes received so far.

use super::{HeadError, malformed};
use crate::token::is_token_byte;

/// Finds the end of a head in a growing buffer. Each byte is examined once, so the cost does not depend on the number of
/// reads.
///
/// ```
/// use rendezvous_codec::head::HeadScanner;
///
/// let received = b"GET /ping HTTP/1.1\r\nHost: a\r\n\r\nGET /next";
/// let mut scanner = HeadScanner::default();
/// assert_eq!(scanner.scan(&received[..20], 1000), Ok(None));
/// assert_eq!(scanner.scan(received, 1000), Ok(Some(31)));
/// assert!(HeadScanner::default().scan(received, 30).is_err());
///
/// // A line feed without a carriage return is an error as soon as it is received.
/// assert!(HeadScanner::default().scan(b"GET / HTTP/1.1\n", 1000).is_err());
/// ```
#[derive(Debug, Default)]
pub struct HeadScanner {
    scanned: usize,
    line_start: usize,
    in_head: bool,
}

impl HeadScanner {
    /// Returns the length in bytes of the head at the start of `buffer`, including empty lines before it (RFC 9112,
    /// section 2.2), and the empty line that ends it. It may be at most `limit`. `None` if the head is not complete yet: call again with
    /// the same bytes and more after them.
    ///
    /// # Errors
    /// [`HeadError::Malformed`] or [`HeadError::TooLong`].
    pub fn scan(&mut self, buffer: &[u8], limit: usize) -> Result<Option<usize>, HeadError> {
        match self.find_end(buffer)? {
            Some(length) if length <= limit => Ok(Some(length)),
            None if buffer.len() < limit => Ok(None),
            _ => Err(HeadError::TooLong(limit)),
        }
    }

    fn find_end(&mut self, buffer: &[u8]) -> Result<Option<usize>, HeadError> {
        loop {
            let rest = buffer.get(self.scanned..).unwrap_or_default();
            let text = rest.iter().position(|byte| matches!(byte, b'\r' | b'\n')).unwrap_or(rest.len());
            if text > 0 && !self.in_head {
                if !rest.first().is_some_and(|byte| is_token_byte(*byte)) {
                    return Err(malformed("this is not HTTP/1.1: the request line must begin with a method"));
                }
                self.in_head = true;
            }
            self.scanned += text;
            match rest.get(text..).unwrap_or_default() {
                [] | [b'\r'] => return Ok(None),
                [b'\r', b'\n', ..] => {
                    let empty = self.scanned == self.line_start;
                    self.scanned += 2;
                    self.line_start = self.scanned;
                    if empty && self.in_head {
                        return Ok(Some(self.scanned));
                    }
                }
                [b'\r', ..] => return Err(malformed("a CR without LF in the head")),
                _ => return Err(malformed("a LF without CR in the head")),
            }
        }
    }
}
