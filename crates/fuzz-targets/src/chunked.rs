//! Chunked bodies: however the bytes are split, they are read as the grammar defines and as hyper reads them.

use bytes::BytesMut;
use rendezvous_codec::body::{Arrival, BodyDecoder, Framing};
use rendezvous_codec::chunked::{BadChunk, ChunkTracker};

use super::head::is_tchar;
use super::hyper_reads;

/// The limit, in bytes, of a size line with its extensions, and of all trailers together.
const MAX_OVERHEAD: usize = 16 * 1024;
const MAX_TRAILERS: usize = 100;

/// Checks a body and the bytes that follow it.
pub fn check(data: &[u8]) {
    let expected = Body::read(data);
    assert_eq!(advance(data), expected.end, "byte by byte");
    for split in [data.len().max(1), 1, 3] {
        let decoded = decode(data, split);
        let is_same_end = decoded.end == expected.end || both_broken(decoded.end, expected.end);
        assert!(
            decoded.data == expected.data && is_same_end,
            "{decoded:?} in pieces of {split}, instead of {expected:?}"
        );
    }
    let (half, rest) = data.split_at(data.len() / 2);
    let arrival = match expected.end {
        End::Whole(_) => Arrival::Whole,
        End::Broken(_) => Arrival::Broken,
        End::Cut => Arrival::Partial,
    };
    assert_eq!(BodyDecoder::new(Framing::Chunked).arrival(&[half, rest], 0), arrival);
    // hyper limits the sum of all extensions of a body.
    if data.len() - expected.data.len() < MAX_OVERHEAD {
        assert_like_hyper(data, &expected);
    }
}

/// Whether both are broken. Only a reader of single bytes finds the exact place.
fn both_broken(one: End, other: End) -> bool {
    matches!((one, other), (End::Broken(_), End::Broken(_)))
}

/// The readable part of a chunked body.
#[derive(Debug, PartialEq, Eq)]
pub struct Body {
    pub data: Vec<u8>,
    pub end: End,
}

/// How a body ends, with its length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Whole(usize),
    Broken(usize),
    /// The input ends inside the body.
    Cut,
}

fn advance(bytes: &[u8]) -> End {
    let mut tracker = ChunkTracker::default();
    for (passed, byte) in bytes.iter().enumerate() {
        match tracker.advance(&[*byte]) {
            Ok(consumed) => assert_eq!(consumed, 1, "a byte inside the body is not consumed"),
            Err(BadChunk) => return End::Broken(passed),
        }
        if tracker.is_done() {
            assert_eq!(tracker.advance(b"more"), Ok(0), "bytes after the body are consumed");
            return End::Whole(passed + 1);
        }
    }
    End::Cut
}

fn decode(bytes: &[u8], split: usize) -> Body {
    let (mut tracker, mut input, mut data, mut received) =
        (ChunkTracker::default(), BytesMut::new(), Vec::new(), 0);
    for piece in bytes.chunks(split) {
        received += piece.len();
        input.extend_from_slice(piece);
        loop {
            let passed = received - input.len();
            match tracker.decode(&mut input) {
                Ok(Some(more)) => data.extend(more),
                Ok(None) => break,
                Err(BadChunk) => return Body { data, end: End::Broken(passed) },
            }
        }
        if tracker.is_done() {
            return Body { data, end: End::Whole(received - input.len()) };
        }
    }
    Body { data, end: End::Cut }
}

/// hyper may accept a body that is refused here. Its data then begins with the data that was read here.
fn assert_like_hyper(bytes: &[u8], expected: &Body) {
    let head = b"PUT / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let by_hyper = hyper_reads::request(&[head, bytes].concat()).expect("hyper refuses the head").body;
    let is_whole = matches!(expected.end, End::Whole(_));
    match by_hyper {
        Some(data) if is_whole => assert_eq!(data, expected.data),
        Some(data) => assert!(data.starts_with(&expected.data), "{data:?}, {:?}", expected.data),
        None => assert!(!is_whole, "hyper refuses the body"),
    }
}

impl Body {
    /// Reads the body at the start of `bytes` by the grammar.
    pub fn read(bytes: &[u8]) -> Self {
        let (mut data, mut reader) = (Vec::new(), Reader { bytes, at: 0 });
        let end = reader.body(&mut data).err().unwrap_or(End::Whole(reader.at));
        Self { data, end }
    }
}

/// A reader of the grammar of RFC 9112, section 7.1. Its errors are [`End::Broken`] and [`End::Cut`].
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn body(&mut self, data: &mut Vec<u8>) -> Result<(), End> {
        loop {
            let start = self.at;
            let size = self.size().and_then(|size| {
                self.run(|byte| byte == b' ' || byte == b'\t')?;
                if self.next()? == b';' {
                    self.run(|byte| byte != b'\r' && byte != b'\n')?;
                }
                Ok(size)
            });
            if self.at - start > MAX_OVERHEAD {
                return Err(End::Broken(start + MAX_OVERHEAD));
            }
            let size = size?;
            self.line_end()?;
            if size == 0 {
                return self.trailers();
            }
            let left = self.bytes.len() - self.at;
            let here = usize::try_from(size).unwrap_or(usize::MAX).min(left);
            data.extend(&self.bytes[self.at..self.at + here]);
            self.at += here;
            self.line_end()?;
        }
    }

    fn size(&mut self) -> Result<u64, End> {
        let start = self.at;
        let mut size: u64 = 0;
        while let Some(digit) = char::from(self.next()?).to_digit(16) {
            size = size.checked_mul(16).ok_or(End::Broken(self.at))? + u64::from(digit);
            self.at += 1;
        }
        if self.at == start { Err(End::Broken(self.at)) } else { Ok(size) }
    }

    fn trailers(&mut self) -> Result<(), End> {
        let (mut bytes, mut lines) = (0, 0);
        while self.next()? != b'\r' {
            let name = self.at;
            self.overhead(&mut bytes, is_tchar)?;
            if self.next()? != b':' || self.at == name {
                return Err(End::Broken(self.at));
            }
            self.overhead(&mut bytes, |byte| byte == b'\t' || (b' '..=b'~').contains(&byte) || byte >= 0x80)?;
            lines += 1;
            if self.next()? == b'\r' && lines > MAX_TRAILERS {
                return Err(End::Broken(self.at));
            }
            self.line_end()?;
        }
        self.line_end()
    }

    /// Skips bytes of the framing, up to the limit in total.
    fn overhead(&mut self, passed: &mut usize, is_allowed: impl Fn(u8) -> bool) -> Result<(), End> {
        let start = self.at;
        let ran = self.run(is_allowed);
        *passed += self.at - start;
        match passed.checked_sub(MAX_OVERHEAD) {
            Some(over @ 1..) => Err(End::Broken(self.at - over)),
            _ => ran,
        }
    }

    fn line_end(&mut self) -> Result<(), End> {
        for expected in *b"\r\n" {
            if self.next()? != expected {
                return Err(End::Broken(self.at));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn run(&mut self, is_allowed: impl Fn(u8) -> bool) -> Result<(), End> {
        while is_allowed(self.next()?) {
            self.at += 1;
        }
        Ok(())
    }

    fn next(&self) -> Result<u8, End> {
        self.bytes.get(self.at).copied().ok_or(End::Cut)
    }
}
