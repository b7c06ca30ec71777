//! The state file: what a restarted receiver needs to go on.
//!
//! It lies in the directory that is received into, hidden, under a name that follows from the link. The name is a hash, so it does not
//! reveal the secret.
//!
//! *Invariants.* The file has two slots, each with a sequence number and a checksum, which are written in turn: a write that is cut leaves
//! the other slot. Only one process at a time has the file, by a lock that ends with it.
//!
//! *Bounds.* 16 KiB.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::digest::Hasher;
use crate::file_name::{MAX_NAME, shortened};
use crate::link::Link;
use crate::source::{Description, Kind};

/// The size of a slot. A record has three names of at most 255 bytes, each of which takes at most six bytes in JSON.
const SLOT: usize = 8192;

/// The version of the format.
const VERSION: u32 = 1;

/// The names, derived from a link, under which a receiver keeps what it has.
#[derive(Clone, Debug)]
pub(super) struct Names {
    key: String,
}

impl Names {
    pub(super) fn of(link: &Link) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(b"http-rendezvous state 1");
        hasher.update(link.secret().bytes());
        let mut key = hasher.digest().to_string();
        key.truncate(16);
        Self { key }
    }

    /// The state file.
    pub(super) fn state(&self) -> String {
        format!(".rendezvous-{}.state", self.key)
    }

    /// The headers of an archive that is being unpacked.
    pub(super) fn headers(&self) -> String {
        format!(".rendezvous-{}.headers", self.key)
    }

    /// What a tree held before the receiver was restarted.
    pub(super) fn earlier(&self) -> String {
        format!(".rendezvous-{}.earlier", self.key)
    }

    /// A directory that was replaced, until it is removed.
    pub(super) fn replaced(&self) -> String {
        format!(".rendezvous-{}.replaced", self.key)
    }

    /// The data, until it gets its name.
    pub(super) fn part(&self, target: &str) -> String {
        let suffix = format!(".{}.part", self.key);
        format!("{}{suffix}", shortened(target, MAX_NAME - suffix.len()))
    }
}

/// What the state file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    v: u32,
    /// Grows with each record.
    sequence: u64,
    pub transfer: String,
    pub receiver: String,
    pub run: u32,
    kind: RecordKind,
    pub name: String,
    pub size: Option<u64>,
    pub mtime: Option<i64>,
    pub mode: Option<u32>,
    /// The name of `.part`.
    pub part: String,
    /// How many bytes are on disk.
    pub offset: u64,
    pub complete: Option<CompleteRecord>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RecordKind {
    File,
    Tar,
    Text,
}

impl From<Kind> for RecordKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::File => Self::File,
            Kind::Tar => Self::Tar,
            Kind::Text => Self::Text,
        }
    }
}

/// What is recorded once all data is verified and on disk, before it gets its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CompleteRecord {
    pub bytes: u64,
    pub sha256: String,
    /// The name that the data gets. `None` if it is no UTF-8.
    pub target: Option<String>,
}

impl Record {
    pub(super) fn new(
        transfer: &str,
        receiver: (&str, u32),
        description: &Description,
        part: String,
    ) -> Self {
        Self {
            v: VERSION,
            sequence: 0,
            transfer: transfer.to_owned(),
            receiver: receiver.0.to_owned(),
            run: receiver.1,
            kind: description.kind.into(),
            name: shortened(&description.name, MAX_NAME),
            size: description.size,
            mtime: description.mtime,
            mode: description.mode,
            part,
            offset: 0,
            complete: None,
        }
    }

    pub(super) fn description(&self) -> Description {
        let Self { size, mtime, mode, .. } = *self;
        let kind = match self.kind {
            RecordKind::File => Kind::File,
            RecordKind::Tar => Kind::Tar,
            RecordKind::Text => Kind::Text,
        };
        Description { kind, name: self.name.clone(), size, mtime, mode }
    }
}

/// The open and locked state file.
#[derive(Debug)]
pub(super) struct StateFile {
    file: File,
    sequence: u64,
}

/// What was found under the name of the state file.
#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    Record(Box<(StateFile, Record)>),
}

impl StateFile {
    /// Creates the file. There must be none.
    pub(super) fn create(directory: &OwnedFd, name: &str) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, name, flags, Mode::RUSR | Mode::WUSR)?;
        lock(&file)?;
        Ok(Self { file: file.into(), sequence: 0 })
    }

    /// Opens the file. One that holds no record is removed: its writer ended before it had anything.
    pub(super) fn open(directory: &OwnedFd, name: &str) -> io::Result<Found> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            result => File::from(result?),
        };
        lock(&file)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() || metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("it is not a file of this user: remove it"));
        }
        let records = [read_slot(&file, 0)?, read_slot(&file, 1)?];
        match records.into_iter().flatten().max_by_key(|record| record.sequence) {
            Some(record) if record.v == VERSION => {
                Ok(Found::Record(Box::new((Self { file, sequence: record.sequence }, record))))
            }
            Some(_) => {
                Err(io::Error::other("another version of the program wrote it: use that, or remove it"))
            }
            None => {
                rustix::fs::unlinkat(directory, name, AtFlags::empty())?;
                Ok(Found::Nothing)
            }
        }
    }

    /// Writes a record and syncs it.
    pub(super) fn write(&mut self, record: &Record) -> io::Result<()> {
        let sequence = self.sequence + 1;
        let record = Record { sequence, ..record.clone() };
        let json = serde_json::to_string(&record)?;
        let slot = format!("{json}\n{}\n", checksum(json.as_bytes()));
        if slot.len() > SLOT {
            return Err(io::Error::other("the names are too long"));
        }
        self.file.write_all_at(slot.as_bytes(), (sequence % 2) * SLOT as u64)?;
        rustix::fs::fdatasync(&self.file)?;
        self.sequence = sequence;
        Ok(())
    }
}

fn lock(file: &impl std::os::fd::AsFd) -> io::Result<()> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            return Err(io::Error::other(
                "another recv of the same link is running here: wait until it ends",
            ));
        }
        result => result?,
    }
    // Whoever had the lock before may have removed the file.
    if rustix::fs::fstat(file)?.st_nlink == 0 {
        return Err(io::Error::other(
            "another recv of the same link has just ended here: start this one again",
        ));
    }
    Ok(())
}

/// Returns the record of a slot, or `None` if it holds none that is whole.
fn read_slot(file: &File, slot: u64) -> io::Result<Option<Record>> {
    let mut bytes = vec![0; SLOT];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..)
        && !rest.is_empty()
    {
        match file.read_at(rest, slot * SLOT as u64 + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let (Some(json), Some(sum)) = (lines.next(), lines.next()) else { return Ok(None) };
    if sum != checksum(json).as_bytes() {
        return Ok(None);
    }
    Ok(serde_json::from_slice(json).ok())
}

fn checksum(json: &[u8]) -> String {
    let mut hasher = Hasher::default();
    hasher.update(json);
    hasher.digest().to_string()
}

#[cfg(test)]
mod tests {
    use rustix::fs::CWD;
    use tempfile::TempDir;

    use super::*;

    fn directory() -> (TempDir, OwnedFd) {
        let directory = TempDir::new().unwrap();
        let fd = rustix::fs::openat(CWD, directory.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
        (directory, fd)
    }

    fn record(offset: u64) -> Record {
        let description = Description {
            kind: Kind::Tar,
            name: "n\n\u{1f600}".into(),
            size: None,
            mtime: Some(-1),
            mode: None,
        };
        Record { offset, ..Record::new("transfer", ("receiver", 3), &description, "n.part".into()) }
    }

    fn read(fd: &OwnedFd) -> Option<Record> {
        match StateFile::open(fd, "state").unwrap() {
            Found::Nothing => None,
            Found::Record(found) => Some(found.1),
        }
    }

    #[test]
    fn the_last_whole_record_is_read_whatever_a_cut_write_left() {
        let (path, fd) = directory();
        let mut state = StateFile::create(&fd, "state").unwrap();
        for offset in 1..=5 {
            state.write(&record(offset)).unwrap();
        }
        drop(state);
        let file = path.path().join("state");
        let whole = std::fs::read(&file).unwrap();
        assert_eq!(read(&fd).unwrap().offset, 5);
        // The fifth record is in the second slot: after any number of its bytes, the fourth is the last.
        let length = whole[SLOT..].iter().rposition(|byte| *byte == b'\n').unwrap();
        for cut in (0..length).step_by(7) {
            let mut torn = whole.clone();
            torn[SLOT + cut] ^= 1;
            std::fs::write(&file, &torn).unwrap();
            assert_eq!(read(&fd).unwrap().offset, 4, "{cut}");
            std::fs::write(&file, &whole[..SLOT + cut]).unwrap();
            assert_eq!(read(&fd).unwrap().offset, 4, "{cut}");
        }
    }

    #[test]
    fn a_file_without_a_record_is_nothing() {
        let (path, fd) = directory();
        assert!(matches!(StateFile::open(&fd, "state").unwrap(), Found::Nothing));
        drop(StateFile::create(&fd, "state").unwrap());
        assert!(read(&fd).is_none());
        assert!(!path.path().join("state").exists());
    }

    #[test]
    fn a_second_receiver_of_the_same_link_is_refused() {
        let (_path, fd) = directory();
        let mut state = StateFile::create(&fd, "state").unwrap();
        state.write(&record(1)).unwrap();
        let error = StateFile::open(&fd, "state").unwrap_err();
        assert!(error.to_string().contains("another recv"), "{error}");
        drop(state);
        assert_eq!(read(&fd).unwrap().run, 3);
    }

    #[test]
    fn a_state_file_that_was_removed_before_it_was_locked_is_refused() {
        let (path, fd) = directory();
        let flags = OFlags::RDWR | OFlags::CREATE;
        let file = rustix::fs::openat(&fd, "state", flags, Mode::RUSR | Mode::WUSR).unwrap();
        lock(&file).unwrap();
        std::fs::remove_file(path.path().join("state")).unwrap();
        let error = lock(&file).unwrap_err();
        assert!(error.to_string().contains("start this one again"), "{error}");
    }

    #[test]
    fn a_link_in_place_of_the_state_file_is_not_followed() {
        let (path, fd) = directory();
        std::os::unix::fs::symlink("elsewhere", path.path().join("state")).unwrap();
        assert!(StateFile::open(&fd, "state").is_err());
        assert!(StateFile::create(&fd, "state").is_err());
        assert!(!path.path().join("elsewhere").exists());
    }

    #[test]
    fn names_follow_from_the_link_do_not_show_it_and_fit() {
        let text = "https://relay.example/r#000G40R40M30E209185GR38E1W";
        let names = Names::of(&text.parse().unwrap());
        assert_eq!(names.state(), Names::of(&text.to_lowercase().parse().unwrap()).state());
        assert_ne!(names.state(), Names::of(&text.replace("1W", "1G").parse().unwrap()).state());
        assert!(!names.state().contains("000g40"));
        assert!(names.part("a.txt").starts_with("a.txt."));
        assert!(names.part(&"é".repeat(127)).len() <= 255);
    }
}
