//! Bodies whose bytes can be checked without storing them: each byte follows from the body's key and its offset.

/// The body of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Body {
    key: u64,
    /// Its length in bytes.
    pub(crate) size: u64,
}

impl Body {
    /// The key. Bodies of two keys differ from their first bytes on.
    #[must_use]
    pub(crate) fn new(key: u64, size: u64) -> Self {
        Self { key: mix(key), size }
    }

    /// At most `most` bytes from `offset` on, fewer at the end.
    #[must_use]
    pub(crate) fn piece(&self, offset: u64, most: usize) -> Vec<u8> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        self.bytes_from(offset).take(most.min(left)).collect()
    }

    /// The offset of the first wrong byte among `bytes`, which were received at `offset`.
    #[must_use]
    pub(crate) fn first_wrong(&self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let within = self.size.saturating_sub(offset);
        let right =
            self.bytes_from(offset).zip(bytes).take_while(|(expected, got)| expected == *got).count() as u64;
        let right = right.min(within);
        (right < bytes.len() as u64).then_some(offset + right)
    }

    fn bytes_from(&self, offset: u64) -> impl Iterator<Item = u8> {
        let key = self.key;
        let word = move |index: u64| mix(key.wrapping_add(index)).to_le_bytes();
        let within = usize::try_from(offset % 8).unwrap_or_default();
        (offset / 8..).flat_map(word).skip(within)
    }
}

/// The last step of `SplitMix64`.
fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_depends_on_nothing_but_its_key_and_its_offset() {
        let body = Body::new(7, 1000);
        let whole = body.piece(0, usize::MAX);
        assert_eq!(whole.len(), 1000);
        for (offset, most) in [(0, 3), (5, 20), (8, 8), (999, 10), (1000, 1), (2000, 1)] {
            let from = whole.get(offset..).unwrap_or_default();
            assert_eq!(body.piece(offset as u64, most), from[..most.min(from.len())], "{offset} {most}");
        }
        assert_ne!(Body::new(8, 1000).piece(0, 16), body.piece(0, 16));
    }

    #[test]
    fn every_wrong_byte_is_seen_and_one_too_many_too() {
        let body = Body::new(7, 100);
        let mut bytes = body.piece(10, 50);
        assert_eq!(body.first_wrong(10, &bytes), None);
        assert_eq!(body.first_wrong(11, &bytes), Some(11));
        bytes[49] ^= 1;
        assert_eq!(body.first_wrong(10, &bytes), Some(59));
        let mut long = body.piece(90, 10);
        long.push(0);
        assert_eq!(body.first_wrong(90, &long), Some(100));
        assert_eq!(Body::new(7, 0).first_wrong(0, &[]), None);
    }
}
