//! The directory that is received into: what is free in it, and how `.part` gets its name there.
//!
//! *Invariants.* Nothing is replaced unless [`Existing::Force`] allows it, also if it comes into being at the last moment: the rename
//! itself refuses. A directory that is replaced is moved aside before, and removed once the new one has its name; at each moment the new
//! data is either in `.part` or has its name.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::directories::remove_all;
use super::state::Names;
use super::{DestinationError, Existing, refused};
use crate::file_name::{MAX_NAME, sanitized, shortened, split_extension};
use crate::source::{Description, Kind};

/// How many names are tried with [`Existing::Rename`].
const MAX_TRIES: u32 = 10_000;

/// Where to receive to.
#[derive(Debug)]
pub(super) struct Place {
    pub directory: OwnedFd,
    pub path: PathBuf,
    /// The name that the user wished.
    wished: Option<OsString>,
    existing: Existing,
}

impl Place {
    /// Opens an existing directory.
    pub(super) fn open(
        path: &Path,
        wished: Option<OsString>,
        existing: Existing,
    ) -> Result<Self, DestinationError> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, path, flags, Mode::empty()).map_err(|error| {
            DestinationError::Io { doing: "open the directory", path: path.to_owned(), source: error.into() }
        })?;
        Ok(Self { directory, path: path.to_owned(), wished, existing })
    }

    /// Returns the name that the data gets if it is free.
    pub(super) fn name(&self, description: &Description) -> OsString {
        self.wished.clone().unwrap_or_else(|| sanitized(&description.name).into())
    }

    /// Checks that data of this kind may get its name.
    pub(super) fn check_name(&self, description: &Description) -> Result<(), DestinationError> {
        let name = self.name(description);
        let path = self.path.join(&name);
        match (self.existing, self.kind_of(&name)?) {
            (Existing::Fail, Some(_)) => Err(DestinationError::Exists { path }),
            (Existing::Force, Some(FileType::Directory)) if description.kind != Kind::Tar => {
                Err(refused(&format!(
                    "{} is a directory, and a file does not replace it: choose a name with -o",
                    path.display()
                )))
            }
            (_, None) | (Existing::Rename | Existing::Force, Some(_)) => Ok(()),
        }
    }

    /// Checks that this many bytes are free.
    pub(super) fn check_space(&self, needed: u64) -> Result<(), DestinationError> {
        match self.available() {
            Some(available) if available < needed => {
                Err(DestinationError::NoSpace { path: self.path.clone(), needed, available })
            }
            _ => Ok(()),
        }
    }

    /// Returns how many bytes are free for this user, or `None` if the file system does not tell.
    pub(super) fn available(&self) -> Option<u64> {
        let stat = rustix::fs::fstatvfs(&self.directory).ok()?;
        (stat.f_blocks > 0).then(|| stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// Tells whether there is something of this name.
    pub(super) fn holds(&self, name: &OsStr) -> Result<bool, DestinationError> {
        Ok(self.kind_of(name)?.is_some())
    }

    fn kind_of(&self, name: &OsStr) -> Result<Option<FileType>, DestinationError> {
        match rustix::fs::statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failed("look at", name)(error.into())),
        }
    }

    /// Gives `.part` its name. `record` is called with each name before it is tried; the last is the one that it got.
    pub(super) fn publish(
        &self,
        part: &str,
        description: &Description,
        names: &Names,
        mut record: impl FnMut(&OsStr) -> io::Result<()>,
    ) -> Result<OsString, DestinationError> {
        let wished = self.name(description);
        for attempt in 0..MAX_TRIES {
            let name = numbered(&wished, attempt);
            if self.existing == Existing::Rename && self.holds(&name)? {
                continue;
            }
            record(&name).map_err(self.failed("write the state for", &name))?;
            match self.rename(part, description, &name, names) {
                Err(Errno::EXIST | Errno::NOTEMPTY) if self.existing == Existing::Rename => {}
                Err(Errno::EXIST | Errno::NOTEMPTY) => {
                    return Err(DestinationError::Exists { path: self.path.join(&name) });
                }
                Err(error) => return Err(self.failed("name", &name)(error.into())),
                Ok(()) => return Ok(name),
            }
        }
        Err(DestinationError::Exists { path: self.path.join(&wished) })
    }

    fn rename(
        &self,
        part: &str,
        description: &Description,
        name: &OsStr,
        names: &Names,
    ) -> rustix::io::Result<()> {
        let directory = &self.directory;
        if self.existing != Existing::Force {
            return rename_without_replacing(directory, part, name, description.kind);
        }
        if description.kind != Kind::Tar {
            return rustix::fs::renameat(directory, part, directory, name);
        }
        match rustix::fs::renameat(directory, name, directory, names.replaced()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
        rename_without_replacing(directory, part, name, description.kind)
    }

    /// Makes the names safe from a crash of the machine.
    pub(super) fn sync(&self) -> Result<(), DestinationError> {
        match rustix::fs::fsync(&self.directory) {
            // Some file systems have no sync of directories.
            Ok(()) | Err(Errno::INVAL) => Ok(()),
            Err(error) => Err(self.failed("sync", OsStr::new("."))(error.into())),
        }
    }

    /// Removes a file or a tree of this name, if there is one.
    pub(super) fn remove(&self, name: &str) -> Result<(), DestinationError> {
        remove_all(&self.directory, name.as_bytes()).map_err(self.failed("remove", OsStr::new(name)))
    }

    /// Returns what makes an error of an operation on a name in the directory.
    pub(super) fn failed(
        &self,
        doing: &'static str,
        name: &OsStr,
    ) -> impl FnOnce(io::Error) -> DestinationError + use<> {
        let path = self.path.join(name);
        move |source| DestinationError::Io { doing, path, source }
    }
}

/// Renames, and fails with [`Errno::EXIST`] if the new name is taken.
fn rename_without_replacing(
    directory: &OwnedFd,
    part: &str,
    name: &OsStr,
    kind: Kind,
) -> rustix::io::Result<()> {
    match rustix::fs::renameat_with(directory, part, directory, name, RenameFlags::NOREPLACE) {
        // The file system has no such rename. A link does not replace; a directory replaces at most an empty directory.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if kind != Kind::Tar => {
            rustix::fs::linkat(directory, part, directory, name, AtFlags::empty())?;
            rustix::fs::unlinkat(directory, part, AtFlags::empty())
        }
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Err(Errno::EXIST),
                Err(_) => rustix::fs::renameat(directory, part, directory, name),
            }
        }
        result => result,
    }
}

/// Returns the name with a number before its extension, from the second attempt on.
fn numbered(name: &OsStr, attempt: u32) -> OsString {
    if attempt == 0 {
        return name.to_owned();
    }
    let name = name.to_string_lossy();
    let number = format!(" ({attempt})");
    let (stem, extension) = split_extension(&name);
    let stem = shortened(stem, MAX_NAME - number.len() - extension.len());
    format!("{stem}{number}{extension}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_comes_before_the_extension_and_fits() {
        for (name, attempt, expected) in [
            ("a.txt", 0, "a.txt"),
            ("a.txt", 1, "a (1).txt"),
            ("a.tar.gz", 12, "a.tar (12).gz"),
            (".profile", 2, ".profile (2)"),
            ("directory", 3, "directory (3)"),
        ] {
            assert_eq!(numbered(OsStr::new(name), attempt), expected);
        }
        let long = numbered(OsStr::new(&format!("{}.txt", "x".repeat(251))), 9999);
        assert_eq!(long.len(), 255);
        assert!(long.to_string_lossy().ends_with("x (9999).txt"));
    }
}
