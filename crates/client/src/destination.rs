//! Where received bytes go: a file, a directory, or a pipe.

mod archive;
mod checkpoints;
mod directories;
mod handed;
mod local;
mod part;
mod place;
mod state;
mod tree;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use self::handed::Handed;
use self::local::Local;
use self::place::Place;
use crate::digest::{Digest, Hasher};
use crate::link::{Id, Link};
use crate::source::Description;

/// What happens if there is something under the name of what is received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and nothing is received.
    #[default]
    Fail,
    /// It is replaced once all is received and verified. A file does not replace a directory.
    Force,
    /// It stays, and what is received gets a number, as in `name (1).txt`.
    Rename,
}

/// Receives into a directory, under the name that the sender chose, or into a file or directory that is to be made.
///
/// If `into` is an existing directory or ends with a slash, it is the former. Until all is received and verified, the data is in
/// `NAME.KEY.part` in the same directory, and beside it is the hidden state file by which a later run with the same link goes on. KEY is a hash
/// of the secret.
///
/// A directory is unpacked as it comes. Its files are synced with the file system as a whole, which is one call for however many there are.
/// If `into` is a device or a named pipe, the bytes are [`handed()`] on.
///
/// # Errors
/// [`DestinationError::Exists`] if `into` is a file and may not be replaced; an error of the file system if there is no such directory, also
/// for an `into` that ends with a slash.
pub fn directory(
    into: &Path,
    link: &Link,
    existing: Existing,
) -> Result<Box<dyn Destination>, DestinationError> {
    let failed = |source| DestinationError::Io { doing: "open", path: into.to_owned(), source };
    let kind = match fs::metadata(into) {
        Ok(metadata) => Some(metadata.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(error)),
    };
    let is_directory =
        into.as_os_str().as_encoded_bytes().ends_with(b"/") || kind.is_some_and(|kind| kind.is_dir());
    let Some(name) = into.file_name().filter(|_| !is_directory) else {
        return Ok(Box::new(Local::new(Place::open(into, None, existing)?, link)));
    };
    if kind.is_some_and(|kind| kind.is_fifo() || kind.is_char_device() || kind.is_block_device()) {
        return Ok(handed(File::options().write(true).open(into).map_err(failed)?));
    }
    if kind.is_some() && existing == Existing::Fail {
        return Err(DestinationError::Exists { path: into.to_owned() });
    }
    let parent = into.parent().unwrap_or(Path::new("."));
    Ok(Box::new(Local::new(Place::open(parent, Some(name.to_owned()), existing)?, link)))
}

/// Passes the bytes on to a writer, such as standard output. A tar stream is passed on as it is.
pub fn handed(writer: impl Write + Send + 'static) -> Box<dyn Destination> {
    Box::new(Handed::new(writer))
}

/// Where `receive` puts the bytes.
///
/// All methods block; the driver calls them on a thread of its own.
pub trait Destination: Send {
    /// Returns what an earlier run of the same link left behind. Called once, before anything is asked for.
    ///
    /// [`ReceiverId::run`] of the result is already one higher than before, and on disk.
    ///
    /// # Errors
    /// If the state is there but cannot be read.
    fn resume(&mut self) -> Result<Option<Resumed>, DestinationError>;

    /// Begins a new transfer: opens `.part` and its state file, and checks that the target may be written and that there is space.
    ///
    /// Called with the first description of a run that did not resume, and never again but after [`Destination::restart`].
    ///
    /// # Errors
    /// [`DestinationError::Exists`], [`DestinationError::NoSpace`], [`DestinationError::Refused`] or an error of the file system.
    fn begin(
        &mut self,
        transfer: &Id,
        receiver: &ReceiverId,
        description: &Description,
    ) -> Result<(), DestinationError>;

    /// Appends bytes. They are authenticated.
    ///
    /// # Errors
    /// If they cannot be written.
    fn write(&mut self, bytes: &[u8]) -> Result<(), DestinationError>;

    /// Drops what is held, so that [`Destination::begin`] can be called again.
    ///
    /// # Errors
    /// [`DestinationError::PassedOn`] if bytes were given to a reader already.
    fn restart(&mut self) -> Result<(), DestinationError>;

    /// Makes the verified data final: syncs it, records that it is complete, renames it without replacing, syncs the directory.
    ///
    /// # Errors
    /// [`DestinationError::Exists`] if the target has come into being meanwhile, or an error of the file system.
    fn finish(&mut self, bytes: u64, sha256: &Digest) -> Result<Stored, DestinationError>;

    /// Removes the state file: the sender has confirmed the receipt.
    ///
    /// # Errors
    /// If it cannot be removed.
    fn confirmed(&mut self) -> Result<(), DestinationError>;

    /// Removes what must not stay: the transfer failed for good.
    fn abandon(&mut self);

    /// Returns whether a later run could continue this transfer. Not so if bytes are passed on.
    fn can_continue(&self) -> bool {
        true
    }

    /// Returns where the data is once [`Destination::finish`] succeeded. `None` if it was passed on, or if it is complete by an earlier run but
    /// is no longer there.
    fn stored_at(&self) -> Option<&Path>;
}

/// The name of a receiver, kept over its restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiverId {
    /// The random name.
    pub name: Id,
    /// The number of this run, from 0. A message of a later run has a higher number than all of earlier runs.
    pub run: u32,
}

/// What an earlier run of a receiver left behind.
#[derive(Debug)]
pub struct Resumed {
    /// The transfer that was interrupted.
    pub transfer: Id,
    /// The name of this receiver, with the number of the new run.
    pub receiver: ReceiverId,
    /// What is received.
    pub description: Description,
    /// How many bytes are on disk. Writing continues behind them.
    pub bytes: u64,
    /// The SHA-256 over those bytes.
    pub hasher: Hasher,
    /// Set if all is stored already, and only the confirmation is missing.
    pub complete: Option<Complete>,
}

/// A finished transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complete {
    /// The number of bytes.
    pub bytes: u64,
    /// Their SHA-256.
    pub sha256: Digest,
}

/// How far the data has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Verified, flushed to disk and named.
    Disk,
    /// Given to a pipe: nobody knows whether its reader has stored it.
    Handed,
}

/// Why a destination cannot take the bytes.
#[derive(Debug, thiserror::Error)]
pub enum DestinationError {
    /// There is not enough space.
    #[error("{} needs {needed} bytes, and {available} are free: free some space, or receive elsewhere with -o", path.display())]
    NoSpace {
        /// The directory.
        path: PathBuf,
        /// What the transfer needs.
        needed: u64,
        /// What is free.
        available: u64,
    },
    /// The target exists.
    #[error("{} exists: use --force to replace it, or --rename to keep both", path.display())]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// The data asks for what a receiver does not do, such as a tar entry that leads out of the directory.
    #[error("refused: {what}")]
    Refused {
        /// What was refused, and why.
        what: String,
    },
    /// Bytes were given to a reader, so the transfer cannot start again.
    #[error("the transfer would have to start again, but {bytes} bytes were already passed on")]
    PassedOn {
        /// How many.
        bytes: u64,
    },
    /// An operation of the file system failed.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The operation, as a verb.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system reported.
        source: io::Error,
    },
}

fn refused(what: &str) -> DestinationError {
    DestinationError::Refused { what: what.to_owned() }
}
