//! The vocabulary of endings. Pure: no I/O, no HTTP.
//!
//! - A [`Refusal`] is why a request gets nothing of a stream: no seat, or a seat that it loses while it
//!   waits.
//! - A [`Fault`] is why a transfer failed after the sides had paired.
//! - An [`Outcome`] is how a stream ended; each stream has one, and the first one stands.
//!
//! The texts are the contract's (section 2); `http::reply` alone turns them into statuses.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::budget::allocated;

/// One of the two seats of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The side that sends: `PUT`.
    Source,
    /// The side that receives: `GET`.
    Destination,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
        })
    }
}

/// An error that a client reported by `POST /stream/:id/error`, for the other side to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The status that the other side gets: 400–599.
    pub status: u16,
    /// The `name` of the error.
    pub name: String,
    /// The `message` of the error.
    pub message: String,
}

impl Report {
    /// Bytes of memory that it takes at most.
    #[must_use]
    pub fn memory(&self) -> u64 {
        const OVERHEAD: u64 = 192;
        OVERHEAD + allocated(self.name.capacity()) + allocated(self.message.capacity())
    }
}

/// A body whose length is not the one that was promised by `Content-Length` in `download_headers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The stream was promised {promised} bytes, but the upload has {upload}")]
pub struct LengthMismatch {
    /// Bytes promised when the stream was made.
    pub promised: u64,
    /// Bytes of the upload, as far as they are known.
    pub upload: UploadLength,
}

/// What is known of the length of an upload that breaks a promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadLength {
    /// It declared, or turned out to have, so many bytes.
    Exactly(u64),
    /// It went on after so many bytes.
    MoreThan(u64),
}

impl fmt::Display for UploadLength {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(bytes) => write!(f, "{bytes}"),
            Self::MoreThan(bytes) => write!(f, "more than {bytes}"),
        }
    }
}

/// The limit of each client that one has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// Connections at a time.
    #[error(
        "Your address has {0} connections, as many as each may have here (--max-connections-per-client): try again later"
    )]
    Connections(usize),
    /// Streams at a time that have not ended.
    #[error(
        "Your address has {0} streams that have not ended, as many as each may have here (--max-streams-per-client): try again later"
    )]
    Streams(usize),
    /// Streams made in a minute.
    #[error(
        "Your address makes more streams than the {limit} a minute that each may make here (--max-creations-per-minute): try again later"
    )]
    Creations {
        /// The limit.
        limit: usize,
        /// How long it takes until one more may be made.
        wait: Duration,
    },
}

/// Why a request gets no seat, or loses the one it waits on, or is not understood at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No stream of this id can be connected to: unknown, expired or ended.
    #[error("The specified session id does not exist")]
    NotFound,
    /// Method and path name no endpoint.
    #[error("No endpoint exists for the specified method and/or route")]
    BadRoute,
    /// A token is needed, and none was given.
    #[error("This needs a token: send it as Authorization: Bearer TOKEN, or as ?token=TOKEN")]
    Unauthorized,
    /// What was given does not give this right.
    #[error("{0}")]
    Forbidden(&'static str),
    /// The seat is taken.
    #[error("A client has already connected to the {0} side of this stream")]
    AlreadyConnected(Side),
    /// An error can not be reported any more.
    #[error("The specified session has already started streaming")]
    AlreadyStarted,
    /// The time to live passed before both sides had come.
    #[error("The specified session expired before both sides connected")]
    Expired,
    /// A client reported an error instead of connecting.
    #[error("{}", .0.message)]
    Reported(Arc<Report>),
    /// The upload's declared length is not the promised one.
    #[error(transparent)]
    LengthMismatch(#[from] LengthMismatch),
    /// A JSON body that is not what the route takes.
    #[error("{0}")]
    InvalidBody(String),
    /// A body over the limit, in bytes.
    #[error("The body is over the limit of {limit} bytes")]
    BodyTooLarge {
        /// The limit, in bytes.
        limit: u64,
    },
    /// A request that breaks HTTP, or asks for what can not be had.
    #[error("{0}")]
    BadRequest(String),
    /// A request head over the limits.
    #[error("{0}")]
    HeadTooLarge(String),
    /// A request head, or a JSON body, that took too long.
    #[error("The request was not complete after {}", humantime::format_duration(*.0))]
    RequestTimeout(Duration),
    /// One of the server's limits is reached.
    #[error("{0}")]
    Busy(&'static str),
    /// The client has as much as each may have.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// The server is about to end.
    #[error("The server is shutting down")]
    ShuttingDown,
    /// A defect of the server. The text says nothing about the inside.
    #[error("The server failed to answer this request")]
    Internal,
}

/// Why a transfer failed after its sides had paired.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The source's connection closed or reset before its body was whole.
    #[error("Stream source closed unexpectedly")]
    SourceDisconnected,
    /// The source broke HTTP, in the way that the text tells.
    #[error("The upload breaks HTTP: {0}")]
    SourceBroke(String),
    /// The source's body is shorter or longer than promised.
    #[error(transparent)]
    LengthMismatch(#[from] LengthMismatch),
    /// The source's body is longer than a stream may be.
    #[error("The upload is over the limit of {limit} bytes")]
    TooLong {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The source brought too little while it was waited for.
    #[error("Stream source is too slow: it brought {rate} bytes per second, and the least is {limit}")]
    TooSlow {
        /// Bytes per second that it brought.
        rate: u64,
        /// The least, in bytes per second.
        limit: u64,
    },
    /// The destination's connection closed or reset before it had every byte.
    #[error("Stream destination closed unexpectedly")]
    DestinationDisconnected,
    /// No byte moved for the idle limit, because of this side.
    #[error("Stream {side} stalled: no byte moved for {}", humantime::format_duration(*.limit))]
    Stalled {
        /// The side that kept the other waiting.
        side: Side,
        /// The idle limit.
        limit: Duration,
    },
    /// The server ended before the transfer did.
    #[error("The server is shutting down")]
    ShutDown,
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Every byte was delivered.
    Finished,
    /// The transfer failed.
    Failed(Fault),
    /// The time to live passed; `present` is the side that waited, if any.
    Expired {
        /// The side that had come.
        present: Option<Side>,
    },
    /// A client reported an error.
    Reported(Arc<Report>),
}

impl Outcome {
    /// Its name in logs and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Expired { .. } => "expired",
            Self::Reported(_) => "reported",
            Self::Failed(fault) => match fault {
                Fault::SourceDisconnected => "source_disconnected",
                Fault::SourceBroke(_) => "source_broke",
                Fault::LengthMismatch(_) => "length_mismatch",
                Fault::TooLong { .. } => "too_long",
                Fault::TooSlow { .. } => "too_slow",
                Fault::DestinationDisconnected => "destination_disconnected",
                Fault::Stalled { side: Side::Source, .. } => "source_stalled",
                Fault::Stalled { side: Side::Destination, .. } => "destination_stalled",
                Fault::ShutDown => "shut_down",
            },
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished => f.write_str("finished"),
            Self::Failed(fault) => write!(f, "failed: {fault}"),
            Self::Expired { present: None } => f.write_str("expired: neither side came"),
            Self::Expired { present: Some(side) } => write!(f, "expired: only the {side} came"),
            Self::Reported(report) => write!(f, "error {} reported by a client", report.status),
        }
    }
}
