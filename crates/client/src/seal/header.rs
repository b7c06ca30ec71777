//! The header of a segment: the crate age makes and checks it, and the key that it wraps is kept for the payload.
//!
//! *Bounds.* A header that is read has at most [`MAX_HEADER`] bytes.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io::{self, BufRead, Read};

use age::secrecy::ExposeSecret;
use age::{DecryptError, Decryptor, EncryptError, Encryptor, x25519};
use age_core::format::{FILE_KEY_BYTES, FileKey, Stanza};
use zeroize::Zeroizing;

use super::OpenError;
use super::payload::{PayloadKey, SALT};

/// The longest header of a segment, in bytes: one recipient, and what implementations add to keep parsers honest.
const MAX_HEADER: usize = 4096;

/// Lets a recipient wrap a file key, or an identity unwrap it, and keeps a copy.
struct Witness<'a, T> {
    by: &'a T,
    file_key: RefCell<Option<Zeroizing<[u8; FILE_KEY_BYTES]>>>,
}

impl<'a, T> Witness<'a, T> {
    fn new(by: &'a T) -> Self {
        Self { by, file_key: RefCell::new(None) }
    }

    fn see(&self, file_key: &FileKey) {
        *self.file_key.borrow_mut() = Some(Zeroizing::new(*file_key.expose_secret()));
    }

    /// Returns the key of the payload behind a header, whose last bytes are the salt.
    fn payload_key(self, header: &[u8]) -> Option<io::Result<PayloadKey>> {
        Some(PayloadKey::new(&*self.file_key.into_inner()?, header.last_chunk::<SALT>()?))
    }
}

impl age::Recipient for Witness<'_, x25519::Recipient> {
    fn wrap_file_key(&self, file_key: &FileKey) -> Result<(Vec<Stanza>, HashSet<String>), EncryptError> {
        self.see(file_key);
        self.by.wrap_file_key(file_key)
    }
}

impl age::Identity for Witness<'_, x25519::Identity> {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<Result<FileKey, DecryptError>> {
        let unwrapped = self.by.unwrap_stanza(stanza);
        if let Some(Ok(file_key)) = &unwrapped {
            self.see(file_key);
        }
        unwrapped
    }
}

/// Makes a header for this recipient, with the salt behind it, and the key of the payload.
pub(super) fn make(recipient: &x25519::Recipient) -> io::Result<(Vec<u8>, PayloadKey)> {
    let witness = Witness::new(recipient);
    let encryptor = Encryptor::with_recipients([&witness as &dyn age::Recipient].into_iter());
    let mut header = Vec::new();
    // Writes the header and the salt. The writer of the payload is not used.
    encryptor.map_err(io::Error::other)?.wrap_output(&mut header)?;
    let key = witness.payload_key(&header).ok_or_else(|| io::Error::other("no file key was wrapped"))??;
    Ok((header, key))
}

/// Reads a header and the salt, and returns the key of the payload.
pub(super) fn open(sealed: &mut impl BufRead, identity: &x25519::Identity) -> Result<PayloadKey, OpenError> {
    let header = read(sealed)?;
    let witness = Witness::new(identity);
    let decryptor = Decryptor::new(&header[..]).map_err(|_| OpenError::Header)?;
    // Checks the MAC of the header. The reader of the payload is not used.
    decryptor.decrypt([&witness as &dyn age::Identity].into_iter()).map_err(|_| OpenError::Sealed)?;
    Ok(witness.payload_key(&header).ok_or(OpenError::Sealed)??)
}

/// Reads a header, up to and including its last line and the salt.
fn read(sealed: &mut impl BufRead) -> Result<Vec<u8>, OpenError> {
    let mut header = Vec::new();
    loop {
        let line_start = header.len();
        let limit = u64::try_from(MAX_HEADER - line_start).unwrap_or(0);
        sealed.take(limit).read_until(b'\n', &mut header)?;
        if header.last() != Some(&b'\n') {
            return Err(OpenError::Header);
        }
        if header.get(line_start..).is_some_and(|line| line.starts_with(b"--- ")) {
            break;
        }
    }
    let mut salt = [0; SALT];
    sealed.read_exact(&mut salt)?;
    header.extend_from_slice(&salt);
    Ok(header)
}
