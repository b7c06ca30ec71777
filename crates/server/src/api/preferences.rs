//! Parsers of the request fields `Prefer: wait` (RFC 7240, section 4.3), `If-None-Match` (RFC 9110, section 13.1.2) and
//! `Last-Event-ID`. Pure.

use http::{HeaderName, HeaderValue};

use super::head::RequestHead;
use crate::quoted::split;

/// Returns the seconds of the first `wait` that a request prefers. If that is not a whole number from 1, the wait has no limit.
pub(crate) fn wait(head: &impl RequestHead) -> Option<u64> {
    let preferences = head.values("prefer").flat_map(|value| split(value, b','));
    let mut waits = preferences.filter_map(|preference| {
        let main = split(preference, b';').next()?;
        let name_and_value: Vec<_> = main.splitn(2, |byte| *byte == b'=').collect();
        let (name, value) = name_and_value.split_first()?;
        name.trim_ascii().eq_ignore_ascii_case(b"wait").then(|| seconds(value.first()?))
    });
    waits.next().flatten()
}

/// Parses whole seconds, which may be quoted. A number that is too large is a very long wait.
fn seconds(value: &[u8]) -> Option<u64> {
    let value = value.trim_ascii();
    let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
    number(bare).filter(|seconds| *seconds > 0)
}

/// Parses a decimal number. [`u64::MAX`] stands for all larger ones.
fn number(digits: &[u8]) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    is_number.then(|| std::str::from_utf8(digits).ok()?.parse().ok().or(Some(u64::MAX))).flatten()
}

/// Returns the field that confirms a wait (RFC 7240, section 3).
pub(super) fn applied_wait(seconds: u64) -> Option<(HeaderName, HeaderValue)> {
    let value = HeaderValue::try_from(format!("wait={seconds}")).ok()?;
    Some((HeaderName::from_static("preference-applied"), value))
}

/// Returns the entity tag of a version of a status.
pub(super) fn entity_tag(version: u64) -> String {
    format!("W/\"{version}\"")
}

/// Whether a request has this version of a status: whether `If-None-Match` lists its entity tag, or `*`.
pub(crate) fn has_version(head: &impl RequestHead, version: u64) -> bool {
    let own = format!("\"{version}\"");
    let mut tags = head.values("if-none-match").flat_map(|value| split(value, b',')).map(<[u8]>::trim_ascii);
    // The comparison is weak (RFC 9110, section 8.8.3.2).
    tags.any(|tag| tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == own.as_bytes())
}

/// Returns the `Last-Event-ID` of a client that reconnects, if it is that of a status.
pub(super) fn last_event_id(head: &impl RequestHead) -> Option<u64> {
    number(head.values("last-event-id").next()?)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn request(fields: &[(&str, &str)]) -> Request<()> {
        let request =
            fields.iter().fold(Request::get("/"), |request, (name, value)| request.header(*name, *value));
        request.body(()).unwrap()
    }

    #[test]
    fn the_first_wait_counts_and_what_is_no_number_of_seconds_is_ignored() {
        for (values, expected) in [
            (&["wait=1"][..], Some(1)),
            (&["Wait = 25"], Some(25)),
            (&["wait=\"25\""], Some(25)),
            (&["respond-async, wait=10; x=y, wait=20"], Some(10)),
            (&["handling=lenient", "wait=3"], Some(3)),
            (&["wait=3", "wait=4"], Some(3)),
            (&["wait=99999999999999999999999"], Some(u64::MAX)),
            (&["wait=010"], Some(10)),
            (&["wait"], None),
            (&["wait, wait=1"], None),
            (&["wait=x, wait=1"], None),
            (&["wait="], None),
            (&["wait=0"], None),
            (&["wait=-1"], None),
            (&["wait=+1"], None),
            (&["wait=2.5"], None),
            (&["wait=10s"], None),
            (&["waiting=10"], None),
            (&["x;wait=10"], None),
            (&["x=\"a, wait=3, b\", wait=1"], Some(1)),
            (&["x=\"a\\\", wait=3\", wait=1"], Some(1)),
            (&["wait=1; x=\"a, wait=3\""], Some(1)),
            (&["x=\"a;\"; wait=3"], None),
            (&[], None),
        ] {
            let fields: Vec<_> = values.iter().map(|value| ("prefer", *value)).collect();
            assert_eq!(wait(&request(&fields)), expected, "{values:?}");
        }
    }

    #[test]
    fn a_version_is_found_in_a_list_of_entity_tags() {
        for (values, expected) in [
            (&["W/\"7\""][..], true),
            (&["\"7\""], true),
            (&["\"1\", W/\"7\""], true),
            (&["\"1\"", "\"7\""], true),
            (&["*"], true),
            (&["W/\"70\""], false),
            (&["7"], false),
            (&["\"1,*,2\""], false),
            (&["\"1,\"7\""], false),
            (&[""], false),
            (&[], false),
        ] {
            let fields: Vec<_> = values.iter().map(|value| ("if-none-match", *value)).collect();
            assert_eq!(has_version(&request(&fields), 7), expected, "{values:?}");
        }
        assert!(has_version(&request(&[("if-none-match", &entity_tag(7))]), 7));
    }

    #[test]
    fn the_last_event_is_a_version() {
        for (value, expected) in [("7", Some(7)), ("", None), ("x", None), ("-7", None)] {
            assert_eq!(last_event_id(&request(&[("last-event-id", value)])), expected, "{value}");
        }
        assert_eq!(last_event_id(&request(&[])), None);
    }
}
