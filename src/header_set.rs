//! The header sets that a stream's maker gives: `download_headers` for the GET, `upload_headers` for the PUT.
//!
//! A set is validated once, here, so that whatever is put on the wire later is well-formed and can not
//! contradict the framing, which is the server's alone.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::{Map, Value};

use crate::outcome::{Refusal, Side};

/// Bytes of the lines that a set makes: without it a long name with many values would make a huge head of a small body.
pub const MAX_LINES_BYTES: usize = 64 * 1024;

/// One validated header set.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderSet {
    given: Map<String, Value>,
    fields: Vec<Field>,
    content_length: Option<u64>,
}

/// One name with its values: a line for each.
#[derive(Debug, Clone, PartialEq)]
struct Field {
    spelling: String,
    name: HeaderName,
    values: Vec<HeaderValue>,
}

impl Field {
    fn lines_bytes(&self) -> usize {
        self.values.iter().map(|value| self.spelling.len() + ": \r\n".len() + value.len()).sum()
    }
}

/// Both header sets of a stream; `None` where none was given.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct StreamHeaders {
    /// `download_headers`: for the destination's answer.
    pub download: Option<HeaderSet>,
    /// `upload_headers`: for the source's answer.
    pub upload: Option<HeaderSet>,
}

impl StreamHeaders {
    /// The set for this side's answer.
    #[must_use]
    pub fn of(&self, side: Side) -> Option<&HeaderSet> {
        match side {
            Side::Source => self.upload.as_ref(),
            Side::Destination => self.download.as_ref(),
        }
    }

    /// The body length that `Content-Length` in `download_headers` promises, in bytes.
    #[must_use]
    pub fn promised_length(&self) -> Option<u64> {
        self.download.as_ref().and_then(|set| set.content_length)
    }
}

impl HeaderSet {
    /// Validates the set for `side`'s answer.
    ///
    /// # Errors
    /// [`Refusal::InvalidBody`] with a sentence that names the header, its value or its type.
    pub fn parse(given: Map<String, Value>, side: Side) -> Result<Self, Refusal> {
        let mut fields: Vec<Field> = Vec::with_capacity(given.len());
        let mut content_length = None;
        for (spelling, value) in &given {
            let name = HeaderName::from_bytes(spelling.as_bytes())
                .map_err(|_| invalid(format!("Not a valid HTTP header name: {spelling}")))?;
            if is_the_servers(&name) {
                return Err(invalid(format!("The server sets the header {spelling} itself")));
            }
            let values = values(spelling, value)?;
            if name == header::CONTENT_LENGTH {
                content_length = Some(promised_length(side, &values)?);
            }
            // Of two names that differ in case only, the last wins.
            fields.retain(|field| field.name != name);
            fields.push(Field { spelling: spelling.clone(), name, values });
        }
        if fields.iter().map(Field::lines_bytes).sum::<usize>() > MAX_LINES_BYTES {
            return Err(invalid(format!("The headers are over the limit of {MAX_LINES_BYTES} bytes")));
        }
        Ok(Self { given, fields, content_length })
    }

    /// The set as it was given, for the status object.
    #[must_use]
    pub fn given(&self) -> &Map<String, Value> {
        &self.given
    }

    /// The names as they were given, one for each line, for a wire that keeps the spelling.
    pub fn spellings(&self) -> impl Iterator<Item = &str> {
        self.fields.iter().flat_map(|field| field.values.iter().map(|_| field.spelling.as_str()))
    }

    /// The name as it was given, if the set has it.
    #[must_use]
    pub fn spelling(&self, name: &HeaderName) -> Option<&str> {
        self.fields.iter().find(|field| field.name == *name).map(|field| field.spelling.as_str())
    }

    /// Puts the set over `headers`; what has the same name there is replaced.
    pub fn override_in(&self, headers: &mut HeaderMap) {
        for Field { name, values, .. } in &self.fields {
            headers.remove(name);
            for value in values {
                headers.append(name, value.clone());
            }
        }
    }
}

fn invalid(message: String) -> Refusal {
    Refusal::InvalidBody(message)
}

/// Headers that frame a message or belong to a connection (RFC 9110, section 7.6.1), and the clock's.
fn is_the_servers(name: &HeaderName) -> bool {
    const NAMES: [&str; 7] =
        ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "date"];
    NAMES.contains(&name.as_str()) || name.as_str().starts_with("proxy-")
}

fn values(name: &str, value: &Value) -> Result<Vec<HeaderValue>, Refusal> {
    match value {
        Value::Array(items) => items.iter().map(|item| scalar(name, item)).collect(),
        single => Ok(vec![scalar(name, single)?]),
    }
}

fn scalar(name: &str, value: &Value) -> Result<HeaderValue, Refusal> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number_text(number),
        Value::Bool(flag) => flag.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => {
            return Err(invalid(format!(
                "The value of the header {name} must be a string, a number, a boolean, or an array of those"
            )));
        }
    };
    let legal = text.bytes().all(|byte| byte == b'\t' || (b' '..=b'~').contains(&byte));
    match HeaderValue::from_str(&text) {
        Ok(value) if legal => Ok(value),
        _ => Err(invalid(format!("Not a valid HTTP header value: \"{text}\""))),
    }
}

/// JSON has one kind of number: `1.0` is 1.
fn number_text(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => format!("{float:.0}"),
        _ => number.to_string(),
    }
}

fn promised_length(side: Side, values: &[HeaderValue]) -> Result<u64, Refusal> {
    if side == Side::Source {
        return Err(invalid(
            "The server sets the header Content-Length of the upload's answer itself".into(),
        ));
    }
    let decimal = |value: &HeaderValue| {
        let text = value.to_str().ok()?;
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
        HeaderSet::parse(serde_json::from_str(json).unwrap(), side).map_err(|refusal| refusal.to_string())
    }

    fn lines(json: &str) -> Vec<String> {
        let mut headers = HeaderMap::new();
        headers.insert("x-a", HeaderValue::from_static("default"));
        parse(json, Side::Destination).unwrap().override_in(&mut headers);
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn every_legal_value_becomes_lines() {
        for (json, expected) in [
            ("{}", vec!["x-a: default"]),
            (r#"{"X-A":"b"}"#, vec!["x-a: b"]),
            (r#"{"X-A":"a\tb c"}"#, vec!["x-a: a\tb c"]),
            (r#"{"X-A":1}"#, vec!["x-a: 1"]),
            (r#"{"X-A":1.0}"#, vec!["x-a: 1"]),
            (r#"{"X-A":1.5}"#, vec!["x-a: 1.5"]),
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
    fn what_could_break_the_wire_is_refused_by_name() {
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
    fn a_set_makes_no_more_than_64_kib_of_lines() {
        // Each line has 1019 bytes of name, 1 of value, and 4 around that.
        let set = |lines: usize| {
            let values = vec!["1"; lines].join(",");
            format!(r#"{{"x":[],"{}":[{values}]}}"#, "a".repeat(1019))
        };
        assert!(parse(&set(64), Side::Source).is_ok());
        let error = parse(&set(65), Side::Source).unwrap_err();
        assert_eq!(error, "The headers are over the limit of 65536 bytes");
    }

    #[test]
    fn a_content_length_is_a_promise_of_the_download_only() {
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
