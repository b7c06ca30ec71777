//! A directory that is unpacked as its tar stream comes.
//!
//! The tree grows in `.part`, which is a directory, and beside it the file of headers takes all of the stream that is not the content of a
//! file. Both together are the stream: a restarted receiver reads the headers again, and the content from the files, for the digest and to
//! be where it was. So nothing needs twice the space, and an archive never lies around half unpacked under its final name.
//!
//! *Invariants.* Nothing is written but in directories that this receiver made, and no link is followed on the way. Two entries never share
//! a file: a name that is taken, also because the file system does not tell it from another, is refused. What was written behind the offset
//! that a restart goes on from is dropped: the files before it move to a new tree as they are read, and what remains is removed.
//!
//! *Bounds.* One open file, a descriptor for each directory of its path, and 64 KiB of extended headers.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::archive::{ArchiveReader, Entry, Expected, Kind, check_target, shown};
use super::directories::{
    Access, Directories, Finally, make_accessible, open_directory, remove_all, timestamps,
};
use super::part::{Resume, create_file, finally_of, is_loss, open_file};
use super::state::Names;
use super::{DestinationError, refused};
use crate::digest::Hasher;
use crate::source::Description;
use crate::source::header::Time;

/// The tree, and where the stream stands.
#[derive(Debug)]
pub(super) struct TreePart {
    reader: ArchiveReader,
    tree: Tree,
    headers: BufWriter<File>,
}

/// The files and directories.
#[derive(Debug)]
struct Tree {
    directories: Directories,
    /// The tree of the run before, while the files in it are read again.
    earlier: Option<Directories>,
    /// The name of the transfer. If the first entry is a directory of this name, it is the root.
    name: Vec<u8>,
    rooted: Option<bool>,
    file: Option<OpenFile>,
}

/// The file whose content comes.
#[derive(Debug)]
struct OpenFile {
    path: Vec<Vec<u8>>,
    file: File,
    size: u64,
    finally: Finally,
}

impl TreePart {
    /// Makes an empty tree.
    pub(super) fn create(
        directory: &OwnedFd,
        names: &Names,
        part: &str,
        description: &Description,
    ) -> io::Result<Self> {
        let headers = create_file(directory, &names.headers())?;
        rustix::fs::mkdirat(directory, part, Mode::RWXU)?;
        let tree = Tree::new(open_directory(directory, part)?, description)?;
        Ok(Self {
            reader: ArchiveReader::default(),
            tree,
            headers: BufWriter::with_capacity(64 * 1024, headers),
        })
    }

    /// Opens the tree of an earlier run, and reads it again up to this offset of the stream.
    pub(super) fn resume(
        directory: &OwnedFd,
        names: &Names,
        part: &str,
        description: &Description,
        offset: u64,
        hasher: &mut Hasher,
    ) -> Result<Resume<Self>, DestinationError> {
        let Some((tree, headers)) = open_earlier(directory, names, part, description)? else {
            return Ok(Resume::Lost);
        };
        let mut headers = BufReader::new(headers);
        let mut reader = ArchiveReader::default();
        let mut tree = tree;
        match replay(&mut reader, &mut tree, &mut headers, offset, hasher) {
            Ok(()) => {}
            // Something was lost or changed, such as by a crash of the machine. All of it comes again.
            Err(Replay::Lost) => return Ok(Resume::Lost),
            Err(Replay::Failed(error)) => return Err(error),
        }
        let kept = headers.stream_position().and_then(|position| {
            let mut file = headers.into_inner();
            file.seek(SeekFrom::Start(position))?;
            Ok(file)
        });
        let headers = kept.map_err(|error| failed("read", &[], error))?;
        tree.earlier = None;
        remove_all(directory, names.earlier().as_bytes()).map_err(|error| failed("remove", &[], error))?;
        Ok(Resume::Part(Self { reader, tree, headers: BufWriter::with_capacity(64 * 1024, headers) }))
    }

    /// Takes the next bytes of the stream.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), DestinationError> {
        while !bytes.is_empty() {
            let length = self.expected_of(bytes.len());
            let (now, rest) = bytes.split_at_checked(length).unwrap_or((bytes, &[]));
            bytes = rest;
            if let Expected::Content(_) = self.reader.expected() {
                self.tree.write(now)?;
                if self.reader.content(now.len() as u64) {
                    self.tree.close()?;
                }
            } else {
                self.headers.write_all(now).map_err(|error| failed("write the headers of", &[], error))?;
                if let Some(entry) = self.reader.metadata(now)? {
                    self.tree.add(entry)?;
                }
            }
        }
        Ok(())
    }

    /// Returns how many of the bytes that are there can be taken at once.
    fn expected_of(&self, available: usize) -> usize {
        match self.reader.expected() {
            Expected::Content(left) => usize::try_from(left).unwrap_or(usize::MAX).min(available),
            Expected::Metadata(left) => left.min(available),
        }
    }

    /// Gives the system all that was written. Returns a descriptor of the file system, to be synced.
    pub(super) fn flush(&mut self) -> io::Result<OwnedFd> {
        self.headers.flush()?;
        self.tree.directories.root().try_clone()
    }

    /// Checks that the archive is whole, and gives the directories their modes and times.
    pub(super) fn close(&mut self) -> Result<(), DestinationError> {
        if !self.reader.may_end() {
            return Err(refused("the archive ends within an entry"));
        }
        self.tree.directories.leave_all().map_err(|error| failed("set the times of", &[], error))
    }
}

/// Opens the tree and the headers of an earlier run. Its tree becomes the earlier one, unless it was cut while it did so.
fn open_earlier(
    directory: &OwnedFd,
    names: &Names,
    part: &str,
    description: &Description,
) -> Result<Option<(Tree, File)>, DestinationError> {
    let opened = || {
        let headers = open_file(directory, names.headers().as_bytes())?;
        let earlier = names.earlier();
        if rustix::fs::statat(directory, &*earlier, AtFlags::SYMLINK_NOFOLLOW).is_err() {
            rustix::fs::renameat(directory, part, directory, &*earlier)?;
        }
        make_accessible(directory, earlier.as_bytes())?;
        let earlier = open_directory(directory, &earlier)?;
        match rustix::fs::mkdirat(directory, part, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let mut tree = Tree::new(open_directory(directory, part)?, description)?;
        tree.earlier = Some(Directories::new(earlier, Access::Open));
        Ok((tree, headers))
    };
    match opened() {
        Ok(opened) => Ok(Some(opened)),
        Err(error) if is_loss(&error) => Ok(None),
        Err(error) => Err(failed("open", &[], error)),
    }
}

/// Why an earlier run's stream cannot be read again.
enum Replay {
    Lost,
    Failed(DestinationError),
}

impl From<DestinationError> for Replay {
    fn from(error: DestinationError) -> Self {
        match error {
            DestinationError::Io { source, .. } if is_loss(&source) => Self::Lost,
            DestinationError::Refused { .. } => Self::Lost,
            error => Self::Failed(error),
        }
    }
}

/// Reads the stream again up to an offset: metadata from the headers, content from the files.
fn replay(
    reader: &mut ArchiveReader,
    tree: &mut Tree,
    headers: &mut BufReader<File>,
    offset: u64,
    hasher: &mut Hasher,
) -> Result<(), Replay> {
    let mut buffer = vec![0; 64 * 1024];
    let mut left = offset;
    while left > 0 {
        let expected = reader.expected();
        let length = match expected {
            Expected::Content(content) => content.min(left),
            Expected::Metadata(metadata) => left.min(metadata as u64),
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..length).unwrap_or_default();
        left -= length as u64;
        if let Expected::Content(_) = expected {
            tree.read(part)?;
            hasher.update(part);
            if reader.content(length as u64) {
                tree.close()?;
            }
        } else {
            headers.read_exact(part).map_err(|error| failed("read the headers of", &[], error))?;
            hasher.update(part);
            if let Some(entry) = reader.metadata(part)? {
                tree.add(entry)?;
            }
        }
    }
    tree.cut()?;
    Ok(())
}

impl Tree {
    fn new(root: OwnedFd, description: &Description) -> io::Result<Self> {
        let mut directories = Directories::new(root, Access::Make);
        directories.enter_finally(&[], finally_of(description, 0o777))?;
        let name = description.name.as_bytes().to_vec();
        Ok(Self { directories, earlier: None, name, rooted: None, file: None })
    }

    /// Makes an entry. Content may follow.
    fn add(&mut self, entry: Entry) -> Result<(), DestinationError> {
        let Entry { path, kind, mode, mtime } = entry;
        let is_root = kind == Kind::Directory && path == [self.name.as_slice()];
        let rooted = *self.rooted.get_or_insert(is_root);
        let path = if rooted {
            match path.split_first() {
                Some((first, below)) if *first == self.name => below.to_vec(),
                _ => {
                    return Err(refused(&format!(
                        "{} is outside of the directory",
                        shown(&path.join(&b'/'))
                    )));
                }
            }
        } else {
            path
        };
        let finally = Finally { mode, mtime: Some(mtime) };
        match (kind, path.split_last()) {
            (Kind::Directory, _) => {
                self.directories.enter_finally(&path, finally).map_err(|error| failed("make", &path, error))
            }
            (_, None) => Err(refused("the root of the archive is no directory")),
            (Kind::Symlink(target), Some((name, parent))) => {
                check_target(&path, &target, parent.len())?;
                self.link(parent, name, &target, mtime).map_err(|error| failed("make", &path, error))
            }
            (Kind::File(size), Some((name, parent))) => {
                let file = self.file_of(parent, name).map_err(|error| failed("create", &path, error))?;
                self.file = Some(OpenFile { path, file, size, finally });
                if size == 0 { self.close() } else { Ok(()) }
            }
        }
    }

    fn link(&mut self, parent: &[Vec<u8>], name: &[u8], target: &[u8], mtime: Time) -> io::Result<()> {
        let replaying = self.earlier.is_some();
        let parent = self.directories.enter(parent)?;
        match rustix::fs::symlinkat(target, parent, name) {
            // A restart that was cut has made it.
            Err(Errno::EXIST) if replaying => {
                rustix::fs::unlinkat(parent, name, AtFlags::empty())?;
                rustix::fs::symlinkat(target, parent, name)?;
            }
            result => result?,
        }
        // Not all file systems keep times of links.
        let _ = rustix::fs::utimensat(parent, name, &timestamps(mtime), AtFlags::SYMLINK_NOFOLLOW);
        Ok(())
    }

    /// Creates a file, or takes it from the earlier tree.
    fn file_of(&mut self, parent: &[Vec<u8>], name: &[u8]) -> io::Result<File> {
        let new = self.directories.enter(parent)?;
        let Some(earlier) = &mut self.earlier else {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            return Ok(rustix::fs::openat(new, name, flags, Mode::RUSR | Mode::WUSR)?.into());
        };
        // A restart that was cut has moved it already.
        if let Err(Errno::NOENT) = rustix::fs::statat(new, name, AtFlags::SYMLINK_NOFOLLOW) {
            let old = earlier.enter(parent)?;
            rustix::fs::renameat_with(old, name, new, name, RenameFlags::NOREPLACE)?;
        }
        open_file(&new, name)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DestinationError> {
        let Some(open) = &mut self.file else { return Ok(()) };
        open.file.write_all(bytes).map_err(|error| failed("write", &open.path, error))
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), DestinationError> {
        let Some(open) = &mut self.file else { return Ok(()) };
        open.file.read_exact(buffer).map_err(|error| failed("read", &open.path, error))
    }

    /// Gives the file its mode and time, and closes it.
    fn close(&mut self) -> Result<(), DestinationError> {
        let Some(OpenFile { path, file, size, finally }) = self.file.take() else { return Ok(()) };
        let closed = || {
            if self.earlier.is_some() && file.metadata()?.len() != size {
                return Err(io::ErrorKind::InvalidData.into());
            }
            finally.apply(&file)
        };
        closed().map_err(|error| failed("set the times of", &path, error))
    }

    /// Drops what the file of the current entry holds beyond what was read.
    fn cut(&mut self) -> Result<(), DestinationError> {
        let Some(open) = &mut self.file else { return Ok(()) };
        let cut = open.file.stream_position().and_then(|position| open.file.set_len(position));
        cut.map_err(|error| failed("cut", &open.path, error))
    }
}

/// Tells what went wrong with an entry.
fn failed(doing: &'static str, path: &[Vec<u8>], source: io::Error) -> DestinationError {
    let bytes = path.join(&b'/');
    match Errno::from_io_error(&source) {
        Some(Errno::EXIST | Errno::ISDIR) => refused(&format!(
            "{} is in the archive twice, or the file system here does not tell it from another name",
            shown(&bytes)
        )),
        Some(Errno::LOOP | Errno::NOTDIR) => {
            refused(&format!("{} leads through what is no directory", shown(&bytes)))
        }
        _ => DestinationError::Io { doing, path: PathBuf::from(OsStr::from_bytes(&bytes)), source },
    }
}
