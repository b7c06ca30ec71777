//! Tokens: secrets that authorize requests. Pure.
//!
//! *Invariants.* A [`Token`] has no `Display`, its `Debug` shows nothing of it, and it is compared in constant time.

use std::fmt;
use std::sync::Arc;

use rendezvous_protocol::Side;
use subtle::{Choice, ConstantTimeEq};
use uuid::Uuid;

/// Minimum length of a configured token in bytes.
const MIN_BYTES: usize = 16;

/// The message to a request with a token that is not the required one.
pub const WRONG_TOKEN: &str = "The token is not the one for this";

/// A secret of at least 16 bytes of visible ASCII. Cloning copies a reference. Equality takes constant time.
///
/// ```
/// use rendezvous_core::token::{BadToken, Token};
///
/// assert!(Token::parse("7f3a9c51e0d84b26").is_ok());
/// assert_eq!(Token::parse("secret"), Err(BadToken::TooShort(6)));
/// assert_eq!(Token::parse("two words, 16 bytes"), Err(BadToken::NotVisible));
/// ```
#[derive(Clone)]
pub struct Token(Arc<str>);

/// Why a text is not a [`Token`]. The messages do not quote it, since it may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// The text is empty, or has a character that is not visible ASCII.
    #[error("it must be one line of visible ASCII, without spaces, and nothing else")]
    NotVisible,
    /// The text has only this many bytes, so it could be guessed.
    #[error(
        "it has {0} bytes, and must have at least {MIN_BYTES} that cannot be guessed: \
         head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'"
    )]
    TooShort(usize),
}

/// The credential of a request: a non-empty text that may be a token.
#[derive(Clone, Copy)]
pub struct Credential<'a>(&'a [u8]);

/// The two tokens of a stream whose sides are authorized separately.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// Authorizes the source.
    pub upload: Token,
    /// Authorizes the destination.
    pub download: Token,
}

/// Which of a stream's tokens a request requires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequiredToken {
    /// The token of this side.
    Of(Side),
    /// The token of either side.
    Either,
}

impl Token {
    /// Generates a token: two version 4 UUIDs (RFC 9562, section 5.4) in hexadecimal, with 244 random bits.
    #[must_use]
    pub fn mint() -> Self {
        let (first, second) = (Uuid::new_v4().simple(), Uuid::new_v4().simple());
        Self(format!("{first}{second}").into())
    }

    /// Parses a configured token.
    ///
    /// # Errors
    /// [`BadToken`] if the text is shorter than 16 bytes or has characters other than visible ASCII.
    pub fn parse(text: &str) -> Result<Self, BadToken> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(BadToken::NotVisible);
        }
        if text.len() < MIN_BYTES {
            return Err(BadToken::TooShort(text.len()));
        }
        Ok(Self(text.into()))
    }

    /// Returns the whole token, for the response to the creator of the stream. It must not be used elsewhere.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Checks the credential of a request against this token.
    ///
    /// # Errors
    /// [`AuthError::Unauthorized`] without a credential, [`AuthError::Forbidden`] with a different one.
    pub fn check(&self, credential: Option<Credential<'_>>) -> Result<(), AuthError> {
        check(credential, |credential| self.matches(credential))
    }

    fn matches(&self, credential: Credential<'_>) -> Choice {
        self.0.as_bytes().ct_eq(credential.0)
    }
}

/// Why a request is not authorized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// A token is required, and the request has none: 401.
    #[error("This needs a token: send it as Authorization: Bearer TOKEN, or as ?token=TOKEN")]
    Unauthorized,
    /// The request is not allowed, for the reason in the message: 403.
    #[error("{0}")]
    Forbidden(&'static str),
}

impl Tokens {
    /// Generates a pair of tokens.
    #[must_use]
    pub fn mint() -> Self {
        Self { upload: Token::mint(), download: Token::mint() }
    }

    /// Checks the credential of a request against the required token.
    ///
    /// # Errors
    /// As [`Token::check`].
    pub fn check(
        &self,
        required: RequiredToken,
        credential: Option<Credential<'_>>,
    ) -> Result<(), AuthError> {
        match required {
            RequiredToken::Of(Side::Source) => self.upload.check(credential),
            RequiredToken::Of(Side::Destination) => self.download.check(credential),
            RequiredToken::Either => check(credential, |credential| {
                self.upload.matches(credential) | self.download.matches(credential)
            }),
        }
    }
}

fn check<'a>(
    credential: Option<Credential<'a>>,
    matches: impl FnOnce(Credential<'a>) -> Choice,
) -> Result<(), AuthError> {
    let credential = credential.ok_or(AuthError::Unauthorized)?;
    if matches(credential).into() { Ok(()) } else { Err(AuthError::Forbidden(WRONG_TOKEN)) }
}

impl<'a> Credential<'a> {
    /// Creates a credential from the bytes of a request. Returns `None` if there are none.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        (!bytes.is_empty()).then_some(Self(bytes))
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.matches(Credential(other.0.as_bytes())).into()
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(token: &Token) -> Option<Credential<'_>> {
        Credential::new(token.as_str().as_bytes())
    }

    #[test]
    fn minted_tokens_are_distinct_and_64_hexadecimal_digits() {
        let Tokens { upload, download } = Tokens::mint();
        assert_ne!(upload, download);
        assert_eq!(upload.as_str().len(), 64);
        assert!(upload.as_str().bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    #[test]
    fn a_token_is_at_least_16_bytes_of_visible_ascii() {
        for good in ["sixteen-bytes-of", "!~a+b/c==0123456789", &"x".repeat(10_000)] {
            assert_eq!(Token::parse(good).unwrap().as_str(), good);
        }
        for bad in [
            "",
            " ",
            "0123456789 abcdef",
            "0123456789abcdef\n",
            "0123456789\tabcdef",
            "0123456789abcdé",
            "\u{7f}",
        ] {
            assert_eq!(Token::parse(bad), Err(BadToken::NotVisible), "{bad:?}");
        }
        for short in ["a", "abc", "fifteen-bytes-o"] {
            assert_eq!(Token::parse(short), Err(BadToken::TooShort(short.len())));
            let message = BadToken::TooShort(short.len()).to_string();
            assert!(message.contains("at least 16") && message.contains("/dev/urandom"), "{message}");
        }
    }

    #[test]
    fn debug_output_does_not_reveal_a_token() {
        let tokens = Tokens::mint();
        assert_eq!(format!("{tokens:?}"), "Tokens { upload: Token(…), download: Token(…) }");
    }

    #[test]
    fn each_side_has_its_own_token_and_either_works_where_either_is_required() {
        let (tokens, other) = (Tokens::mint(), Token::mint());
        let prefix = Credential::new(&tokens.upload.as_str().as_bytes()[..63]);
        let (source, destination) = (RequiredToken::Of(Side::Source), RequiredToken::Of(Side::Destination));
        for (credential, rights) in [
            (credential(&tokens.upload), vec![source, RequiredToken::Either]),
            (credential(&tokens.download), vec![destination, RequiredToken::Either]),
            (credential(&other), vec![]),
            (prefix, vec![]),
        ] {
            for required in [source, destination, RequiredToken::Either] {
                let checked = tokens.check(required, credential);
                assert_eq!(checked.is_ok(), rights.contains(&required), "{required:?}");
                assert!(!matches!(checked, Err(AuthError::Unauthorized)));
            }
        }
        for required in [source, destination, RequiredToken::Either] {
            assert_eq!(tokens.check(required, Credential::new(b"")), Err(AuthError::Unauthorized));
        }
    }
}
