//! Where the frames of HTTP/2 begin and end (RFC 9113, section 4.1), whatever is in them. Pure.

/// Bytes of a frame's head.
const HEAD_BYTES: usize = 9;

/// What a frame's head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: FrameKind,
    /// Its flags.
    pub flags: u8,
    /// The stream that it belongs to; 0 is the connection.
    pub stream: u32,
    /// Bytes behind its head.
    pub payload: usize,
}

/// The types that make a difference here (RFC 9113, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// A part of a body.
    Data,
    /// A head, or trailers.
    Headers,
    /// `RST_STREAM`.
    Reset,
    /// `PRIORITY`, `SETTINGS` or `PING`: what a client needs few of.
    Control,
    /// Any other.
    Other,
}

impl Frame {
    /// It is the last of its sender on its stream, but for the rest of a head.
    #[must_use]
    pub fn ends_stream(&self) -> bool {
        const END_STREAM: u8 = 0x1;
        matches!(self.kind, FrameKind::Data | FrameKind::Headers) && self.flags & END_STREAM != 0
    }
}

/// Follows one direction of a connection.
#[derive(Debug, Default)]
pub struct FrameFollower {
    head: [u8; HEAD_BYTES],
    /// Bytes of `head` that have come.
    known: usize,
    /// Bytes of the frame that are still to come behind its head.
    left: usize,
}

impl FrameFollower {
    /// Follows `bytes`, and calls `passed` with each frame whose last byte is among them.
    pub fn follow(&mut self, mut bytes: &[u8], mut passed: impl FnMut(Frame)) {
        loop {
            let (count, frame) = self.follow_one(bytes);
            match frame {
                Some(frame) => passed(frame),
                None => return,
            }
            bytes = bytes.get(count..).unwrap_or_default();
        }
    }

    /// Follows `bytes` to the end of the frame that they begin with or continue. Returns how many of them that is, and the
    /// frame; `None` where they end before it does.
    pub fn follow_one(&mut self, bytes: &[u8]) -> (usize, Option<Frame>) {
        let mut at = 0;
        while let Some(behind) = bytes.get(at..).filter(|behind| !behind.is_empty()) {
            if let (Some(place), Some(byte)) = (self.head.get_mut(self.known), behind.first()) {
                *place = *byte;
                self.known += 1;
                at += 1;
                if self.known == HEAD_BYTES {
                    self.left = self.payload();
                }
            } else {
                let here = behind.len().min(self.left);
                self.left -= here;
                at += here;
            }
            if self.known == HEAD_BYTES && self.left == 0 {
                self.known = 0;
                return (at, Some(self.frame()));
            }
        }
        (at, None)
    }

    fn payload(&self) -> usize {
        let [high, middle, low, ..] = self.head;
        usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)
    }

    fn frame(&self) -> Frame {
        let [_, _, _, kind, flags, stream @ ..] = self.head;
        let kind = match kind {
            0x0 => FrameKind::Data,
            0x1 => FrameKind::Headers,
            0x2 | 0x4 | 0x6 => FrameKind::Control,
            0x3 => FrameKind::Reset,
            _ => FrameKind::Other,
        };
        // The highest bit is reserved.
        Frame { kind, flags, stream: u32::from_be_bytes(stream) & (u32::MAX >> 1), payload: self.payload() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn each_frame_is_told_with_its_last_byte_however_the_bytes_come(
            frames in prop::collection::vec((0usize..300, any::<u8>(), any::<u8>(), any::<u32>()), 1..20),
            split in 1usize..50,
        ) {
            let (mut bytes, mut ends) = (Vec::new(), Vec::new());
            for (length, kind, flags, stream) in &frames {
                bytes.extend_from_slice(&u32::try_from(*length).unwrap().to_be_bytes()[1..]);
                bytes.extend_from_slice(&[*kind, *flags]);
                bytes.extend_from_slice(&stream.to_be_bytes());
                bytes.resize(bytes.len() + length, 0xff);
                ends.push((bytes.len(), *flags, stream & 0x7fff_ffff));
            }
            let (mut follower, mut told, mut at) = (FrameFollower::default(), Vec::new(), 0);
            for piece in bytes.chunks(split) {
                at += piece.len();
                follower.follow(piece, |frame| told.push((at, frame.flags, frame.stream)));
            }
            // Told with the piece that their last byte came in.
            let in_pieces = |end: usize| end.div_ceil(split) * split;
            let expected = ends.iter().map(|(end, flags, stream)| (in_pieces(*end).min(at), *flags, *stream));
            prop_assert_eq!(told, expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn only_data_and_heads_end_a_stream() {
        let frame = |kind, flags| {
            let mut told = Vec::new();
            FrameFollower::default()
                .follow(&[0, 0, 1, kind, flags, 0x80, 0, 0, 7, 9], |frame| told.push(frame));
            told[0]
        };
        assert_eq!(frame(0, 0x9), Frame { kind: FrameKind::Data, flags: 0x9, stream: 7, payload: 1 });
        assert!(frame(0, 0x9).ends_stream() && frame(1, 0x5).ends_stream());
        // The flag of the same bit acknowledges a PING or a SETTINGS.
        assert!(!frame(0, 0x8).ends_stream() && !frame(4, 0x1).ends_stream() && !frame(6, 0x1).ends_stream());
    }
}
