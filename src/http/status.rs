//! The status object of the contract (section 7).

use std::time::SystemTime;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::response::ErrorBody;
use crate::header_set::HeaderSet;
use crate::outcome::{Outcome, Side};
use crate::rendezvous::{Snapshot, SnapshotState};

/// All of them, as `GET /stream` shows them.
pub struct List<'a>(pub &'a [Snapshot]);

impl Serialize for List<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Status::from))
    }
}

/// One stream as `GET /stream` and `GET /stream/:id/status` show it; the order of the fields is the
/// contract's.
#[derive(Serialize)]
pub struct Status<'a> {
    id: &'a str,
    created_at: IsoTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    deactivated_at: Option<IsoTime>,
    state: &'static str,
    active: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    download_headers: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upload_headers: Option<&'a RawValue>,
    bytes_transferred: u64,
}

impl<'a> From<&'a Snapshot> for Status<'a> {
    fn from(snapshot: &'a Snapshot) -> Self {
        let ended = match &snapshot.state {
            SnapshotState::Ended(outcome) => Some(outcome),
            _ => None,
        };
        Self {
            id: snapshot.id.as_str(),
            created_at: IsoTime(snapshot.created_at),
            deactivated_at: snapshot.deactivated_at.map(IsoTime),
            state: state_name(&snapshot.state),
            active: ended.is_none(),
            error: ended.and_then(ErrorBody::of_outcome),
            download_headers: snapshot.headers.download.as_ref().map(HeaderSet::given),
            upload_headers: snapshot.headers.upload.as_ref().map(HeaderSet::given),
            bytes_transferred: snapshot.bytes_transferred,
        }
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

/// ISO 8601, UTC, milliseconds.
struct IsoTime(SystemTime);

impl Serialize for IsoTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_millis(self.0))
    }
}
