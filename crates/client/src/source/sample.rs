//! A tree for tests, and how to compare trees.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use tempfile::TempDir;

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
        let mtime = UNIX_EPOCH + Duration::from_secs(1_600_000_000) + Duration::from_nanos(index as u64 * 1_000_001);
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

/// Returns path, kind, size or target, mode and time of all that is below a directory, and its content.
pub(crate) fn listing(directory: &Path) -> String {
    let find = r#"find holiday -printf '%P|%y|%l|%m|%T@|' \( -type f -printf '%s\n' -o -printf '\n' \) | sort; find holiday -type f -exec md5sum {} + | sort"#;
    let output = Command::new("sh").args(["-c", find]).env("LC_ALL", "C").current_dir(directory).output().unwrap();
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

