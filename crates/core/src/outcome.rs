//! The vocabulary of endings. Pure: no I/O, no HTTP.
//!
//! - A [`SeatError`] is why a request gets nothing of a stream: no seat, or a seat that it loses while it
//!   waits.
//! - A [`Fault`] is why a transfer failed after the sides had paired.
//! - An [`Outcome`] is how a stream ended; each stream has one, and the first one stands.
//!
//! The texts are the contract's (section 2); `http::response` alone turns them into responses.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rendezvous_protocol::Side;

use crate::budget::allocated;

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
    #[error("Your address has {0} connections, as many as each may have here: try again later")]
    Connections(usize),
    /// Streams at a time that have not ended.
    #[error(
        "Your address has {0} streams that have not ended, as many as each may have here: try again later"
    )]
    Streams(usize),
    /// Streams made in a minute.
    #[error(
        "Your address makes more streams than the {limit} a minute that each may make here: try again later"
    )]
    Creations {
        /// The limit.
        limit: usize,
        /// How long it takes until one more may be made.
        wait: Duration,
    },
}

/// Why a request gets no stream or no seat, or loses the seat that it waits on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeatError {
    /// No stream of this id can be connected to: unknown, expired or ended.
    #[error("The specified session id does not exist")]
    NotFound,
    /// The seat is taken.
    #[error("A client has already connected to the {0} side of this stream")]
    AlreadyConnected(Side),
    /// An error cannot be reported any more.
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
    /// The upload's declared length is over the limit of a stream.
    #[error("The body is over the limit of {limit} bytes")]
    TooLong {
        /// The limit, in bytes.
        limit: u64,
    },
    /// There are as many streams as there may be.
    #[error("The server has as many streams as it may: try again later")]
    TooManyStreams,
    /// The client has as much as each may have.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// The server is about to end.
    #[error("The server is shutting down")]
    ShuttingDown,
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

/// What a fault is, in every place that tells of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultTraits {
    /// Its name in logs and metrics.
    pub name: &'static str,
    /// The state of a stream that has ended by it.
    pub state: &'static str,
    /// The error that the status object has.
    pub error: &'static str,
    /// The status and the error that the source is answered.
    pub source: (u16, &'static str),
    /// The same for a destination that has received nothing yet. How a source broke is between it and the server.
    pub destination: (u16, &'static str),
}

macro_rules! row {
    ($name:literal $state:literal $error:literal $source:tt $destination:tt) => {
        FaultTraits { name: $name, state: $state, error: $error, source: $source, destination: $destination }
    };
}

macro_rules! faults {
    ($($fault:pat => $name:literal $state:literal $error:literal $source:tt $destination:tt,)*) => {
        impl Fault {
            /// Its row in the table of faults.
            #[must_use]
            pub fn traits(&self) -> FaultTraits {
                match self {
                    $($fault => row!($name $state $error $source $destination),)*
                }
            }
        }

        /// The table of faults.
        pub const FAULTS: &[FaultTraits] = &[$(row!($name $state $error $source $destination),)*];
    };
}

// Each fault is one row: its name, the state, the error of the status object; what the source is answered, and what the destination.
faults! {
    Self::SourceDisconnected => "source_disconnected" "SRC_DISCONNECTED" "StreamSourceError"
        (400, "BadRequestError") (502, "StreamSourceError"),
    Self::SourceBroke(_) => "source_broke" "SRC_ERROR" "StreamSourceError"
        (400, "BadRequestError") (502, "StreamSourceError"),
    Self::LengthMismatch(_) => "length_mismatch" "SRC_ERROR" "StreamSourceError"
        (400, "LengthMismatchError") (502, "StreamSourceError"),
    Self::TooLong { .. } => "too_long" "SRC_ERROR" "StreamSourceError"
        (413, "BodyTooLargeError") (502, "StreamSourceError"),
    Self::TooSlow { .. } => "too_slow" "SRC_ERROR" "StreamSourceError"
        (502, "StreamSourceError") (502, "StreamSourceError"),
    Self::DestinationDisconnected => "destination_disconnected" "DST_DISCONNECTED" "StreamDestinationError"
        (502, "StreamDestinationError") (502, "StreamDestinationError"),
    Self::Stalled { side: Side::Source, .. } => "source_stalled" "SRC_ERROR" "StreamSourceError"
        (502, "StreamSourceError") (502, "StreamSourceError"),
    Self::Stalled { side: Side::Destination, .. } => "destination_stalled" "DST_ERROR" "StreamDestinationError"
        (502, "StreamDestinationError") (502, "StreamDestinationError"),
    Self::ShutDown => "shut_down" "SRC_ERROR" "ShuttingDownError"
        (503, "ShuttingDownError") (503, "ShuttingDownError"),
}

impl Outcome {
    /// Its name in logs and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Expired { .. } => "expired",
            Self::Reported(_) => "reported",
            Self::Failed(fault) => fault.traits().name,
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
