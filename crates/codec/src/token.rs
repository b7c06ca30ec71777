//! The characters of a token (RFC 9110, section 5.6.2), such as a method or the name of a field.

/// Returns whether the byte is a `tchar` (RFC 9110, section 5.6.2).
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
