//! The layout of a tree: which entries its tar stream has, in which order and at which offsets.
//!
//! *Invariants.* A layout does not change once it is made. Entries come depth first, those of a directory sorted by the bytes of their
//! names, so a parent precedes its children. All are below one directory, which has the name of the transfer. Links are kept as links if
//! they stay inside of that directory, and are never followed; hard links are sent as files of their own, so that each entry can be stored
//! without another.
//!
//! *Bounds.* About 100 bytes of memory per entry, and its name.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::header::{BLOCK, EntryHead, EntryKind, TRAILER, Time};
use super::{LeftOut, SourceError};
use crate::file_name::leads_out;

/// Maximum depth of directories: a receiver holds a descriptor for each.
pub(crate) const MAX_DEPTH: usize = 256;

/// Maximum length in bytes of a path in the archive, as of a path for the system.
pub(crate) const MAX_PATH: usize = 4096;

const TOO_DEEP: &str =
    "it is nested too deep: send it as an archive of your own, tar c PATH | rendezvous send -";

/// The entries of a tar stream.
#[derive(Debug)]
pub(super) struct Layout {
    entries: Vec<Entry>,
    /// The entries whose path on disk does not follow from their parent's.
    paths: BTreeMap<usize, PathBuf>,
    size: u64,
    files: u64,
    left_out: Vec<LeftOut>,
}

/// An entry: what was found when the layout was made.
#[derive(Debug)]
pub(super) struct Entry {
    /// The index of its directory. The first entry is its own parent.
    parent: usize,
    depth: usize,
    name: OsString,
    pub content: Content,
    pub mode: u32,
    pub mtime: Time,
    /// Where its header begins in the stream.
    pub offset: u64,
}

/// What an entry holds.
#[derive(Debug)]
pub(super) enum Content {
    File(Identity),
    Directory,
    Symlink(OsString),
}

/// By what a file is known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub device: u64,
    pub inode: u64,
    pub size: u64,
    pub mtime: Time,
}

impl Layout {
    /// Lays out one directory.
    pub(super) fn of_directory(path: &Path, name: &str) -> Result<Self, SourceError> {
        let metadata = fs::metadata(path).map_err(|error| SourceError::io("read", path, error))?;
        let mut layout = Self::with_root(name, mode_of(&metadata), time_of(&metadata))?;
        layout.paths.insert(0, path.to_owned());
        layout.walk(0)?;
        layout.close();
        Ok(layout)
    }

    /// Lays out several paths side by side in a directory that exists in the archive only. Links among the paths are followed, as their
    /// user named them.
    pub(super) fn of_paths(paths: &[PathBuf], name: &str) -> Result<Self, SourceError> {
        let mut found = BTreeMap::new();
        for path in paths {
            let metadata = fs::metadata(path).map_err(|error| SourceError::io("read", path, error))?;
            if found.insert(last_component(path)?, (path, metadata)).is_some() {
                let why = io::Error::other("another of the paths has the same name: send them one by one");
                return Err(SourceError::io("send", path, why));
            }
        }
        let newest = found.values().map(|(_, metadata)| metadata.mtime()).max().unwrap_or(0);
        let mut layout = Self::with_root(name, 0o755, Time { seconds: newest, nanoseconds: 0 })?;
        for (name, (path, metadata)) in found {
            layout.paths.insert(layout.entries.len(), path.clone());
            layout.add(0, name, path, &metadata)?;
        }
        layout.close();
        Ok(layout)
    }

    fn with_root(name: &str, mode: u32, mtime: Time) -> Result<Self, SourceError> {
        let mut layout =
            Self { entries: vec![], paths: BTreeMap::new(), size: 0, files: 0, left_out: vec![] };
        let name = OsString::from(name);
        layout.push(Entry {
            parent: 0,
            depth: 0,
            name,
            content: Content::Directory,
            mode,
            mtime,
            offset: 0,
        })?;
        Ok(layout)
    }

    fn close(&mut self) {
        self.size += TRAILER;
        self.entries.shrink_to_fit();
    }

    /// Adds the entries below a directory. The recursion is bounded by [`MAX_DEPTH`].
    fn walk(&mut self, directory: usize) -> Result<(), SourceError> {
        let path = self.path(directory);
        let failed = |error| SourceError::io("read", &path, error);
        let mut found = Vec::new();
        for entry in fs::read_dir(&path).map_err(failed)? {
            found.push(entry.map_err(failed)?);
        }
        found.sort_by_cached_key(fs::DirEntry::file_name);
        for entry in found {
            let metadata = entry.metadata().map_err(|error| SourceError::io("read", &entry.path(), error))?;
            self.add(directory, entry.file_name(), &entry.path(), &metadata)?;
        }
        Ok(())
    }

    /// Adds an entry, and if it is a directory, those below it.
    fn add(
        &mut self,
        parent: usize,
        name: OsString,
        path: &Path,
        metadata: &Metadata,
    ) -> Result<(), SourceError> {
        let depth = self.entries.get(parent).map_or(0, |parent| parent.depth) + 1;
        if depth > MAX_DEPTH {
            return Err(SourceError::io("send", path, io::Error::other(TOO_DEEP)));
        }
        let kind = metadata.file_type();
        let content = if kind.is_file() {
            // Better now than in the middle of the transfer.
            rustix::fs::access(path, Access::READ_OK)
                .map_err(|error| SourceError::io("read", path, error.into()))?;
            self.files += 1;
            Content::File(Identity::of(metadata))
        } else if kind.is_dir() {
            Content::Directory
        } else if kind.is_symlink() {
            let target = fs::read_link(path).map_err(|error| SourceError::io("read", path, error))?;
            if leads_out(target.as_os_str().as_bytes(), depth - 1) {
                self.left_out.push(LeftOut { path: path.to_owned(), why: "it is a link that leads out" });
                return Ok(());
            }
            Content::Symlink(target.into_os_string())
        } else {
            self.left_out.push(LeftOut { path: path.to_owned(), why: special(kind) });
            return Ok(());
        };
        let is_directory = matches!(content, Content::Directory);
        let (mode, mtime) = (mode_of(metadata), time_of(metadata));
        self.push(Entry { parent, depth, name, content, mode, mtime, offset: 0 })?;
        if is_directory { self.walk(self.entries.len() - 1) } else { Ok(()) }
    }

    fn push(&mut self, mut entry: Entry) -> Result<(), SourceError> {
        entry.offset = self.size;
        let size = entry.size();
        self.entries.push(entry);
        let index = self.entries.len() - 1;
        let path = self.archive_path(index);
        if path.len() > MAX_PATH {
            return Err(SourceError::io("send", &self.path(index), io::Error::other(TOO_DEEP)));
        }
        let header = self.head(index, &path).map_or(0, |head| head.length());
        self.size += header + size.next_multiple_of(BLOCK);
        Ok(())
    }

    /// Returns the length of the stream in bytes, with the zeros at its end.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Returns the number of files.
    pub(super) fn files(&self) -> u64 {
        self.files
    }

    /// Returns what is not sent.
    pub(super) fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// Returns the root of the tree.
    pub(super) fn root(&self) -> Option<&Entry> {
        self.entries.first()
    }

    /// Returns the entry of this index.
    pub(super) fn entry(&self, index: usize) -> Option<&Entry> {
        self.entries.get(index)
    }

    /// Returns the index of the entry that this byte of the stream belongs to. Bytes behind the last entry belong to no entry: the result
    /// is the number of entries.
    pub(super) fn index_at(&self, offset: u64) -> usize {
        if offset >= self.size.saturating_sub(TRAILER) {
            return self.entries.len();
        }
        self.entries.partition_point(|entry| entry.offset <= offset).saturating_sub(1)
    }

    /// Returns the header of an entry, the same bytes each time.
    pub(super) fn header(&self, index: usize) -> Vec<u8> {
        self.head(index, &self.archive_path(index)).map_or_else(Vec::new, |head| head.encode())
    }

    fn head<'a>(&'a self, index: usize, path: &'a [u8]) -> Option<EntryHead<'a>> {
        let entry = self.entries.get(index)?;
        let kind = match &entry.content {
            Content::File(identity) => EntryKind::File { size: identity.size },
            Content::Directory => EntryKind::Directory,
            Content::Symlink(target) => EntryKind::Symlink { target: target.as_bytes() },
        };
        Some(EntryHead { path, kind, mode: entry.mode, mtime: entry.mtime })
    }

    /// Returns where an entry is on disk.
    pub(super) fn path(&self, index: usize) -> PathBuf {
        if let Some(path) = self.paths.get(&index) {
            return path.clone();
        }
        match self.entries.get(index) {
            Some(entry) if index > 0 => self.path(entry.parent).join(&entry.name),
            _ => PathBuf::new(),
        }
    }

    /// Tells whether the user named the path of this entry. Such a path may be a link.
    pub(super) fn is_named(&self, index: usize) -> bool {
        self.paths.contains_key(&index)
    }

    fn archive_path(&self, index: usize) -> Vec<u8> {
        let mut names = Vec::new();
        let mut above = index;
        while let Some(entry) = self.entries.get(above) {
            names.push(entry.name.as_bytes());
            if above == 0 {
                break;
            }
            above = entry.parent;
        }
        names.reverse();
        let mut path = names.join(&b'/');
        if self.entries.get(index).is_some_and(|entry| matches!(entry.content, Content::Directory)) {
            path.push(b'/');
        }
        path
    }
}

impl Entry {
    /// Returns the length of the content in bytes.
    pub(super) fn size(&self) -> u64 {
        match self.content {
            Content::File(identity) => identity.size,
            Content::Directory | Content::Symlink(_) => 0,
        }
    }
}

impl Identity {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), size: metadata.len(), mtime: time_of(metadata) }
    }

    /// Returns what differs from an earlier look at the file, or `None` if nothing does.
    pub(super) fn difference(&self, earlier: &Self) -> Option<&'static str> {
        if (self.device, self.inode) != (earlier.device, earlier.inode) {
            Some("was replaced and so")
        } else if self.size != earlier.size {
            Some("has another size and so")
        } else if self.mtime != earlier.mtime {
            Some("was written to and so")
        } else {
            None
        }
    }
}

/// Returns the name that a path has in an archive: its last component, also for `.` and `..`.
pub(super) fn last_component(path: &Path) -> Result<OsString, SourceError> {
    if let Some(name) = path.file_name() {
        return Ok(name.to_owned());
    }
    let whole = fs::canonicalize(path).map_err(|error| SourceError::io("read", path, error))?;
    Ok(whole.file_name().map_or_else(|| OsString::from("root"), ToOwned::to_owned))
}

pub(super) fn mode_of(metadata: &Metadata) -> u32 {
    metadata.mode() & 0o777
}

pub(super) fn time_of(metadata: &Metadata) -> Time {
    // The system gives 0 to 999,999,999.
    let nanoseconds = u32::try_from(metadata.mtime_nsec()).unwrap_or(0);
    Time { seconds: metadata.mtime(), nanoseconds }
}

fn special(kind: fs::FileType) -> &'static str {
    if kind.is_socket() {
        "it is a socket"
    } else if kind.is_fifo() {
        "it is a named pipe"
    } else {
        "it is a device"
    }
}
