//! The stream of a tree is an archive that GNU tar unpacks to the same tree. A page saves it as such a file.
#![allow(clippy::unwrap_used, reason = "a test fails loudly")]

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use rendezvous_client::source;
use tempfile::TempDir;

/// Names that have broken programs. The last is no UTF-8.
const NAMES: [&[u8]; 6] =
    [b"two words", b"quote'\"", b"new\nline", "Übergröße 東京".as_bytes(), &[b'l'; 200], b"\xff\xfe"];

fn make_tree(top: &Path) {
    let deep = top.join("d".repeat(90)).join("e".repeat(90)).join("ö");
    fs::create_dir_all(&deep).unwrap();
    for (index, name) in NAMES.iter().enumerate() {
        let path = deep.join(OsStr::from_bytes(name));
        fs::write(&path, vec![b'a'; index * 300]).unwrap();
        let mtime =
            UNIX_EPOCH + Duration::from_secs(1_600_000_000) + Duration::from_nanos(index as u64 * 1_000_001);
        File::options().write(true).open(&path).unwrap().set_modified(mtime).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600 + u32::try_from(index).unwrap()))
            .unwrap();
    }
    symlink("é".repeat(80), top.join("link")).unwrap();
    fs::create_dir(top.join("empty")).unwrap();
}

/// Returns path, kind, target, mode, time and size of all that is below a directory.
fn listing(directory: &Path) -> String {
    let find = r"find holiday -printf '%P|%y|%l|%m|%T@|' \( -type f -printf '%s\n' -o -printf '\n' \) | sort";
    let output =
        Command::new("sh").args(["-c", find]).env("LC_ALL", "C").current_dir(directory).output().unwrap();
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn gnu_tar_unpacks_the_stream_of_a_tree_to_the_same_tree() {
    let (from, to) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let top = from.path().join("holiday");
    make_tree(&top);
    let mut source = source::open(&[top], None, 0).unwrap();
    let mut stream = vec![0; 1_000_000];
    let length = source.read(&mut stream).unwrap();
    assert_eq!(source.description().size, Some(length as u64));
    let mut tar = Command::new("tar");
    let mut tar = tar.args(["-xpf", "-", "-C"]).arg(to.path()).stdin(Stdio::piped()).spawn().unwrap();
    tar.stdin.take().unwrap().write_all(&stream[..length]).unwrap();
    assert!(tar.wait().unwrap().success());
    let listed = listing(to.path());
    assert_eq!(listed.lines().count(), 13, "{listed}");
    assert_eq!(listing(from.path()), listed);
}
