//! Errors as clients see them: a status, a name and a message.

use serde::Serialize;

macro_rules! error_kinds {
    ($($(#[$doc:meta])* $kind:ident = $status:literal $name:literal,)*) => {
        /// A refusal that is the server's own. What a client reports has a status and a name of its own, and the faults of a transfer have
        /// theirs in the table of faults.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)*
        }

        impl ErrorKind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The status of the response.
            #[must_use]
            pub fn status(self) -> u16 {
                match self {
                    $(Self::$kind => $status,)*
                }
            }

            /// The `name` in the body of the response.
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
    /// The length of the upload is not the promised one.
    LengthMismatch = 400 "LengthMismatchError",
    /// The request breaks HTTP, or asks for what streams cannot do.
    BadRequest = 400 "BadRequestError",
    /// A token is needed.
    Unauthorized = 401 "UnauthorizedError",
    /// The token, page, host or purpose of the request is not allowed.
    Forbidden = 403 "ForbiddenError",
    /// No such stream.
    NotFound = 404 "SessionNotFoundError",
    /// No such route.
    BadRoute = 404 "BadRouteError",
    /// The request was not complete in time.
    RequestTimeout = 408 "BadRequestError",
    /// The stream has started.
    AlreadyStarted = 409 "StreamStartedError",
    /// The body is too long.
    BodyTooLarge = 413 "BodyTooLargeError",
    /// The seat is taken.
    AlreadyConnected = 429 "AlreadyConnectedError",
    /// A limit of each client is reached.
    TooMany = 429 "TooManyRequestsError",
    /// The head of the request is too long.
    HeadTooLarge = 431 "BadRequestError",
    /// A defect of the server.
    Internal = 500 "InternalError",
    /// A limit of the server is reached.
    Busy = 503 "ServerBusyError",
    /// The server ends.
    ShuttingDown = 503 "ShuttingDownError",
    /// The time to live passed before both sides had come.
    Expired = 504 "SessionTimeoutError",
}

/// The body of an error: `{"name":"…","message":"…"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    /// The name of the error.
    pub name: String,
    /// A sentence for the person who reads it.
    pub message: String,
}

impl ErrorBody {
    /// An error of this name.
    #[must_use]
    pub fn new(name: &str, message: &(impl ToString + ?Sized)) -> Self {
        Self { name: name.to_owned(), message: message.to_string() }
    }
}
