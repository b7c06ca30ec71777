//! How requests, transfers and streams end. Pure: no I/O.
//!
//! - [`SeatError`]: why a request gets no seat, or loses its seat while it waits.
//! - [`Fault`]: why a transfer failed after its sides had paired. Its status, state and names are one row of a table.
//! - [`Outcome`]: how a stream ended. Each stream has one: the first stands.
//!
//! Their messages are part of the API (docs/api.md). The server turns them into responses.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rendezvous_protocol::Side;

use crate::budget::allocated;
use crate::token::AuthError;

/// An error that a client reported with `POST /stream/:id/error`, for the side that waits or connects next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The status of the response to that side, 400–599.
    pub status: u16,
    /// The `name` of the error.
    pub name: String,
    /// The `message` of the error.
    pub message: String,
}

impl Report {
    /// Returns an upper bound of the memory of the report in bytes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        const OVERHEAD: u64 = 192;
        OVERHEAD + allocated(self.name.capacity()) + allocated(self.message.capacity())
    }
}

/// The body is longer or shorter than `Content-Length` in `download_headers` promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("The stream was promised {promised} bytes, but the upload has {upload}")]
pub struct LengthMismatch {
    /// Length in bytes that was promised when the stream was created.
    pub promised: u64,
    /// Length of the upload, as far as it is known.
    pub upload: UploadLength,
}

/// What is known about the length of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadLength {
    /// The upload declared or had exactly this many bytes.
    Exactly(u64),
    /// The upload continued after this many bytes.
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

/// A quota that a client has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooMany {
    /// Simultaneous connections: this many.
    #[error("Your address has {0} connections, the limit for each client: try again later")]
    Connections(usize),
    /// Streams that have not ended: this many.
    #[error("Your address has {0} streams that have not ended, the limit for each client: try again later")]
    Streams(usize),
    /// Streams created per minute.
    #[error(
        "Your address creates more than {limit} streams per minute, the limit for each client: try again later"
    )]
    Creations {
        /// The limit, in streams per minute.
        limit: usize,
        /// Time until the client may create another stream.
        wait: Duration,
    },
}

/// Why a request cannot create a stream, gets no seat, or loses its seat while it waits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeatError {
    /// The stream is unknown, expired or ended.
    #[error("The specified session id does not exist")]
    NotFound,
    /// This side of the stream is already connected.
    #[error("A client has already connected to the {0} side of this stream")]
    AlreadyConnected(Side),
    /// The stream has paired, has ended or has a report, so an error can no longer be reported.
    #[error("The specified session has already started streaming")]
    AlreadyStarted,
    /// The time to live passed before both sides connected.
    #[error("The specified session expired before both sides connected")]
    Expired,
    /// The time for which the side had asked to wait passed before the other side connected.
    #[error("The other side did not connect within {seconds} s: send the request again to wait on")]
    PeerNotConnected {
        /// That time, in seconds.
        seconds: u64,
    },
    /// The first side of a path makes it, and this one may not.
    #[error(transparent)]
    MayNotCreate(#[from] AuthError),
    /// A client reported an error instead of connecting. The message is the client's.
    #[error("{}", .0.message)]
    Reported(Arc<Report>),
    /// The declared length of the upload differs from the promised one.
    #[error(transparent)]
    LengthMismatch(#[from] LengthMismatch),
    /// The declared length of the upload is over the limit of a stream.
    #[error("The body is over the limit of {limit} bytes")]
    TooLong {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The server has reached its limit of streams.
    #[error("The server has reached its limit of streams: try again later")]
    TooManyStreams,
    /// The client has reached a quota.
    #[error(transparent)]
    TooMany(#[from] TooMany),
    /// The server is shutting down.
    #[error("The server is shutting down")]
    ShuttingDown,
    /// Another node of the cluster now owns the path. Nothing of the side's body was taken.
    #[error("Another node has this stream")]
    Moved,
}

/// Why a transfer failed after its sides had paired.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The source's connection closed or was reset before the end of its body.
    #[error("Stream source closed unexpectedly")]
    SourceDisconnected,
    /// The source violated HTTP, as the text describes.
    #[error("The upload breaks HTTP: {0}")]
    SourceBroke(String),
    /// The source's body is longer or shorter than promised.
    #[error(transparent)]
    LengthMismatch(#[from] LengthMismatch),
    /// The source's body is over the size limit of a stream.
    #[error("The upload is over the limit of {limit} bytes")]
    TooLong {
        /// The limit, in bytes.
        limit: u64,
    },
    /// The source was slower than the minimum rate in the time that the relay waited for it.
    #[error("Stream source is too slow: it sent {rate} bytes per second, and the minimum is {limit}")]
    TooSlow {
        /// Its rate, in bytes per second.
        rate: u64,
        /// The minimum, in bytes per second.
        limit: u64,
    },
    /// The destination's connection closed or was reset before it received the whole body.
    #[error("Stream destination closed unexpectedly")]
    DestinationDisconnected,
    /// No byte moved for the duration of the idle limit, because of one side.
    #[error("Stream {side} stalled: no byte moved for {}", humantime::format_duration(*.limit))]
    Stalled {
        /// The side that the other waited for.
        side: Side,
        /// The idle limit.
        limit: Duration,
    },
    /// The server shut down before the transfer ended.
    #[error("The server is shutting down")]
    ShutDown,
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The destination received every byte.
    Finished,
    /// The transfer failed.
    Failed(Fault),
    /// The time to live passed before both sides connected.
    Expired {
        /// The side that waited, if any.
        present: Option<Side>,
    },
    /// A client reported an error before the sides paired.
    Reported(Arc<Report>),
}

/// The representation of a fault in responses, the status object, logs and metrics: one row of the table of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultTraits {
    /// The name in logs and metrics.
    pub name: &'static str,
    /// The `state` in the status object.
    pub state: &'static str,
    /// The name of the `error` in the status object.
    pub error: &'static str,
    /// Status and error name of the source's response.
    pub source: (u16, &'static str),
    /// Status and error name of the destination's response, if its head has not been sent yet. It does not reveal how
    /// the source violated HTTP or a limit.
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
            /// Returns the row of this fault in the table of faults.
            #[must_use]
            pub fn traits(&self) -> FaultTraits {
                match self {
                    $($fault => row!($name $state $error $source $destination),)*
                }
            }
        }

        /// All rows of the table of faults.
        pub const FAULTS: &[FaultTraits] = &[$(row!($name $state $error $source $destination),)*];
    };
}

// The columns: name, state, error in the status object; the source's response, the destination's response.
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
    /// Returns the name of the outcome in logs and metrics. Each fault has its own.
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
            Self::Expired { present: None } => f.write_str("expired: neither side connected"),
            Self::Expired { present: Some(side) } => write!(f, "expired: only the {side} connected"),
            Self::Reported(report) => write!(f, "error {} reported by a client", report.status),
        }
    }
}
