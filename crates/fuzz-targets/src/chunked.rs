//! Chunked bodies: however they are split they are read as the grammar says, and as hyper reads them.

use bytes::BytesMut;
use rendezvous_codec::body::{Arrival, BodyDecoder, Framing};
use rendezvous_codec::chunked::{BadChunk, ChunkTracker};

use super::head::is_tchar;
use super::hyper_reads;

/// Bytes of a chunk's size with its extensions; and of the trailers.
const MAX_ASIDE: usize = 16 * 1024;
const MAX_TRAILERS: usize = 100;

/// A body, and what follows it.
pub fn hold(data: &[u8]) {
    let expected = Body::read(data);
    assert_eq!(follow(data), expected.end, "followed byte by byte");
    for split in [data.len().max(1), 1, 3] {
        let decoded = decode(data, split);
        let is_same_end = decoded.end == expected.end || both_broken(decoded.end, expected.end);
        assert!(
            decoded.data == expected.data && is_same_end,
            "{decoded:?}, in pieces of {split}, and not {expected:?}"
        );
    }
    let (half, rest) = data.split_at(data.len() / 2);
    let arrival = match expected.end {
        End::Whole(_) => Arrival::Whole,
        End::Broken(_) => Arrival::Broken,
        End::Cut => Arrival::Partial,
    };
    assert_eq!(BodyDecoder::new(Framing::Chunked).arrival(&[half, rest], 0), arrival);
    // hyper limits the extensions of a whole body together.
    if data.len() - expected.data.len() < MAX_ASIDE {
        is_read_by_hyper_alike(data, &expected);
    }
}

/// Where it breaks, only who reads it byte by byte can tell.
fn both_broken(one: End, other: End) -> bool {
    matches!((one, other), (End::Broken(_), End::Broken(_)))
}

/// A chunked body, as far as it can be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Body {
    pub data: Vec<u8>,
    pub end: End,
}

/// How a body ends: behind so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Whole(usize),
    Broken(usize),
    /// More is to come.
    Cut,
}

fn follow(bytes: &[u8]) -> End {
    let mut tracker = ChunkTracker::default();
    for (passed, byte) in bytes.iter().enumerate() {
        match tracker.follow(&[*byte]) {
            Ok(mine) => assert_eq!(mine, 1, "a part of a body that goes on is not taken"),
            Err(BadChunk) => return End::Broken(passed),
        }
        if tracker.is_done() {
            assert_eq!(tracker.follow(b"more"), Ok(0), "it goes on behind its end");
            return End::Whole(passed + 1);
        }
    }
    End::Cut
}

fn decode(bytes: &[u8], split: usize) -> Body {
    let (mut tracker, mut input, mut data, mut came) =
        (ChunkTracker::default(), BytesMut::new(), Vec::new(), 0);
    for piece in bytes.chunks(split) {
        came += piece.len();
        input.extend_from_slice(piece);
        loop {
            let passed = came - input.len();
            match tracker.decode(&mut input) {
                Ok(Some(more)) => data.extend(more),
                Ok(None) => break,
                Err(BadChunk) => return Body { data, end: End::Broken(passed) },
            }
        }
        if tracker.is_done() {
            return Body { data, end: End::Whole(came - input.len()) };
        }
    }
    Body { data, end: End::Cut }
}

/// hyper may accept more. Who reads a body that is refused here has then seen the same data as far as it goes.
fn is_read_by_hyper_alike(bytes: &[u8], expected: &Body) {
    let head = b"PUT / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n";
    let theirs = hyper_reads::request(&[head, bytes].concat()).expect("hyper refuses the head").body;
    let is_whole = matches!(expected.end, End::Whole(_));
    match theirs {
        Some(theirs) if is_whole => assert_eq!(theirs, expected.data),
        Some(theirs) => assert!(theirs.starts_with(&expected.data), "{theirs:?}, {:?}", expected.data),
        None => assert!(!is_whole, "hyper refuses it"),
    }
}

impl Body {
    /// Reads the body at the start of `bytes` by the grammar, from its first byte on.
    pub fn read(bytes: &[u8]) -> Self {
        let (mut data, mut reader) = (Vec::new(), Reader { bytes, at: 0 });
        let end = reader.body(&mut data).err().unwrap_or(End::Whole(reader.at));
        Self { data, end }
    }
}

/// RFC 9112, section 7.1. What ends early is an error: [`End::Broken`] or [`End::Cut`].
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
            if self.at - start > MAX_ASIDE {
                return Err(End::Broken(start + MAX_ASIDE));
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
            self.aside(&mut bytes, is_tchar)?;
            if self.next()? != b':' || self.at == name {
                return Err(End::Broken(self.at));
            }
            self.aside(&mut bytes, |byte| byte == b'\t' || (b' '..=b'~').contains(&byte) || byte >= 0x80)?;
            lines += 1;
            if self.next()? == b'\r' && lines > MAX_TRAILERS {
                return Err(End::Broken(self.at));
            }
            self.line_end()?;
        }
        self.line_end()
    }

    /// Passes over bytes that are no data, of which there may be so many only.
    fn aside(&mut self, passed: &mut usize, may: impl Fn(u8) -> bool) -> Result<(), End> {
        let start = self.at;
        let ran = self.run(may);
        *passed += self.at - start;
        match passed.checked_sub(MAX_ASIDE) {
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

    fn run(&mut self, may: impl Fn(u8) -> bool) -> Result<(), End> {
        while may(self.next()?) {
            self.at += 1;
        }
        Ok(())
    }

    fn next(&self) -> Result<u8, End> {
        self.bytes.get(self.at).copied().ok_or(End::Cut)
    }
}
