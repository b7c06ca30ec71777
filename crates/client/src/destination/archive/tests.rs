//! Archives of others, hostile ones, and streams that come in pieces.

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::*;

/// What a stream holds: the entries, and the content of each.
type Entries = Vec<(Entry, Vec<u8>)>;

/// Reads a whole stream in pieces.
fn read(mut stream: &[u8], piece: usize) -> Result<(Entries, bool), DestinationError> {
    let mut reader = ArchiveReader::default();
    let mut entries: Entries = Vec::new();
    while !stream.is_empty() {
        let length = match reader.expected() {
            Expected::Content(left) => usize::try_from(left).unwrap(),
            Expected::Metadata(left) => left,
        };
        assert!(length > 0, "it always wants something");
        let (now, rest) = stream.split_at(length.min(piece).min(stream.len()));
        stream = rest;
        if let Expected::Content(_) = reader.expected() {
            entries.last_mut().unwrap().1.extend_from_slice(now);
            reader.content(now.len() as u64);
        } else if let Some(entry) = reader.metadata(now)? {
            entries.push((entry, Vec::new()));
        }
    }
    Ok((entries, reader.may_end()))
}

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o104_755);
    header.set_mtime(1_000_000_000);
    header
}

/// Returns an archive of one entry with this path, as its bytes.
fn archive(path: &[u8], mut header: Header, content: &[u8]) -> Vec<u8> {
    header.as_old_mut().name[..path.len()].copy_from_slice(path);
    header.set_cksum();
    let mut builder = Builder::new(Vec::new());
    builder.append(&header, content).unwrap();
    builder.into_inner().unwrap()
}

fn refusal(stream: &[u8]) -> String {
    match read(stream, 100_000) {
        Err(DestinationError::Refused { what }) => what,
        other => panic!("{other:?}"),
    }
}

fn pax(records: &[u8]) -> Vec<u8> {
    let mut stream = archive(b"x", header(EntryType::XHeader, records.len() as u64), records);
    stream.truncate(stream.len() - 1024);
    stream.extend(archive(b"name", header(EntryType::Regular, 0), b""));
    stream
}

#[test]
fn a_hostile_path_is_refused() {
    for (path, reason) in [
        (&b"/etc/passwd"[..], "absolute"),
        (b"//etc/passwd", "absolute"),
        (b"..", "leads out"),
        (b"../x", "leads out"),
        (b"a/../../x", "leads out"),
        (b"a/..", "leads out"),
        (b"./../x", "leads out"),
    ] {
        let what = refusal(&archive(path, header(EntryType::Regular, 0), b""));
        assert!(what.contains(reason), "{what}");
        assert!(refusal(&archive(path, header(EntryType::Directory, 0), b"")).contains(reason));
        let record = format!(" path={}\n", String::from_utf8_lossy(path));
        let record = format!("{}{record}", record.len() + 2);
        assert!(refusal(&pax(record.as_bytes())).contains(reason), "{record}");
    }
    let deep = "d/".repeat(258);
    let record = format!("{} path={deep}\n", deep.len() + 10);
    assert!(refusal(&pax(record.as_bytes())).contains("256 directories"));
    let long = "n".repeat(256);
    assert!(refusal(&pax(format!("266 path={long}\n").as_bytes())).contains("255 bytes"));
    let zero = b"13 path=a\0b\n";
    assert!(refusal(&pax(&[b"12", &zero[2..]].concat())).contains("zero byte"));
}

#[test]
fn what_is_no_file_directory_or_link_is_refused() {
    for (kind, reason) in [
        (EntryType::Link, "hard link"),
        (EntryType::Char, "device"),
        (EntryType::Block, "device"),
        (EntryType::Fifo, "named pipe"),
        (EntryType::GNUSparse, "sparse"),
        (EntryType::new(b'M'), "unknown type"),
        (EntryType::new(b'Z'), "unknown type"),
    ] {
        assert!(
            refusal(&archive(b"a\x1b[2J", header(kind, 0), b"")).starts_with("a\\u{1b}[2J is "),
            "{kind:?}"
        );
        let what = refusal(&archive(b"a", header(kind, 0), b""));
        assert!(what.contains(reason), "{what}");
    }
    for kind in [EntryType::Directory, EntryType::Symlink] {
        assert!(refusal(&archive(b"a", header(kind, 3), b"abc")).contains("no file"));
    }
    assert!(refusal(&pax(b"22 GNU.sparse.major=1\n")).contains("sparse"));
}

#[test]
fn a_damaged_archive_is_refused() {
    let good = archive(b"a", header(EntryType::Regular, 3), b"abc");
    let mut bad = good.clone();
    bad[0] ^= 1;
    assert!(refusal(&bad).contains("checksum"));
    assert!(refusal(&[&good[..], b"x".repeat(512).as_slice()].concat()).contains("behind its end"));
    assert!(
        refusal(&archive(b"x", header(EntryType::XHeader, 65_537), &vec![b'a'; 65_537])).contains("64 KiB")
    );
    assert!(refusal(&archive(b"x", header(EntryType::GNULongName, 1 << 40), b"")).contains("64 KiB"));
    let mut no_size = header(EntryType::Regular, 0);
    no_size.as_old_mut().size = *b"no number!!\0";
    assert!(refusal(&archive(b"a", no_size, b"")).contains("size is no number"));
    for records in [
        &b"no length"[..],
        b"5 a=b\n",
        b"7 a=b\n",
        b"6 abc\n",
        b"99999999999999999999 a=b\n",
        b"0 a=b\n",
        b"1 a=b\n",
        b"-6 a=b\n",
        b"12 size=-1x\n",
        b"11 mtime=x\n",
    ] {
        assert!(refusal(&pax(records)).contains("damaged"), "{}", String::from_utf8_lossy(records));
    }
}

#[test]
fn a_stream_that_is_cut_is_not_whole() {
    let stream = pax(b"10 path=b\n");
    for (length, whole) in
        [(0, true), (1, false), (512, false), (1024, false), (1025, false), (1536, true), (2048, true)]
    {
        assert_eq!(read(&stream[..length], 100_000).unwrap().1, whole, "{length}");
    }
    let with_content = archive(b"a", header(EntryType::Regular, 513), &[1; 513]);
    for (length, whole) in [(512, false), (1025, false), (1500, false), (1536, true)] {
        assert_eq!(read(&with_content[..length], 100_000).unwrap().1, whole, "{length}");
    }
}

#[test]
fn records_hold_names_with_line_breaks_and_times_within_a_second() {
    let (entries, _) = read(&pax(b"14 path=a\nb=c\n23 mtime=-1.2500000009\n9 other=\n"), 100_000).unwrap();
    let (entry, _) = &entries[0];
    assert_eq!(entry.path, [b"a\nb=c".to_vec()]);
    assert_eq!(entry.mtime, Time { seconds: -2, nanoseconds: 750_000_000 });
    assert_eq!(entry.mode, 0o755, "without setuid");
}

#[test]
fn long_names_of_gnu_tar_are_understood() {
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(120));
    let mut builder = Builder::new(Vec::new());
    let mut file = header(EntryType::Regular, 2);
    builder.append_data(&mut file, &long, &b"hi"[..]).unwrap();
    let mut link = header(EntryType::Symlink, 0);
    builder.append_link(&mut link, &long, "t".repeat(150)).unwrap();
    let (entries, whole) = read(&builder.into_inner().unwrap(), 100_000).unwrap();
    assert!(whole);
    assert_eq!(entries[0].0.path.join(&b'/'), long.as_bytes());
    assert_eq!(entries[0].1, b"hi");
    assert_eq!(entries[1].0.kind, Kind::Symlink("t".repeat(150).into_bytes()));
}

#[test]
fn a_link_that_leads_out_is_refused() {
    let path = [b"a".to_vec(), b"b".to_vec()];
    check_target(&path, b"../c", 1).unwrap();
    for target in [&b"../../c"[..], b"/c", b"", b"x/../c", &b"x/".repeat(3000)] {
        let error = check_target(&path, target, 1).unwrap_err().to_string();
        assert!(error.contains("a/b is a link to") && error.contains("leads out"), "{error}");
    }
}

proptest! {
    #[test]
    fn the_pieces_that_a_stream_comes_in_do_not_matter(
        sizes in prop::collection::vec(0..3000usize, 0..6), piece in 1..2000usize,
    ) {
        let mut builder = Builder::new(Vec::new());
        for (index, size) in sizes.iter().enumerate() {
            let mut file = header(EntryType::Regular, *size as u64);
            let content = vec![b'0' + u8::try_from(index).unwrap(); *size];
            builder.append_data(&mut file, format!("{}{index}", "n".repeat(index * 50)), &content[..]).unwrap();
        }
        let stream = builder.into_inner().unwrap();
        let (whole, at_once) = (read(&stream, usize::MAX).unwrap(), read(&stream, piece).unwrap());
        prop_assert_eq!(&whole.0, &at_once.0);
        prop_assert!(whole.1 && at_once.1);
        prop_assert_eq!(whole.0.iter().map(|(_, content)| content.len()).collect::<Vec<_>>(), sizes);
    }

    #[test]
    fn no_bytes_make_it_panic_or_take_much_memory(mut blocks in prop::collection::vec(any::<u8>(), 512..2048), kind in any::<u8>()) {
        // With a right checksum, so that more than that is read.
        let header = Header::from_byte_slice(&blocks[..512]);
        let mut header = header.clone();
        header.set_entry_type(EntryType::new(kind));
        header.set_cksum();
        blocks[..512].copy_from_slice(header.as_bytes());
        let mut reader = ArchiveReader::default();
        let mut rest = &blocks[..];
        while !rest.is_empty() {
            let length = match reader.expected() {
                Expected::Content(left) => usize::try_from(left).unwrap_or(usize::MAX),
                Expected::Metadata(left) => left,
            };
            let (now, later) = rest.split_at(length.min(rest.len()));
            rest = later;
            if let Expected::Content(_) = reader.expected() {
                reader.content(now.len() as u64);
            } else if reader.metadata(now).is_err() {
                break;
            }
            prop_assert!(reader.unit.capacity() <= 128 * 1024);
        }
    }
}
