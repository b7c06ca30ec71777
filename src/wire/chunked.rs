//! Where a chunked body ends (RFC 9112, section 7.1), strictly and without looking at a data byte.
//!
//! It follows bodies that hyper decodes, to know whether one is whole before hyper is allowed to take it and
//! where the next request begins; and it decodes those that do not go through hyper.

use bytes::{Buf, Bytes, BytesMut};

/// The position inside a chunked body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkTracker(State);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In a chunk's size, `digits` of which have come.
    Size { size: u64, digits: u8 },
    /// In an extension, or in the white space before it.
    Extension { size: u64 },
    /// Behind the CR of a size line.
    SizeEnd { size: u64 },
    /// In a chunk's data.
    Data { left: u64 },
    /// Behind a chunk's data.
    DataEnd { cr: bool },
    /// In the trailer section: at the start of a line, or within one.
    Trailer { line_start: bool },
    /// Behind the CR of a trailer line; of the empty one if `last`.
    TrailerEnd { last: bool },
    /// Behind the body.
    Done,
}

/// The bytes are no chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid chunked framing")]
pub struct BadChunk;

impl Default for ChunkTracker {
    fn default() -> Self {
        Self(SIZE)
    }
}

const SIZE: State = State::Size { size: 0, digits: 0 };

impl ChunkTracker {
    /// Follows `bytes`. Returns how many of them belong to the body.
    ///
    /// # Errors
    /// [`BadChunk`]; nothing that follows can be trusted.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<usize, BadChunk> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if self.0 == State::Done {
                break;
            }
            if let State::Data { left } = self.0 {
                let here = (bytes.len() - at) as u64;
                let step = left.min(here);
                self.0 = State::after_data(left - step);
                at += usize::try_from(step).map_err(|_| BadChunk)?;
            } else {
                self.0 = self.0.step(byte)?;
                at += 1;
            }
        }
        Ok(at)
    }

    /// Takes framing off the front of `input`, and returns the data behind it. `None` where `input` is empty, or
    /// the body is whole: what is left belongs to the next request.
    ///
    /// # Errors
    /// [`BadChunk`]; nothing that follows can be trusted.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, BadChunk> {
        let mut framing = 0;
        while !matches!(self.0, State::Data { .. } | State::Done) {
            let Some(&byte) = input.get(framing) else { break };
            self.0 = self.0.step(byte)?;
            framing += 1;
        }
        input.advance(framing);
        let State::Data { left } = self.0 else { return Ok(None) };
        if input.is_empty() {
            return Ok(None);
        }
        let here = input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.0 = State::after_data(left - here as u64);
        Ok(Some(input.split_to(here).freeze()))
    }

    /// The body is whole.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0 == State::Done
    }
}

impl State {
    fn after_data(left: u64) -> Self {
        if left == 0 { Self::DataEnd { cr: false } } else { Self::Data { left } }
    }

    fn step(self, byte: u8) -> Result<Self, BadChunk> {
        Ok(match (self, byte) {
            (Self::Size { size, digits: digits @ 0..16 }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).ok_or(BadChunk)?;
                Self::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Self::Size { size, digits: 1.. }, b';' | b' ' | b'\t') => Self::Extension { size },
            (Self::Size { size, digits: 1.. } | Self::Extension { size }, b'\r') => Self::SizeEnd { size },
            (Self::Extension { size }, byte) if byte != b'\n' => Self::Extension { size },
            (Self::SizeEnd { size: 0 } | Self::TrailerEnd { last: false }, b'\n') => {
                Self::Trailer { line_start: true }
            }
            (Self::SizeEnd { size }, b'\n') => Self::Data { left: size },
            (Self::DataEnd { cr: false }, b'\r') => Self::DataEnd { cr: true },
            (Self::DataEnd { cr: true }, b'\n') => SIZE,
            (Self::Trailer { line_start }, b'\r') => Self::TrailerEnd { last: line_start },
            (Self::Trailer { .. }, byte) if byte != b'\n' => Self::Trailer { line_start: false },
            (Self::TrailerEnd { last: true }, b'\n') => Self::Done,
            _ => return Err(BadChunk),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn follow(bytes: &[u8]) -> Result<(usize, bool), BadChunk> {
        let mut tracker = ChunkTracker::default();
        Ok((tracker.follow(bytes)?, tracker.is_done()))
    }

    #[test]
    fn the_end_of_a_body_is_found_to_the_byte() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "000A\r\n0123456789\r\n00\r\n\r\n",
            "1;a=b;c=\"d e\"\r\nx\r\n0;x\r\n\r\n",
            "1 \r\nx\r\n0\r\n\r\n",
            "2\r\n\r\n\r\n0\r\nX-T: 1\r\nX-U: 2\r\n\r\n",
        ] {
            let followed = format!("{body}GET /ping HTTP/1.1\r\n");
            assert_eq!(follow(followed.as_bytes()), Ok((body.len(), true)), "{body:?}");
            for end in 0..body.len() {
                assert_eq!(follow(&body.as_bytes()[..end]), Ok((end, false)), "{body:?} cut at {end}");
            }
        }
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for body in [
            "\r\n",
            "zz\r\n",
            "5\nhello",
            "5\r\nhello!\r\n",
            "5\r\nhello\n",
            "-1\r\n",
            "0x5\r\n",
            ";a\r\n",
            "11111111111111111\r\n",
            "5\rX",
            "0\r\n\n",
            "1;a\n",
        ] {
            assert_eq!(follow(body.as_bytes()), Err(BadChunk), "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn any_chunks_split_anywhere_are_followed_to_their_end(
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
                prop_assert_eq!(tracker.follow(piece), Ok(piece.len()));
            }
            prop_assert!(tracker.is_done());
        }

        #[test]
        fn decoding_gives_the_data_and_leaves_what_follows(
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
