//! A strict decoder for the chunked transfer coding (RFC 9112, section 7.1).
//!
//! It does not inspect data. Chunk extensions and trailer fields are checked, limited and discarded.

use bytes::{Buf, Bytes, BytesMut};

use super::token::is_token_byte;

/// Limit on the bytes of one size line with its extensions, and on those of all trailers.
const MAX_OVERHEAD: usize = 16 * 1024;
/// Limit on the number of trailer fields.
const MAX_TRAILERS: usize = 100;

/// The position inside a chunked body. It holds no data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkTracker {
    state: State,
    /// Bytes of the current size line, or of the trailers. See [`MAX_OVERHEAD`].
    overhead: usize,
    trailers: usize,
}

/// The role of a run of bytes in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data,
    /// Sizes, extensions and trailers.
    Framing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the start of a size line.
    SizeStart,
    /// In a chunk's size.
    Size(u64),
    /// In the whitespace after a size.
    Space(u64),
    /// In an extension.
    Extension(u64),
    /// After the CR of a size line.
    SizeEnd(u64),
    /// In a chunk's data, of which this many bytes remain.
    Data(u64),
    /// After a chunk's data.
    DataEnd,
    /// After the CR that follows a chunk's data.
    DataLineEnd,
    /// At the start of a line of the trailer section.
    Trailer,
    /// In the name of a trailer field.
    TrailerName,
    /// In the value of a trailer field.
    TrailerValue,
    /// After the CR of a trailer field.
    TrailerEnd,
    /// After the CR of the empty line that ends the body.
    LastLine,
    /// After the body.
    Done,
}

/// The bytes are not a valid chunked body, or exceed a limit on extensions or trailers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid chunked framing")]
pub struct BadChunk;

impl Default for ChunkTracker {
    fn default() -> Self {
        Self { state: State::SizeStart, overhead: 0, trailers: 0 }
    }
}

impl ChunkTracker {
    /// Advances past `bytes`, without extracting data. Returns how many of them belong to the body: fewer than all only if
    /// the body ended.
    ///
    /// # Errors
    /// [`BadChunk`]. The end of the body is then unknown, so the connection must be closed.
    pub fn advance(&mut self, bytes: &[u8]) -> Result<usize, BadChunk> {
        let mut at = 0;
        loop {
            match self.run(bytes.get(at..).unwrap_or_default())? {
                (_, 0) => return Ok(at),
                (_, length) => at += length,
            }
        }
    }

    /// Removes framing from the front of `input` and splits off the data after it, without copying it. Returns `None` if
    /// `input` contains no more data of this body. Once [`ChunkTracker::is_done`], the rest of `input` belongs to the
    /// next request.
    ///
    /// # Errors
    /// [`BadChunk`]. The end of the body is then unknown, so the connection must be closed.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, BadChunk> {
        loop {
            match self.run(input)? {
                (_, 0) => return Ok(None),
                (Kind::Data, length) => return Ok(Some(input.split_to(length).freeze())),
                (Kind::Framing, length) => input.advance(length),
            }
        }
    }

    /// Returns whether the end of the body was reached.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Advances past the bytes at the front of `bytes` that are of one kind, and returns their number. It is 0 if `bytes`
    /// is empty or the body has ended.
    fn run(&mut self, bytes: &[u8]) -> Result<(Kind, usize), BadChunk> {
        if let State::Data(left) = self.state {
            let here = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let left = left - here as u64;
            self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
            return Ok((Kind::Data, here));
        }
        for (at, byte) in bytes.iter().enumerate() {
            if matches!(self.state, State::Data(_) | State::Done) {
                return Ok((Kind::Framing, at));
            }
            self.state = self.state.step(*byte).ok_or(BadChunk)?;
            if !self.count() {
                return Err(BadChunk);
            }
        }
        Ok((Kind::Framing, bytes.len()))
    }

    /// Counts the byte that led to the current state. Returns false if that exceeds a limit.
    fn count(&mut self) -> bool {
        match self.state {
            State::SizeEnd(_) => self.overhead = 0,
            State::Size(_)
            | State::Space(_)
            | State::Extension(_)
            | State::TrailerName
            | State::TrailerValue => self.overhead += 1,
            State::TrailerEnd => self.trailers += 1,
            _ => {}
        }
        self.overhead <= MAX_OVERHEAD && self.trailers <= MAX_TRAILERS
    }
}

impl State {
    /// Returns the state after `byte`, or `None` if `byte` is invalid in this state.
    fn step(self, byte: u8) -> Option<Self> {
        let digit = char::from(byte).to_digit(16).map(u64::from);
        Some(match (self, byte) {
            (Self::SizeStart, _) => Self::Size(digit?),
            (Self::Size(size) | Self::Space(size), b' ' | b'\t') => Self::Space(size),
            (Self::Size(size) | Self::Space(size), b';') => Self::Extension(size),
            (Self::Size(size) | Self::Space(size) | Self::Extension(size), b'\r') => Self::SizeEnd(size),
            (Self::Size(size), _) if size >> 60 == 0 => Self::Size(size << 4 | digit?),
            (Self::Extension(size), byte) if byte != b'\n' => Self::Extension(size),
            (Self::SizeEnd(0) | Self::TrailerEnd, b'\n') => Self::Trailer,
            (Self::SizeEnd(size), b'\n') => Self::Data(size),
            (Self::DataEnd, b'\r') => Self::DataLineEnd,
            (Self::DataLineEnd, b'\n') => Self::SizeStart,
            (Self::Trailer, b'\r') => Self::LastLine,
            (Self::Trailer | Self::TrailerName, byte) if is_token_byte(byte) => Self::TrailerName,
            (Self::TrailerValue, b'\r') => Self::TrailerEnd,
            (Self::TrailerName, b':') | (Self::TrailerValue, b'\t' | b' '..=b'~' | 0x80..) => {
                Self::TrailerValue
            }
            (Self::LastLine, b'\n') => Self::Done,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn advance(bytes: &[u8]) -> Result<(usize, bool), BadChunk> {
        let mut tracker = ChunkTracker::default();
        Ok((tracker.advance(bytes)?, tracker.is_done()))
    }

    #[test]
    fn the_end_of_a_body_is_found_to_the_byte() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "000A\r\n0123456789\r\n00\r\n\r\n",
            "1;a=b;c=\"d e\"\r\nx\r\n0;x\r\n\r\n",
            "1 \r\nx\r\n0\r\n\r\n",
            "1 ;a\r\nx\r\n000000000000000000000\r\n\r\n",
            "2\r\n\r\n\r\n0\r\nX-T: 1\r\nX-U: 2\r\n\r\n",
        ] {
            let followed = format!("{body}GET /ping HTTP/1.1\r\n");
            assert_eq!(advance(followed.as_bytes()), Ok((body.len(), true)), "{body:?}");
            for end in 0..body.len() {
                assert_eq!(advance(&body.as_bytes()[..end]), Ok((end, false)), "{body:?} cut at {end}");
            }
        }
    }

    #[test]
    fn invalid_chunks_are_rejected() {
        for (good, bad) in [
            ("", "\r\n"),
            ("", "zz\r\n"),
            ("5", "\nhello"),
            ("5\r\nhello", "!\r\n"),
            ("5\r\nhello", "\n"),
            ("", "-1\r\n"),
            ("0", "x5\r\n"),
            ("", ";a\r\n"),
            ("1111111111111111", "1\r\n"),
            ("1 ", "5\r\nx\r\n"),
            ("0\r\nno", " colon\r\n"),
            ("0\r\n", ": 1\r\n"),
            ("0\r\nX", " : 1\r\n"),
            ("0\r\nX: a", "\0b\r\n"),
            ("5\r", "X"),
            ("0\r\n", "\n"),
            ("1;a", "\n"),
        ] {
            let mut tracker = ChunkTracker::default();
            assert_eq!(tracker.advance(good.as_bytes()), Ok(good.len()), "{good:?}");
            assert_eq!(tracker.advance(bad.as_bytes()), Err(BadChunk), "{bad:?} after {good:?}");
        }
    }

    proptest! {
        #[test]
        fn the_end_of_any_chunks_is_found_however_they_are_split(
            sizes in prop::collection::vec(1usize..300, 0..8),
            split in 1usize..50,
        ) {
            let mut body = Vec::new();
            for size in sizes {
                body.extend(format!("{size:x};e\r\n").bytes());
                body.extend(std::iter::repeat_n(b'\n', size));
                body.extend(b"\r\n");
            }
            body.extend(b"0\r\nT: x\r\n\r\n");
            let mut tracker = ChunkTracker::default();
            for piece in body.chunks(split) {
                prop_assert!(!tracker.is_done());
                prop_assert_eq!(tracker.advance(piece), Ok(piece.len()));
            }
            prop_assert!(tracker.is_done());
        }

        #[test]
        fn decoding_returns_the_data_and_leaves_the_next_request(
            data in prop::collection::vec(any::<u8>(), 0..2000),
            size in 1usize..300,
            split in 1usize..100,
        ) {
            let mut body = Vec::new();
            for chunk in data.chunks(size) {
                body.extend(format!("{:X};e=\"x\"\r\n", chunk.len()).bytes());
                body.extend(chunk);
                body.extend(b"\r\n");
            }
            body.extend(b"0\r\nT: x\r\n\r\nGET");
            let mut decoder = ChunkTracker::default();
            let (mut input, mut decoded) = (BytesMut::new(), Vec::new());
            for piece in body.chunks(split) {
                input.extend_from_slice(piece);
                while let Some(data) = decoder.decode(&mut input).unwrap() {
                    decoded.extend(data);
                }
            }
            prop_assert!(decoder.is_done());
            prop_assert_eq!(decoded, data);
            prop_assert_eq!(&input[..], b"GET");
        }
    }
}
