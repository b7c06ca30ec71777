//! The link: where the relay is, and the secret that opens the transfer.
//!
//! *Invariant.* A secret is never printed but by [`Link`]'s `Display`, and is overwritten when it is dropped.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::rand;
use reqwest::Url;
use zeroize::Zeroizing;

/// Crockford's base32: no I, L, O or U.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// The characters of a secret: 128 bits and two zero bits, 5 at a time.
const SECRET_LENGTH: usize = 26;

/// The last part of the path of every link.
const LINK_PATH: &str = "r";

/// The link that a sender prints and a receiver is given: `https://RELAY/r#SECRET`.
///
/// Whoever has it can receive the data. `Display` shows the secret, `Debug` does not.
///
/// ```
/// use rendezvous_client::link::Link;
///
/// let link: Link = "https://relay.example/r#000g4-0r40m-30e2-0918-5gr38e1w".parse()?;
/// assert_eq!(link.to_string(), "https://relay.example/r#000G40R40M30E209185GR38E1W");
/// assert_eq!(format!("{link:?}"), "Link(https://relay.example/r#…)");
/// # Ok::<(), rendezvous_client::link::InvalidLink>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Link {
    relay: Url,
    secret: Secret,
}

impl Link {
    /// Makes a link to this relay with a new secret.
    ///
    /// The relay may have a path, behind which a proxy serves it. Query and fragment are dropped.
    ///
    /// # Errors
    /// [`InvalidLink::Relay`] if the URL is not `http:` or `https:`, or holds a password.
    pub fn new(relay: &Url) -> Result<Self, InvalidLink> {
        Ok(Self { relay: base_of(relay)?, secret: Secret::random() })
    }

    /// Returns the URL of the relay. Its path ends in a slash.
    #[must_use]
    pub fn relay(&self) -> &Url {
        &self.relay
    }

    /// Returns the secret.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.secret
    }
}

impl fmt::Display for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{LINK_PATH}#{}", self.relay, *self.secret.text())
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Link({}{LINK_PATH}#…)", self.relay)
    }
}

/// Why a text is no link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLink {
    /// It is no URL of a relay.
    #[error("this is no link ({why}): a link looks like https://relay.example/r#SECRET")]
    Relay {
        /// What is wrong.
        why: String,
    },
    /// The part behind `#` is missing.
    #[error("the link has no secret behind #: copy all of it, in quotes")]
    NoSecret,
    /// The part behind `#` is no secret.
    #[error("the secret behind # is damaged: it has 26 letters and digits, without U")]
    Secret,
}

impl FromStr for Link {
    type Err = InvalidLink;

    fn from_str(text: &str) -> Result<Self, InvalidLink> {
        let text = text.trim();
        let url = Url::parse(text).map_err(|error| InvalidLink::Relay { why: error.to_string() })?;
        let secret = url.fragment().filter(|fragment| !fragment.is_empty()).ok_or(InvalidLink::NoSecret)?;
        let secret = secret.parse()?;
        let path = url.path().strip_suffix('/').unwrap_or(url.path());
        let Some(base) = path.strip_suffix(LINK_PATH).filter(|base| base.ends_with('/')) else {
            return Err(InvalidLink::Relay { why: "the path does not end in /r".into() });
        };
        let mut relay = url.clone();
        relay.set_path(base);
        Ok(Self { relay: base_of(&relay)?, secret })
    }
}

/// Returns the URL below which the routes of a relay are: without query and fragment, its path ending in a slash.
pub(crate) fn base_of(relay: &Url) -> Result<Url, InvalidLink> {
    if !matches!(relay.scheme(), "http" | "https") || !relay.has_host() {
        return Err(InvalidLink::Relay { why: "the scheme is neither http nor https".into() });
    }
    if !relay.username().is_empty() || relay.password().is_some() {
        return Err(InvalidLink::Relay { why: "the URL holds a user name or password".into() });
    }
    let mut base = relay.clone();
    base.set_fragment(None);
    base.set_query(None);
    if !base.path().ends_with('/') {
        let path = format!("{}/", base.path());
        base.set_path(&path);
    }
    Ok(base)
}

/// The secret of a link: 16 random bytes, from which all names and keys are derived.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<[u8; 16]>);

impl Secret {
    /// Makes a new secret.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = Zeroizing::new([0; 16]);
        fill_random(&mut *bytes);
        Self(bytes)
    }

    /// Returns the bytes.
    pub(crate) fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Returns the 26 characters of Crockford's base32.
    fn text(&self) -> Zeroizing<String> {
        let bits = u128::from_be_bytes(*self.0);
        let character = |index: usize| {
            // The two zero bits come last, so the last character holds three bits of the secret.
            let shifted = if index == SECRET_LENGTH - 1 { bits << 2 } else { bits >> (123 - 5 * index) };
            let [.., digit] = shifted.to_be_bytes();
            char::from(*ALPHABET.get(usize::from(digit & 31)).unwrap_or(&b'0'))
        };
        Zeroizing::new((0..SECRET_LENGTH).map(character).collect())
    }
}

impl From<[u8; 16]> for Secret {
    fn from(bytes: [u8; 16]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

impl FromStr for Secret {
    type Err = InvalidLink;

    /// Reads a secret as people type it: in any case, O for 0, I and L for 1, with hyphens and spaces.
    fn from_str(text: &str) -> Result<Self, InvalidLink> {
        // The fragment of a URL has its spaces percent-encoded.
        let text = Zeroizing::new(text.replace("%20", ""));
        let mut bits: u128 = 0;
        let mut count = 0;
        for character in text.chars().filter(|character| !matches!(character, '-' | ' ')) {
            let digit = digit_of(character).ok_or(InvalidLink::Secret)?;
            count += 1;
            if count < SECRET_LENGTH {
                bits = bits << 5 | u128::from(digit);
            } else if count == SECRET_LENGTH && digit.trailing_zeros() >= 2 {
                bits = bits << 3 | u128::from(digit >> 2);
            } else {
                return Err(InvalidLink::Secret);
            }
        }
        if count == SECRET_LENGTH { Ok(Self::from(bits.to_be_bytes())) } else { Err(InvalidLink::Secret) }
    }
}

fn digit_of(character: char) -> Option<u8> {
    let upper = match character.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        upper => upper,
    };
    let position = ALPHABET.iter().position(|&digit| char::from(digit) == upper)?;
    u8::try_from(position).ok()
}

/// A random name of the protocol (`attempt`, `transfer`, `receiver`): 26 characters of `[0-9a-z]`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(String);

impl Id {
    /// Makes a new name, of 128 random bits.
    #[must_use]
    pub fn random() -> Self {
        Self(Secret::random().text().to_ascii_lowercase())
    }

    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// The text is no name of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name has 26 digits and lower-case letters")]
pub struct InvalidId;

impl FromStr for Id {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let is_valid = text.len() == 26 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z'));
        if is_valid { Ok(Self(text.to_owned())) } else { Err(InvalidId) }
    }
}

/// Fills `bytes` from the operating system's generator.
#[expect(clippy::expect_used, reason = "without randomness nothing here is secret, so nothing may go on")]
fn fill_random(bytes: &mut [u8]) {
    rand::fill(bytes).expect("the operating system gives random bytes");
}

#[cfg(test)]
mod tests {
    use super::*;

    const VECTOR: &str = "000G40R40M30E209185GR38E1W";

    fn counting() -> Secret {
        Secret::from([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15])
    }

    #[test]
    fn the_secret_of_the_test_vector_is_written_as_documented() {
        assert_eq!(*counting().text(), VECTOR);
        assert_eq!(VECTOR.parse(), Ok(counting()));
    }

    #[test]
    fn every_secret_reads_back_as_itself_however_people_type_it() {
        for _ in 0..1000 {
            let secret = Secret::random();
            let text = secret.text();
            assert_eq!(text.len(), SECRET_LENGTH);
            let typed = text.to_lowercase().replace('0', "o").replace('1', "l");
            let (first, rest) = typed.split_at(7);
            for text in
                [text.to_string(), typed.clone(), format!("{first}-{rest}"), format!(" {first} {rest} ")]
            {
                assert_eq!(text.parse(), Ok(secret.clone()), "{text}");
            }
        }
    }

    #[test]
    fn a_damaged_secret_is_refused() {
        let u = VECTOR.replace('G', "U");
        let trailing_bits = format!("{}X", &VECTOR[..25]);
        let long = format!("{VECTOR}0");
        for bad in [
            "",
            &VECTOR[1..],
            &long,
            &u,
            &trailing_bits,
            "é00G40R40M30E209185GR38E1W",
            "000G40R40M30E209185GR38E1%",
        ] {
            assert_eq!(bad.parse::<Secret>(), Err(InvalidLink::Secret), "{bad}");
        }
    }

    #[test]
    fn a_link_keeps_the_path_of_its_relay() {
        for (given, relay) in [
            ("https://relay.example/r#", "https://relay.example/"),
            ("https://relay.example/r/?utm=1#", "https://relay.example/"),
            ("http://127.0.0.1:3000/r#", "http://127.0.0.1:3000/"),
            (" https://relay.example/below/this/r#", "https://relay.example/below/this/"),
        ] {
            let link: Link = format!("{given}{VECTOR}\n").parse().unwrap();
            assert_eq!(link.relay().as_str(), relay);
            assert_eq!(link.to_string(), format!("{relay}r#{VECTOR}"));
            assert!(!format!("{link:?}").contains(VECTOR));
        }
    }

    #[test]
    fn what_is_no_link_is_refused_with_its_reason() {
        let no_secret = InvalidLink::NoSecret;
        assert_eq!("https://relay.example/r".parse::<Link>(), Err(no_secret.clone()));
        assert_eq!("https://relay.example/r#".parse::<Link>(), Err(no_secret));
        assert_eq!("https://relay.example/r#short".parse::<Link>(), Err(InvalidLink::Secret));
        for bad in [
            "relay.example/r",
            "ftp://relay.example/r",
            "https://relay.example/or",
            "https://u:p@relay.example/r",
        ] {
            let result = format!("{bad}#{VECTOR}").parse::<Link>();
            assert!(matches!(result, Err(InvalidLink::Relay { .. })), "{bad}: {result:?}");
        }
    }

    #[test]
    fn a_random_name_is_one_that_peers_accept() {
        let id = Id::random();
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert_ne!(Id::random(), id);
        for bad in ["", &id.as_str()[1..], &id.as_str().to_uppercase(), "a/b4567890123456789012345a"] {
            assert_eq!(bad.parse::<Id>(), Err(InvalidId), "{bad}");
        }
    }
}
