//! `.part`: where the bytes are until they are verified and named.
//!
//! *Invariants.* It is created exclusively, without following links, and only its user can read it before it gets its final mode.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::DestinationError;
use super::directories::Finally;
use super::state::{Names, Record};
use super::tree::TreePart;
use crate::digest::Hasher;
use crate::source::header::Time;
use crate::source::{Description, Kind};

/// What is received.
#[derive(Debug)]
pub(super) enum Part {
    File(File),
    Tree(Box<TreePart>),
}

/// What an earlier run left.
#[derive(Debug)]
pub(super) enum Resume<T> {
    Part(T),
    /// Less than was recorded, or something else.
    Lost,
}

/// What makes written data safe from a crash of the machine.
#[derive(Debug)]
pub(super) enum Sync {
    File(File),
    /// The whole file system: one call for many small files. Since Linux 5.8 it also reports what could not be written.
    FileSystem(OwnedFd),
}

impl Part {
    /// Creates an empty one.
    pub(super) fn create(directory: &OwnedFd, names: &Names, record: &Record) -> io::Result<Self> {
        let description = record.description();
        match description.kind {
            Kind::Tar => {
                let tree = TreePart::create(directory, names, &record.part, &description)?;
                Ok(Self::Tree(Box::new(tree)))
            }
            Kind::File | Kind::Text => Ok(Self::File(create_file(directory, &record.part)?)),
        }
    }

    /// Opens that of an earlier run, drops what is behind the recorded offset, and reads the rest for the digest.
    pub(super) fn resume(
        directory: &OwnedFd,
        names: &Names,
        record: &Record,
        hasher: &mut Hasher,
    ) -> Result<Resume<Self>, DestinationError> {
        let description = record.description();
        if description.kind == Kind::Tar {
            let tree = TreePart::resume(directory, names, &record.part, &description, record.offset, hasher)?;
            return Ok(match tree {
                Resume::Part(tree) => Resume::Part(Self::Tree(Box::new(tree))),
                Resume::Lost => Resume::Lost,
            });
        }
        match resume_file(directory, &record.part, record.offset, hasher) {
            Ok(file) => Ok(Resume::Part(Self::File(file))),
            Err(error) if is_loss(&error) => Ok(Resume::Lost),
            Err(source) => {
                Err(DestinationError::Io { doing: "read again", path: record.part.clone().into(), source })
            }
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), DestinationError> {
        match self {
            Self::File(file) => file.write_all(bytes).map_err(|source| DestinationError::Io {
                doing: "write",
                path: "the file".into(),
                source,
            }),
            Self::Tree(tree) => tree.write(bytes),
        }
    }

    /// Gives the system all that was written, and returns how to sync it.
    pub(super) fn flush(&mut self) -> io::Result<Sync> {
        match self {
            Self::File(file) => Ok(Sync::File(file.try_clone()?)),
            Self::Tree(tree) => Ok(Sync::FileSystem(tree.flush()?)),
        }
    }

    /// Gives the data its mode and times: all bytes are there.
    pub(super) fn close(&mut self, description: &Description) -> Result<(), DestinationError> {
        let file = match self {
            Self::Tree(tree) => return tree.close(),
            Self::File(file) => file,
        };
        let mode = description.mode.map_or_else(default_mode, |mode| mode & 0o777);
        let applied = || match description.mtime {
            Some(seconds) => Finally { mode, mtime: Time { seconds, nanoseconds: 0 } }.apply(&*file),
            None => Ok(rustix::fs::fchmod(&*file, Mode::from_raw_mode(mode))?),
        };
        applied().map_err(|source| DestinationError::Io {
            doing: "set the mode and time of",
            path: description.name.clone().into(),
            source,
        })
    }
}

impl Sync {
    /// Waits until all that was flushed is on disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        match self {
            Self::File(file) => file.sync_all(),
            Self::FileSystem(root) => Ok(rustix::fs::syncfs(root)?),
        }
    }
}

/// Creates a file that is not there yet, for its user alone.
pub(super) fn create_file(directory: &OwnedFd, name: &str) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// Opens a regular file of an earlier run for reading and writing, whatever its mode is.
pub(super) fn open_file(directory: &impl AsFd, name: &[u8]) -> io::Result<File> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(io::ErrorKind::InvalidData.into());
    }
    if stat.st_mode & 0o600 != 0o600 {
        rustix::fs::chmodat(directory, name, Mode::RUSR | Mode::WUSR, AtFlags::empty())?;
    }
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(directory, name, flags, Mode::empty())?.into())
}

/// Tells whether an earlier run's data is not as it was left, so that all of it has to come again.
pub(super) fn is_loss(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, IsADirectory, NotADirectory, NotFound, UnexpectedEof};
    matches!(error.kind(), NotFound | UnexpectedEof | InvalidData | IsADirectory | NotADirectory)
        || Errno::from_io_error(error) == Some(Errno::LOOP)
}

/// Returns the mode of a new file, as the process's umask has it.
fn default_mode() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let umask = umask.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok());
    umask.map_or(0o600, |umask| 0o666 & !umask)
}

fn resume_file(directory: &OwnedFd, name: &str, offset: u64, hasher: &mut Hasher) -> io::Result<File> {
    let mut file = open_file(directory, name.as_bytes())?;
    if file.metadata()?.len() < offset {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    file.set_len(offset)?;
    let mut buffer = vec![0; 256 * 1024];
    let mut left = offset;
    while left > 0 {
        let read = match file.read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hasher.update(buffer.get(..read).unwrap_or_default());
        left = left.saturating_sub(read as u64);
    }
    Ok(file)
}
