//! Errors as clients receive them: a status, a name and a message (docs/api.md).

use serde::Serialize;

macro_rules! error_kinds {
    ($($(#[$doc:meta])* $kind:ident = $status:literal $name:literal,)*) => {
        /// A refusal by the server itself, with its status and its name.
        ///
        /// Two kinds of errors are not listed: an error that a client reports has the status and name of the report, and
        /// the faults of a transfer are a table in the core crate.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)*
        }

        impl ErrorKind {
            /// All kinds, ordered by status.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// Returns the status code of the response (RFC 9110, section 15).
            #[must_use]
            pub fn status(self) -> u16 {
                match self {
                    $(Self::$kind => $status,)*
                }
            }

            /// Returns the `name` in the body of the response. Several kinds may share a name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

error_kinds! {
    /// The JSON body is invalid.
    InvalidBody = 400 "InvalidBodyError",
    /// The upload is longer or shorter than the promised length.
    LengthMismatch = 400 "LengthMismatchError",
    /// The request violates HTTP, or uses a feature that streams do not support.
    BadRequest = 400 "BadRequestError",
    /// A token is required, and the request has none.
    Unauthorized = 401 "UnauthorizedError",
    /// The token, web page, host name or purpose of the request is not allowed.
    Forbidden = 403 "ForbiddenError",
    /// The stream does not exist.
    NotFound = 404 "SessionNotFoundError",
    /// The route does not exist.
    BadRoute = 404 "BadRouteError",
    /// The request was not complete before its timeout.
    RequestTimeout = 408 "BadRequestError",
    /// The stream has started streaming, so an error can no longer be reported.
    AlreadyStarted = 409 "StreamStartedError",
    /// The body is over its size limit.
    BodyTooLarge = 413 "BodyTooLargeError",
    /// Another node of the cluster has the stream. Sent between nodes only.
    Misdirected = 421 "MisdirectedError",
    /// This side of the stream is already connected.
    AlreadyConnected = 429 "AlreadyConnectedError",
    /// The client has reached one of its quotas.
    TooMany = 429 "TooManyRequestsError",
    /// The request head is over its size limit.
    HeadTooLarge = 431 "BadRequestError",
    /// The server has a defect.
    Internal = 500 "InternalError",
    /// The node that had the stream was lost after its sides had paired.
    OwnerLost = 502 "OwnerLostError",
    /// The server has reached one of its limits.
    Busy = 503 "ServerBusyError",
    /// It is not known which node has the stream.
    DirectoryUnavailable = 503 "DirectoryUnavailableError",
    /// The node that has the stream cannot be reached.
    OwnerUnreachable = 503 "OwnerUnreachableError",
    /// The other side did not connect within the time for which this one had asked to wait.
    PeerNotConnected = 503 "PeerNotConnectedError",
    /// The server is shutting down.
    ShuttingDown = 503 "ShuttingDownError",
    /// The stream's time to live passed before both sides connected.
    Expired = 504 "SessionTimeoutError",
}

/// The JSON body of an error response: `{"name":"…","message":"…"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    /// The name of the error, for programs.
    pub name: String,
    /// A sentence for human readers.
    pub message: String,
}

impl ErrorBody {
    /// Creates a body with this name and message.
    #[must_use]
    pub fn new(name: &str, message: &(impl ToString + ?Sized)) -> Self {
        Self { name: name.to_owned(), message: message.to_string() }
    }
}
