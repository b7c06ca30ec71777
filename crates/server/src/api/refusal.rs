//! Why a request gets nothing: the errors of all layers, each of which knows its own.

use rendezvous_codec::head::HeadError;
use rendezvous_core::outcome::{SeatError, TooMany};
use rendezvous_core::token::AuthError;

use crate::api::json_body::BodyError;

/// Why a request is refused. [`super::response`] makes the response of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Its head cannot be read.
    #[error(transparent)]
    Head(#[from] HeadError),
    /// It lacks a right.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// It gets nothing of a stream.
    #[error(transparent)]
    Seat(#[from] SeatError),
    /// Its JSON body is not taken.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// Method and path name no endpoint.
    #[error("No endpoint exists for the specified method and/or route")]
    BadRoute,
    /// It asks for what cannot be had.
    #[error("{0}")]
    BadRequest(&'static str),
    /// One of the server's limits is reached.
    #[error("{0}")]
    Busy(&'static str),
    /// A defect of the server. The text says nothing about the inside.
    #[error("The server failed to answer this request")]
    Internal,
}

impl Refusal {
    /// The flag of the limit that is reached, where a client's administrator may be the server's too.
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

impl From<TooMany> for Refusal {
    fn from(too_many: TooMany) -> Self {
        SeatError::from(too_many).into()
    }
}
