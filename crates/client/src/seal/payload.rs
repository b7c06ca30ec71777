//! The payload of an age file: chunks of 64 KiB, each sealed by ChaCha20-Poly1305, with a nonce that counts them and marks the last ("Payload" in
//! the specification of age).
//!
//! Headers are the crate age's. Payloads are not, because every byte of a transfer passes here, and aws-lc takes a third of the time for it.
//!
//! *Invariant.* Plaintext comes out only in authenticated chunks, and the end only behind the chunk that is marked as the last.
//!
//! *Bounds.* A sealer holds one block, an unsealer one chunk, sealed and opened.

use std::io::{self, Read};

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};

/// The plaintext of every chunk but the last, in bytes.
pub(super) const CHUNK: usize = 64 * 1024;

/// What sealing adds to a chunk, in bytes.
pub(super) const TAG: usize = 16;

/// The random salt between the header and the first chunk, in bytes.
pub(super) const SALT: usize = 16;

/// A sealer gives its ciphertext away in blocks of this size, behind the header in the first.
const BLOCK: usize = 4 * (CHUNK + TAG);

/// The key of one payload, and the number of its next chunk.
pub(super) struct PayloadKey {
    key: LessSafeKey,
    next: u64,
}

impl PayloadKey {
    /// Derives the key from that of the file.
    pub(super) fn new(file_key: &[u8], salt: &[u8]) -> io::Result<Self> {
        let key = Salt::new(HKDF_SHA256, salt).extract(file_key);
        let key = key.expand(&[b"payload"], &CHACHA20_POLY1305).map(UnboundKey::from);
        Ok(Self { key: LessSafeKey::new(key.map_err(|_| failed("no key can be derived"))?), next: 0 })
    }

    /// Eleven bytes are the number, big-endian, and the twelfth tells the last chunk.
    fn nonce(&self, is_last: bool) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        let [.., flag] = &mut nonce;
        *flag = u8::from(is_last);
        for (byte, digit) in nonce.iter_mut().rev().skip(1).zip(self.next.to_le_bytes()) {
            *byte = digit;
        }
        Nonce::assume_unique_for_key(nonce)
    }

    /// Seals a chunk in its place, and returns its tag.
    pub(super) fn seal(&mut self, chunk: &mut [u8], is_last: bool) -> io::Result<[u8; TAG]> {
        let sealed = self.key.seal_in_place_separate_tag(self.nonce(is_last), Aad::empty(), chunk);
        self.next += 1;
        let tag = sealed.ok().and_then(|tag| tag.as_ref().try_into().ok());
        tag.ok_or_else(|| failed("a chunk cannot be sealed"))
    }

    /// Opens a chunk with its tag into `plaintext`, which has its length without the tag.
    fn open(&mut self, sealed: &[u8], is_last: bool, plaintext: &mut [u8]) -> Result<(), Unspecified> {
        let (chunk, tag) = sealed.split_at_checked(plaintext.len()).ok_or(Unspecified)?;
        self.key.open_separate_gather(self.nonce(is_last), Aad::empty(), chunk, tag, plaintext)?;
        self.next += 1;
        Ok(())
    }
}

fn failed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Seals a payload. Blocks of ciphertext go to `output`, the first with the header in front.
pub(crate) struct Sealer<O> {
    key: PayloadKey,
    header: usize,
    /// What is sealed, and from `open` on the plaintext of the next chunk.
    block: Vec<u8>,
    open: usize,
    output: O,
}

impl<O: FnMut(Vec<u8>) -> io::Result<()>> Sealer<O> {
    pub(super) fn new(header: &[u8], key: PayloadKey, output: O) -> Self {
        let mut block = Vec::with_capacity(header.len() + BLOCK);
        block.extend_from_slice(header);
        Self { key, header: header.len(), open: block.len(), block, output }
    }

    /// Returns the length of the whole message if its plaintext has this length.
    pub(crate) fn sealed_length(&self, plaintext: u64) -> u64 {
        let [header, tag, chunk] = [self.header, TAG, CHUNK].map(|bytes| u64::try_from(bytes).unwrap_or(0));
        header + plaintext + tag * plaintext.div_ceil(chunk).max(1)
    }

    /// Adds plaintext.
    ///
    /// # Errors
    /// If `output` fails.
    pub(crate) fn write(&mut self, mut plaintext: &[u8]) -> io::Result<()> {
        while !plaintext.is_empty() {
            // A full chunk is only sealed once more follows, since the last is sealed as such.
            if self.block.len() - self.open == CHUNK {
                self.seal(false)?;
            }
            let room = CHUNK - (self.block.len() - self.open);
            let (now, later) = plaintext.split_at(room.min(plaintext.len()));
            self.block.extend_from_slice(now);
            plaintext = later;
        }
        Ok(())
    }

    /// Ends the message.
    ///
    /// # Errors
    /// If `output` fails.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.seal(true)?;
        if self.block.is_empty() { Ok(()) } else { (self.output)(self.block) }
    }

    fn seal(&mut self, is_last: bool) -> io::Result<()> {
        let chunk = self.block.get_mut(self.open..).ok_or_else(|| failed("a chunk is missing"))?;
        let tag = self.key.seal(chunk, is_last)?;
        self.block.extend_from_slice(&tag);
        self.open = self.block.len();
        if self.block.len() < BLOCK {
            return Ok(());
        }
        self.open = 0;
        let next = if is_last { Vec::new() } else { Vec::with_capacity(BLOCK) };
        (self.output)(std::mem::replace(&mut self.block, next))
    }
}

/// Opens a payload.
pub(crate) struct Unsealer<R> {
    key: PayloadKey,
    sealed: R,
    /// The next chunk as it came.
    chunk: Vec<u8>,
    is_over: bool,
}

impl<R: Read> Unsealer<R> {
    pub(super) fn new(key: PayloadKey, sealed: R) -> Self {
        Self { key, sealed, chunk: Vec::with_capacity(CHUNK + TAG), is_over: false }
    }

    /// Returns the next plaintext, at most 64 KiB, or `None` at the end.
    ///
    /// # Errors
    /// If the next chunk is damaged or cut, and if anything follows the last one.
    pub(crate) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.chunk.clear();
        let limit = u64::try_from(CHUNK + TAG).unwrap_or(0);
        self.sealed.by_ref().take(limit).read_to_end(&mut self.chunk)?;
        if self.is_over {
            return if self.chunk.is_empty() { Ok(None) } else { Err(failed("bytes follow the last chunk")) };
        }
        let length = self.chunk.len().checked_sub(TAG).ok_or_else(|| failed("the message is cut"))?;
        let mut plaintext = vec![0; length];
        // Only the last chunk may be short. One of full size may be the last too.
        if length == CHUNK && self.key.open(&self.chunk, false, &mut plaintext).is_ok() {
            return Ok(Some(plaintext));
        }
        let is_first = self.key.next == 0;
        self.key
            .open(&self.chunk, true, &mut plaintext)
            .map_err(|_| failed("the message is damaged or cut"))?;
        if length == 0 && !is_first {
            return Err(failed("the last chunk is empty"));
        }
        self.is_over = true;
        Ok(Some(plaintext))
    }
}
