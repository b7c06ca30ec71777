//! Archives that try to write elsewhere. Around the directory that is received into lies what they must not touch.

use super::*;

/// Receives an archive, and returns the error, if any. What lies around stays in any case.
fn unpack(entries: &[(&str, &str)]) -> Option<String> {
    let around = TempDir::new().unwrap();
    let into = around.path().join("into");
    fs::create_dir(&into).unwrap();
    fs::write(around.path().join("victim"), "safe").unwrap();
    fs::create_dir(around.path().join("outside")).unwrap();
    let mut local = local(&into, Existing::Fail);
    begin(&mut local, &tar("t")).unwrap();
    let stream = archive(entries);
    let result = local.write(&stream).and_then(|()| local.finish(stream.len() as u64, &digest(&stream)));
    assert_eq!(fs::read_to_string(around.path().join("victim")).unwrap(), "safe", "{entries:?}");
    assert_eq!(names_in(&around.path().join("outside")).len(), 0, "{entries:?}");
    assert_eq!(names_in(around.path()), ["into", "outside", "victim"], "{entries:?}");
    let error = result.err()?;
    assert!(matches!(error, DestinationError::Refused { .. }), "{entries:?}: {error}");
    local.abandon();
    assert!(names_in(&into).is_empty(), "{entries:?}");
    Some(error.to_string())
}

#[test]
fn an_archive_that_leads_out_is_refused_and_leaves_nothing() {
    for (entries, reason) in [
        (&[("../victim", "evil")][..], "leads out"),
        (&[("t/", ""), ("t/../../victim", "evil")], "leads out"),
        (&[("/etc/evil", "evil")], "absolute"),
        (&[("a -> /etc", "")], "leads out"),
        (&[("a -> ../../victim", "")], "leads out"),
        (&[("a -> ..", "")], "leads out"),
        (&[("t/", ""), ("t/a -> ..", "")], "leads out"),
        (&[("t/", ""), ("t/d/a -> ../..", "")], "leads out"),
        // Through a link to the root of the archive.
        (&[("d/", ""), ("d/e/l -> ../..", ""), ("y -> d/e/l/../outside", "")], "leads out"),
        (&[("a -> b", ""), ("a", "through the link")], "twice"),
        (&[("d/", ""), ("a -> d", ""), ("a/f", "through the link")], "no directory"),
        (&[("d/", ""), ("a -> d", ""), ("a/", "")], "no directory"),
        (&[("f", "1"), ("f/g", "2")], "no directory"),
        (&[("f", "1"), ("f", "2")], "twice"),
        (&[("f/", ""), ("f", "2")], "twice"),
        (&[("f", "1"), ("f -> g", "")], "twice"),
        (&[("f", "1"), ("./f", "2")], "twice"),
        (&[("t/", ""), ("other", "1")], "outside of the directory"),
        (&[("t/", ""), ("t", "1")], "root of the archive"),
        (&[(".", "1")], "root of the archive"),
        (&[("t/", ""), ("t -> x", "")], "root of the archive"),
    ] {
        let error = unpack(entries).unwrap_or_else(|| panic!("{entries:?} is taken"));
        assert!(error.contains(reason), "{entries:?}: {error}");
    }
}

#[test]
fn links_within_the_archive_are_kept() {
    for entries in [
        &[
            ("t/", ""),
            ("t/d/", ""),
            ("t/d/l -> ../f", ""),
            ("t/f", "1"),
            ("t/dangling -> nowhere/at/all", ""),
        ][..],
        &[("l -> .", ""), ("d/e/up -> ../..", "")],
        &[("loop -> loop", "")],
    ] {
        assert_eq!(unpack(entries), None, "{entries:?}");
    }
}

#[test]
fn an_archive_that_ends_early_is_refused() {
    let into = TempDir::new().unwrap();
    let mut local = local(into.path(), Existing::Fail);
    begin(&mut local, &tar("t")).unwrap();
    let stream = &archive(&[("f", "content")])[..514];
    local.write(stream).unwrap();
    let error = local.finish(514, &digest(stream)).unwrap_err();
    assert!(error.to_string().contains("ends within an entry"), "{error}");
}
