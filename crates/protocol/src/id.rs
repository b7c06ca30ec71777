//! Stream ids.
//!
//! An id is a capability: a client that knows it may connect to the stream. So [`StreamId`] has no `Display`, and its
//! `Debug` shows only the shortened form that may be logged.

use std::fmt;
use std::sync::Arc;

use uuid::{Builder, Uuid, Variant, Version};

use crate::tag::Tag;

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
    /// Generates an id of the process with this tag: a lower-case version 8 UUID (RFC 9562, section 5.8) that begins with the tag. Its
    /// other 90 bits are random, so it cannot be guessed.
    #[must_use]
    pub fn mint(tag: Tag) -> Self {
        // All bits of a version 4 UUID are random, but for the version and the variant, which have the same places in version 8.
        let mut bytes = Uuid::new_v4().into_bytes();
        if let Some(first) = bytes.first_chunk_mut() {
            *first = tag.to_bytes();
        }
        let mut text = Uuid::encode_buffer();
        Self(Arc::from(&*Builder::from_custom_bytes(bytes).into_uuid().hyphenated().encode_lower(&mut text)))
    }

    /// Returns the tag of the process that has created the stream. `None` if the id does not have the form of [`StreamId::mint`], so no
    /// process has created it.
    #[must_use]
    pub fn tag(&self) -> Option<Tag> {
        let uuid = Uuid::try_parse(&self.0).ok()?;
        let mut text = Uuid::encode_buffer();
        let is_minted = uuid.get_version() == Some(Version::Custom)
            && uuid.get_variant() == Variant::RFC4122
            && *uuid.hyphenated().encode_lower(&mut text) == *self.0;
        let [first, second, third, fourth, ..] = uuid.into_bytes();
        is_minted.then(|| Tag::from([first, second, third, fourth]))
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
        ShortId(self)
    }
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamId({})", self.short())
    }
}

/// The first characters of an id, for logs: of one that a process has created its tag and the next 4 digits, of any other a quarter, at
/// most 8 characters.
#[derive(Debug, Clone, Copy)]
pub struct ShortId<'a>(&'a StreamId);

impl ShortId<'_> {
    /// The length of a tag, a hyphen and 4 digits. 74 random bits of the id are not shown.
    const OF_MINTED: usize = Tag::DIGITS + 5;
}

impl fmt::Display for ShortId<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.0.as_str();
        let shown = if self.0.tag().is_some() { Self::OF_MINTED } else { (id.len() / 4).min(8) };
        write!(f, "{}…", id.get(..shown).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minted_ids_are_distinct_lower_case_uuids_that_begin_with_the_tag() {
        let tag = "0c1d2e3f".parse().unwrap();
        let (one, other) = (StreamId::mint(tag), StreamId::mint(tag));
        assert_ne!(one, other);
        assert_eq!(one.as_str().len(), 36);
        assert_eq!(one.as_str(), one.as_str().to_lowercase());
        assert!(one.as_str().starts_with("0c1d2e3f-"));
        let uuid = Uuid::try_parse(one.as_str()).unwrap();
        assert_eq!((uuid.get_version_num(), uuid.get_variant()), (8, Variant::RFC4122));
        assert_eq!(one.tag(), Some(tag));
    }

    #[test]
    fn minted_ids_have_90_random_bits() {
        let (mut ones, mut zeros) = (0, 0);
        for _ in 0..200 {
            let id = Uuid::try_parse(StreamId::mint(Tag::from([0; 4])).as_str()).unwrap().as_u128();
            (ones, zeros) = (ones | id, zeros | !id);
        }
        assert_eq!((ones & zeros).count_ones(), 90);
    }

    #[test]
    fn an_id_that_no_process_has_created_has_no_tag() {
        assert!(StreamId::parse("0c1d2e3f-1111-8111-9111-111111111111").unwrap().tag().is_some());
        for text in [
            "nightly-backup",
            "0c1d2e3f",
            "0c1d2e3f-1111-4111-9111-111111111111",
            "0c1d2e3f-1111-8111-1111-111111111111",
            "0C1D2E3F-1111-8111-9111-111111111111",
            "0c1d2e3f-1111-8111-9111-11111111111A",
            "0c1d2e3f111181119111111111111111",
            "0c1d2e3f-1111-8111-9111-1111111111111",
        ] {
            assert_eq!(StreamId::parse(text).unwrap().tag(), None, "{text}");
        }
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
        let id = StreamId::mint(Tag::draw());
        assert_eq!(id.short().to_string(), format!("{}…", &id.as_str()[..13]));
        assert!(!format!("{id:?}").contains(id.as_str()));
        assert_eq!(StreamId::parse("abcdefgh").unwrap().short().to_string(), "ab…");
    }
}
