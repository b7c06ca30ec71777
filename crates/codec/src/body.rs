//! The body of an HTTP/1 request: how it is framed, and what of its bytes is data (RFC 9112, section 6). Pure.

use bytes::{Bytes, BytesMut};

use super::chunked::{BadChunk, ChunkTracker};

/// How the body of a message is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// By its length in bytes.
    Length(u64),
    /// By chunks.
    Chunked,
}

impl Framing {
    /// No body.
    pub const NONE: Self = Self::Length(0);

    /// The length in bytes, where it is declared.
    #[must_use]
    pub fn length(self) -> Option<u64> {
        match self {
            Self::Length(length) => Some(length),
            Self::Chunked => None,
        }
    }
}

/// The position inside a body that is read from a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyDecoder {
    /// So many bytes are still to come.
    Length(u64),
    /// Inside a chunked body.
    Chunked(ChunkTracker),
}

/// How much of the rest of a body is among some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// A part of it.
    Partial,
    /// All of it.
    Whole,
    /// Bytes that are no body.
    Broken,
}

impl BodyDecoder {
    /// At the start of a body.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(ChunkTracker::default()),
        }
    }

    /// Takes the next data off the front of `input`. `None` where `input` has none; with [`BodyDecoder::is_done`], what is left there
    /// belongs to the next request.
    ///
    /// # Errors
    /// [`BadChunk`]; nothing that follows can be trusted.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, BadChunk> {
        match self {
            Self::Length(left) => {
                let here = input.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= here as u64;
                Ok((here > 0).then(|| input.split_to(here).freeze()))
            }
            Self::Chunked(tracker) => tracker.decode(input),
        }
    }

    /// Whether the body is whole.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(tracker) => tracker.is_done(),
        }
    }

    /// Whether the rest of the body is in `pieces`, which come next. `unseen` more bytes follow, which count where only their number
    /// matters.
    #[must_use]
    pub fn arrival(&self, pieces: &[&[u8]], unseen: usize) -> Arrival {
        let is_whole = match self {
            Self::Length(left) => {
                let seen: usize = pieces.iter().map(|piece| piece.len()).sum();
                (seen + unseen) as u64 >= *left
            }
            Self::Chunked(tracker) => {
                let mut ahead = tracker.clone();
                if pieces.iter().any(|piece| ahead.follow(piece).is_err()) {
                    return Arrival::Broken;
                }
                ahead.is_done()
            }
        };
        if is_whole { Arrival::Whole } else { Arrival::Partial }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_has_arrived_with_its_last_byte_or_its_last_chunk() {
        use Arrival::{Broken, Partial, Whole};
        for (framing, pieces, unseen, arrival) in [
            (Framing::NONE, [&b""[..], b""], 0, Whole),
            (Framing::Length(5), [b"he", b"ll"], 0, Partial),
            (Framing::Length(5), [b"he", b"ll"], 1, Whole),
            (Framing::Length(5), [b"hell", b"oGET"], 0, Whole),
            (Framing::Chunked, [b"", b""], 9, Partial),
            (Framing::Chunked, [b"1\r\nx\r\n0\r", b"\n\r"], 1, Partial),
            (Framing::Chunked, [b"1\r\nx\r\n0\r", b"\n\r\nGET"], 0, Whole),
            (Framing::Chunked, [b"1\r\nx", b"y"], 0, Broken),
        ] {
            assert_eq!(BodyDecoder::new(framing).arrival(&pieces, unseen), arrival, "{framing:?} {pieces:?}");
        }
    }

    #[test]
    fn a_decoder_leaves_what_follows_the_body() {
        for (framing, body) in
            [(Framing::Length(5), &b"hello"[..]), (Framing::Chunked, b"5\r\nhello\r\n0\r\n\r\n")]
        {
            let mut decoder = BodyDecoder::new(framing);
            let mut input = BytesMut::from(&[body, b"GET"].concat()[..]);
            assert_eq!(decoder.decode(&mut input), Ok(Some(Bytes::from_static(b"hello"))));
            assert_eq!(decoder.decode(&mut input), Ok(None));
            assert!(decoder.is_done());
            assert_eq!(&input[..], b"GET");
        }
    }
}
