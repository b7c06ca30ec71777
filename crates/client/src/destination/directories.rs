//! Walks and makes the directories of a tree, without ever following a link.
//!
//! *Invariants.* Each directory is opened in its parent, by one component, with `O_NOFOLLOW`. A directory gets its mode and time when it is
//! left, once what is in it is written; one that is entered again later keeps those it had.
//!
//! *Bounds.* One descriptor per directory of the current path.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use crate::source::header::Time;

const OPEN_DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The directories from the root of a tree down to the current one.
#[derive(Debug)]
pub(super) struct Directories {
    root: OwnedFd,
    root_finally: Option<Finally>,
    stack: Vec<Level>,
    access: Access,
}

#[derive(Debug)]
struct Level {
    name: Vec<u8>,
    fd: OwnedFd,
    finally: Option<Finally>,
}

/// What a directory gets when it is left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finally {
    pub mode: u32,
    /// `None` keeps the time of the last write.
    pub mtime: Option<Time>,
}

/// What happens when a directory is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// It is made if it is missing.
    Make,
    /// It must exist, and is made writable.
    Open,
}

impl Directories {
    pub(super) fn new(root: OwnedFd, access: Access) -> Self {
        Self { root, root_finally: None, stack: Vec::new(), access }
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Goes to the directory of this path below the root, and returns it.
    pub(super) fn enter(&mut self, path: &[Vec<u8>]) -> io::Result<BorrowedFd<'_>> {
        let common = self.stack.iter().zip(path).take_while(|(level, name)| level.name == **name).count();
        self.leave_to(common)?;
        for name in path.iter().skip(common) {
            let level = self.open(name)?;
            self.stack.push(level);
        }
        Ok(self.stack.last().map_or(self.root.as_fd(), |level| level.fd.as_fd()))
    }

    /// Goes to the directory of this path, and sets what it gets when it is left.
    pub(super) fn enter_finally(&mut self, path: &[Vec<u8>], finally: Finally) -> io::Result<()> {
        self.enter(path)?;
        let slot = self.stack.last_mut().map_or(&mut self.root_finally, |level| &mut level.finally);
        *slot = Some(finally);
        Ok(())
    }

    /// Leaves all directories and the root.
    pub(super) fn leave_all(&mut self) -> io::Result<()> {
        self.leave_to(0)?;
        if let Some(finally) = self.root_finally.take() {
            finally.apply(&self.root)?;
        }
        Ok(())
    }

    fn leave_to(&mut self, depth: usize) -> io::Result<()> {
        while self.stack.len() > depth {
            if let Some(Level { fd, finally: Some(finally), .. }) = self.stack.pop() {
                finally.apply(&fd)?;
            }
        }
        Ok(())
    }

    /// Opens a directory in the current one.
    fn open(&self, name: &[u8]) -> io::Result<Level> {
        let parent = self.stack.last().map_or(&self.root, |level| &level.fd);
        let made = self.access == Access::Make
            && match rustix::fs::mkdirat(parent, name, Mode::RWXU | Mode::RWXG | Mode::RWXO) {
                Err(Errno::EXIST) => false,
                result => result.map(|()| true)?,
            };
        let finally = if made { None } else { Some(make_accessible(parent, name)?) };
        let fd = rustix::fs::openat(parent, name, OPEN_DIRECTORY, Mode::empty())?;
        Ok(Level { name: name.to_vec(), fd, finally: finally.filter(|_| self.access == Access::Make) })
    }
}

impl Finally {
    fn of(stat: &Stat) -> Self {
        Self { mode: stat.st_mode & 0o777, mtime: Some(mtime_of(stat)) }
    }

    /// Gives an open file or directory its mode and time.
    pub(super) fn apply(&self, fd: &impl AsFd) -> io::Result<()> {
        rustix::fs::fchmod(fd, Mode::from_raw_mode(self.mode & 0o777))?;
        if let Some(mtime) = self.mtime {
            rustix::fs::futimens(fd, &timestamps(mtime))?;
        }
        Ok(())
    }
}

/// Returns the times to set: the last access stays.
pub(super) fn timestamps(mtime: Time) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() },
    }
}

fn mtime_of(stat: &Stat) -> Time {
    // The system gives 0 to 999,999,999.
    Time { seconds: stat.st_mtime, nanoseconds: u32::try_from(stat.st_mtime_nsec).unwrap_or(0) }
}

/// Gives the owner all rights to a directory, so that its entries can be changed. Returns the mode and time that it had.
pub(super) fn make_accessible(parent: &impl AsFd, name: &[u8]) -> io::Result<Finally> {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory && stat.st_mode & 0o700 != 0o700 {
        rustix::fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
    }
    Ok(Finally::of(&stat))
}

/// Opens a directory in another one, which is not a link.
pub(super) fn open_directory(parent: &impl AsFd, name: &str) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(parent, name, OPEN_DIRECTORY, Mode::empty())?)
}

/// Removes a file, or a directory with all that is in it. Links are removed, not followed. What is not there is removed.
pub(super) fn remove_all(parent: &impl AsFd, name: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    make_accessible(parent, name)?;
    let directory = rustix::fs::openat(parent, name, OPEN_DIRECTORY, Mode::empty())?;
    // The depth is bounded by that of the archive.
    for entry in Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            remove_all(&directory, name)?;
        }
    }
    rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?;
    Ok(())
}
