//! Receives what a link offers.

mod driver;

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::destination::{Destination, DestinationError};
use crate::digest::Digest;
use crate::http::Http;
use crate::link::Link;
use crate::relay::{Relay, Unusable};
use crate::source::Description;

/// How to receive.
#[derive(Clone, Debug)]
pub struct ReceiveOptions {
    /// The link that the sender printed.
    pub link: Link,
    /// How long to go on without any progress. 24 h by default.
    pub give_up: Duration,
}

/// What happens meanwhile, for people.
#[derive(Clone, Debug, PartialEq)]
pub enum ReceiveEvent {
    /// What an earlier run left behind is continued from here.
    Resumed {
        /// The offset in the plaintext.
        offset: u64,
    },
    /// What will come. The name is hostile text.
    Description(Description),
    /// The bytes up to here are authenticated and written.
    Received {
        /// The offset in the plaintext.
        bytes: u64,
    },
    /// Another receiver is served; this one asks again after 15 s.
    Busy,
    /// A request failed; the transfer goes on.
    Cut {
        /// The reason.
        why: String,
    },
    /// All is received and verified, and stored or handed on. The sender has not confirmed it yet.
    Verified {
        /// How many bytes.
        bytes: u64,
        /// Their SHA-256.
        sha256: Digest,
    },
    /// Something that people should know.
    Warning(String),
}

/// How it ended.
#[derive(Debug)]
pub enum ReceiveEnding {
    /// The data is verified, flushed to disk and named.
    Stored {
        /// How many bytes.
        bytes: u64,
        /// Their SHA-256.
        sha256: Digest,
        /// Where it is.
        at: Option<PathBuf>,
        /// Whether the sender has confirmed that it knows.
        confirmed: bool,
    },
    /// The data is verified, and was passed on.
    Handed {
        /// How many bytes.
        bytes: u64,
        /// Their SHA-256.
        sha256: Digest,
        /// Whether the sender has confirmed that it knows.
        confirmed: bool,
    },
    /// No sender answered.
    NoPeer,
    /// The transfer did not go on within `give_up`.
    Cut {
        /// The last failure.
        why: String,
        /// How far it came.
        bytes: u64,
    },
    /// The sender refused for good.
    Refused {
        /// The kind of refusal.
        reason: Refusal,
        /// What the sender says about it: hostile text, made printable.
        message: String,
    },
    /// What arrived is not what the sender sent, or cannot be put together.
    Integrity {
        /// What does not fit.
        why: String,
    },
    /// The destination cannot take the data.
    Destination(DestinationError),
    /// The relay cannot be used.
    Unusable(Unusable),
    /// `stop` was cancelled. What is on disk stays, and a later run continues it.
    Interrupted,
}

/// Why a sender refused to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The bytes asked for are no longer in its replay buffer.
    Gone,
    /// Its source has changed.
    Changed,
    /// Anything else.
    Other,
}

/// Receives what `link` offers into `destination`.
///
/// Cancelling `stop` ends it early: what is on disk stays, so that a later run can continue it.
pub async fn receive(
    destination: Box<dyn Destination>,
    options: ReceiveOptions,
    stop: CancellationToken,
    observe: impl FnMut(ReceiveEvent) + Send,
) -> ReceiveEnding {
    let relay = Relay { url: options.link.relay().clone(), token: None };
    match Http::new(&relay) {
        Ok(http) => driver::run(destination, &options, http, &stop, observe).await,
        Err(unusable) => ReceiveEnding::Unusable(unusable),
    }
}
