//! The header of a tar entry: the same bytes each time for the same entry. Pure.
//!
//! The format is POSIX pax (IEEE Std 1003.1, "pax Interchange Format"): a ustar block, and before it an extended header for what a ustar
//! block cannot hold: paths over 100 bytes or outside ASCII, sizes from 8 GiB, times before 1970 or within a second.
//!
//! *Invariants.* Owner and group are not sent. A path that is no UTF-8 travels as its bytes, under `hdrcharset=BINARY`.

use tar::{EntryType, Header};

/// The size of a tar block in bytes.
pub(crate) const BLOCK: u64 = 512;

/// The length of the two blocks of zeros that end an archive.
pub(crate) const TRAILER: u64 = 2 * BLOCK;

/// Sizes from here on do not fit in the 11 octal digits of a ustar block.
const OCTAL_LIMIT: u64 = 1 << 33;

/// What a header says of an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EntryHead<'a> {
    /// The path in the archive, with `/` between components and at the end of a directory.
    pub path: &'a [u8],
    pub kind: EntryKind<'a>,
    /// Permission bits.
    pub mode: u32,
    pub mtime: Time,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind<'a> {
    File { size: u64 },
    Directory,
    Symlink { target: &'a [u8] },
}

/// A time of the file system: seconds since 1970, which may be negative, and the nanoseconds after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time {
    pub seconds: i64,
    pub nanoseconds: u32,
}

impl EntryHead<'_> {
    /// Returns the length in bytes of [`EntryHead::encode`].
    pub(crate) fn length(&self) -> u64 {
        match self.records().len() as u64 {
            0 => BLOCK,
            records => BLOCK + records.next_multiple_of(BLOCK) + BLOCK,
        }
    }

    /// Returns the blocks before the entry's content.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut records = self.records();
        let mut blocks = Vec::with_capacity(3 * 512);
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            set_name(&mut header, b"././@PaxHeader");
            header.set_entry_type(EntryType::XHeader);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(records.len() as u64);
            header.set_cksum();
            blocks.extend_from_slice(header.as_bytes());
            let padding = padding_after(records.len() as u64);
            blocks.append(&mut records);
            blocks.extend(std::iter::repeat_n(0, padding));
        }
        blocks.extend_from_slice(self.ustar().as_bytes());
        blocks
    }

    /// Returns the records of what a ustar block cannot hold.
    fn records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        let target = match self.kind {
            EntryKind::Symlink { target } => target,
            EntryKind::File { .. } | EntryKind::Directory => b"",
        };
        if [self.path, target].iter().any(|name| needs_record(name) && std::str::from_utf8(name).is_err()) {
            record(&mut records, "hdrcharset", b"BINARY");
        }
        if needs_record(self.path) {
            record(&mut records, "path", self.path);
        }
        if needs_record(target) {
            record(&mut records, "linkpath", target);
        }
        if let EntryKind::File { size } = self.kind
            && size >= OCTAL_LIMIT
        {
            record(&mut records, "size", size.to_string().as_bytes());
        }
        if self.mtime.ustar().is_none() {
            record(&mut records, "mtime", self.mtime.decimal().as_bytes());
        }
        records
    }

    fn ustar(&self) -> Header {
        let mut header = Header::new_ustar();
        set_name(&mut header, self.path);
        header.set_mode(self.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_mtime(self.mtime.ustar().unwrap_or(u64::try_from(self.mtime.seconds).unwrap_or(0)));
        let kind = match self.kind {
            EntryKind::File { size } => {
                // From 8 GiB on this writes the base-256 form of GNU tar, for readers that ignore the record.
                header.set_size(size);
                EntryType::Regular
            }
            EntryKind::Directory => EntryType::Directory,
            EntryKind::Symlink { target } => {
                copy_into(&mut header.as_old_mut().linkname, target);
                EntryType::Symlink
            }
        };
        header.set_entry_type(kind);
        header.set_cksum();
        header
    }
}

impl Time {
    /// Returns the time as a ustar block holds it, or `None` if it is negative, too large or within a second.
    fn ustar(self) -> Option<u64> {
        let seconds = u64::try_from(self.seconds).ok().filter(|seconds| *seconds < OCTAL_LIMIT)?;
        (self.nanoseconds == 0).then_some(seconds)
    }

    /// Returns the time in decimal, as a pax record has it.
    fn decimal(self) -> String {
        let Self { seconds, nanoseconds } = self;
        let text = match (seconds, nanoseconds) {
            (_, 0) => return seconds.to_string(),
            // -0.25 s is second -1 and 750,000,000 ns.
            (..0, _) => format!("-{}.{:09}", (seconds + 1).unsigned_abs(), 1_000_000_000 - nanoseconds),
            (0.., _) => format!("{seconds}.{nanoseconds:09}"),
        };
        text.trim_end_matches('0').to_owned()
    }
}

/// Returns how many zeros follow content of this size, up to the next block.
pub(crate) fn padding_after(size: u64) -> usize {
    // Below 512, so nothing is lost.
    usize::try_from(size.next_multiple_of(BLOCK) - size).unwrap_or(0)
}

fn needs_record(name: &[u8]) -> bool {
    name.len() > 100 || !name.is_ascii()
}

/// Writes a name into the block, cut to its field: if it does not fit, an extended header has all of it.
fn set_name(header: &mut Header, name: &[u8]) {
    copy_into(&mut header.as_old_mut().name, name);
}

fn copy_into(field: &mut [u8], bytes: &[u8]) {
    for (slot, byte) in field.iter_mut().zip(bytes) {
        *slot = *byte;
    }
}

/// Appends `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + decimal_digits(length) {
        length = rest + decimal_digits(length);
    }
    records.extend_from_slice(format!("{length} {key}=").as_bytes());
    records.extend_from_slice(value);
    records.push(b'\n');
}

fn decimal_digits(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head<'a>(path: &'a [u8], kind: EntryKind<'a>) -> EntryHead<'a> {
        EntryHead { path, kind, mode: 0o640, mtime: Time { seconds: 1_700_000_000, nanoseconds: 0 } }
    }

    #[test]
    fn a_plain_entry_takes_one_block() {
        let entry = head(b"dir/file", EntryKind::File { size: 5 });
        let blocks = entry.encode();
        assert_eq!((blocks.len(), entry.length()), (512, BLOCK));
        let header = Header::from_byte_slice(&blocks);
        assert_eq!(header.path_bytes().as_ref(), b"dir/file");
        assert_eq!((header.mode().unwrap(), header.size().unwrap()), (0o640, 5));
        assert_eq!(header.mtime().unwrap(), 1_700_000_000);
    }

    #[test]
    fn what_a_block_cannot_hold_is_in_records() {
        let long = "d/".repeat(80);
        for (what, entry, records) in [
            ("unicode", head("é".as_bytes(), EntryKind::Directory), "11 path=é\n".to_owned()),
            ("long", head(long.as_bytes(), EntryKind::Directory), format!("170 path={long}\n")),
            ("large", head(b"f", EntryKind::File { size: 1 << 33 }), "19 size=8589934592\n".to_owned()),
            (
                "target",
                head(b"l", EntryKind::Symlink { target: "ü".as_bytes() }),
                "15 linkpath=ü\n".to_owned(),
            ),
        ] {
            let blocks = entry.encode();
            let text = String::from_utf8_lossy(&blocks[512..512 + records.len()]).into_owned();
            assert_eq!(text, records, "{what}");
            assert_eq!((blocks.len(), entry.length()), (3 * 512, 3 * BLOCK), "{what}");
        }
    }

    #[test]
    fn bytes_that_are_no_utf_8_are_declared_as_such() {
        let blocks = head(b"\xff\xfe", EntryKind::Directory).encode();
        assert!(blocks[512..].starts_with(b"21 hdrcharset=BINARY\n11 path=\xff\xfe\n"), "{blocks:?}");
    }

    #[test]
    fn times_before_1970_and_within_a_second_are_decimal() {
        for (seconds, nanoseconds, decimal) in [
            (1, 500_000_000, "1.5"),
            (1_700_000_000, 1, "1700000000.000000001"),
            (-1, 750_000_000, "-0.25"),
            (-5, 0, "-5"),
            (-5, 1, "-4.999999999"),
            (1 << 33, 0, "8589934592"),
        ] {
            assert_eq!(Time { seconds, nanoseconds }.decimal(), decimal);
        }
    }
}
