//! JSON bodies: exactly those that docs/api.md allows (sections 3 and 5) are accepted, and a header set becomes exactly the field
//! lines that it lists.

use std::time::Duration;

use http::Version;
use rendezvous_codec::body::Framing;
use rendezvous_core::header_set::{MAX_LINES, MAX_LINES_BYTES, MAX_NAMES, StreamHeaders};
use rendezvous_core::rendezvous::{Limits, NewStream, Rendezvous};
use rendezvous_core::transfer;
use rendezvous_protocol::{Period, Side};
use rendezvous_server::config::StreamLimits;
use rendezvous_server::internal::{self, BodyError, StreamSettings};
use rendezvous_server::internal::{ResponseHead, status};
use serde_json::{Map, Value};

use super::head::is_token;

/// The `--max-ttl` of the checks, in seconds.
const MAX_TTL: u64 = 24 * 60 * 60;

/// Checks a body both of `POST /stream` and of `POST /stream/:id/error`.
pub fn check(data: &[u8]) {
    let object = match serde_json::from_slice(data) {
        _ if data.is_empty() => Some(Map::new()),
        Ok(Value::Null) => Some(Map::new()),
        Ok(Value::Object(object)) => Some(object),
        _ => None,
    };
    check_settings(data, object.as_ref());
    check_report(data, object.as_ref());
}

fn check_report(data: &[u8], object: Option<&Map<String, Value>>) {
    let report = internal::report(data);
    let expected = object.and_then(|object| {
        let status = match given(object, "http_status") {
            None => 400,
            Some(status) => match status.as_f64()? {
                0.0 => 400,
                status if (400.0..600.0).contains(&status) && status.fract() == 0.0 => {
                    status.to_string().parse().ok()?
                }
                _ => return None,
            },
        };
        let text = |key: &str, default: &str| match object.get(key) {
            None => Some(default.to_owned()),
            text => text?.as_str().map(str::to_owned),
        };
        let message = text("message", "The other side encountered an unspecified error")?;
        Some((status, text("name", "Error")?, message))
    });
    match report {
        Ok(report) => assert_eq!(Some((report.status, report.name, report.message)), expected),
        Err(refusal) => {
            assert!(matches!(refusal, BodyError::Invalid(_)), "{refusal:?}");
            assert_eq!(expected, None, "{refusal}");
        }
    }
}

fn check_settings(data: &[u8], object: Option<&Map<String, Value>>) {
    let is_legal = object.is_some_and(|object| {
        let is_set = |key: &str, side| match given(object, key) {
            None => true,
            Some(Value::Object(set)) => {
                let lines = set.iter().flat_map(|(name, value)| {
                    lines(value).into_iter().map(move |line| name.len() + line.len() + 4)
                });
                let lines = lines.collect::<Vec<_>>();
                set.iter().all(|(name, value)| is_legal(name, value, side))
                    && set.len() <= MAX_NAMES
                    && lines.len() <= MAX_LINES
                    && lines.iter().sum::<usize>() <= MAX_LINES_BYTES
            }
            Some(_) => false,
        };
        given(object, "access").is_none_or(|access| access == "split")
            && given(object, "ttl").is_none_or(|value| ttl(value).is_some())
            && is_set("download_headers", Side::Destination)
            && is_set("upload_headers", Side::Source)
    });
    let settings = match internal::stream_settings(data, Period::from_secs(MAX_TTL)) {
        Ok(settings) => settings,
        Err(refusal) => {
            assert!(matches!(refusal, BodyError::Invalid(_)), "{refusal:?}");
            return assert!(!is_legal, "{refusal}");
        }
    };
    assert!(is_legal, "accepted: {settings:?}");
    let Some(object) = object else { unreachable!("a legal body is an object") };
    let StreamSettings { headers, is_split, ttl: given_ttl } = settings;
    assert_eq!(is_split, given(object, "access").is_some());
    assert_eq!(given_ttl, given(object, "ttl").and_then(ttl));
    for (key, side) in [("download_headers", Side::Destination), ("upload_headers", Side::Source)] {
        let set = given(object, key).and_then(Value::as_object);
        let text = set.map(|set| serde_json::to_string(set).unwrap());
        assert_eq!(headers.of(side).map(|set| set.json().get()), text.as_deref());
        check_lines(&headers, side, set);
    }
    check_status(&headers, object);
}

/// The time to live that a value stands for, if it is legal.
fn ttl(value: &Value) -> Option<Duration> {
    let ttl = match value {
        Value::Number(number) => Duration::try_from_secs_f64(number.as_f64()?).ok()?,
        Value::String(text) => text.parse::<Period>().ok()?.get(),
        _ => return None,
    };
    (Duration::from_millis(1)..=Duration::from_secs(MAX_TTL)).contains(&ttl).then_some(ttl)
}

/// The value of a key, unless it is absent or null.
fn given<'a>(object: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|value| !value.is_null())
}

/// The rules for header sets (docs/api.md, section 3).
fn is_legal(name: &str, value: &Value, side: Side) -> bool {
    const RESERVED: [&str; 7] =
        ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "date"];
    let lower = name.to_ascii_lowercase();
    let is_scalar = |value: &Value| match value {
        Value::String(text) => text.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte)),
        Value::Number(_) | Value::Bool(_) => true,
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    };
    let are_scalars = match value {
        Value::Array(items) => items.iter().all(is_scalar),
        value => is_scalar(value),
    };
    is_token(name)
        && !RESERVED.contains(&&*lower)
        && !lower.starts_with("proxy-")
        && are_scalars
        && (lower != "content-length" || side == Side::Destination && length(value).is_some())
}

/// A promised length: a single decimal number.
fn length(value: &Value) -> Option<u64> {
    match &lines(value)[..] {
        [line] if line.bytes().all(|byte| byte.is_ascii_digit()) => line.parse().ok(),
        _ => None,
    }
}

/// The values of the lines. JSON does not distinguish integers from floats, so 1.0 is written as 1.
fn lines(value: &Value) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float % 1.0 == 0.0 && float.abs() < 1e15 => format!("{float}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    };
    match value {
        Value::Array(items) => items.iter().map(text).collect(),
        value => vec![text(value)],
    }
}

/// The lines of a set, sorted. Of names that differ in case only, the last counts.
fn expected_lines(set: &Map<String, Value>) -> Vec<(String, String)> {
    let later = |at: usize, name: &str| set.keys().skip(at + 1).any(|other| other.eq_ignore_ascii_case(name));
    let last = set.iter().enumerate().filter(|(at, (name, _))| !later(*at, name));
    let mut expected: Vec<_> = last
        .flat_map(|(_, (name, value))| lines(value).into_iter().map(|line| (name.clone(), line)))
        .collect();
    expected.sort();
    expected
}

/// Checks that a response head with a header set has exactly its lines, as they are spelled.
fn check_lines(headers: &StreamHeaders, side: Side, given: Option<&Map<String, Value>>) {
    let (Some(set), Some(given)) = (headers.of(side), given) else { return };
    let mut expected = expected_lines(given);
    let (framing, promise) = match headers.promised_length().filter(|_| side == Side::Destination) {
        Some(length) => (Framing::Length(length), Some(length)),
        None => (Framing::Chunked, None),
    };
    let mut head = ResponseHead::default();
    head.spellings = Some(set.override_in(&mut head.headers));
    let head = internal::head(&head, Version::HTTP_11, Some(framing));

    let mut fields = vec![httparse::EMPTY_HEADER; expected.len() + 3];
    let mut response = httparse::Response::new(&mut fields);
    assert_eq!(response.parse(&head), Ok(httparse::Status::Complete(head.len())));
    let mut actual: Vec<(String, String)> = Vec::new();
    let (mut lengths, mut dates) = (Vec::new(), 0);
    for field in response.headers.iter() {
        let value = String::from_utf8(field.value.to_vec()).unwrap();
        match &*field.name.to_ascii_lowercase() {
            "date" => dates += 1,
            "transfer-encoding" => assert_eq!((promise, &*value), (None, "chunked")),
            "content-length" => {
                lengths.push(value.parse().ok());
                actual.push((field.name.to_owned(), value));
            }
            _ => actual.push((field.name.to_owned(), value)),
        }
    }
    actual.sort();
    // Whitespace around a value is not part of it (RFC 9110, section 5.5).
    for (_, value) in &mut expected {
        *value = value.trim_matches([' ', '\t']).to_owned();
    }
    expected.sort();
    assert_eq!(actual, expected);
    assert_eq!((lengths, dates), (promise.map(Some).into_iter().collect(), 1));
}

/// Checks that the status object has the sets as they were given.
fn check_status(headers: &StreamHeaders, object: &Map<String, Value>) {
    let limits = Limits {
        ttl: Duration::from_mins(1),
        transfer: transfer::Limits { idle: Duration::from_mins(1), stream: StreamLimits::default() },
        max_streams: 1,
    };
    let rendezvous = Rendezvous::<()>::new(limits, Vec::new());
    let id = rendezvous
        .create(NewStream { headers: headers.clone(), ..NewStream::default() }, || Ok(None))
        .unwrap();
    let snapshot = rendezvous.snapshot(&id).unwrap();
    let status: Value = serde_json::from_str(&serde_json::to_string(&status(&snapshot)).unwrap()).unwrap();
    for key in ["download_headers", "upload_headers"] {
        assert_eq!(status.get(key), given(object, key));
    }
}
