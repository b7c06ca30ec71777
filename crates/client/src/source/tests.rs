//! What is sent, as a receiver sees it: descriptions, archives that GNU tar reads, offsets, and changes.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use tempfile::TempDir;

use super::sample::{make_pipe, tree, write};
use super::*;

fn open_tree(root: &TempDir) -> Box<dyn Source> {
    open(&[root.path().join("holiday")], None, 0).unwrap()
}

fn read_all(source: &mut dyn Source, step: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = vec![0xee; step];
    loop {
        match source.read(&mut buffer).unwrap() {
            0 => return all,
            read => all.extend_from_slice(&buffer[..read]),
        }
    }
}

/// Reads until an error comes.
fn read_error(source: &mut dyn Source) -> SourceError {
    let mut buffer = vec![0; 10_000];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => panic!("no error"),
            Ok(_) => {}
            Err(error) => return error,
        }
    }
}

#[test]
fn a_file_that_is_made_when_it_is_read_is_sent_as_a_pipe() {
    let path = PathBuf::from("/proc/self/mounts");
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    let mut source = open(std::slice::from_ref(&path), None, 0).unwrap();
    assert_eq!((source.description().name.as_str(), source.description().size), ("mounts", None));
    assert_eq!(read_all(&mut *source, 1000), fs::read(&path).unwrap());
}

#[test]
fn an_empty_name_is_none() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("a");
    write(&path, b"0");
    for (source, name) in [
        (open(std::slice::from_ref(&path), Some(""), 0).unwrap(), "a"),
        (open(&[path.clone(), directory.path().to_owned()], Some(""), 0).unwrap(), "a and 1 more"),
        (pipe(io::empty(), Some(""), 0), "stdin"),
    ] {
        assert_eq!(source.description().name, name);
    }
}

#[test]
fn a_file_is_described_and_read_from_any_offset() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("dump's.sql");
    write(&path, b"0123456789");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let mtime = UNIX_EPOCH + Duration::from_secs(1_234_567_890);
    File::options().write(true).open(&path).unwrap().set_modified(mtime).unwrap();
    let mut source = open(std::slice::from_ref(&path), None, 0).unwrap();
    let expected = Description {
        kind: Kind::File,
        name: "dump's.sql".into(),
        size: Some(10),
        mtime: Some(1_234_567_890),
        mode: Some(0o640),
    };
    assert_eq!(source.description(), &expected);
    assert_eq!(read_all(&mut *source, 3), b"0123456789");
    assert_eq!(source.earliest(), 0);
    source.seek(7).unwrap();
    assert_eq!(read_all(&mut *source, 100), b"789");
    source.check().unwrap();
    assert_eq!(open(&[path], Some("other"), 0).unwrap().description().name, "other");
}

#[test]
fn a_file_that_changes_while_it_is_sent_is_an_error() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 5] = [
        ("grows", |path| File::options().append(true).open(path).unwrap().write_all(b"more").unwrap()),
        ("shrinks", |path| File::options().write(true).open(path).unwrap().set_len(3).unwrap()),
        ("is written", |path| {
            write(path, b"9876543210");
            let file = File::options().write(true).open(path).unwrap();
            file.set_modified(UNIX_EPOCH).unwrap();
        }),
        ("is replaced", |path| {
            let modified = fs::metadata(path).unwrap().modified().unwrap();
            let other = path.with_extension("new");
            write(&other, b"0123456789");
            File::options().write(true).open(&other).unwrap().set_modified(modified).unwrap();
            fs::rename(other, path).unwrap();
        }),
        ("is removed", |path| fs::remove_file(path).unwrap()),
    ];
    for (what, change) in changes {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("file");
        write(&path, b"0123456789");
        let mut source = open(std::slice::from_ref(&path), None, 0).unwrap();
        source.check().unwrap();
        change(&path);
        let error = source.check().unwrap_err();
        assert!(matches!(&error, SourceError::Changed { what } if what.contains("file")), "{what}: {error}");
    }
}

#[test]
fn a_tree_is_described_and_its_files_are_counted() {
    let root = tree();
    let mut source = open_tree(&root);
    let stream = read_all(&mut *source, 65_536);
    let metadata = fs::metadata(root.path().join("holiday")).unwrap();
    let expected = Description {
        kind: Kind::Tar,
        name: "holiday".into(),
        size: Some(stream.len() as u64),
        mtime: Some(metadata.mtime()),
        mode: Some(metadata.mode() & 0o777),
    };
    assert_eq!((source.description(), source.files()), (&expected, 12));
}

#[test]
fn several_paths_lie_side_by_side_in_one_directory() {
    let root = tree();
    let (top, other) = (root.path().join("holiday"), root.path().join("other"));
    write(&other, b"other");
    symlink(&other, root.path().join("to-other")).unwrap();
    let paths = [other.clone(), top.join("empty"), root.path().join("to-other")];
    let mut source = open(&paths, None, 0).unwrap();
    assert_eq!(source.description().name, "other and 2 more");
    let stream = read_all(&mut *source, 1000);
    let mut archive = tar::Archive::new(&stream[..]);
    let names: Vec<String> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    // A link that the user named is followed.
    let expected = [
        "other and 2 more/",
        "other and 2 more/empty/",
        "other and 2 more/other",
        "other and 2 more/to-other",
    ];
    assert_eq!(names, expected);
    let error = open(&[other.clone(), other], None, 0).err().unwrap().to_string();
    assert!(error.contains("same name"), "{error}");
}

#[test]
fn what_cannot_be_stored_elsewhere_is_left_out_and_told() {
    let root = tree();
    let top = root.path().join("holiday");
    symlink("/etc/passwd", top.join("absolute")).unwrap();
    symlink("../../x", top.join("empty/up")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(top.join("socket")).unwrap();
    let mut source = open_tree(&root);
    let mut told: Vec<String> = source
        .left_out()
        .iter()
        .map(|left_out| left_out.to_string().replace(&format!("{}/", top.display()), ""))
        .collect();
    told.sort();
    let expected = [
        "absolute is not sent: it is a link that leads out",
        "empty/up is not sent: it is a link that leads out",
        "socket is not sent: it is a socket",
    ];
    assert_eq!(told, expected);
    let stream = read_all(&mut *source, 4096);
    assert!(!String::from_utf8_lossy(&stream).contains("absolute"));
}

#[test]
fn a_tree_that_changes_before_a_file_is_read_is_an_error() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 5] = [
        ("grows", |path| File::options().append(true).open(path).unwrap().write_all(b"more").unwrap()),
        ("shrinks", |path| File::options().write(true).open(path).unwrap().set_len(3).unwrap()),
        ("is removed", |path| fs::remove_file(path).unwrap()),
        ("becomes a directory", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("becomes a pipe without a writer", |path| {
            fs::remove_file(path).unwrap();
            make_pipe(path);
        }),
    ];
    for (what, change) in changes {
        let root = tree();
        let mut source = open_tree(&root);
        change(&root.path().join("holiday/two words"));
        let error = read_error(&mut *source);
        assert!(
            matches!(&error, SourceError::Changed { what } if what.contains("two words")),
            "{what}: {error}"
        );
    }
}

#[test]
fn a_file_of_a_tree_that_is_written_while_it_is_read_is_an_error() {
    let root = tree();
    let mut source = open_tree(&root);
    let big = root.path().join("holiday").join("d".repeat(90)).join("e".repeat(90)).join("ö/big");
    let mut buffer = vec![0; 100_000];
    // The file begins within the first 100,000 bytes and has 800,000.
    for _ in 0..3 {
        assert_eq!(source.read(&mut buffer).unwrap(), buffer.len());
    }
    source.check().unwrap();
    File::options().append(true).open(big).unwrap().write_all(b"more").unwrap();
    assert!(matches!(source.check(), Err(SourceError::Changed { .. })));
    assert!(matches!(read_error(&mut *source), SourceError::Changed { .. }));
}

#[test]
fn a_named_pipe_is_read_as_a_pipe() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("fifo");
    make_pipe(&path);
    let written = vec![7; 1 << 20];
    for (replay_buffer, can_begin_anew) in [(written.len(), true), (0, false)] {
        let (to, bytes) = (path.clone(), written.clone());
        let writer = std::thread::spawn(move || fs::write(to, bytes).unwrap());
        let mut source = open(std::slice::from_ref(&path), None, replay_buffer).unwrap();
        assert_eq!((source.description().size, &*source.description().name), (None, "fifo"));
        assert_eq!(read_all(&mut *source, 5000), written);
        assert_eq!(source.seek(0).is_ok(), can_begin_anew, "with {replay_buffer} bytes");
        writer.join().unwrap();
    }
}

#[test]
fn the_current_directory_has_a_name() {
    let here = open(&[PathBuf::from("src/..")], None, 0).unwrap();
    assert_eq!(here.description().name, "client");
}

#[test]
fn any_offset_of_a_tree_can_be_made_again() {
    let root = tree();
    let mut source = open_tree(&root);
    let stream = read_all(&mut *source, 65_536);
    let mut another = open_tree(&root);
    assert_eq!(read_all(&mut *another, 777), stream, "another look at the same tree gives the same stream");
    let source = std::cell::RefCell::new(source);
    proptest!(ProptestConfig::with_cases(200), |(at in any::<prop::sample::Index>(), step in 1..5000usize, length in 1..20_000usize)| {
        let offset = at.index(stream.len() + 1);
        let mut source = source.borrow_mut();
        source.seek(offset as u64).unwrap();
        let mut part = Vec::new();
        let mut buffer = vec![0xee; step];
        while part.len() < length {
            match source.read(&mut buffer).unwrap() {
                0 => break,
                read => part.extend_from_slice(&buffer[..read]),
            }
        }
        prop_assert_eq!(&part[..], &stream[offset..stream.len().min(offset + part.len())]);
        prop_assert!(part.len() >= length.min(stream.len() - offset));
    });
}
