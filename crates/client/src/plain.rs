//! Transfers without encryption, which any HTTP client can take part in: nothing is verified or resumed.

mod download;
mod upload;

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use tokio_util::sync::CancellationToken;

use crate::destination::{Destination, DestinationError};
use crate::http::Http;
use crate::relay::{Relay, Token, Unusable};
use crate::source::{Description, Source, SourceError};

/// What happens while a source is sent.
#[derive(Clone, Debug)]
pub enum PlainSendEvent {
    /// Where the data can be fetched, once.
    Url(Url),
    /// The relay has taken the bytes up to here.
    Sent {
        /// How many.
        bytes: u64,
    },
}

/// How [`send_plain`] ended.
#[derive(Debug)]
pub enum PlainSendEnding {
    /// The relay has delivered every byte; whether they are stored or right, nobody knows.
    Delivered {
        /// How many.
        bytes: u64,
    },
    /// Nobody came before the stream expired.
    NoPeer,
    /// The transfer was cut.
    Cut {
        /// The reason.
        why: String,
    },
    /// The source cannot be read, or has changed.
    Source(SourceError),
    /// The relay cannot be used.
    Unusable(Unusable),
    /// `stop` was cancelled.
    Interrupted,
}

/// Creates a stream and sends `source` to the first client that fetches it.
pub async fn send_plain(
    source: Box<dyn Source>,
    relay: Relay,
    stop: CancellationToken,
    observe: impl FnMut(PlainSendEvent) + Send,
) -> PlainSendEnding {
    let http = match Http::new(&relay) {
        Ok(http) => http,
        Err(unusable) => return PlainSendEnding::Unusable(unusable),
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => PlainSendEnding::Interrupted,
        ending = upload::run(source, &relay, &http, observe) => ending,
    }
}

/// What happens during a download.
#[derive(Clone, Debug)]
pub enum DownloadEvent {
    /// What will come, as far as the response says. The name is hostile text.
    Description(Description),
    /// The bytes up to here are written.
    Received {
        /// How many.
        bytes: u64,
    },
}

/// How [`download()`] ended.
#[derive(Debug)]
pub enum DownloadEnding {
    /// The whole body is stored or passed on, as it came.
    Delivered {
        /// How many bytes.
        bytes: u64,
        /// Where they are, if in a file.
        at: Option<PathBuf>,
    },
    /// The stream does not exist, or no source came.
    NoPeer {
        /// What the relay says about it.
        why: String,
    },
    /// The transfer was cut.
    Cut {
        /// The reason.
        why: String,
        /// How far it came.
        bytes: u64,
    },
    /// The destination cannot take the data.
    Destination(DestinationError),
    /// The relay cannot be used.
    Unusable(Unusable),
    /// `stop` was cancelled.
    Interrupted,
}

/// Fetches a stream into `destination`. Gives up once nothing came for `give_up`.
pub async fn download(
    url: Url,
    token: Option<Token>,
    give_up: Duration,
    destination: Box<dyn Destination>,
    stop: CancellationToken,
    observe: impl FnMut(DownloadEvent) + Send,
) -> DownloadEnding {
    tokio::select! {
        biased;
        () = stop.cancelled() => DownloadEnding::Interrupted,
        ending = download::run(url, token, give_up, destination, observe) => ending,
    }
}
