//! One file.
//!
//! *Invariants.* The bytes come from the file that was opened at the start, even if its name is given to another; [`Source::check`] notices
//! both.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::layout::{Identity, mode_of, time_of};
use super::{Description, Kind, Source, SourceError};

/// A regular file, read from any offset.
#[derive(Debug)]
pub(super) struct FileSource {
    description: Description,
    path: PathBuf,
    file: File,
    identity: Identity,
    position: u64,
}

impl FileSource {
    /// Takes an open regular file.
    pub(super) fn new(path: &Path, file: File, name: String) -> Result<Self, SourceError> {
        let metadata = file.metadata().map_err(|error| SourceError::io("read", path, error))?;
        let description = Description {
            kind: Kind::File,
            name,
            size: Some(metadata.len()),
            mtime: Some(time_of(&metadata).seconds),
            mode: Some(mode_of(&metadata)),
        };
        Ok(Self { description, path: path.to_owned(), file, identity: Identity::of(&metadata), position: 0 })
    }

    fn compare(&self, metadata: &fs::Metadata) -> Result<(), SourceError> {
        match Identity::of(metadata).difference(&self.identity) {
            Some(difference) => Err(SourceError::changed(&self.path, difference)),
            None => Ok(()),
        }
    }
}

impl Source for FileSource {
    fn description(&self) -> &Description {
        &self.description
    }

    fn earliest(&self) -> u64 {
        0
    }

    fn seek(&mut self, offset: u64) -> Result<(), SourceError> {
        self.position = offset.min(self.identity.size);
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let left = self.identity.size - self.position;
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..wanted).unwrap_or_default();
        if part.is_empty() {
            return Ok(0);
        }
        let read = read_at(&self.file, part, self.position)
            .map_err(|error| SourceError::io("read", &self.path, error))?;
        if read == 0 {
            return Err(SourceError::changed(&self.path, "is shorter than before and so"));
        }
        self.position += read as u64;
        Ok(read)
    }

    fn check(&mut self) -> Result<(), SourceError> {
        let failed = |error| SourceError::io("read", &self.path, error);
        self.compare(&self.file.metadata().map_err(failed)?)?;
        match fs::metadata(&self.path) {
            Ok(metadata) => self.compare(&metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(SourceError::changed(&self.path, "is no longer there and so"))
            }
            Err(error) => Err(failed(error)),
        }
    }
}

/// Reads at an offset, and again if a signal came in between.
pub(super) fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}
