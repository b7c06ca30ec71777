//! Stream ids.
//!
//! An id is a capability: a client that knows it may connect to the stream. So [`StreamId`] has no `Display`, and its
//! `Debug` shows only the shortened form that may be logged.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// The id of a stream: one or more of `A-Z a-z 0-9 _ -`, case-sensitive. Cloning copies a reference.
///
/// ```
/// use rendezvous_protocol::StreamId;
///
/// let id = StreamId::parse("nightly-backup").unwrap();
/// assert_eq!(id.as_str(), "nightly-backup");
/// assert_eq!(id.short().to_string(), "nig…");
/// assert!(StreamId::parse("nightly/backup").is_none());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(Arc<str>);

impl StreamId {
    /// Generates an id: a lower-case version 4 UUID (RFC 9562, section 5.4) with 122 random bits, so it cannot be
    /// guessed.
    #[must_use]
    pub fn mint() -> Self {
        let mut text = Uuid::encode_buffer();
        Self(Arc::from(&*Uuid::new_v4().hyphenated().encode_lower(&mut text)))
    }

    /// Parses an id from a path segment. Returns `None` if the text is empty or has a character outside
    /// `[A-Za-z0-9_-]`. The length is not limited here; the limit on request heads bounds it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        (!text.is_empty() && text.bytes().all(legal)).then(|| Self(Arc::from(text)))
    }

    /// Returns the whole id, for responses to a client that is authorized to have it. It must not be logged.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the form for logs: enough to distinguish streams, too little to connect to one.
    #[must_use]
    pub fn short(&self) -> ShortId<'_> {
        ShortId(&self.0)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamId({})", self.short())
    }
}

/// The first characters of an id, for logs: a quarter of it, at most 8 characters.
#[derive(Debug, Clone, Copy)]
pub struct ShortId<'a>(&'a str);

impl fmt::Display for ShortId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = (self.0.len() / 4).min(8);
        write!(f, "{}…", self.0.get(..shown).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minted_ids_are_distinct_lower_case_uuids() {
        let (one, other) = (StreamId::mint(), StreamId::mint());
        assert_ne!(one, other);
        assert_eq!(one.as_str().len(), 36);
        assert_eq!(one.as_str(), one.as_str().to_lowercase());
        assert_eq!(Uuid::try_parse(one.as_str()).unwrap().get_version_num(), 4);
    }

    #[test]
    fn an_id_has_only_url_safe_characters() {
        for good in ["a", "A-b_9", "-", "_", "__proto__", "constructor"] {
            assert_eq!(StreamId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a.b", "%00", "a b", "é", "..", "a/b", "a\n"] {
            assert!(StreamId::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn debug_and_log_output_do_not_reveal_an_id() {
        let id = StreamId::mint();
        assert_eq!(id.short().to_string(), format!("{}…", &id.as_str()[..8]));
        assert!(!format!("{id:?}").contains(id.as_str()));
        assert_eq!(StreamId::parse("abcdefgh").unwrap().short().to_string(), "ab…");
    }
}
