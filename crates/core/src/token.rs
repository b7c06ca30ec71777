//! Tokens: secrets whose holder may do what nobody else may. Pure.
//!
//! A [`Token`] is opaque: it has no `Display`, its `Debug` shows nothing, and it is compared in constant time.

use std::fmt;
use std::sync::Arc;

use rendezvous_protocol::Side;
use subtle::{Choice, ConstantTimeEq};
use uuid::Uuid;

/// The fewest bytes of a token that was chosen.
const MIN_BYTES: usize = 16;

/// One secret: at least 16 bytes of visible ASCII. Cloning is cheap.
#[derive(Clone)]
pub struct Token(Arc<str>);

/// A text that is no [`Token`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// It is empty, or has a character that is not visible ASCII.
    #[error("it must be one line of visible ASCII, without spaces, and nothing else")]
    NotVisible,
    /// It could be guessed.
    #[error(
        "it has {0} bytes, and must have at least {MIN_BYTES} that nobody can guess: \
         head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n'"
    )]
    TooShort(usize),
}

/// What a client gives to show that it may.
#[derive(Clone, Copy)]
pub struct Credential<'a>(&'a [u8]);

/// The two tokens of a stream that was made with them.
#[derive(Debug, Clone)]
pub struct Tokens {
    /// For who sends.
    pub upload: Token,
    /// For who receives.
    pub download: Token,
}

/// Which of a stream's tokens is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needed {
    /// This side's.
    Of(Side),
    /// Any side's.
    Either,
}

impl Token {
    /// A fresh token: two random UUIDs (RFC 9562, section 5.4), 244 bits that nobody can guess.
    #[must_use]
    pub fn mint() -> Self {
        let (first, second) = (Uuid::new_v4().simple(), Uuid::new_v4().simple());
        Self(format!("{first}{second}").into())
    }

    /// A token that was chosen.
    ///
    /// # Errors
    /// [`BadToken`].
    pub fn parse(text: &str) -> Result<Self, BadToken> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(BadToken::NotVisible);
        }
        if text.len() < MIN_BYTES {
            return Err(BadToken::TooShort(text.len()));
        }
        Ok(Self(text.into()))
    }

    /// The whole token, for the answer to the one who made the stream. Never for anything else.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is what was given.
    ///
    /// # Errors
    /// [`AuthError::Unauthorized`] where nothing was given, [`AuthError::Forbidden`] where something else was.
    pub fn check(&self, given: Option<Credential<'_>>) -> Result<(), AuthError> {
        check(given, |given| self.matches(given))
    }

    fn matches(&self, given: Credential<'_>) -> Choice {
        self.0.as_bytes().ct_eq(given.0)
    }
}

/// Why a request may not do what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// A token is needed, and none was given.
    #[error("This needs a token: send it as Authorization: Bearer TOKEN, or as ?token=TOKEN")]
    Unauthorized,
    /// What was given does not give this right.
    #[error("{0}")]
    Forbidden(&'static str),
}

impl Tokens {
    /// A fresh pair.
    #[must_use]
    pub fn mint() -> Self {
        Self { upload: Token::mint(), download: Token::mint() }
    }

    /// Whether what is needed is what was given.
    ///
    /// # Errors
    /// As [`Token::check`].
    pub fn check(&self, needed: Needed, given: Option<Credential<'_>>) -> Result<(), AuthError> {
        match needed {
            Needed::Of(Side::Source) => self.upload.check(given),
            Needed::Of(Side::Destination) => self.download.check(given),
            Needed::Either => check(given, |given| self.upload.matches(given) | self.download.matches(given)),
        }
    }
}

fn check<'a>(
    given: Option<Credential<'a>>,
    matches: impl FnOnce(Credential<'a>) -> Choice,
) -> Result<(), AuthError> {
    let given = given.ok_or(AuthError::Unauthorized)?;
    if matches(given).into() {
        Ok(())
    } else {
        Err(AuthError::Forbidden("The token is not the one for this"))
    }
}

impl<'a> Credential<'a> {
    /// What was given; `None` where that is nothing.
    #[must_use]
    pub fn new(given: &'a [u8]) -> Option<Self> {
        (!given.is_empty()).then_some(Self(given))
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

    fn given(token: &Token) -> Option<Credential<'_>> {
        Credential::new(token.as_str().as_bytes())
    }

    #[test]
    fn minted_tokens_are_distinct_and_long_and_plain_hex() {
        let Tokens { upload, download } = Tokens::mint();
        assert_ne!(upload, download);
        assert_eq!(upload.as_str().len(), 64);
        assert!(upload.as_str().bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    #[test]
    fn only_enough_visible_ascii_makes_a_token() {
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
            let said = BadToken::TooShort(short.len()).to_string();
            assert!(said.contains("at least 16") && said.contains("/dev/urandom"), "{said}");
        }
    }

    #[test]
    fn nothing_of_a_token_is_shown() {
        let tokens = Tokens::mint();
        assert_eq!(format!("{tokens:?}"), "Tokens { upload: Token(…), download: Token(…) }");
    }

    #[test]
    fn each_side_has_its_own_token_and_either_will_do_for_what_both_may() {
        let (tokens, other) = (Tokens::mint(), Token::mint());
        let cut = Credential::new(&tokens.upload.as_str().as_bytes()[..63]);
        let (source, destination) = (Needed::Of(Side::Source), Needed::Of(Side::Destination));
        for (given, rights) in [
            (given(&tokens.upload), vec![source, Needed::Either]),
            (given(&tokens.download), vec![destination, Needed::Either]),
            (given(&other), vec![]),
            (cut, vec![]),
        ] {
            for needed in [source, destination, Needed::Either] {
                let checked = tokens.check(needed, given);
                assert_eq!(checked.is_ok(), rights.contains(&needed), "{needed:?}");
                assert!(!matches!(checked, Err(AuthError::Unauthorized)));
            }
        }
        for needed in [source, destination, Needed::Either] {
            assert_eq!(tokens.check(needed, Credential::new(b"")), Err(AuthError::Unauthorized));
        }
    }
}
