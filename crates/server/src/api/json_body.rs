//! Reads and parses the JSON bodies of `POST /stream` and `POST /stream/:id/error` (docs/api.md, sections 3 and 5).
//!
//! *Bounds.* A body has at most [`MAX_BODY_BYTES`]. Bodies over [`SMALL_BODY_BYTES`] reserve their memory in a budget that they share with
//! the stored header sets and reports.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use rendezvous_core::budget::{Budget, Exhausted, Reservation};
use rendezvous_core::header_set::{HeaderSet, InvalidHeaders, StreamHeaders};
use rendezvous_core::outcome::Report;
use rendezvous_core::transfer::SourceBody;
use rendezvous_protocol::{Period, Side};
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::request_body::RequestBody;

/// The maximum size of a JSON body, in bytes.
pub(crate) const MAX_BODY_BYTES: u64 = 64 * 1024;
/// The size in bytes up to which a JSON body reserves no memory. A stream without header sets needs no more.
const SMALL_BODY_BYTES: usize = 1024;

/// The reason why a JSON body is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The body is not valid for the route. The message says why.
    #[error("{0}")]
    Invalid(String),
    /// The body is larger than 64 KiB.
    #[error("The body is over the limit of {MAX_BODY_BYTES} bytes")]
    TooLarge,
    /// The framing of the body is invalid, or the connection ended within the body.
    #[error("The request body is incomplete or badly framed")]
    Incomplete,
    /// The body was not complete within this time.
    #[error("The request was not complete after {}", humantime::format_duration(*.0))]
    TimedOut(Duration),
    /// The memory budget of JSON bodies, header sets and error reports is used up.
    #[error(
        "The memory for the header sets and error reports of all streams is used up (--max-metadata-bytes): try again later"
    )]
    Busy,
}

impl From<InvalidHeaders> for BodyError {
    fn from(invalid: InvalidHeaders) -> Self {
        Self::Invalid(invalid.to_string())
    }
}

/// Reads a body within `limit`, and reserves its memory in `budget`. `length` is the declared length in bytes.
///
/// # Errors
/// All variants of [`BodyError`] but [`BodyError::Invalid`]. With a declared length over [`MAX_BODY_BYTES`], nothing is read.
pub(crate) async fn read(
    body: &mut RequestBody,
    length: Option<u64>,
    limit: Duration,
    budget: &Arc<Budget>,
) -> Result<JsonBody, BodyError> {
    if length.is_some_and(|length| length > MAX_BODY_BYTES) {
        return Err(BodyError::TooLarge);
    }
    let mut json = JsonBody { bytes: Vec::new(), reserved: Some(budget.empty_reservation()) };
    let reading = async {
        while let Some(data) = poll_fn(|cx| body.poll_data(cx)).await {
            json.extend(&data.map_err(|_| BodyError::Incomplete)?)?;
        }
        Ok(())
    };
    timeout(limit, reading).await.unwrap_or(Err(BodyError::TimedOut(limit)))?;
    Ok(json)
}

/// A JSON body, not yet parsed, with the reservation of its memory.
#[derive(Default)]
pub(crate) struct JsonBody {
    /// The bytes of the body.
    pub bytes: Vec<u8>,
    /// `None` for a request without a body.
    reserved: Option<Reservation>,
}

impl JsonBody {
    fn extend(&mut self, data: &[u8]) -> Result<(), BodyError> {
        if (self.bytes.len() + data.len()) as u64 > MAX_BODY_BYTES {
            return Err(BodyError::TooLarge);
        }
        self.bytes.extend_from_slice(data);
        if self.bytes.len() > SMALL_BODY_BYTES {
            self.reserve(self.bytes.capacity() as u64)?;
        }
        Ok(())
    }

    fn reserve(&mut self, bytes: u64) -> Result<(), BodyError> {
        self.reserved.as_mut().map_or(Ok(()), |reserved| reserved.resize(bytes)).map_err(busy)
    }

    /// Drops the body and resizes its reservation to `bytes`, for the values parsed from it. Returns `None` for 0 bytes.
    ///
    /// # Errors
    /// [`BodyError::Busy`]
    pub(crate) fn into_reservation(mut self, bytes: u64) -> Result<Option<Reservation>, BodyError> {
        self.reserve(bytes)?;
        Ok(self.reserved.filter(|_| bytes > 0))
    }
}

fn busy(_: Exhausted) -> BodyError {
    BodyError::Busy
}

/// The settings of a new stream.
#[derive(Debug, Default)]
pub struct StreamSettings {
    /// The header sets of both responses.
    pub headers: StreamHeaders,
    /// Whether each side gets its own token (split access). Default: false.
    pub is_split: bool,
    /// How long the stream waits for both sides. Default: the `ttl` of the server.
    pub ttl: Option<Duration>,
}

/// Parses the body of `POST /stream` (docs/api.md, section 3). Its `ttl` is at most `max_ttl`.
///
/// # Errors
/// [`BodyError::Invalid`], with the reason.
pub fn stream_settings(body: &[u8], max_ttl: Period) -> Result<StreamSettings, BodyError> {
    let mut object = object(body)?.unwrap_or_default();
    let is_split = match object.remove("access") {
        None | Some(Value::Null) => false,
        Some(Value::String(access)) if access == "split" => true,
        Some(_) => return Err(BodyError::Invalid("access must be \"split\" or absent".into())),
    };
    let ttl = match object.remove("ttl") {
        None | Some(Value::Null) => None,
        Some(value) => Some(ttl(&value, max_ttl)?),
    };
    let mut set = |key: &str, side| match object.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(given)) => Ok(Some(HeaderSet::parse(&given, side)?)),
        Some(_) => Err(BodyError::Invalid(format!("{key} must be an object of header names and values"))),
    };
    let headers = StreamHeaders {
        download: set("download_headers", Side::Destination)?,
        upload: set("upload_headers", Side::Source)?,
    };
    Ok(StreamSettings { headers, is_split, ttl })
}

/// Parses a time to live: seconds, or a text such as `10m`.
fn ttl(value: &Value, max: Period) -> Result<Duration, BodyError> {
    let text = match value {
        Value::Number(seconds) => seconds.as_f64().map(|seconds| seconds.to_string()),
        Value::String(period) => Some(period.clone()),
        _ => None,
    };
    let period = text.and_then(|text| text.parse().ok()).filter(|period: &Period| *period <= max);
    period.map(Period::get).ok_or_else(|| {
        let message = "ttl must be seconds such as 90 or 2.5, or a text such as \"10m\", from 1ms to";
        BodyError::Invalid(format!("{message} {max} (--max-ttl)"))
    })
}

/// Parses the body of `POST /stream/:id/error` (docs/api.md, section 5).
///
/// # Errors
/// [`BodyError::Invalid`], with the reason.
pub fn report(body: &[u8]) -> Result<Report, BodyError> {
    let mut object = object(body)?.unwrap_or_default();
    let status = match object.remove("http_status") {
        None | Some(Value::Null) => 0,
        Some(value) => whole_number(&value).ok_or_else(bad_status)?,
    };
    let status = match status {
        0 => 400,
        status @ 400..=599 => status,
        _ => return Err(bad_status()),
    };
    let mut text = |key: &str, default: &str| match object.remove(key) {
        None => Ok(default.to_owned()),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(BodyError::Invalid(format!("{key} must be a string"))),
    };
    Ok(Report {
        status,
        name: text("name", "Error")?,
        message: text("message", "The other side encountered an unspecified error")?,
    })
}

fn bad_status() -> BodyError {
    BodyError::Invalid("http_status must be an integer from 400 to 599".into())
}

/// Converts a number to an integer. JSON has only one type of number: `404.0` is 404, and `-0` is 0.
fn whole_number(value: &Value) -> Option<u16> {
    (value.as_f64()? + 0.0).to_string().parse().ok()
}

/// Parses `body` as an object. Returns `None` if it is empty or `null`.
fn object(body: &[u8]) -> Result<Option<Map<String, Value>>, BodyError> {
    if body.is_empty() {
        return Ok(None);
    }
    // The parser limits the nesting depth, so no body can exhaust the stack.
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(Some(object)),
        Ok(Value::Null) => Ok(None),
        Ok(_) => Err(BodyError::Invalid("Invalid JSON: the body must be an object".into())),
        Err(error) => Err(BodyError::Invalid(format!("Invalid JSON: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(body: &[u8]) -> Result<StreamSettings, BodyError> {
        stream_settings(body, Period::from_secs(3600))
    }

    #[test]
    fn absent_properties_of_a_report_have_defaults() {
        let vague = Report {
            status: 400,
            name: "Error".into(),
            message: "The other side encountered an unspecified error".into(),
        };
        for body in [
            "",
            "null",
            "{}",
            r#"{"http_status":0}"#,
            r#"{"http_status":-0}"#,
            r#"{"http_status":null,"other":1}"#,
        ] {
            assert_eq!(report(body.as_bytes()), Ok(vague.clone()), "{body}");
        }
        let full = report(r#"{"http_status":404.0,"name":"","message":"日本"}"#.as_bytes()).unwrap();
        assert_eq!(full, Report { status: 404, name: String::new(), message: "日本".into() });
    }

    #[test]
    fn an_invalid_report_is_refused() {
        for body in [
            "nope",
            "  ",
            "[]",
            "\"x\"",
            "5",
            "true",
            "{",
            "{}{}",
            "{\"http_status\":99}",
            "{\"http_status\":600}",
            "{\"http_status\":200}",
            "{\"http_status\":-1}",
            "{\"http_status\":404.5}",
            "{\"http_status\":\"404\"}",
            "{\"http_status\":1e300}",
            "{\"http_status\":true}",
            "{\"http_status\":[404]}",
            "{\"name\":5}",
            "{\"name\":null}",
            "{\"message\":[\"a\"]}",
        ] {
            assert!(matches!(report(body.as_bytes()), Err(BodyError::Invalid(_))), "{body}");
        }
    }

    #[test]
    fn a_stream_may_have_header_sets_and_split_access() {
        let access = |body: &str| {
            settings(body.as_bytes()).map(|settings| (settings.headers.memory(), settings.is_split))
        };
        for body in
            ["", "null", "{}", r#"{"download_headers":null,"upload_headers":null,"__proto__":{"a":1}}"#]
        {
            assert_eq!(access(body), Ok((0, false)), "{body}");
        }
        let made = settings(br#"{"download_headers":{"Content-Length":5},"upload_headers":{}}"#).unwrap();
        assert_eq!(made.headers.promised_length(), Some(5));
        assert!(made.headers.upload.is_some() && !made.is_split);
        assert_eq!(access(r#"{"access":"split"}"#), Ok((0, true)));
        assert_eq!(access(r#"{"access":null}"#), Ok((0, false)));
    }

    #[test]
    fn a_stream_may_have_a_time_to_live_of_its_own() {
        for (body, milliseconds) in [
            (r#"{"ttl":90}"#, Some(90_000)),
            (r#"{"ttl":90.0}"#, Some(90_000)),
            (r#"{"ttl":2.5}"#, Some(2500)),
            (r#"{"ttl":0.001}"#, Some(1)),
            (r#"{"ttl":1e2}"#, Some(100_000)),
            (r#"{"ttl":"90"}"#, Some(90_000)),
            (r#"{"ttl":"10m"}"#, Some(600_000)),
            (r#"{"ttl":"1h"}"#, Some(3_600_000)),
            (r#"{"ttl":null}"#, None),
            ("{}", None),
        ] {
            let ttl = settings(body.as_bytes()).unwrap().ttl;
            assert_eq!(ttl, milliseconds.map(Duration::from_millis), "{body}");
        }
    }

    #[test]
    fn invalid_settings_are_refused_with_the_reason() {
        let nested = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        for (body, reason) in [
            (&b"\xff\xfe{}"[..], "Invalid JSON: "),
            (b"   ", "Invalid JSON: "),
            (b"{'a':1}", "Invalid JSON: "),
            (b"[]", "Invalid JSON: the body must be an object"),
            (nested.as_bytes(), "Invalid JSON: recursion limit"),
            (br#"{"download_headers":[]}"#, "download_headers must be an object"),
            (br#"{"upload_headers":"x"}"#, "upload_headers must be an object"),
            (br#"{"access":"SPLIT"}"#, "access must be \"split\" or absent"),
            (br#"{"access":true}"#, "access must be \"split\""),
            (br#"{"access":{}}"#, "access must be \"split\""),
            (br#"{"upload_headers":{"Date":"x"}}"#, "The server sets the header Date itself"),
            (
                br#"{"ttl":3601}"#,
                "ttl must be seconds such as 90 or 2.5, or a text such as \"10m\", from 1ms to 1h",
            ),
            (br#"{"ttl":0}"#, "ttl must be"),
            (br#"{"ttl":0.0009}"#, "ttl must be"),
            (br#"{"ttl":-1}"#, "ttl must be"),
            (br#"{"ttl":"61m"}"#, "ttl must be"),
            (br#"{"ttl":"soon"}"#, "ttl must be"),
            (br#"{"ttl":""}"#, "ttl must be"),
            (br#"{"ttl":true}"#, "ttl must be"),
            (br#"{"ttl":[60]}"#, "ttl must be"),
        ] {
            let message = settings(body).unwrap_err().to_string();
            assert!(message.starts_with(reason), "{message}");
        }
    }
}
