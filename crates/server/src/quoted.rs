//! Field values with quoted strings (RFC 9110, section 5.6.4). Pure.

/// Splits `text` at the separators outside of quotes.
pub(crate) fn split(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    text.split(move |byte| {
        let was_escaped = std::mem::replace(&mut escaped, false);
        match byte {
            b'\\' if quoted => escaped = !was_escaped,
            b'"' if !was_escaped => quoted = !quoted,
            _ => {}
        }
        !quoted && *byte == separator
    })
}

/// Returns a token unchanged, or the content of a quoted string with its escapes, which an address never contains.
pub(crate) fn unquote(value: &[u8]) -> Option<&[u8]> {
    let Some(rest) = value.strip_prefix(b"\"") else {
        return (!value.contains(&b'"')).then_some(value);
    };
    let inside = rest.strip_suffix(b"\"")?;
    let mut escaped = false;
    let ends_early = inside.iter().any(|byte| {
        let was_escaped = std::mem::replace(&mut escaped, false);
        escaped = *byte == b'\\' && !was_escaped;
        *byte == b'"' && !was_escaped
    });
    (!ends_early && !escaped).then_some(inside)
}
