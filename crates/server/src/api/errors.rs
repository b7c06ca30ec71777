//! The status, name and message of each refusal, and the error of each outcome (docs/api.md, section 2).

use http::StatusCode;
use rendezvous_codec::head::HeadError;
use rendezvous_core::outcome::{Outcome, SeatError};
use rendezvous_core::token::AuthError;
use rendezvous_protocol::{ErrorBody, ErrorKind};

use super::json_body::BodyError;
use super::refusal::Refusal;
use super::route::RouteError;
use crate::hop::HopError;
use crate::metrics::REPORTED;

/// Returns the `error` of the status object; `None` for a finished transfer.
#[must_use]
pub(crate) fn error_of_outcome(outcome: &Outcome) -> Option<ErrorBody> {
    match outcome {
        Outcome::Finished => None,
        Outcome::Failed(fault) => Some(ErrorBody::new(fault.traits().error, fault)),
        Outcome::Expired { .. } => Some(refusal_parts(&SeatError::Expired.into()).1),
        Outcome::Reported(report) => Some(ErrorBody::new(&report.name, &report.message)),
    }
}

/// Returns the name of an error for the metrics and the access log: [`REPORTED`] for an error that a client reported.
#[must_use]
pub(crate) fn refusal_name(refusal: &Refusal) -> &'static str {
    refusal_kind(refusal).map_or(REPORTED, ErrorKind::name)
}

/// Returns the status and the body of a refusal.
pub(super) fn refusal_parts(refusal: &Refusal) -> (StatusCode, ErrorBody) {
    if let Refusal::Seat(SeatError::Reported(report)) = refusal {
        return (status_code(report.status), ErrorBody::new(&report.name, &report.message));
    }
    let kind = refusal_kind(refusal).unwrap_or(ErrorKind::Internal);
    let message = match refusal.flag() {
        Some(flag) => format!("{refusal} ({flag})"),
        None => refusal.to_string(),
    };
    (status_code(kind.status()), ErrorBody::new(kind.name(), &message))
}

/// Returns the kind of a refusal; `None` for an error that a client reported.
fn refusal_kind(refusal: &Refusal) -> Option<ErrorKind> {
    Some(match refusal {
        Refusal::Head(HeadError::Malformed(_))
        | Refusal::BadRequest(_)
        | Refusal::Route(RouteError::BadPath(_) | RouteError::SeveralDestinations) => ErrorKind::BadRequest,
        Refusal::Head(HeadError::TooLong(_) | HeadError::TooManyFields) => ErrorKind::HeadTooLarge,
        Refusal::Head(HeadError::TimedOut(_)) => ErrorKind::RequestTimeout,
        Refusal::Auth(error) => auth_kind(error),
        Refusal::Seat(error) => match error {
            SeatError::Reported(_) => return None,
            SeatError::NotFound => ErrorKind::NotFound,
            SeatError::AlreadyConnected(_) => ErrorKind::AlreadyConnected,
            SeatError::AlreadyStarted => ErrorKind::AlreadyStarted,
            SeatError::Expired => ErrorKind::Expired,
            SeatError::PeerNotConnected { .. } => ErrorKind::PeerNotConnected,
            SeatError::LengthMismatch(_) => ErrorKind::LengthMismatch,
            SeatError::TooLong { .. } => ErrorKind::BodyTooLarge,
            SeatError::TooManyStreams => ErrorKind::Busy,
            SeatError::TooMany(_) => ErrorKind::TooMany,
            SeatError::ShuttingDown => ErrorKind::ShuttingDown,
            SeatError::Moved => ErrorKind::Misdirected,
            SeatError::MayNotCreate(error) => auth_kind(error),
        },
        Refusal::Body(error) => match error {
            BodyError::Invalid(_) => ErrorKind::InvalidBody,
            BodyError::TooLarge => ErrorKind::BodyTooLarge,
            BodyError::Incomplete => ErrorKind::BadRequest,
            BodyError::TimedOut(_) => ErrorKind::RequestTimeout,
            BodyError::Busy => ErrorKind::Busy,
        },
        Refusal::Route(RouteError::Unknown) => ErrorKind::BadRoute,
        Refusal::Hop(error) => match error {
            HopError::Misdirected => ErrorKind::Misdirected,
            HopError::OwnerUnreachable | HopError::PartialList => ErrorKind::OwnerUnreachable,
            HopError::OwnerLost => ErrorKind::OwnerLost,
            HopError::DirectoryUnavailable => ErrorKind::DirectoryUnavailable,
            HopError::NoRoom => ErrorKind::Busy,
        },
        Refusal::Busy(_) => ErrorKind::Busy,
        Refusal::Internal => ErrorKind::Internal,
    })
}

fn auth_kind(error: &AuthError) -> ErrorKind {
    match error {
        AuthError::Unauthorized => ErrorKind::Unauthorized,
        AuthError::Forbidden(_) => ErrorKind::Forbidden,
    }
}

/// Returns the code, or 500 for a number that is no status.
pub(super) fn status_code(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
