//! Stream ids.
//!
//! An id is a capability: whoever knows it may take a seat. So a [`StreamId`] is opaque outside this module,
//! it has no `Display`, and its `Debug` shows only the shortened form that logs may carry.

use std::fmt;
use std::sync::Arc;

use uuid::Uuid;

/// The name of one stream: `[A-Za-z0-9_-]+`, case-sensitive. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(Arc<str>);

impl StreamId {
    /// A fresh id: a random lower-case UUID (RFC 9562, section 5.4), 122 bits that nobody can guess.
    #[must_use]
    pub fn mint() -> Self {
        let mut text = Uuid::encode_buffer();
        Self(Arc::from(&*Uuid::new_v4().hyphenated().encode_lower(&mut text)))
    }

    /// Reads an id from a path segment; `None` where a character is outside `[A-Za-z0-9_-]` or there is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        (!text.is_empty() && text.bytes().all(legal)).then(|| Self(Arc::from(text)))
    }

    /// The whole id, for answers to a client that is entitled to it. Never for a log.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The form for logs: enough to tell streams apart, too little to connect to one.
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

/// The first characters of an id: at most eight, and never more than a quarter of it.
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
    fn only_the_letters_of_the_contract_make_an_id() {
        for good in ["a", "A-b_9", "-", "_", "__proto__", "constructor"] {
            assert_eq!(StreamId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a.b", "%00", "a b", "é", "..", "a/b", "a\n"] {
            assert!(StreamId::parse(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_shown_of_an_id_does_not_give_it_away() {
        let id = StreamId::mint();
        assert_eq!(id.short().to_string(), format!("{}…", &id.as_str()[..8]));
        assert!(!format!("{id:?}").contains(id.as_str()));
        assert_eq!(StreamId::parse("abcdefgh").unwrap().short().to_string(), "ab…");
    }
}
