//! The JSON that describes streams (docs/api.md).

use std::time::SystemTime;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::error::ErrorBody;

/// The response to `POST /stream`.
#[derive(Debug, Serialize)]
pub struct CreatedStream<'a> {
    /// The id of the stream.
    pub stream: &'a str,
    /// The token of the source, where each side has one of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_token: Option<&'a str>,
    /// The token of the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download_token: Option<&'a str>,
}

/// The status object: one stream, as `GET /stream` and `GET /stream/:id/status` show it, in the order of its fields.
#[derive(Debug, Serialize)]
pub struct StreamStatus<'a> {
    /// The id of the stream.
    pub id: &'a str,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it ended, or an error was reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deactivated_at: Option<Timestamp>,
    /// The name of its state, such as `STREAMING`.
    pub state: &'static str,
    /// It has not ended.
    pub active: bool,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// The header set of the destination's response, as it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download_headers: Option<&'a RawValue>,
    /// The header set of the source's response, as it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_headers: Option<&'a RawValue>,
    /// Bytes of the body that were passed on.
    pub bytes_transferred: u64,
}

/// A time, written as ISO 8601 in UTC with milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Timestamp(pub SystemTime);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_millis(self.0))
    }
}
