//! A tree of files as a tar stream, made anew from any offset.
//!
//! *Invariants.* The stream at an offset is a function of the layout and of the files, and each file is checked against the layout when it
//! is opened and once all of it is read. So a file that was written to, grew, shrank or was replaced between the layout and the end of its
//! reading is [`SourceError::Changed`]; a change after that is not seen, and need not be.
//!
//! *Bounds.* One open file, and the header of one entry.

use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::header::{BLOCK, TRAILER};
use super::layout::{Content, Identity, Layout, last_component};
use super::{Description, Kind, LeftOut, Source, SourceError};
use crate::file_name::{MAX_NAME, shortened};

/// Several files, or a directory.
#[derive(Debug)]
pub(super) struct TreeSource {
    description: Description,
    layout: Layout,
    position: u64,
    current: Option<Current>,
}

/// The entry at the current position.
#[derive(Debug)]
struct Current {
    index: usize,
    /// Where the entry begins in the stream.
    offset: u64,
    header: Vec<u8>,
    size: u64,
    file: Option<File>,
}

impl TreeSource {
    /// Lays out a directory, or several paths side by side. The name is that of the directory in the archive.
    pub(super) fn open(paths: &[PathBuf], name: Option<&str>) -> Result<Self, SourceError> {
        let name = match name {
            Some(name) => name.to_owned(),
            None => name_of(paths)?,
        };
        // In the archive the name is one component.
        let name = match &*name {
            "" | "." | ".." => "_".to_owned(),
            name => shortened(&name.replace(['/', '\0'], "_"), MAX_NAME),
        };
        let layout = match paths {
            [directory] => Layout::of_directory(directory, &name)?,
            _ => Layout::of_paths(paths, &name)?,
        };
        let root = layout.root();
        let description = Description {
            kind: Kind::Tar,
            name,
            size: Some(layout.size()),
            mtime: root.map(|root| root.mtime.seconds),
            mode: root.map(|root| root.mode),
        };
        Ok(Self { description, layout, position: 0, current: None })
    }

    /// Reads from one part of the stream: a header, a file, or zeros. Returns 0 at the end of the stream.
    fn read_part(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let size = self.layout.size();
        if self.position >= size.saturating_sub(TRAILER) {
            return Ok(fill_zeros(buffer, size - self.position));
        }
        let mut current = self.enter();
        let read = current.read(&self.layout, self.position, buffer);
        self.current = Some(current);
        read
    }

    /// Returns the entry at the current position, with its header.
    fn enter(&mut self) -> Current {
        let index = match self.current.take() {
            Some(current) if (current.offset..current.end()).contains(&self.position) => return current,
            // Most reads go on with the next entry, without a search.
            Some(current) if self.position == current.end() => current.index + 1,
            _ => self.layout.index_at(self.position),
        };
        let (offset, size) =
            self.layout.entry(index).map_or((self.position, 0), |entry| (entry.offset, entry.size()));
        Current { index, offset, header: self.layout.header(index), size, file: None }
    }
}

impl Source for TreeSource {
    fn description(&self) -> &Description {
        &self.description
    }

    fn earliest(&self) -> u64 {
        0
    }

    fn seek(&mut self, offset: u64) -> Result<(), SourceError> {
        self.position = offset.min(self.layout.size());
        self.current = None;
        Ok(())
    }

    /// Fills the buffer, so that many small files make one read.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..)
            && !rest.is_empty()
        {
            let read = self.read_part(rest)?;
            if read == 0 {
                break;
            }
            filled += read;
            self.position += read as u64;
        }
        Ok(filled)
    }

    /// Checks the file that is being read. The others are checked as they are opened and once they are read.
    fn check(&mut self) -> Result<(), SourceError> {
        match &self.current {
            Some(Current { index, file: Some(file), .. }) => verify(&self.layout, *index, file),
            _ => Ok(()),
        }
    }

    fn left_out(&self) -> &[LeftOut] {
        self.layout.left_out()
    }

    fn files(&self) -> u64 {
        self.layout.files()
    }
}

impl Current {
    /// Returns where the next entry begins.
    fn end(&self) -> u64 {
        self.offset + self.header.len() as u64 + self.size.next_multiple_of(BLOCK)
    }

    /// Reads from the part of the entry that this position of the stream is in.
    fn read(&mut self, layout: &Layout, position: u64, buffer: &mut [u8]) -> Result<usize, SourceError> {
        let within = position - self.offset;
        let start = usize::try_from(within).unwrap_or(usize::MAX);
        if let Some(rest) = self.header.get(start..).filter(|rest| !rest.is_empty()) {
            return Ok(copy(rest, buffer));
        }
        let within = within - self.header.len() as u64;
        if within >= self.size {
            return Ok(fill_zeros(buffer, self.size.next_multiple_of(BLOCK) - within));
        }
        self.read_content(layout, within, buffer)
    }

    fn read_content(
        &mut self,
        layout: &Layout,
        within: u64,
        buffer: &mut [u8],
    ) -> Result<usize, SourceError> {
        let file = match self.file.take() {
            Some(file) => file,
            None => open(layout, self.index)?,
        };
        let wanted = usize::try_from(self.size - within).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..wanted).unwrap_or_default();
        let read = super::file::read_at(&file, part, within)
            .map_err(|error| SourceError::io("read", &layout.path(self.index), error))?;
        if read == 0 {
            return Err(SourceError::changed(&layout.path(self.index), "is shorter than before and so"));
        }
        if within + read as u64 == self.size {
            verify(layout, self.index, &file)?;
        } else {
            self.file = Some(file);
        }
        Ok(read)
    }
}

/// Opens the file of an entry and checks that it is the one that was laid out.
fn open(layout: &Layout, index: usize) -> Result<File, SourceError> {
    let path = layout.path(index);
    // What the name has become meanwhile must neither be followed nor wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    // Paths that the user named may be links, or have the name of a file only in the archive.
    let flags = if layout.is_named(index) { flags - OFlags::NOFOLLOW } else { flags };
    let file = rustix::fs::open(&path, flags, Mode::empty()).map_err(|error| match error {
        rustix::io::Errno::NOENT | rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR => {
            SourceError::changed(&path, "is no longer there and so")
        }
        error => SourceError::io("open", &path, error.into()),
    })?;
    let file = File::from(file);
    verify(layout, index, &file)?;
    Ok(file)
}

fn verify(layout: &Layout, index: usize, file: &File) -> Result<(), SourceError> {
    let Some(Content::File(earlier)) = layout.entry(index).map(|entry| &entry.content) else { return Ok(()) };
    let metadata = file.metadata().map_err(|error| SourceError::io("read", &layout.path(index), error))?;
    match Identity::of(&metadata).difference(earlier) {
        Some(difference) => Err(SourceError::changed(&layout.path(index), difference)),
        None => Ok(()),
    }
}

/// Returns the name of the directory in the archive: that of the only path, or that of the first and how many more there are.
fn name_of(paths: &[PathBuf]) -> Result<String, SourceError> {
    let first = last_component(paths.first().map_or(Path::new("."), |path| path))?;
    let first = first.to_string_lossy();
    Ok(match paths.len() {
        0 | 1 => first.into_owned(),
        count => format!("{first} and {} more", count - 1),
    })
}

fn copy(from: &[u8], to: &mut [u8]) -> usize {
    let length = from.len().min(to.len());
    for (slot, byte) in to.iter_mut().zip(from) {
        *slot = *byte;
    }
    length
}

/// Fills with as many zeros as are left, and returns how many that were.
fn fill_zeros(buffer: &mut [u8], left: u64) -> usize {
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
    if let Some(part) = buffer.get_mut(..length) {
        part.fill(0);
    }
    length
}
