//! The conversion of a snapshot to the status object (docs/api.md, section 7).

use rendezvous_core::header_set::HeaderSet;
use rendezvous_core::outcome::Outcome;
use rendezvous_core::snapshot::{Snapshot, SnapshotState};
use rendezvous_protocol::{Side, StreamStatus, Timestamp};

use super::errors::error_of_outcome;

/// Returns the status object of a stream.
#[must_use]
pub fn status(snapshot: &Snapshot) -> StreamStatus<'_> {
    let ended = match &snapshot.state {
        SnapshotState::Ended(outcome) => Some(outcome),
        _ => None,
    };
    StreamStatus {
        id: snapshot.name.as_text(),
        created_at: Timestamp(snapshot.created_at),
        deactivated_at: snapshot.deactivated_at.map(Timestamp),
        state: state_name(&snapshot.state),
        active: ended.is_none(),
        error: ended.and_then(error_of_outcome),
        download_headers: snapshot.headers.download.as_ref().map(HeaderSet::json),
        upload_headers: snapshot.headers.upload.as_ref().map(HeaderSet::json),
        bytes_transferred: snapshot.bytes_transferred,
    }
}

fn state_name(state: &SnapshotState) -> &'static str {
    match state {
        SnapshotState::Created => "CREATED",
        SnapshotState::Waiting(Side::Source) => "SRC_CONNECTED",
        SnapshotState::Waiting(Side::Destination) => "DST_CONNECTED",
        SnapshotState::Streaming => "STREAMING",
        SnapshotState::Ended(outcome) => match outcome {
            Outcome::Finished => "FINISHED",
            Outcome::Expired { present: None } => "TIMEOUT_NO_SRC_NO_DST",
            Outcome::Expired { present: Some(Side::Destination) } => "TIMEOUT_NO_SRC",
            Outcome::Expired { present: Some(Side::Source) } => "TIMEOUT_NO_DST",
            Outcome::Reported(_) => "CLIENT_ERROR",
            Outcome::Failed(fault) => fault.traits().state,
        },
    }
}
