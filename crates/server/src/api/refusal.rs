//! [`Refusal`]: the union of the errors of all layers for which a request is refused.

use rendezvous_codec::head::HeadError;
use rendezvous_core::outcome::{SeatError, TooMany};
use rendezvous_core::token::AuthError;

use crate::api::events::PartError;
use crate::api::json_body::BodyError;
use crate::api::response::response_memory_exhausted;
use crate::api::route::RouteError;
use crate::hop::HopError;

/// The reason why a request is refused. [`super::response`] turns it into a response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// The head is malformed, too large or too slow.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// The request is not authorized.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// The stream or its table refuses the request.
    #[error(transparent)]
    Seat(SeatError),
    /// The JSON body is invalid, too large, incomplete or too slow.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The method and the path are no route.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The node that has the stream cannot be asked, or is another one.
    #[error(transparent)]
    Hop(#[from] HopError),
    /// The request is valid HTTP, but the route does not support it.
    #[error("{0}")]
    BadRequest(&'static str),
    /// A limit of the server is reached.
    #[error("{0}")]
    Busy(&'static str),
    /// A defect of the server. The message does not describe it, because clients are not trusted.
    #[error("The server failed to process this request")]
    Internal,
}

impl Refusal {
    /// The flag that sets the quota that the client has reached. The message names it, because the user may also run the server.
    #[must_use]
    pub(crate) fn flag(&self) -> Option<&'static str> {
        match self {
            Self::Seat(SeatError::TooMany(too_many)) => Some(match too_many {
                TooMany::Connections(_) => "--max-connections-per-client",
                TooMany::Streams(_) => "--max-streams-per-client",
                TooMany::Creations { .. } => "--max-creations-per-minute",
            }),
            _ => None,
        }
    }
}

impl From<PartError> for Refusal {
    fn from(error: PartError) -> Self {
        match error {
            PartError::Json(_) | PartError::NodeLost => Self::Internal,
            PartError::Memory(_) => response_memory_exhausted(),
        }
    }
}

impl From<SeatError> for Refusal {
    fn from(error: SeatError) -> Self {
        match error {
            SeatError::MayNotCreate(error) => Self::Auth(error),
            other => Self::Seat(other),
        }
    }
}

impl From<TooMany> for Refusal {
    fn from(too_many: TooMany) -> Self {
        SeatError::from(too_many).into()
    }
}
