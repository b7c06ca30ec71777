//! The boundaries of HTTP/2 frames (RFC 9113, section 4.1). Payloads are skipped, not parsed, but for the length of padding.

/// Length of a frame header in bytes.
pub const HEADER_BYTES: usize = 9;

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
    /// Bytes of the payload that are padding of a `DATA` frame, with their length (RFC 9113, section 6.1).
    pub padding: usize,
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
    /// `PRIORITY`.
    Priority,
    /// `SETTINGS`.
    Settings,
    /// `PING`.
    Ping,
    /// `WINDOW_UPDATE`.
    WindowUpdate,
    /// `CONTINUATION`: the next part of the header block of a `HEADERS`.
    Continuation,
    /// Any other type.
    Other,
}

impl FrameKind {
    fn new(code: u8) -> Self {
        match code {
            0x0 => Self::Data,
            0x1 => Self::Headers,
            0x2 => Self::Priority,
            0x3 => Self::Reset,
            0x4 => Self::Settings,
            0x6 => Self::Ping,
            0x8 => Self::WindowUpdate,
            0x9 => Self::Continuation,
            _ => Self::Other,
        }
    }
}

impl Frame {
    /// Returns whether the frame ends its HTTP/2 stream in its direction. Only `CONTINUATION` frames of the same field
    /// section can follow it.
    #[must_use]
    pub fn ends_stream(&self) -> bool {
        const END_STREAM: u8 = 0x1;
        matches!(self.kind, FrameKind::Data | FrameKind::Headers) && self.flags & END_STREAM != 0
    }

    /// Returns whether the frame acknowledges a `SETTINGS` or a `PING`.
    #[must_use]
    pub fn is_acknowledgement(&self) -> bool {
        const ACK: u8 = 0x1;
        matches!(self.kind, FrameKind::Settings | FrameKind::Ping) && self.flags & ACK != 0
    }

    /// Returns whether the next frame must be a `CONTINUATION` (RFC 9113, section 4.3).
    #[must_use]
    pub fn is_continued(&self) -> bool {
        const END_HEADERS: u8 = 0x4;
        matches!(self.kind, FrameKind::Headers | FrameKind::Continuation) && self.flags & END_HEADERS == 0
    }

    /// Returns the frame that begins with `header`, as far as the header describes it: without padding.
    #[must_use]
    pub fn of_header(header: &[u8; HEADER_BYTES]) -> Self {
        let [high, middle, low, kind, flags, stream @ ..] = *header;
        Self {
            kind: FrameKind::new(kind),
            flags,
            // The highest bit is reserved.
            stream: u32::from_be_bytes(stream) & (u32::MAX >> 1),
            payload: usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low),
            padding: 0,
        }
    }
}

/// Where one direction of a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// Between two frames, where any other frame may come.
    Boundary,
    /// Between two frames of a header block, where no other frame may come.
    HeaderBlock,
    /// In a frame header, of which this many bytes are missing.
    Header(usize),
    /// In a payload, of which this many bytes are missing.
    Payload(usize),
}

/// Finds the ends of frames in one direction of a connection. It holds at most one frame header.
#[derive(Debug, Default)]
pub struct FrameScanner {
    header: [u8; HEADER_BYTES],
    /// Bytes of `header` received so far.
    known: usize,
    /// Bytes of the payload that have not been received.
    left: usize,
    /// The first byte of the payload, once it was received.
    first: Option<u8>,
    /// The last frame was a part of a header block that goes on.
    is_in_header_block: bool,
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
                    self.left = Frame::of_header(&self.header).payload;
                    self.first = None;
                }
            } else {
                self.first = self.first.or(rest.first().copied());
                let here = rest.len().min(self.left);
                self.left -= here;
                at += here;
            }
            if self.known == HEADER_BYTES && self.left == 0 {
                self.known = 0;
                let frame = self.frame();
                self.is_in_header_block = frame.is_continued();
                return (at, Some(frame));
            }
        }
        (at, None)
    }

    /// Returns the position behind everything that was scanned.
    #[must_use]
    pub fn position(&self) -> Position {
        match self.known {
            0 if self.is_in_header_block => Position::HeaderBlock,
            0 => Position::Boundary,
            HEADER_BYTES => Position::Payload(self.left),
            known => Position::Header(HEADER_BYTES - known),
        }
    }

    fn frame(&self) -> Frame {
        const PADDED: u8 = 0x8;
        let frame = Frame::of_header(&self.header);
        let is_padded = frame.kind == FrameKind::Data && frame.flags & PADDED != 0;
        let padding = self.first.filter(|_| is_padded).map_or(0, |length| 1 + usize::from(length));
        let padding = padding.min(frame.payload);
        Frame { padding, ..frame }
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
        assert_eq!(
            frame(0, 0x9),
            Frame { kind: FrameKind::Data, flags: 0x9, stream: 7, payload: 1, padding: 1 }
        );
        assert!(frame(0, 0x9).ends_stream() && frame(1, 0x5).ends_stream());
        // In a PING or a SETTINGS the same bit is the ACK flag.
        assert!(!frame(0, 0x8).ends_stream() && !frame(4, 0x1).ends_stream() && !frame(6, 0x1).ends_stream());
        assert!(frame(4, 0x1).is_acknowledgement() && frame(6, 0x1).is_acknowledgement());
        assert!(!frame(0, 0x1).is_acknowledgement() && !frame(6, 0x0).is_acknowledgement());
    }

    #[test]
    fn padding_counts_with_its_length_only_in_data_that_says_so() {
        let padding = |kind, flags, payload: &[u8]| {
            let length = u8::try_from(payload.len()).unwrap();
            let bytes = [&[0, 0, length, kind, flags, 0, 0, 0, 1], payload].concat();
            let mut reported = Vec::new();
            let mut scanner = FrameScanner::default();
            bytes.chunks(1).for_each(|byte| scanner.scan(byte, |frame| reported.push(frame)));
            reported[0].padding
        };
        assert_eq!(padding(0, 0x8, &[3, 9, 9, 0, 0, 0]), 4);
        assert_eq!(padding(0, 0x8, &[0, 9]), 1);
        assert_eq!(padding(0, 0x0, &[3, 9, 9, 0, 0, 0]), 0);
        assert_eq!(padding(1, 0x8, &[3, 9, 9, 0, 0, 0]), 0);
        assert_eq!(padding(0, 0x8, &[200, 9]), 2, "more than the frame");
        assert_eq!(padding(0, 0x8, &[]), 0);
    }

    #[test]
    fn the_position_is_known_between_frames_in_header_blocks_headers_and_payloads() {
        let mut scanner = FrameScanner::default();
        assert_eq!(scanner.position(), Position::Boundary);
        scanner.scan(&[0, 0, 2, 6], |_| {});
        assert_eq!(scanner.position(), Position::Header(5));
        scanner.scan(&[0, 0, 0, 0, 0], |_| {});
        assert_eq!(scanner.position(), Position::Payload(2));
        scanner.scan(&[1], |_| {});
        assert_eq!(scanner.position(), Position::Payload(1));
        scanner.scan(&[1], |_| {});
        assert_eq!(scanner.position(), Position::Boundary);
        for (kind, flags, position) in [
            (1, 0x1, Position::HeaderBlock),
            (9, 0x0, Position::HeaderBlock),
            (9, 0x4, Position::Boundary),
            (1, 0x4, Position::Boundary),
            (0, 0x0, Position::Boundary),
        ] {
            scanner.scan(&[0, 0, 0, kind, flags, 0, 0, 0, 1], |_| {});
            assert_eq!(scanner.position(), position, "{kind} {flags}");
        }
    }
}
