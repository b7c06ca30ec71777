//! The body of an HTTP/1 request: its framing, and the decoding of its data (RFC 9112, section 6).

use bytes::{Bytes, BytesMut};

use super::chunked::{BadChunk, ChunkTracker};

/// How the body of a message is framed (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// By `Content-Length`, in bytes.
    Length(u64),
    /// By the chunked transfer coding.
    Chunked,
}

impl Framing {
    /// The framing of a message without a body.
    pub const NONE: Self = Self::Length(0);

    /// Returns the declared length in bytes. `None` for a chunked body.
    #[must_use]
    pub fn length(self) -> Option<u64> {
        match self {
            Self::Length(length) => Some(length),
            Self::Chunked => None,
        }
    }
}

/// The position inside a body that is read from a connection. It holds no data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BodyDecoder {
    /// Inside a body with a declared length: this many bytes remain.
    Length(u64),
    /// Inside a chunked body.
    Chunked(ChunkTracker),
}

/// How much of the rest of a body has arrived. See [`BodyDecoder::arrival`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Not all of it.
    Partial,
    /// All of it.
    Whole,
    /// The received bytes violate the chunked coding.
    Broken,
}

impl BodyDecoder {
    /// Creates a decoder at the start of a body.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(ChunkTracker::default()),
        }
    }

    /// Splits the next data off the front of `input`, without copying it. Returns `None` if `input` contains no more
    /// data of this body. Once [`BodyDecoder::is_done`], the rest of `input` belongs to the next request.
    ///
    /// # Errors
    /// [`BadChunk`]. The end of the body is then unknown, so the connection must be closed.
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

    /// Returns whether the end of the body was reached.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(tracker) => tracker.is_done(),
        }
    }

    /// Checks whether the rest of the body is in `pieces`, the next bytes of the connection, without consuming them.
    ///
    /// `unseen` is the number of bytes that follow them in the kernel. It counts only towards a declared length: the end
    /// of a chunked body has to be seen.
    #[must_use]
    pub fn arrival(&self, pieces: &[&[u8]], unseen: usize) -> Arrival {
        let is_whole = match self {
            Self::Length(left) => {
                let seen: usize = pieces.iter().map(|piece| piece.len()).sum();
                (seen + unseen) as u64 >= *left
            }
            Self::Chunked(tracker) => {
                let mut ahead = tracker.clone();
                if pieces.iter().any(|piece| ahead.advance(piece).is_err()) {
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
    fn a_decoder_leaves_the_next_request() {
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
