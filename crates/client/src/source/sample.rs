//! A tree for tests, and how to compare trees.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use tempfile::TempDir;

use crate::digest::Hasher;

/// Names that have broken programs.
const NAMES: [&[u8]; 9] = [
    b"plain",
    b"two words",
    b"quote'\"`$(x)",
    b"new\nline\ttab",
    b"\xff\xfeno-utf-8",
    "Übergröße 東京 👩‍🚀".as_bytes(),
    b"-rf *",
    b".hidden",
    b"back\\slash",
];

pub(crate) fn write(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap();
}

/// Makes a tree with awkward names, sizes, times, modes and links.
pub(crate) fn tree() -> TempDir {
    let root = TempDir::with_prefix("tree").unwrap();
    let top = root.path().join("holiday");
    fs::create_dir(&top).unwrap();
    for (index, name) in NAMES.iter().enumerate() {
        let path = top.join(OsStr::from_bytes(name));
        write(&path, &vec![b'a'; index * 300]);
        let mtime =
            UNIX_EPOCH + Duration::from_secs(1_600_000_000) + Duration::from_nanos(index as u64 * 1_000_001);
        File::options().write(true).open(&path).unwrap().set_modified(mtime).unwrap();
    }
    let deep = top.join("d".repeat(90)).join("e".repeat(90)).join("ö");
    fs::create_dir_all(&deep).unwrap();
    write(&deep.join("big"), &(0..200_000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>());
    write(&deep.join("secret"), b"x");
    fs::set_permissions(deep.join("secret"), fs::Permissions::from_mode(0o4751)).unwrap();
    symlink("../plain", top.join("d".repeat(90)).join("link")).unwrap();
    symlink("é".repeat(80), top.join("dangling")).unwrap();
    fs::create_dir(top.join("empty")).unwrap();
    fs::hard_link(top.join("plain"), top.join("hard")).unwrap();
    root
}

/// Returns path, kind, mode, time and content of all that is below a directory, one a line. Times of links are left out: copies do not keep
/// them.
pub(crate) fn listing(directory: &Path) -> String {
    let mut lines = Vec::new();
    walk(directory, &mut |path| {
        let metadata = fs::symlink_metadata(path).unwrap();
        let content = if metadata.is_symlink() {
            format!("-> {:?}", fs::read_link(path).unwrap())
        } else {
            let mut hasher = Hasher::default();
            hasher.update(&if metadata.is_file() { fs::read(path).unwrap() } else { vec![] });
            let (mode, seconds) = (metadata.mode(), metadata.mtime());
            format!("{mode:o} {seconds}.{:09} {}", metadata.mtime_nsec(), hasher.digest())
        };
        lines.push(format!("{:?} {content}", path.strip_prefix(directory).unwrap()));
    });
    lines.sort();
    lines.join("\n")
}

/// Copies all that is below a directory, with modes and times.
pub(crate) fn copy_of(directory: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    let mut directories = Vec::new();
    walk(directory, &mut |path| {
        let to = copy.path().join(path.strip_prefix(directory).unwrap());
        let metadata = fs::symlink_metadata(path).unwrap();
        if metadata.is_symlink() {
            symlink(fs::read_link(path).unwrap(), to).unwrap();
        } else if metadata.is_dir() {
            fs::create_dir(&to).unwrap();
            directories.push((to, metadata));
        } else {
            fs::copy(path, &to).unwrap();
            File::open(&to).unwrap().set_modified(metadata.modified().unwrap()).unwrap();
        }
    });
    for (to, metadata) in directories.iter().rev() {
        fs::set_permissions(to, metadata.permissions()).unwrap();
        File::open(to).unwrap().set_modified(metadata.modified().unwrap()).unwrap();
    }
    copy
}

/// Calls this with all that is below a directory, a directory before what is in it.
fn walk(directory: &Path, visit: &mut dyn FnMut(&Path)) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        visit(&path);
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            walk(&path, visit);
        }
    }
}

/// Makes a named pipe. No process is started for it: one would hold the locks of other tests for a moment.
pub(crate) fn make_pipe(path: &Path) {
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}
