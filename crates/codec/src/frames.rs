//! The boundaries of HTTP/2 frames (RFC 9113, section 4.1). Payloads are skipped, not parsed.

/// Length of a frame header in bytes.
const HEADER_BYTES: usize = 9;

/// The header of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The type.
    pub kind: FrameKind,
    /// The flags. Their meaning depends on the type.
    pub flags: u8,
    /// The id of its HTTP/2 stream. 0 is the connection.
    pub stream: u32,
    /// Length of the payload in bytes.
    pub payload: usize,
}

/// The frame types that the server distinguishes (RFC 9113, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// `DATA`: a part of a body.
    Data,
    /// `HEADERS`: a head or trailers.
    Headers,
    /// `RST_STREAM`.
    Reset,
    /// `PRIORITY`, `SETTINGS` or `PING`. Clients need few of them, so their rate can be limited.
    Control,
    /// Any other type.
    Other,
}

impl Frame {
    /// Returns whether the frame ends its HTTP/2 stream in its direction. Only `CONTINUATION` frames of the same field
    /// section can follow it.
    #[must_use]
    pub fn ends_stream(&self) -> bool {
        const END_STREAM: u8 = 0x1;
        matches!(self.kind, FrameKind::Data | FrameKind::Headers) && self.flags & END_STREAM != 0
    }
}

/// Finds the ends of frames in one direction of a connection. It holds at most one frame header.
#[derive(Debug, Default)]
pub struct FrameScanner {
    header: [u8; HEADER_BYTES],
    /// Bytes of `header` received so far.
    known: usize,
    /// Bytes of the payload that have not been received.
    left: usize,
}

impl FrameScanner {
    /// Advances past `bytes`, the next bytes of the connection, and calls `on_frame` for each frame whose last byte is
    /// among them.
    pub fn scan(&mut self, mut bytes: &[u8], mut on_frame: impl FnMut(Frame)) {
        loop {
            let (count, frame) = self.scan_one(bytes);
            match frame {
                Some(frame) => on_frame(frame),
                None => return,
            }
            bytes = bytes.get(count..).unwrap_or_default();
        }
    }

    /// Advances to the end of the current frame. Returns the number of bytes consumed, and the frame; `None` if `bytes`
    /// ends before the frame does.
    pub fn scan_one(&mut self, bytes: &[u8]) -> (usize, Option<Frame>) {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            if let (Some(next), Some(byte)) = (self.header.get_mut(self.known), rest.first()) {
                *next = *byte;
                self.known += 1;
                at += 1;
                if self.known == HEADER_BYTES {
                    self.left = self.payload();
                }
            } else {
                let here = rest.len().min(self.left);
                self.left -= here;
                at += here;
            }
            if self.known == HEADER_BYTES && self.left == 0 {
                self.known = 0;
                return (at, Some(self.frame()));
            }
        }
        (at, None)
    }

    fn payload(&self) -> usize {
        let [high, middle, low, ..] = self.header;
        usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)
    }

    fn frame(&self) -> Frame {
        let [_, _, _, kind, flags, stream @ ..] = self.header;
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
        fn each_frame_is_reported_with_its_last_byte_however_the_bytes_are_split(
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
            let (mut scanner, mut reported, mut at) = (FrameScanner::default(), Vec::new(), 0);
            for piece in bytes.chunks(split) {
                at += piece.len();
                scanner.scan(piece, |frame| reported.push((at, frame.flags, frame.stream)));
            }
            // A frame is reported with the piece that contains its last byte.
            let in_pieces = |end: usize| end.div_ceil(split) * split;
            let expected = ends.iter().map(|(end, flags, stream)| (in_pieces(*end).min(at), *flags, *stream));
            prop_assert_eq!(reported, expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn only_data_and_headers_end_an_http2_stream() {
        let frame = |kind, flags| {
            let mut reported = Vec::new();
            FrameScanner::default()
                .scan(&[0, 0, 1, kind, flags, 0x80, 0, 0, 7, 9], |frame| reported.push(frame));
            reported[0]
        };
        assert_eq!(frame(0, 0x9), Frame { kind: FrameKind::Data, flags: 0x9, stream: 7, payload: 1 });
        assert!(frame(0, 0x9).ends_stream() && frame(1, 0x5).ends_stream());
        // In a PING or a SETTINGS the same bit is the ACK flag.
        assert!(!frame(0, 0x8).ends_stream() && !frame(4, 0x1).ends_stream() && !frame(6, 0x1).ends_stream());
    }
}
