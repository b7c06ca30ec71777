//! The JSON bodies that describe streams (docs/api.md).

use std::borrow::Cow;
use std::time::SystemTime;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::error::ErrorBody;

/// The body of the response to `POST /stream`.
#[derive(Debug, Serialize)]
pub struct CreatedStream<'a> {
    /// The id of the stream.
    pub stream: &'a str,
    /// The URL of the stream at the server that has created it. Absent unless that has a public URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The token of the source. Absent without split access.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_token: Option<&'a str>,
    /// The token of the destination. Absent without split access.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download_token: Option<&'a str>,
    /// When the stream expires if its sides have not paired. Absent unless its creator has set `ttl`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// The status object: one stream in the responses of `GET /stream` and `GET /stream/:id/status`.
///
/// The order of the fields is the order of the keys in the JSON. A field that is `None` is absent.
#[derive(Debug, Serialize)]
pub struct StreamStatus<'a> {
    /// The id of the stream.
    pub id: Cow<'a, str>,
    /// When the stream was created.
    pub created_at: Timestamp,
    /// When the stream ended, or when an error was reported. Absent before that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deactivated_at: Option<Timestamp>,
    /// The name of the state, such as `STREAMING`.
    pub state: &'static str,
    /// Whether the stream has not ended.
    pub active: bool,
    /// Why the stream failed. Absent if it has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorBody>,
    /// The header set of the destination's response, as its creator wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub download_headers: Option<&'a RawValue>,
    /// The header set of the source's response, as its creator wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_headers: Option<&'a RawValue>,
    /// Body bytes passed on to the destination.
    pub bytes_transferred: u64,
}

/// A time, serialized as ISO 8601 in UTC with milliseconds, such as `2025-01-31T12:00:00.000Z`.
#[derive(Debug, Clone, Copy)]
pub struct Timestamp(pub SystemTime);

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_millis(self.0))
    }
}
