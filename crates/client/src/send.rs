//! Sends a source to whoever has the link.

mod driver;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::digest::Digest;
use crate::http::Http;
use crate::link::Link;
use crate::relay::{Relay, Unusable};
use crate::source::{Source, SourceError};

use driver::Driver;

/// How to send.
#[derive(Clone, Debug)]
pub struct SendOptions {
    /// The relay between the two sides.
    pub relay: Relay,
    /// How long to go on without any progress. 24 h by default.
    pub give_up: Duration,
}

/// What happens meanwhile, for people.
#[derive(Clone, Debug, PartialEq)]
pub enum SendEvent {
    /// The relay takes requests, and this link can be given away. Comes once.
    Link(Link),
    /// A receiver has asked to receive from `offset` on.
    Asked {
        /// How many different receivers have asked so far.
        receivers: u32,
        /// Where it continues.
        offset: u64,
    },
    /// The relay has taken the bytes up to here. It goes back when a receiver asks for earlier bytes.
    Sent {
        /// The offset in the plaintext.
        bytes: u64,
    },
    /// All bytes are sent; only the receipt is missing.
    AllSent {
        /// How many.
        bytes: u64,
    },
    /// A request failed; the transfer goes on.
    Cut {
        /// The reason.
        why: String,
    },
    /// Something that people should know.
    Warning(String),
}

/// How it ended.
#[derive(Debug)]
pub enum SendEnding {
    /// The receiver has verified the data, flushed it to disk and named it.
    Stored {
        /// How many bytes.
        bytes: u64,
        /// Their SHA-256.
        sha256: Digest,
    },
    /// The receiver has verified the data and passed it on to a pipe or a browser.
    Handed {
        /// How many bytes.
        bytes: u64,
        /// Their SHA-256.
        sha256: Digest,
    },
    /// All is sent, and no receipt came: the data may or may not be stored.
    Unconfirmed {
        /// How many bytes.
        bytes: u64,
    },
    /// Nobody asked.
    NoPeer,
    /// The transfer did not go on within `give_up`.
    Cut {
        /// The last failure.
        why: String,
        /// How far it came.
        bytes: u64,
    },
    /// The receiver gave up for good.
    Failed {
        /// The kind of failure.
        reason: Failure,
        /// What the receiver says about it: hostile text, made printable.
        message: String,
    },
    /// The source cannot be read, or has changed.
    Source(SourceError),
    /// The relay cannot be used.
    Unusable(Unusable),
    /// `stop` was cancelled. The other side was told.
    Interrupted,
}

/// Why a receiver gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A person or a rule refused the data.
    Refused,
    /// There is not enough space.
    NoSpace,
    /// The target exists.
    Exists,
    /// The data that arrived is not what was sent.
    Integrity,
    /// Anything else.
    Other,
}

/// Sends `source` to whoever asks with the link, until one receiver has confirmed it.
///
/// Cancelling `stop` ends it early: the other side is told, for which it gets five seconds to ask.
pub async fn send(
    source: Box<dyn Source>,
    options: SendOptions,
    stop: CancellationToken,
    observe: impl FnMut(SendEvent) + Send,
) -> SendEnding {
    let link = match Link::new(&options.relay.url) {
        Ok(link) => link,
        Err(error) => return SendEnding::Unusable(Unusable::BadUrl { why: error.to_string() }),
    };
    match Http::new(&options.relay) {
        Ok(http) => Driver::new(source, link, http, options.give_up, observe).run(&stop).await,
        Err(unusable) => SendEnding::Unusable(unusable),
    }
}
