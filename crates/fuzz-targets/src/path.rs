//! The names of paths: exactly those of docs/api.md, section 9, are accepted, and two are equal if and only if their decoded bytes are.

use rendezvous_protocol::{BadPath, PathName};

const MAX_BYTES: usize = 512;

/// Checks the part of a request's path behind `/p/`, and names that differ from it in one byte.
pub fn check(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parsed = PathName::parse(&text);
    let Some(decoded) = decode(text.as_bytes()) else {
        assert_eq!(parsed, Err(BadPath::Escape));
        return;
    };
    let name = decoded.strip_suffix(b"/").unwrap_or(&decoded);
    assert_eq!(parsed.is_ok(), is_valid(name), "{text:?} is {parsed:?}");
    // Spelled with an escape for each byte, it is the same name or the same error.
    assert_eq!(PathName::parse(&escaped(&decoded)), parsed, "{text:?}");
    let Ok(path) = parsed else { return };
    assert_eq!(path.as_text(), String::from_utf8_lossy(name));
    assert_eq!(PathName::parse(&escaped(name)), Ok(path.clone()), "without a slash at the end");
    assert!(!format!("{path:?} {}", path.hashed()).contains(&format!("({})", path.as_text())));
    for (at, byte) in name.iter().enumerate() {
        let mut other = name.to_vec();
        other[at] = byte ^ 1;
        let other = PathName::parse(&escaped(&other));
        assert!(other.is_err() || other.is_ok_and(|other| other != path), "byte {at} of {text:?}");
    }
}

/// Decodes escapes as RFC 3986, section 2.1, describes them. `None` if one is incomplete.
fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut parts = text.split(|byte| *byte == b'%');
    let mut decoded = parts.next().unwrap_or_default().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        decoded.push(u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap());
        decoded.extend(rest);
    }
    Some(decoded)
}

fn escaped(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("%{byte:02x}"))
}

fn is_valid(name: &[u8]) -> bool {
    let mut segments = name.split(|byte| *byte == b'/');
    (1..=MAX_BYTES).contains(&name.len())
        && name.iter().all(|byte| *byte >= 0x20 && *byte != 0x7f)
        && segments.all(|segment| !matches!(segment, b"" | b"." | b".."))
}
