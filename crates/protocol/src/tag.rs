//! [`Tag`]: which process has created a stream.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// The tag of a process: 32 random bits, drawn when it starts. The ids of its streams begin with it, so that in a cluster every node knows
/// which one serves a stream. It names a process and not a machine: after a restart it is another one.
///
/// Displayed and parsed as 8 lower-case hexadecimal digits.
///
/// ```
/// use rendezvous_protocol::Tag;
///
/// let tag: Tag = "0c1d2e3f".parse()?;
/// assert_eq!(tag.to_string(), "0c1d2e3f");
/// assert!("0C1D2E3F".parse::<Tag>().is_err());
/// # Ok::<_, rendezvous_protocol::BadTag>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag([u8; Self::BYTES]);

/// The text is not a [`Tag`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a tag: it has 8 hexadecimal digits in lower case")]
pub struct BadTag(String);

impl Tag {
    /// The length in bytes.
    pub const BYTES: usize = 4;
    /// The length of the text in bytes.
    pub const DIGITS: usize = 2 * Self::BYTES;

    /// Draws a tag at random.
    #[must_use]
    pub fn draw() -> Self {
        // The first bytes of a version 4 UUID are all random (RFC 9562, section 5.4).
        let [first, second, third, fourth, ..] = Uuid::new_v4().into_bytes();
        Self([first, second, third, fourth])
    }

    /// Returns the bytes of the tag, the most significant first.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        self.0
    }
}

impl From<[u8; Tag::BYTES]> for Tag {
    fn from(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }
}

impl FromStr for Tag {
    type Err = BadTag;

    fn from_str(text: &str) -> Result<Self, BadTag> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_tag = text.len() == Self::DIGITS && text.bytes().all(is_digit);
        let number = is_tag.then(|| u32::from_str_radix(text, 16).ok()).flatten();
        number.map(|number| Self(number.to_be_bytes())).ok_or_else(|| BadTag(text.to_owned()))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_tags_are_distinct_and_parse_as_they_are_displayed() {
        let (one, other) = (Tag::draw(), Tag::draw());
        assert_ne!(one, other);
        assert_eq!(one.to_string().parse(), Ok(one));
        assert_eq!(Tag::from([0, 0, 0, 10]).to_string(), "0000000a");
    }

    #[test]
    fn a_tag_has_8_lower_case_hexadecimal_digits() {
        for text in
            ["", "0c1d2e3", "0c1d2e3f0", "0C1d2e3f", "+c1d2e3f", " c1d2e3f", "0c1d2e3g", "0c1d2e3\u{e9}"]
        {
            assert_eq!(text.parse::<Tag>(), Err(BadTag(text.to_owned())));
        }
    }
}
