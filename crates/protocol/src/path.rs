//! Named paths: streams that need no creation step (docs/api.md, section 9).
//!
//! A path is a capability, as an id is: a client that knows it may connect. So [`PathName`] has no `Display`, and its `Debug`
//! shows only a hash.

use std::borrow::Cow;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, LazyLock};

/// The maximum length of a path in bytes.
const MAX_BYTES: usize = 512;
/// The key of [`HashedPath`]. It is random in each process, so that nobody can find a path by hashing likely ones.
static LOG_KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The name of a path: 1 to 512 bytes, without control characters, in segments that are neither empty nor `.` nor `..`. It need not be
/// UTF-8. Cloning copies a reference.
///
/// ```
/// use rendezvous_protocol::PathName;
///
/// let path = PathName::parse("builds/linux%20x64/").unwrap();
/// assert_eq!(path, PathName::parse("builds%2Flinux x64").unwrap());
/// assert!(PathName::parse("builds/../keys").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathName(Arc<[u8]>);

/// The text is not the name of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadPath {
    /// It is empty, or longer than 512 bytes.
    #[error("A path has 1 to {MAX_BYTES} bytes behind /p/")]
    Length,
    /// A `%` does not begin an escape.
    #[error("In a path, two hexadecimal digits must follow each %: write %25 for a % sign")]
    Escape,
    /// It contains a control character.
    #[error("A path must not contain control characters")]
    Control,
    /// A segment is empty, `.` or `..`. Clients and proxies rewrite such paths.
    #[error("A path must not contain empty segments, or the segments . and ..")]
    Segment,
}

impl PathName {
    /// Parses the part of a request's path behind `/p/`: decodes its escapes (RFC 3986, section 2.1) once, and drops one slash at its end.
    ///
    /// # Errors
    /// [`BadPath`] says what is wrong.
    pub fn parse(encoded: &str) -> Result<Self, BadPath> {
        let mut bytes = decode(encoded)?;
        if bytes.last() == Some(&b'/') {
            bytes.pop();
        }
        if bytes.is_empty() || bytes.len() > MAX_BYTES {
            return Err(BadPath::Length);
        }
        if bytes.iter().any(u8::is_ascii_control) {
            return Err(BadPath::Control);
        }
        let is_rewritten = |segment: &[u8]| matches!(segment, b"" | b"." | b"..");
        if bytes.split(|byte| *byte == b'/').any(is_rewritten) {
            return Err(BadPath::Segment);
        }
        Ok(Self(bytes.into()))
    }

    /// Returns the decoded path. Bytes that are not UTF-8 are replaced. It must not be logged.
    #[must_use]
    pub fn as_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }

    /// Returns the decoded path, to compute its owner in a cluster. It must not be logged.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the form for logs: equal for equal paths during the life of this process, and useless to connect.
    #[must_use]
    pub fn hashed(&self) -> HashedPath {
        HashedPath(LOG_KEY.hash_one(self))
    }
}

impl fmt::Debug for PathName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PathName({})", self.hashed())
    }
}

/// A keyed hash of a path, for logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashedPath(u64);

impl fmt::Display for HashedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/p/#{:08x}", self.0 >> 32)
    }
}

fn decode(encoded: &str) -> Result<Vec<u8>, BadPath> {
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut rest = encoded.bytes();
    while let Some(byte) = rest.next() {
        decoded.push(if byte == b'%' { escaped(rest.next(), rest.next())? } else { byte });
    }
    Ok(decoded)
}

/// Returns the byte that two hexadecimal digits stand for.
fn escaped(high: Option<u8>, low: Option<u8>) -> Result<u8, BadPath> {
    let digit = |digit: Option<u8>| u8::try_from(char::from(digit?).to_digit(16)?).ok();
    digit(high).zip(digit(low)).map(|(high, low)| high * 16 + low).ok_or(BadPath::Escape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_compared_as_bytes_after_one_decoding() {
        let path = |encoded| PathName::parse(encoded).unwrap().0.to_vec();
        for (encoded, decoded) in [
            ("a", &b"a"[..]),
            ("a/", b"a"),
            ("a/b", b"a/b"),
            ("a%2Fb", b"a/b"),
            ("a%2fb%2F", b"a/b"),
            ("a+b", b"a+b"),
            ("a%2Bb", b"a+b"),
            ("%2525", b"%25"),
            ("%ff%C3%A9", b"\xff\xc3\xa9"),
            ("\u{e9}", b"\xc3\xa9"),
            ("...", b"..."),
            (".a/..b", b".a/..b"),
            (" ~?", b" ~?"),
            ("%80", b"\x80"),
        ] {
            assert_eq!(path(encoded), decoded, "{encoded}");
        }
        assert_ne!(path("A"), path("a"));
    }

    #[test]
    fn a_path_that_clients_and_proxies_rewrite_or_cut_is_refused() {
        let long = |bytes| "a".repeat(bytes);
        for (encoded, bad) in [
            ("", BadPath::Length),
            ("/", BadPath::Length),
            (&*long(513), BadPath::Length),
            ("a%", BadPath::Escape),
            ("a%4", BadPath::Escape),
            ("%4g", BadPath::Escape),
            ("%+1", BadPath::Escape),
            ("%u0041", BadPath::Escape),
            ("a%00", BadPath::Control),
            ("a%0Ab", BadPath::Control),
            ("a\tb", BadPath::Control),
            ("%7f", BadPath::Control),
            ("a//b", BadPath::Segment),
            ("/a", BadPath::Segment),
            ("a//", BadPath::Segment),
            ("%2F%2F", BadPath::Segment),
            (".", BadPath::Segment),
            ("..", BadPath::Segment),
            ("a/./b", BadPath::Segment),
            ("a/%2e%2E", BadPath::Segment),
            ("../a", BadPath::Segment),
        ] {
            assert_eq!(PathName::parse(encoded), Err(bad), "{encoded}");
        }
        for good in [&*long(512), &*(long(512) + "/"), &*"%41".repeat(512)] {
            assert!(PathName::parse(good).is_ok());
        }
    }

    #[test]
    fn debug_and_log_output_do_not_reveal_a_path() {
        let path = PathName::parse("secret").unwrap();
        assert!(!format!("{path:?} {}", path.hashed()).contains("sec"));
        assert_eq!(path.hashed(), PathName::parse("secret/").unwrap().hashed());
        assert_ne!(path.hashed(), PathName::parse("other").unwrap().hashed());
    }
}
