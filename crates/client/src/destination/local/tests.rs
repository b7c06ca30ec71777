//! What is on disk after a transfer, after cuts at any point, and after hostile archives.

mod cuts;
mod hostile;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;
use crate::destination::{Existing, directory};
use crate::source::sample::{listing, tree};
use crate::source::{self, Kind};

const LINK: &str = "https://relay.example/r#000G40R40M30E209185GR38E1W";

/// A destination in this directory, with the name that the sender chose.
fn local(into: &Path, existing: Existing) -> Local {
    Local::new(Place::open(into, None, existing).unwrap(), &LINK.parse().unwrap())
}

fn file(name: &str, size: u64) -> Description {
    let (mtime, mode) = (Some(1_234_567_890), Some(0o104_640));
    Description { kind: Kind::File, name: name.into(), size: Some(size), mtime, mode }
}

fn receiver() -> ReceiverId {
    ReceiverId { name: Id::random(), run: 0 }
}

fn digest(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher.digest()
}

fn begin(local: &mut Local, description: &Description) -> Result<(), DestinationError> {
    assert!(local.resume()?.is_none());
    local.begin(&Id::random(), &receiver(), description)
}

/// Receives all of it in one run.
fn receive(
    into: &Path,
    existing: Existing,
    description: &Description,
    bytes: &[u8],
) -> Result<PathBuf, DestinationError> {
    let mut local = local(into, existing);
    begin(&mut local, description)?;
    for part in bytes.chunks(65_536) {
        local.write(part)?;
    }
    assert_eq!(local.finish(bytes.len() as u64, &digest(bytes))?, Stored::Disk);
    local.confirmed()?;
    Ok(local.stored_at().unwrap().to_owned())
}

/// Returns the names in a directory.
fn names_in(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn stream_of(root: &TempDir) -> (Description, Vec<u8>) {
    let mut source = source::open(&[root.path().join("holiday")], None, 0).unwrap();
    let mut stream = vec![0; usize::try_from(source.description().size.unwrap()).unwrap()];
    assert_eq!(source.read(&mut stream).unwrap(), stream.len());
    assert_eq!(source.read(&mut [0]).unwrap(), 0);
    (source.description().clone(), stream)
}

/// Returns the bytes of an archive with these entries. A file is `(path, content)`, a directory ends in `/`, a link is `path -> target`.
fn archive(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut stream = Vec::new();
    for (path, content) in entries {
        let (path, kind) = match path.split_once(" -> ") {
            Some((path, target)) => (path, source::header::EntryKind::Symlink { target: target.as_bytes() }),
            None if path.ends_with('/') => (*path, source::header::EntryKind::Directory),
            None => (*path, source::header::EntryKind::File { size: content.len() as u64 }),
        };
        let mtime = source::header::Time { seconds: 1_000_000_000, nanoseconds: 0 };
        let head = source::header::EntryHead { path: path.as_bytes(), kind, mode: 0o755, mtime };
        stream.extend(head.encode());
        stream.extend(content.as_bytes());
        stream.resize(stream.len().next_multiple_of(512), 0);
    }
    stream.resize(stream.len() + 1024, 0);
    stream
}

fn tar(name: &str) -> Description {
    Description { kind: Kind::Tar, name: name.into(), size: None, mtime: None, mode: None }
}

#[test]
fn a_file_has_its_content_name_mode_and_time_and_nothing_else_remains() {
    let into = TempDir::new().unwrap();
    let path = receive(into.path(), Existing::Fail, &file("a b'c.sql", 11), b"hello world").unwrap();
    assert_eq!(path, into.path().join("a b'c.sql"));
    assert_eq!(fs::read(&path).unwrap(), b"hello world");
    let metadata = fs::metadata(&path).unwrap();
    // Neither setuid nor the kind is taken over.
    assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o640, 1_234_567_890));
    assert_eq!(names_in(into.path()), ["a b'c.sql"]);
}

#[test]
fn an_empty_file_is_a_file() {
    let into = TempDir::new().unwrap();
    let path = receive(into.path(), Existing::Fail, &file("empty", 0), b"").unwrap();
    assert_eq!(fs::read(path).unwrap(), b"");
}

#[test]
fn data_without_a_mode_gets_that_of_a_new_file() {
    let into = TempDir::new().unwrap();
    fs::write(into.path().join("new"), "").unwrap();
    fs::create_dir(into.path().join("new-directory")).unwrap();
    let description = Description { mode: None, mtime: None, size: None, ..file("pipe", 0) };
    let path = receive(into.path(), Existing::Fail, &description, b"x").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode();
    assert_eq!(mode(&path), mode(&into.path().join("new")));
    let path = receive(into.path(), Existing::Fail, &tar("tree"), &archive(&[("a", "1")])).unwrap();
    assert_eq!(mode(&path), mode(&into.path().join("new-directory")));
}

#[test]
fn a_hostile_name_stays_in_the_directory() {
    let into = TempDir::new().unwrap();
    for (name, safe) in
        [("../../x", "___.._x"), ("/etc/passwd", "_etc_passwd"), (".bashrc", "_bashrc"), ("", "_")]
    {
        let path = receive(into.path(), Existing::Fail, &file(name, 1), b"x").unwrap();
        assert_eq!(path, into.path().join(safe));
    }
    let long = receive(into.path(), Existing::Fail, &file(&"\u{1}".repeat(9000), 1), b"x").unwrap();
    assert_eq!(long, into.path().join("_".repeat(255)));
}

#[test]
fn a_tree_is_received_as_it_was_sent() {
    let root = tree();
    let (description, stream) = stream_of(&root);
    let into = TempDir::new().unwrap();
    let path = receive(into.path(), Existing::Fail, &description, &stream).unwrap();
    assert_eq!(path, into.path().join("holiday"));
    assert_eq!(names_in(into.path()), ["holiday"]);
    fs::set_permissions(
        root.path().join(format!("holiday/{}/{}/ö/secret", "d".repeat(90), "e".repeat(90))),
        fs::Permissions::from_mode(0o751),
    )
    .unwrap();
    assert_eq!(listing(into.path()), listing(root.path()));
}

#[test]
fn a_tree_may_get_another_name() {
    let root = tree();
    let (description, stream) = stream_of(&root);
    let into = TempDir::new().unwrap();
    let place = Place::open(into.path(), Some("other".into()), Existing::Fail).unwrap();
    let mut local = Local::new(place, &LINK.parse().unwrap());
    begin(&mut local, &description).unwrap();
    local.write(&stream).unwrap();
    local.finish(stream.len() as u64, &digest(&stream)).unwrap();
    assert!(into.path().join("other/plain").exists());
}

#[test]
fn an_archive_without_a_root_is_unpacked_into_one() {
    let into = TempDir::new().unwrap();
    let stream = archive(&[("a", "1"), ("holiday/b", "2"), ("./c/d/e", "3")]);
    receive(into.path(), Existing::Fail, &tar("holiday"), &stream).unwrap();
    for (path, content) in [("a", "1"), ("holiday/b", "2"), ("c/d/e", "3")] {
        assert_eq!(fs::read_to_string(into.path().join("holiday").join(path)).unwrap(), content);
    }
}

#[test]
fn directories_keep_their_modes_and_times_in_whatever_order_the_entries_come() {
    let into = TempDir::new().unwrap();
    let stream = archive(&[("a/b/", ""), ("a/", ""), ("c/x", "1"), ("a/b/y", "2"), ("c/", ""), ("a/z", "3")]);
    let path = receive(into.path(), Existing::Fail, &tar("t"), &stream).unwrap();
    for name in ["a", "a/b", "c", "a/b/y"] {
        let metadata = fs::metadata(path.join(name)).unwrap();
        assert_eq!((metadata.mtime(), metadata.mode() & 0o777), (1_000_000_000, 0o755), "{name}");
    }
}

#[test]
fn what_exists_stays_unless_it_may_be_replaced() {
    let root = tree();
    let (description, stream) = stream_of(&root);
    let file = file("holiday", 3);
    for (description, bytes, what) in [(&file, &b"new"[..], "file"), (&description, &stream[..], "tree")] {
        for is_late in [false, true] {
            let into = TempDir::new().unwrap();
            let target = into.path().join("holiday");
            // Either there is something from the start, or it comes into being at the last moment.
            let exists = || {
                if what == "file" {
                    fs::write(&target, "old")
                } else {
                    fs::create_dir_all(target.join("old"))
                }
            };
            let receive = |existing: Existing| {
                let mut local = local(into.path(), existing);
                if !is_late {
                    exists().unwrap();
                }
                begin(&mut local, description)?;
                local.write(bytes)?;
                exists().unwrap();
                local.finish(bytes.len() as u64, &digest(bytes))?;
                local.confirmed()?;
                Ok::<_, DestinationError>(local.stored_at().unwrap().file_name().unwrap().to_owned())
            };
            let error = receive(Existing::Fail).unwrap_err();
            assert!(matches!(error, DestinationError::Exists { .. }), "{what} {error}");
            let is_old =
                || fs::read(&target).is_ok_and(|content| content == b"old") || target.join("old").exists();
            assert!(is_old(), "{what}");
            if is_late {
                // The data is complete and waits for another name.
                let resumed = local(into.path(), Existing::Rename).resume().unwrap().unwrap();
                assert!(resumed.complete.is_some());
                fs::remove_file(into.path().join(Names::of(&LINK.parse().unwrap()).state())).unwrap();
            } else {
                assert_eq!(receive(Existing::Rename).unwrap(), "holiday (1)");
            }
            assert_eq!(receive(Existing::Rename).unwrap(), "holiday (2)");
            assert!(is_old() && into.path().join("holiday (1)").exists(), "{what}");
            assert_eq!(receive(Existing::Force).unwrap(), "holiday");
            assert!(!is_old(), "{what}");
            assert_eq!(names_in(into.path()), ["holiday", "holiday (1)", "holiday (2)"]);
        }
    }
}

#[test]
fn a_file_does_not_replace_a_directory_and_a_link_is_replaced_not_followed() {
    let into = TempDir::new().unwrap();
    fs::create_dir(into.path().join("a")).unwrap();
    let error = receive(into.path(), Existing::Force, &file("a", 1), b"x").unwrap_err();
    assert!(error.to_string().contains("is a directory"), "{error}");
    fs::write(into.path().join("other"), "other").unwrap();
    symlink("other", into.path().join("b")).unwrap();
    receive(into.path(), Existing::Force, &file("b", 1), b"x").unwrap();
    assert!(fs::symlink_metadata(into.path().join("b")).unwrap().is_file());
    assert_eq!(fs::read(into.path().join("other")).unwrap(), b"other");
    symlink("nowhere", into.path().join("c")).unwrap();
    let error = receive(into.path(), Existing::Fail, &file("c", 1), b"x").unwrap_err();
    assert!(matches!(error, DestinationError::Exists { .. }));
}

#[test]
fn a_path_with_a_slash_at_its_end_is_a_directory_that_must_be_there() {
    let into = TempDir::new().unwrap();
    let path = into.path().join("other/");
    let Err(error) = directory(&path, &LINK.parse().unwrap(), Existing::Fail) else {
        panic!("a file is made")
    };
    assert!(error.to_string().starts_with("cannot open the directory"), "{error}");
    fs::create_dir(&path).unwrap();
    let mut local = directory(&path, &LINK.parse().unwrap(), Existing::Fail).unwrap();
    local.begin(&Id::random(), &receiver(), &file("a", 0)).unwrap();
    local.finish(0, &digest(b"")).unwrap();
    assert_eq!(local.stored_at(), Some(path.join("a").as_path()));
}

#[test]
fn more_than_is_free_is_refused_before_it_comes() {
    let into = TempDir::new().unwrap();
    let mut local = local(into.path(), Existing::Fail);
    let error = begin(&mut local, &file("a", 1 << 60)).unwrap_err();
    assert!(matches!(error, DestinationError::NoSpace { needed, .. } if needed == 1 << 60), "{error}");
    assert!(names_in(into.path()).is_empty());
}

#[test]
fn a_full_file_system_is_told_as_such() {
    let local = local(Path::new("."), Existing::Fail);
    let full =
        DestinationError::Io { doing: "write", path: "a".into(), source: io::ErrorKind::StorageFull.into() };
    assert!(matches!(local.or_no_space(full), DestinationError::NoSpace { .. }));
}

#[test]
fn an_abandoned_transfer_leaves_nothing() {
    let root = tree();
    for (description, bytes) in [(file("a", 100), vec![1; 50]), stream_of(&root)] {
        let into = TempDir::new().unwrap();
        let mut local = local(into.path(), Existing::Fail);
        begin(&mut local, &description).unwrap();
        local.write(&bytes[..bytes.len() / 2]).unwrap();
        assert_eq!(names_in(into.path()).len(), if description.kind == Kind::Tar { 3 } else { 2 });
        local.abandon();
        drop(local);
        assert!(names_in(into.path()).is_empty());
    }
}

#[test]
fn until_it_is_whole_nobody_else_can_read_it() {
    let into = TempDir::new().unwrap();
    let mut local = local(into.path(), Existing::Fail);
    begin(&mut local, &file("a", 1)).unwrap();
    local.write(b"x").unwrap();
    for name in names_in(into.path()) {
        assert_eq!(fs::metadata(into.path().join(&name)).unwrap().mode() & 0o077, 0, "{name}");
    }
}

#[test]
fn the_output_may_be_a_file_that_is_to_be_made_or_a_device() {
    let into = TempDir::new().unwrap();
    let link = LINK.parse().unwrap();
    let begin = |path: &Path, existing| {
        let mut destination = directory(path, &link, existing)?;
        destination.begin(&Id::random(), &receiver(), &file("theirs", 1))?;
        destination.write(b"x")?;
        let stored = destination.finish(1, &digest(b"x"))?;
        destination.confirmed()?;
        Ok::<_, DestinationError>((stored, destination.stored_at().map(Path::to_owned)))
    };
    let mine = into.path().join("mine");
    assert_eq!(begin(&mine, Existing::Fail).unwrap(), (Stored::Disk, Some(mine.clone())));
    assert!(matches!(begin(&mine, Existing::Fail), Err(DestinationError::Exists { .. })));
    assert_eq!(begin(into.path(), Existing::Fail).unwrap().1, Some(into.path().join("theirs")));
    assert_eq!(begin(Path::new("/dev/null"), Existing::Force).unwrap(), (Stored::Handed, None));
    let missing = begin(&into.path().join("missing/mine"), Existing::Fail).unwrap_err().to_string();
    assert!(missing.contains("open the directory") && missing.contains("missing"), "{missing}");
}
