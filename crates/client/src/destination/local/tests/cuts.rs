//! Receivers that end at any point, and those that go on after them. A copy of the directory at some moment is what the end of the process
//! at that moment would leave.

use proptest::prelude::*;

use super::*;
use crate::source::sample::copy_of;

/// Goes on with what a receiver left, to the end. Returns where it went on, or `None` if all had to come again.
fn go_on(into: &Path, existing: Existing, description: &Description, bytes: &[u8]) -> Option<usize> {
    let mut local = local(into, existing);
    let Some(resumed) = local.resume().unwrap() else {
        local.begin(&Id::random(), &receiver(), description).unwrap();
        complete(&mut local, bytes, 0);
        return None;
    };
    assert_eq!((&resumed.description, resumed.receiver.run), (description, 1));
    let offset = usize::try_from(resumed.bytes).unwrap();
    if let Some(complete) = resumed.complete {
        assert_eq!(complete, Complete { bytes: bytes.len() as u64, sha256: digest(bytes) });
        local.confirmed().unwrap();
    } else {
        assert_eq!(resumed.hasher.digest(), digest(&bytes[..offset]));
        complete(&mut local, bytes, offset);
    }
    Some(offset)
}

fn complete(local: &mut Local, bytes: &[u8], offset: usize) {
    for part in bytes[offset..].chunks(10_000) {
        local.write(part).unwrap();
    }
    local.finish(bytes.len() as u64, &digest(bytes)).unwrap();
    local.confirmed().unwrap();
}

/// A transfer of each kind: what it is, and its bytes.
fn transfers() -> [(Description, Vec<u8>); 2] {
    let content: Vec<u8> = (0..100_000u32).flat_map(u32::to_le_bytes).collect();
    let one = Description { mode: Some(0o640), ..file("holiday", content.len() as u64) };
    [(one, content), stream_of(&tree())]
}

/// Returns the listing of a directory that this was received into without a cut.
fn expected(description: &Description, bytes: &[u8]) -> String {
    let into = TempDir::new().unwrap();
    receive(into.path(), Existing::Fail, description, bytes).unwrap();
    listing(into.path())
}

/// Receives the first bytes, ends, and returns the path of `.part`.
fn receive_first(into: &Path, description: &Description, bytes: &[u8]) -> PathBuf {
    let mut first = local(into, Existing::Fail);
    begin(&mut first, description).unwrap();
    first.write(bytes).unwrap();
    into.join(&first.run.as_ref().unwrap().record.part)
}

#[test]
fn a_receiver_that_ends_goes_on_at_the_byte_where_it_was() {
    for (description, bytes) in transfers() {
        let expected = expected(&description, &bytes);
        let into = TempDir::new().unwrap();
        let mut first = local(into.path(), Existing::Fail);
        let (transfer, receiver) = (Id::random(), receiver());
        assert!(first.resume().unwrap().is_none());
        first.begin(&transfer, &receiver, &description).unwrap();
        let mut offset = 12_345;
        first.write(&bytes[..offset]).unwrap();
        drop(first);
        for run in 1..4 {
            let mut next = local(into.path(), Existing::Fail);
            let resumed = next.resume().unwrap().unwrap();
            assert_eq!((&resumed.transfer, &resumed.receiver.name), (&transfer, &receiver.name));
            assert_eq!((resumed.receiver.run, resumed.bytes), (run, offset as u64));
            assert_eq!(resumed.hasher.digest(), digest(&bytes[..offset]));
            next.write(&bytes[offset..offset + 77_777]).unwrap();
            offset += 77_777;
        }
        let mut last = local(into.path(), Existing::Fail);
        assert_eq!(last.resume().unwrap().unwrap().bytes, offset as u64);
        complete(&mut last, &bytes, offset);
        assert_eq!(listing(into.path()), expected);
        assert_eq!(names_in(into.path()), ["holiday"]);
    }
}

#[test]
fn whatever_was_written_after_the_last_record_is_dropped() {
    let transfers = transfers();
    let expected = transfers.each_ref().map(|(description, bytes)| expected(description, bytes));
    let index = any::<prop::sample::Index>;
    proptest!(ProptestConfig::with_cases(60), |(kind in 0..2usize, recorded in index(), killed in index())| {
        let (description, bytes) = &transfers[kind];
        let recorded = recorded.index(bytes.len());
        let killed = recorded + killed.index(bytes.len() - recorded);
        let into = TempDir::new().unwrap();
        let mut first = local(into.path(), Existing::Fail);
        begin(&mut first, description).unwrap();
        first.write(&bytes[..recorded]).unwrap();
        first.record_all().unwrap();
        first.write(&bytes[recorded..killed]).unwrap();
        let copy = copy_of(into.path());
        prop_assert_eq!(go_on(copy.path(), Existing::Fail, description, bytes), Some(recorded));
        prop_assert_eq!(names_in(copy.path()), ["holiday"]);
        prop_assert_eq!(&listing(copy.path()), &expected[kind]);
    });
}

/// Receives all, and returns a copy of the directory after each step of the end.
fn steps_of_the_end(
    into: &Path,
    existing: Existing,
    description: &Description,
    bytes: &[u8],
) -> Vec<(&'static str, TempDir)> {
    let mut copies = Vec::new();
    let mut local = local(into, existing);
    begin(&mut local, description).unwrap();
    local.write(bytes).unwrap();
    copies.push(("written", copy_of(into)));
    local.sync_part(bytes.len() as u64).unwrap();
    copies.push(("synced", copy_of(into)));
    local.record_complete(bytes.len() as u64, &digest(bytes)).unwrap();
    copies.push(("complete", copy_of(into)));
    if existing == Existing::Force && description.kind == Kind::Tar {
        let aside = copy_of(into);
        fs::rename(aside.path().join("holiday"), aside.path().join(local.names.replaced())).unwrap();
        copies.push(("moved aside", aside));
    }
    let part = local.run.as_ref().unwrap().record.part.clone();
    local.place.publish(&part, description, &local.names, |_| Ok(())).unwrap();
    copies.push(("named", copy_of(into)));
    local.published(OsStr::new("holiday")).unwrap();
    copies.push(("published", copy_of(into)));
    copies
}

#[test]
fn a_kill_at_any_step_of_the_end_leads_to_the_same_end() {
    for (description, bytes) in transfers() {
        let expected = expected(&description, &bytes);
        for existing in [Existing::Fail, Existing::Force, Existing::Rename] {
            let into = TempDir::new().unwrap();
            let target = into.path().join("holiday");
            if existing == Existing::Force && description.kind == Kind::Tar {
                fs::create_dir_all(target.join("old")).unwrap();
            } else if existing == Existing::Force {
                fs::write(&target, "old").unwrap();
            }
            for (step, copy) in steps_of_the_end(into.path(), existing, &description, &bytes) {
                let what = format!("{existing:?} {:?} {step}", description.kind);
                let offset = go_on(copy.path(), existing, &description, &bytes);
                let is_complete = !matches!(step, "written" | "synced");
                assert_eq!(offset, Some(if is_complete { bytes.len() } else { 0 }), "{what}");
                assert_eq!(names_in(copy.path()), ["holiday"], "{what}");
                assert_eq!(listing(copy.path()), expected, "{what}");
            }
        }
    }
}

#[test]
fn stored_data_that_was_moved_away_before_it_was_confirmed_is_not_said_to_be_there() {
    for (description, bytes) in transfers() {
        let into = TempDir::new().unwrap();
        let mut first = local(into.path(), Existing::Fail);
        begin(&mut first, &description).unwrap();
        first.write(&bytes).unwrap();
        first.finish(bytes.len() as u64, &digest(&bytes)).unwrap();
        drop(first);
        fs::rename(into.path().join("holiday"), into.path().join("elsewhere")).unwrap();
        let mut second = local(into.path(), Existing::Fail);
        let resumed = second.resume().unwrap().unwrap();
        assert_eq!(resumed.complete.unwrap().bytes, bytes.len() as u64, "the sender is still told");
        assert_eq!(second.stored_at(), None);
        second.confirmed().unwrap();
        assert_eq!(names_in(into.path()), ["elsewhere"]);
    }
}

#[test]
fn a_receiver_that_ends_while_it_reads_again_can_be_started_again() {
    let [_, (description, bytes)] = transfers();
    let expected = expected(&description, &bytes);
    let into = TempDir::new().unwrap();
    let offset = bytes.len() - 3000;
    let part = receive_first(into.path(), &description, &bytes[..offset]);
    // It had moved some of the files.
    let earlier = into.path().join(Names::of(&LINK.parse().unwrap()).earlier());
    fs::rename(&part, &earlier).unwrap();
    fs::create_dir(&part).unwrap();
    for name in ["-rf *", ".hidden", "back\\slash"] {
        fs::rename(earlier.join(name), part.join(name)).unwrap();
    }
    symlink("é".repeat(80), part.join("dangling")).unwrap();
    assert_eq!(go_on(into.path(), Existing::Fail, &description, &bytes), Some(offset));
    assert_eq!(listing(into.path()), expected);
    assert_eq!(names_in(into.path()), ["holiday"]);
}

#[test]
fn modes_without_rights_for_their_own_user_do_not_stop_a_restart() {
    use crate::source::header::{EntryHead, EntryKind, Time};
    let mut bytes = Vec::new();
    for (path, kind, mode) in [
        ("t/", EntryKind::Directory, 0o500),
        ("t/closed/", EntryKind::Directory, 0o000),
        ("t/closed/secret", EntryKind::File { size: 0 }, 0o000),
        ("t/d/", EntryKind::Directory, 0o555),
        ("t/d/f", EntryKind::File { size: 0 }, 0o444),
        ("t/e/", EntryKind::Directory, 0o700),
    ] {
        let mtime = Time { seconds: 1, nanoseconds: 0 };
        bytes.extend(EntryHead { path: path.as_bytes(), kind, mode, mtime }.encode());
    }
    bytes.resize(bytes.len() + 1024, 0);
    for offset in (0..=bytes.len()).step_by(256) {
        let into = TempDir::new().unwrap();
        receive_first(into.path(), &tar("t"), &bytes[..offset]);
        assert_eq!(go_on(into.path(), Existing::Fail, &tar("t"), &bytes), Some(offset));
        // And once more, which removes all of it.
        receive(into.path(), Existing::Force, &tar("t"), &bytes).unwrap();
        let mode = |path| fs::metadata(into.path().join(path)).unwrap().mode() & 0o777;
        assert_eq!([mode("t"), mode("t/closed"), mode("t/d"), mode("t/d/f")], [0o500, 0, 0o555, 0o444]);
        // So that the directory of the test can be removed.
        let mut local = local(into.path(), Existing::Fail);
        local.place.remove("t").unwrap();
        assert!(local.resume().unwrap().is_none());
    }
}

/// Something that happens to what a receiver left: in this directory, to this `.part`.
type Loss = fn(&Path, &Path);

fn remove_part(part: &Path) {
    fs::remove_file(part).or_else(|_| fs::remove_dir_all(part)).unwrap();
}

/// What is lost, for which kind of transfer, and how.
const LOSSES: [(&str, Option<Kind>, Loss); 7] = [
    ("no part", None, |_, part| remove_part(part)),
    ("a short file", Some(Kind::File), |_, part| {
        fs::File::options().write(true).open(part).unwrap().set_len(5).unwrap();
    }),
    ("a link in place of the part", None, |into, part| {
        remove_part(part);
        fs::write(into.join("victim"), "victim").unwrap();
        symlink("victim", part).unwrap();
    }),
    ("no headers", Some(Kind::Tar), |into, _| {
        fs::remove_file(into.join(Names::of(&LINK.parse().unwrap()).headers())).unwrap();
    }),
    ("a file of the tree is short", Some(Kind::Tar), |_, part| {
        fs::File::options().write(true).open(part.join("back\\slash")).unwrap().set_len(5).unwrap();
    }),
    ("a file of the tree is long", Some(Kind::Tar), |_, part| {
        fs::File::options().write(true).open(part.join("back\\slash")).unwrap().set_len(5000).unwrap();
    }),
    ("a link in place of a file of the tree", Some(Kind::Tar), |into, part| {
        fs::write(into.join("victim"), "victim").unwrap();
        fs::remove_file(part.join("back\\slash")).unwrap();
        symlink(into.join("victim"), part.join("back\\slash")).unwrap();
    }),
];

#[test]
fn data_that_was_lost_comes_again_from_the_start() {
    for (description, bytes) in transfers() {
        let expected = expected(&description, &bytes);
        for (what, kind, loss) in LOSSES {
            if kind.is_some_and(|kind| kind != description.kind) {
                continue;
            }
            let into = TempDir::new().unwrap();
            let part = receive_first(into.path(), &description, &bytes[..300_000]);
            loss(into.path(), &part);
            assert_eq!(go_on(into.path(), Existing::Fail, &description, &bytes), None, "{what}");
            if let Ok(victim) = fs::read(into.path().join("victim")) {
                assert_eq!(victim, b"victim", "{what}");
                fs::remove_file(into.path().join("victim")).unwrap();
            }
            assert_eq!(listing(into.path()), expected, "{what}");
        }
    }
}

#[test]
fn data_that_was_changed_is_seen_in_the_digest() {
    let [(description, bytes), _] = transfers();
    let into = TempDir::new().unwrap();
    let part = receive_first(into.path(), &description, &bytes[..300_000]);
    let mut content = fs::read(&part).unwrap();
    content[7] ^= 1;
    fs::write(&part, content).unwrap();
    let mut next = local(into.path(), Existing::Fail);
    let resumed = next.resume().unwrap().unwrap();
    assert_ne!(resumed.hasher.digest(), digest(&bytes[..300_000]));
    // So the receiver begins once again.
    next.restart().unwrap();
    next.begin(&resumed.transfer, &resumed.receiver, &description).unwrap();
    complete(&mut next, &bytes, 0);
    assert_eq!(fs::read(into.path().join("holiday")).unwrap(), bytes);
}

#[test]
fn another_link_finds_nothing() {
    let [(description, bytes), _] = transfers();
    let into = TempDir::new().unwrap();
    receive_first(into.path(), &description, &bytes[..3000]);
    let place = || Place::open(into.path(), None, Existing::Fail).unwrap();
    let other = LINK.replace("1W", "1G").parse().unwrap();
    assert!(Local::new(place(), &other).resume().unwrap().is_none());
    assert!(Local::new(place(), &LINK.parse().unwrap()).resume().unwrap().is_some());
}

#[test]
fn a_second_receiver_of_the_same_link_is_refused_while_the_first_runs() {
    let [(description, bytes), _] = transfers();
    let into = TempDir::new().unwrap();
    let mut first = local(into.path(), Existing::Fail);
    begin(&mut first, &description).unwrap();
    let error = local(into.path(), Existing::Fail).resume().unwrap_err();
    assert!(error.to_string().contains("another recv of the same link"), "{error}");
    complete(&mut first, &bytes, 0);
}

#[test]
fn a_target_that_came_into_being_is_seen_before_anything_is_asked_for() {
    let [(description, bytes), _] = transfers();
    let into = TempDir::new().unwrap();
    receive_first(into.path(), &description, &bytes[..3000]);
    fs::write(into.path().join("holiday"), "mine").unwrap();
    let error = local(into.path(), Existing::Fail).resume().unwrap_err();
    assert!(matches!(error, DestinationError::Exists { .. }), "{error}");
    // Nothing is lost by that.
    assert_eq!(local(into.path(), Existing::Rename).resume().unwrap().unwrap().bytes, 3000);
}
