//! Encryption with age: control messages by a passphrase, segments to the receiver's key.
//!
//! *Invariants.* The header of a control message is checked before any scrypt, since a forged work factor costs gigabytes. A segment's plaintext
//! comes out only in authenticated chunks (`payload`).

mod header;
mod payload;

use std::io::{self, BufRead, Read, Write};

use age::{Decryptor, Encryptor, scrypt, x25519};

pub(crate) use self::payload::Sealer;

use crate::keys::Keys;
use crate::messages::{Control, Head, InvalidMessage, MAX_HEAD};

/// The entropy is in the secret, so the lowest work factor that age's tools take will do.
const WORK_FACTOR: u8 = 10;

/// The bytes in front of the JSON head that tell its length.
const LENGTH: usize = 4;

/// Why a message does not open.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The header is not the one that the protocol has.
    #[error("the header is not one of this protocol")]
    Header,
    /// The key does not fit, or the data is damaged or cut.
    #[error("the message is damaged, cut, or encrypted with another key")]
    Sealed,
    /// The content is no message.
    #[error(transparent)]
    Content(#[from] InvalidMessage),
    /// The bytes ended or could not be read.
    #[error("the message cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Seals and opens control messages.
///
/// age measures the machine's speed when it makes one of its passphrase types, so they are made once.
pub(crate) struct ControlSeal {
    recipient: scrypt::Recipient,
    identity: scrypt::Identity,
}

impl ControlSeal {
    pub(crate) fn new(keys: &Keys) -> Self {
        let mut recipient = scrypt::Recipient::new(keys.control());
        recipient.set_work_factor(WORK_FACTOR);
        let mut identity = scrypt::Identity::new(keys.control());
        identity.set_max_work_factor(WORK_FACTOR);
        Self { recipient, identity }
    }

    /// Encrypts a message.
    pub(crate) fn seal(&self, message: &Control) -> io::Result<Vec<u8>> {
        let encryptor = Encryptor::with_recipients([&self.recipient as &dyn age::Recipient].into_iter());
        let encryptor = encryptor.map_err(io::Error::other)?;
        let mut writer = encryptor.wrap_output(Vec::new())?;
        writer.write_all(&message.to_json())?;
        writer.finish()
    }

    /// Decrypts and parses a message.
    pub(crate) fn open(&self, sealed: &[u8]) -> Result<Control, OpenError> {
        if !is_control_header(sealed) {
            return Err(OpenError::Header);
        }
        let decryptor = Decryptor::new_buffered(sealed).map_err(|_| OpenError::Header)?;
        let reader = decryptor.decrypt([&self.identity as &dyn age::Identity].into_iter());
        let mut json = Vec::new();
        reader.map_err(|_| OpenError::Sealed)?.read_to_end(&mut json).map_err(|_| OpenError::Sealed)?;
        Ok(Control::parse(&json)?)
    }
}

/// Returns whether the header has exactly one stanza, of scrypt with the work factor of this protocol.
fn is_control_header(sealed: &[u8]) -> bool {
    let mut lines = sealed.split(|&byte| byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let is_base64 = |text: &[u8], length| {
        text.len() == length
            && text.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'))
    };
    let is_version = line() == b"age-encryption.org/v1";
    let stanza = line().strip_prefix(b"-> scrypt ").and_then(|rest| rest.strip_suffix(b" 10"));
    let body = line();
    let mac = line().strip_prefix(b"--- ");
    is_version
        && stanza.is_some_and(|salt| is_base64(salt, 22))
        && is_base64(body, 43)
        && mac.is_some_and(|mac| is_base64(mac, 43))
}

/// The data of an opened message.
pub(crate) struct Data<R> {
    /// What the first chunk has behind the head.
    first: Option<Vec<u8>>,
    chunks: payload::Unsealer<R>,
}

impl<R: Read> Data<R> {
    /// Returns the next bytes, at most 64 KiB, or `None` at the end.
    ///
    /// # Errors
    /// If what follows is damaged or cut.
    pub(crate) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.first.take() {
            Some(first) if !first.is_empty() => Ok(Some(first)),
            _ => self.chunks.next(),
        }
    }
}

/// A receiver's key pair, made anew in each run.
#[derive(Clone)]
pub(crate) struct Identity(x25519::Identity);

impl Identity {
    pub(crate) fn generate() -> Self {
        Self(x25519::Identity::generate())
    }

    /// Returns the public key, as it stands in an `ask`.
    pub(crate) fn recipient(&self) -> String {
        self.0.to_public().to_string()
    }

    /// Reads the header and the JSON head of a message of the sender, and returns the reader of its data.
    pub(crate) fn open<R: BufRead>(&self, mut sealed: R) -> Result<(Head, Data<R>), OpenError> {
        let key = header::open(&mut sealed, &self.0)?;
        let mut chunks = payload::Unsealer::new(key, sealed);
        let cut = || OpenError::Content(InvalidMessage::Json);
        let mut first = chunks.next()?.unwrap_or_default();
        let (length, framed) = first.split_first_chunk().ok_or_else(cut)?;
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        // A head fits into the first chunk.
        let json = framed.get(..length).filter(|json| json.len() <= MAX_HEAD).ok_or_else(cut)?;
        let head = Head::parse(json)?;
        Ok((head, Data { first: Some(first.split_off(LENGTH + length)), chunks }))
    }
}

/// Starts a message to the receiver with this public key. Its ciphertext goes to `output`, block by block.
///
/// # Errors
/// If the text is no public key.
pub(crate) fn seal<O>(recipient: &str, output: O) -> io::Result<Sealer<O>>
where
    O: FnMut(Vec<u8>) -> io::Result<()>,
{
    let recipient: x25519::Recipient = recipient.parse().map_err(io::Error::other)?;
    let (header, key) = header::make(&recipient)?;
    Ok(Sealer::new(&header, key, output))
}

/// Returns a whole message to the receiver with this public key.
///
/// # Errors
/// If the text is no public key.
pub(crate) fn sealed(recipient: &str, head: &Head, data: &[u8]) -> io::Result<Vec<u8>> {
    let mut message = Vec::new();
    let mut sealer = seal(recipient, |block: Vec<u8>| {
        message.extend(block);
        Ok(())
    })?;
    sealer.write(&framed(head))?;
    sealer.write(data)?;
    sealer.finish()?;
    Ok(message)
}

/// Returns whether a text is a public key to which [`seal`] can encrypt.
pub(crate) fn is_recipient(text: &str) -> bool {
    text.parse::<x25519::Recipient>().is_ok()
}

/// Returns the plaintext in front of a segment's data: the length of the JSON head, and the head.
pub(crate) fn framed(head: &Head) -> Vec<u8> {
    let json = head.to_json();
    let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &json].concat()
}

#[cfg(test)]
mod tests;
