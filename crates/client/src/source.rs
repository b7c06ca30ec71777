//! What is sent: a file, a tree of files as a tar stream, or a pipe.

use std::io;
use std::path::PathBuf;

/// What a source tells about itself. It travels in the first segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// What the bytes are.
    pub kind: Kind,
    /// The name of the file or directory, as the sender wishes it. At most 255 bytes; a receiver makes it safe before use.
    pub name: String,
    /// The number of bytes, where it is known before all are read.
    pub size: Option<u64>,
    /// The time of the last change, in whole Unix seconds.
    pub mtime: Option<i64>,
    /// The permission bits.
    pub mode: Option<u32>,
}

/// What the bytes of a transfer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One file, or a pipe.
    File,
    /// A tar stream of files and directories.
    Tar,
    /// Text to show.
    Text,
}

/// What `send` reads.
///
/// All methods block; the driver calls them on a thread of its own.
pub trait Source: Send {
    /// Returns what is sent. It does not change.
    fn description(&self) -> &Description;

    /// Returns how far back [`Source::seek`] can go now: 0 for a file, the start of the replay buffer for a pipe.
    fn earliest(&self) -> u64;

    /// Continues at this offset of the plaintext, at most the furthest that was read.
    ///
    /// # Errors
    /// [`SourceError::Gone`] before [`Source::earliest`], and any other error of the source.
    fn seek(&mut self, offset: u64) -> Result<(), SourceError>;

    /// Reads the next bytes, 0 at the end. It may block for as long as a pipe is silent.
    ///
    /// # Errors
    /// If the source cannot be read, or has changed.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError>;

    /// Checks that what was laid out at the start has not changed since. Called at each segment, and at the end.
    ///
    /// # Errors
    /// [`SourceError::Changed`] if it has.
    fn check(&mut self) -> Result<(), SourceError>;
}

/// Why a source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file differs from what was laid out at the start.
    #[error("{what} changed while it was sent: send it again once nothing writes to it")]
    Changed {
        /// The file and what is different.
        what: String,
    },
    /// The offset lies before what the source still holds.
    #[error(
        "byte {offset} is no longer in the replay buffer, which begins at {earliest}: use a larger --replay-buffer"
    )]
    Gone {
        /// The wished offset.
        offset: u64,
        /// The first offset that can still be read.
        earliest: u64,
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
