//! What is sent: a file, a tree of files as a tar stream, or a pipe.

mod file;
pub(crate) mod header;
pub(crate) mod layout;
mod pipe;
mod tree;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use self::file::FileSource;
use self::pipe::PipeSource;
use self::tree::TreeSource;
use crate::file_name::{MAX_NAME, shortened};

/// Opens what is to be sent. One file is sent as it is; a directory, or several paths, as a tar stream that is laid out now. A named pipe
/// or a device is read as [`pipe()`] does, with this replay buffer, and so is a file of /proc, whose size is not known before. An empty `name`
/// counts as none.
///
/// In the archive all entries are below one directory with the name of the transfer: that of the directory that is sent, of several paths
/// that of the first with the number of the others, or `name`. Hard links are sent as files of their own. Links that lead out of the
/// directory, sockets, named pipes and devices within it are left out, and are listed by [`Source::left_out`].
///
/// # Errors
/// If a path cannot be read, is a socket, or if two paths have the same last component.
pub fn open(
    paths: &[PathBuf],
    name: Option<&str>,
    replay_buffer: usize,
) -> Result<Box<dyn Source>, SourceError> {
    let name = name.filter(|name| !name.is_empty());
    let [path] = paths else { return Ok(Box::new(TreeSource::open(paths, name)?)) };
    let kind = std::fs::metadata(path).map_err(|error| SourceError::io("read", path, error))?.file_type();
    if kind.is_dir() {
        return Ok(Box::new(TreeSource::open(paths, name)?));
    }
    if kind.is_socket() {
        return Err(SourceError::io("send", path, io::Error::other("it is a socket")));
    }
    // A named pipe blocks here until somebody writes to it.
    let file = File::open(path).map_err(|error| SourceError::io("open", path, error))?;
    let name = match name {
        Some(name) => name.to_owned(),
        None => layout::last_component(path)?.to_string_lossy().into_owned(),
    };
    let name = shortened(&name, MAX_NAME);
    if kind.is_file() && !is_made_when_read(&file) {
        return Ok(Box::new(FileSource::new(path, file, name)?));
    }
    Ok(Box::new(PipeSource::new(file, path.clone(), name, replay_buffer)))
}

/// Tells whether a file has content though its size is 0, as those of /proc have.
fn is_made_when_read(file: &File) -> bool {
    let is_empty = file.metadata().is_ok_and(|metadata| metadata.len() == 0);
    is_empty && file::read_at(file, &mut [0], 0).is_ok_and(|read| read > 0)
}

/// Sends what a reader gives. Its last `replay_buffer` bytes are kept, so that a receiver can go back that far after a cut.
///
/// Without a name, or with an empty one, it is called `stdin`.
pub fn pipe(reader: impl Read + Send + 'static, name: Option<&str>, replay_buffer: usize) -> Box<dyn Source> {
    let name = shortened(name.filter(|name| !name.is_empty()).unwrap_or("stdin"), MAX_NAME);
    Box::new(PipeSource::new(reader, PathBuf::from("standard input"), name, replay_buffer))
}

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

    /// Returns what of the wished is not sent, and why.
    fn left_out(&self) -> &[LeftOut] {
        &[]
    }

    /// Returns the number of files.
    fn files(&self) -> u64 {
        1
    }
}

/// Something in a directory that is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// The path on disk.
    pub path: PathBuf,
    /// The reason, as a sentence without a full stop.
    pub why: &'static str,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} is not sent: {}", self.path.display(), self.why)
    }
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

impl SourceError {
    fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing, path: path.to_owned(), source }
    }

    /// The difference completes a sentence that begins with the path and goes on with "changed while it was sent".
    fn changed(path: &Path, difference: &str) -> Self {
        Self::Changed { what: format!("{} {difference}", path.display()) }
    }
}

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
