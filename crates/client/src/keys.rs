//! What is derived from a secret: the path and the passphrase of control messages.

use std::fmt;

use age::secrecy::SecretString;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

use crate::link::{Id, Secret};

/// The version of the protocol is in the salt, so there is nothing to downgrade.
const SALT: &[u8] = b"http-rendezvous transfer 1";

/// The names and keys of one transfer.
pub(crate) struct Keys {
    path: String,
    control: SecretString,
}

impl Keys {
    /// Derives them from the secret of the link.
    pub(crate) fn of(secret: &Secret) -> Self {
        let path = base32(&*derive::<16>(secret, b"path"));
        let passphrase = base32(&*derive::<32>(secret, b"key ctl"));
        Self { path, control: passphrase.into() }
    }

    /// Returns the passphrase of control messages.
    pub(crate) fn control(&self) -> SecretString {
        self.control.clone()
    }

    /// Returns the path of control messages, below the relay's URL.
    pub(crate) fn control_path(&self) -> String {
        format!("p/{}/ctl", self.path)
    }

    /// Returns the path of a segment.
    pub(crate) fn segment_path(&self, attempt: &Id, segment: u64) -> String {
        format!("p/{}/{attempt}/{segment}", self.path)
    }

    /// Returns the path of the confirmation.
    pub(crate) fn bye_path(&self, attempt: &Id) -> String {
        format!("p/{}/{attempt}/bye", self.path)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Keys(…)")
    }
}

/// The length of an output of HKDF.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-SHA256 (RFC 5869).
#[expect(clippy::expect_used, reason = "HKDF-SHA256 fails only for outputs over 8160 bytes")]
fn derive<const N: usize>(secret: &Secret, info: &[u8]) -> Zeroizing<[u8; N]> {
    let mut output = Zeroizing::new([0; N]);
    let key = Salt::new(HKDF_SHA256, SALT).extract(secret.bytes());
    let info = [info];
    let expanded = key.expand(&info, Length(N)).and_then(|okm| okm.fill(&mut *output));
    expanded.expect("the output is short");
    output
}

/// RFC 4648 base32, lower case, without padding.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut text = String::with_capacity(bytes.len() * 8 / 5 + 1);
    let (mut bits, mut count) = (0_u32, 0_u32);
    for &byte in bytes {
        bits = (bits << 8 | u32::from(byte)) & 0xfff;
        count += 8;
        while count >= 5 {
            count -= 5;
            text.push(digit(ALPHABET, bits >> count));
        }
    }
    if count > 0 {
        text.push(digit(ALPHABET, bits << (5 - count)));
    }
    text
}

fn digit(alphabet: &[u8; 32], bits: u32) -> char {
    alphabet.get((bits & 31) as usize).copied().map_or('a', char::from)
}

#[cfg(test)]
mod tests {
    use age::secrecy::ExposeSecret;

    use super::*;

    #[test]
    fn the_keys_of_the_test_vector_are_the_documented_ones() {
        let keys = Keys::of(&Secret::from([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]));
        assert_eq!(keys.control_path(), "p/6i5ne7x267s672nxm6hhs726ma/ctl");
        assert_eq!(keys.control().expose_secret(), "qvgwlqkagua2xlcyxvrese7kdxopua22pkhakese2wi22fkmpegq");
        assert_eq!(format!("{keys:?}"), "Keys(…)");
    }

    #[test]
    fn base32_is_that_of_rfc_4648_section_10() {
        for (bytes, text) in [
            ("", ""),
            ("f", "my"),
            ("fo", "mzxq"),
            ("foo", "mzxw6"),
            ("foob", "mzxw6yq"),
            ("fooba", "mzxw6ytb"),
        ] {
            assert_eq!(base32(bytes.as_bytes()), text);
        }
    }
}
