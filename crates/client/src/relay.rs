//! The relay as a client addresses it, and the ways in which it can be of no use.

use std::fmt;

use reqwest::Url;
use zeroize::Zeroizing;

/// A relay, and the token that it may need to create a stream.
#[derive(Clone, Debug)]
pub struct Relay {
    /// Where it is. It may have a path, behind which a proxy serves it.
    pub url: Url,
    /// The create token, for relays that need one. Sent as `Authorization: Bearer`.
    pub token: Option<Token>,
}

/// A token of a relay. It is not shown by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// Reads a token: visible ASCII characters; whitespace around them, as a file has at its end, is dropped.
    ///
    /// # Errors
    /// [`InvalidToken`] if it is empty or has other characters.
    pub fn parse(text: &str) -> Result<Self, InvalidToken> {
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidToken);
        }
        Ok(Self(Zeroizing::new(token.to_owned())))
    }

    /// Returns the token itself.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Token(…)")
    }
}

/// The text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token has visible ASCII characters only, and at least one")]
pub struct InvalidToken;

/// Why a relay is of no use for a transfer, however often it is asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// 401: the relay needs a token to create a stream.
    #[error("the relay needs a token to create a stream: give one with --token-file")]
    TokenNeeded,
    /// 403: the token is wrong.
    #[error("the relay refused the token: ask its operator for the right one")]
    TokenRefused,
    /// 404: it runs with `--no-paths`, or is no relay.
    #[error("there are no named paths at {url}: it is no relay, or its operator has turned them off")]
    NoPaths {
        /// The URL of the relay.
        url: Url,
    },
    /// The URL cannot be one of a relay.
    #[error("{why}")]
    BadUrl {
        /// What is wrong with it.
        why: String,
    },
    /// The status of something that is no relay.
    #[error("{url} answered {status}, which a relay does not: check the URL")]
    NoRelay {
        /// The URL of the relay.
        url: Url,
        /// The status.
        status: u16,
    },
    /// The HTTP client cannot start.
    #[error("the HTTP client cannot start: {why}")]
    Client {
        /// The reason.
        why: String,
    },
}
