//! The header sets that a stream is created with: `download_headers` for the response to the GET, `upload_headers` for
//! the response to the PUT (docs/api.md).
//!
//! *Invariants.* A set is validated when it is parsed. So its field lines are well-formed and cannot contradict the
//! framing of the response, which only the server determines.
//!
//! *Bounds.* [`MAX_NAMES`], [`MAX_LINES`] and [`MAX_LINES_BYTES`] for each set. A set is stored as one text, the JSON of
//! the status object, and its lines are built when a response is written. So it takes about the memory of its text,
//! however many names and values it has.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use rendezvous_protocol::Side;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

use crate::budget::allocated;

/// Limit on the names of a set.
pub const MAX_NAMES: usize = 100;
/// Limit on the field lines of a set.
pub const MAX_LINES: usize = 100;
/// Limit on the bytes of the field lines of a set. Without it a small JSON body, a long name with many values, could
/// produce a huge response head.
pub const MAX_LINES_BYTES: usize = 64 * 1024;
/// Upper bound of the memory of a set besides its text, in bytes: its part of [`StreamHeaders`] and of the table.
const OVERHEAD: u64 = 192;

/// A header set is invalid. The message is a sentence for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidHeaders(String);

/// One validated header set.
#[derive(Debug, Clone)]
pub struct HeaderSet {
    /// Compact JSON, in an allocation without spare capacity.
    json: Box<RawValue>,
    content_length: Option<u64>,
}

/// The header sets of a stream. `None` if the stream was created without that set.
#[derive(Debug, Default, Clone)]
pub struct StreamHeaders {
    /// `download_headers`: the set for the destination's response.
    pub download: Option<HeaderSet>,
    /// `upload_headers`: the set for the source's response.
    pub upload: Option<HeaderSet>,
}

impl StreamHeaders {
    /// Returns the set for this side's response.
    #[must_use]
    pub fn of(&self, side: Side) -> Option<&HeaderSet> {
        match side {
            Side::Source => self.upload.as_ref(),
            Side::Destination => self.download.as_ref(),
        }
    }

    /// Returns the body length in bytes that `Content-Length` in `download_headers` promises, if present.
    #[must_use]
    pub fn promised_length(&self) -> Option<u64> {
        self.download.as_ref().and_then(|set| set.content_length)
    }

    /// Returns an upper bound of the memory of the sets in bytes. 0 without sets.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let sets = [&self.download, &self.upload].into_iter().flatten();
        sets.map(|set| OVERHEAD + allocated(set.json.get().len())).sum()
    }
}

/// The names of a set in their original case. HTTP/1 responses preserve it; `HeaderName` is lower case.
#[derive(Debug, Clone)]
pub struct Spellings(Arc<HashMap<HeaderName, String>>);

impl Spellings {
    /// Returns the names that are not in lower case. `None` if there are none.
    #[must_use]
    pub fn of_names<'a>(names: impl Iterator<Item = &'a str>) -> Option<Self> {
        let is_spelled = |name: &&str| name.bytes().any(|byte| byte.is_ascii_uppercase());
        let spelled = names.filter(is_spelled);
        let spellings: HashMap<_, _> = spelled
            .filter_map(|name| Some((HeaderName::from_bytes(name.as_bytes()).ok()?, name.to_owned())))
            .collect();
        (!spellings.is_empty()).then(|| Self(Arc::new(spellings)))
    }

    /// Returns the name in its original case, if the set has it.
    #[must_use]
    pub fn of(&self, name: &HeaderName) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

impl HeaderSet {
    /// Validates a set for `side`'s response.
    ///
    /// # Errors
    /// [`InvalidHeaders`] if a name is not a token (RFC 9110, section 5.1), a value has anything but visible ASCII, space
    /// and tab, a header is one that the server sets itself, `Content-Length` is invalid, or a limit is exceeded. The
    /// sentence names the header, the value or the limit.
    pub fn parse(set: &Map<String, Value>, side: Side) -> Result<Self, InvalidHeaders> {
        if set.len() > MAX_NAMES {
            return Err(over_limit(MAX_NAMES, "names"));
        }
        let (mut lines, mut bytes, mut content_length) = (0, 0, None);
        for (spelling, value) in set {
            let name = HeaderName::from_bytes(spelling.as_bytes())
                .map_err(|_| invalid(format!("Not a valid HTTP header name: {spelling}")))?;
            if is_set_by_server(&name) {
                return Err(invalid(format!("The server sets the header {spelling} itself")));
            }
            let values = values(value);
            lines += values.len();
            if lines > MAX_LINES {
                return Err(over_limit(MAX_LINES, "lines"));
            }
            for value in values {
                bytes += spelling.len() + ": \r\n".len() + line_value(spelling, value)?.len();
            }
            if name == header::CONTENT_LENGTH {
                content_length = Some(promised_length(side, values)?);
            }
        }
        if bytes > MAX_LINES_BYTES {
            return Err(over_limit(MAX_LINES_BYTES, "bytes"));
        }
        let text = to_raw_value(set).map_err(|error| invalid(error.to_string()))?;
        // The serializer grows its buffer by doubling; the copy has no spare capacity.
        Ok(Self { json: (*text).to_owned(), content_length })
    }

    /// Returns the set as compact JSON, with its original names and values, for the status object.
    #[must_use]
    pub fn json(&self) -> &RawValue {
        &self.json
    }

    /// Adds the set to `headers`, replacing fields of the same name. Returns the original case of the names.
    pub fn override_in(&self, headers: &mut HeaderMap) -> Spellings {
        // The text was serialized from a map whose names and values were validated, so no conversion fails here.
        let set: Map<String, Value> = serde_json::from_str(self.json.get()).unwrap_or_default();
        let mut spellings = HashMap::with_capacity(set.len());
        let mut fields = Vec::with_capacity(set.len());
        // Of names that differ only in case, the last wins.
        for (spelling, value) in set.iter().rev() {
            let Ok(name) = HeaderName::from_bytes(spelling.as_bytes()) else { continue };
            if spellings.contains_key(&name) {
                continue;
            }
            spellings.insert(name.clone(), spelling.clone());
            fields.push((name, values(value)));
        }
        for (name, values) in fields.into_iter().rev() {
            headers.remove(&name);
            for value in values.iter().filter_map(|value| HeaderValue::from_str(&text(value)?).ok()) {
                headers.append(&name, value);
            }
        }
        Spellings(Arc::new(spellings))
    }
}

fn invalid(message: String) -> InvalidHeaders {
    InvalidHeaders(message)
}

fn over_limit(limit: usize, of_what: &str) -> InvalidHeaders {
    invalid(format!("The headers are over the limit of {limit} {of_what}"))
}

/// Returns whether only the server sets this header: those that frame a message or belong to a connection (RFC 9110,
/// section 7.6.1), and `Date`.
fn is_set_by_server(name: &HeaderName) -> bool {
    const NAMES: [&str; 7] =
        ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "date"];
    NAMES.contains(&name.as_str()) || name.as_str().starts_with("proxy-")
}

/// Returns the values of a name, one for each field line.
fn values(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) => items,
        single => std::slice::from_ref(single),
    }
}

/// Returns the text of a value in a field line. `None` if its type has none.
fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number_text(number))),
        Value::Bool(flag) => Some(Cow::Borrowed(if *flag { "true" } else { "false" })),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn line_value<'a>(name: &str, value: &'a Value) -> Result<Cow<'a, str>, InvalidHeaders> {
    let text = text(value).ok_or_else(|| {
        invalid(format!(
            "The value of the header {name} must be a string, a number, a boolean, or an array of those"
        ))
    })?;
    if text.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte)) {
        Ok(text)
    } else {
        Err(invalid(format!("Not a valid HTTP header value: \"{text}\"")))
    }
}

/// Formats a number. A whole number has no fraction, since JSON does not distinguish `1.0` from `1`.
fn number_text(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => format!("{float:.0}"),
        _ => number.to_string(),
    }
}

fn promised_length(side: Side, values: &[Value]) -> Result<u64, InvalidHeaders> {
    if side == Side::Source {
        return Err(invalid(
            "The server sets the header Content-Length of the upload's response itself".into(),
        ));
    }
    let decimal = |value: &Value| {
        let text = text(value)?;
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
    };
    match values {
        [value] => decimal(value),
        _ => None,
    }
    .ok_or_else(|| invalid("Content-Length in download_headers must be one decimal number of bytes".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str, side: Side) -> Result<HeaderSet, String> {
        HeaderSet::parse(&serde_json::from_str(json).unwrap(), side).map_err(|error| error.to_string())
    }

    fn lines(json: &str) -> Vec<String> {
        let mut headers = HeaderMap::new();
        headers.insert("x-a", HeaderValue::from_static("default"));
        parse(json, Side::Destination).unwrap().override_in(&mut headers);
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn every_valid_value_becomes_field_lines() {
        for (json, expected) in [
            ("{}", vec!["x-a: default"]),
            (r#"{"X-A":"b"}"#, vec!["x-a: b"]),
            (r#"{"X-A":"a\tb c"}"#, vec!["x-a: a\tb c"]),
            (r#"{"X-A":1}"#, vec!["x-a: 1"]),
            (r#"{"X-A":1.0}"#, vec!["x-a: 1"]),
            (r#"{"X-A":1.5}"#, vec!["x-a: 1.5"]),
            (r#"{"X-A":999999999999999.0}"#, vec!["x-a: 999999999999999"]),
            (r#"{"X-A":1e15}"#, vec!["x-a: 1000000000000000.0"]),
            (r#"{"X-A":12e30}"#, vec!["x-a: 1.2e+31"]),
            (r#"{"X-A":true}"#, vec!["x-a: true"]),
            (r#"{"X-A":["1",2]}"#, vec!["x-a: 1", "x-a: 2"]),
            (r#"{"X-A":[]}"#, vec![]),
            (r#"{"X-A":"1","x-a":"2"}"#, vec!["x-a: 2"]),
            (r#"{"x!#$%&'*+-.^_`|~9":1}"#, vec!["x-a: default", "x!#$%&'*+-.^_`|~9: 1"]),
            (r#"{"Content-Length":"007"}"#, vec!["x-a: default", "content-length: 007"]),
        ] {
            assert_eq!(lines(json), expected, "{json}");
        }
    }

    #[test]
    fn an_invalid_header_is_rejected_by_name() {
        for (json, message) in [
            (r#"{"@{}[].<>":1}"#, "Not a valid HTTP header name: @{}[].<>"),
            (r#"{"":1}"#, "Not a valid HTTP header name: "),
            (r#"{"é":1}"#, "Not a valid HTTP header name: é"),
            (r#"{"aa":"\b"}"#, "Not a valid HTTP header value: \"\u{8}\""),
            (r#"{"aa":"x\r\nEvil: 1"}"#, "Not a valid HTTP header value: \"x\r\nEvil: 1\""),
            (r#"{"aa":"é"}"#, "Not a valid HTTP header value: \"é\""),
            (r#"{"Connection":"close"}"#, "The server sets the header Connection itself"),
            (r#"{"proxy-connection":"x"}"#, "The server sets the header proxy-connection itself"),
            (r#"{"Transfer-Encoding":"chunked"}"#, "The server sets the header Transfer-Encoding itself"),
            (r#"{"DATE":"x"}"#, "The server sets the header DATE itself"),
        ] {
            assert_eq!(parse(json, Side::Destination).unwrap_err(), message, "{json}");
            assert_eq!(parse(json, Side::Source).unwrap_err(), message, "{json}");
        }
        for json in [r#"{"aa":null}"#, r#"{"aa":{}}"#, r#"{"aa":[["b"]]}"#, r#"{"aa":[null]}"#] {
            assert!(parse(json, Side::Source).unwrap_err().contains("header aa must be a string"), "{json}");
        }
    }

    #[test]
    fn a_set_has_no_more_than_64_kib_of_lines() {
        // Each line has 1019 bytes of name, 1 of value, and 4 of separators.
        let set = |lines: usize| {
            let values = vec!["1"; lines].join(",");
            format!(r#"{{"x":[],"{}":[{values}]}}"#, "a".repeat(1019))
        };
        assert!(parse(&set(64), Side::Source).is_ok());
        let error = parse(&set(65), Side::Source).unwrap_err();
        assert_eq!(error, "The headers are over the limit of 65536 bytes");
    }

    #[test]
    fn a_set_has_no_more_than_100_names_and_100_lines() {
        let names = |count: usize, value: &str| {
            let names: Vec<_> = (0..count).map(|number| format!(r#""x-{number}":{value}"#)).collect();
            format!("{{{}}}", names.join(","))
        };
        let lines = |count: usize| format!(r#"{{"a":[{}]}}"#, vec!["1"; count].join(","));
        for valid in [names(MAX_NAMES, "[]"), names(MAX_NAMES, "1"), lines(MAX_LINES), names(50, "[1,2]")] {
            assert!(parse(&valid, Side::Source).is_ok(), "{valid}");
        }
        for (over, message) in [
            (names(MAX_NAMES + 1, "[]"), "The headers are over the limit of 100 names"),
            (names(2600, "1"), "The headers are over the limit of 100 names"),
            (lines(MAX_LINES + 1), "The headers are over the limit of 100 lines"),
            (lines(10_900), "The headers are over the limit of 100 lines"),
            (names(51, "[1,2]"), "The headers are over the limit of 100 lines"),
        ] {
            assert_eq!(parse(&over, Side::Source).unwrap_err(), message);
        }
    }

    #[test]
    fn of_names_that_differ_in_case_the_last_wins_and_keeps_its_case() {
        let json = r#"{"X-A":"1","X-B":["b","c"],"X-C":"3","x-a":["4","5","6"],"X-b":[]}"#;
        let mut headers = HeaderMap::new();
        let spellings = parse(json, Side::Source).unwrap().override_in(&mut headers);
        let lines: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(lines, [("x-c", "3"), ("x-a", "4"), ("x-a", "5"), ("x-a", "6")]);
        let spelling = |name: &'static str| spellings.of(&HeaderName::from_static(name));
        assert_eq!(["x-a", "x-b", "x-c", "x-d"].map(spelling), [Some("x-a"), Some("X-b"), Some("X-C"), None]);
    }

    #[test]
    fn the_status_shows_a_set_as_it_was_given_and_it_takes_the_memory_of_its_text() {
        for (given, shown) in [
            (r#"{ "X-A" : 1.0, "x-b":[ true,"\u0041" ] }"#, r#"{"X-A":1.0,"x-b":[true,"A"]}"#),
            (r#"{"b":1,"a":2,"B":3}"#, r#"{"b":1,"a":2,"B":3}"#),
            (r#"{"n":12345678901234567890}"#, r#"{"n":12345678901234567890}"#),
            ("{}", "{}"),
        ] {
            let set = parse(given, Side::Source).unwrap();
            assert_eq!(set.json().get(), shown);
            let headers = StreamHeaders { upload: Some(set), ..StreamHeaders::default() };
            assert!(
                (shown.len() as u64..shown.len() as u64 * 2 + 256).contains(&headers.memory()),
                "{shown}"
            );
        }
        assert_eq!(StreamHeaders::default().memory(), 0);
    }

    #[test]
    fn only_a_download_can_promise_a_content_length() {
        let promised = |json: &str| parse(json, Side::Destination).map(|set| set.content_length);
        assert_eq!(promised(r#"{"Content-Length":10}"#), Ok(Some(10)));
        assert_eq!(promised(r#"{"content-length":"18446744073709551615"}"#), Ok(Some(u64::MAX)));
        for bad in [r#""abc""#, r#""""#, r#""+1""#, "-1", "1.5", r#"["1","1"]"#, r#""18446744073709551616""#]
        {
            let error = promised(&format!(r#"{{"Content-Length":{bad}}}"#)).unwrap_err();
            assert!(error.contains("must be one decimal number"), "{bad}: {error}");
        }
        assert!(parse(r#"{"Content-Length":10}"#, Side::Source).unwrap_err().contains("Content-Length"));
    }
}
