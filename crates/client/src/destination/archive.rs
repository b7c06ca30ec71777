//! Reads a tar stream as it comes, in pieces of any size. Pure.
//!
//! ustar, pax and the long names of GNU tar are understood. Sparse files, hard links, devices and named pipes are refused.
//!
//! *Invariants.* The path of an [`Entry`] has neither `..` nor an absolute start. The target of a link is not yet judged: [`check_target`]
//! does, once it is known how deep in the directory the link will be. Each byte of the stream is either metadata or content.
//!
//! *Bounds.* 64 KiB of extended headers.

use tar::{EntryType, Header};

use super::{DestinationError, refused};
use crate::file_name::{MAX_NAME, leads_out};
use crate::source::header::{BLOCK, Time, padding_after};
use crate::source::layout::{MAX_DEPTH, MAX_PATH};

/// Maximum size of an extended header in bytes.
const MAX_EXTENSION: u64 = 64 * 1024;

/// Reads the metadata of a tar stream.
#[derive(Debug)]
pub(super) struct ArchiveReader {
    state: State,
    unit: Vec<u8>,
    extensions: Extensions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Header,
    /// An extended header of this size, and the padding behind it.
    Extension(ExtensionKind, u64),
    Content {
        left: u64,
        padding: usize,
    },
    Padding(usize),
    /// Behind the first block of zeros.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExtensionKind {
    Pax,
    /// Of all entries that follow. It is read and ignored.
    PaxGlobal,
    LongName,
    LongLink,
}

/// What extended headers say of the next entry.
#[derive(Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    size: Option<u64>,
    mtime: Option<Time>,
    any: bool,
}

/// What the stream goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// At most this many bytes of metadata.
    Metadata(usize),
    /// This many bytes of the last entry's content, at least 1.
    Content(u64),
}

/// An entry of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// The components of the path. None is empty, `.` or `..`.
    pub path: Vec<Vec<u8>>,
    pub kind: Kind,
    /// Permission bits, at most 0777.
    pub mode: u32,
    pub mtime: Time,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file with content of this size.
    File(u64),
    Directory,
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
}

impl Default for ArchiveReader {
    fn default() -> Self {
        Self { state: State::Header, unit: Vec::new(), extensions: Extensions::default() }
    }
}

impl ArchiveReader {
    /// Returns what the next bytes are.
    pub(super) fn expected(&self) -> Expected {
        let unit = match self.state {
            State::Content { left, .. } => return Expected::Content(left),
            State::Header | State::End => BLOCK,
            State::Extension(_, size) => size.next_multiple_of(BLOCK),
            State::Padding(left) => left as u64,
        };
        // A unit is at most MAX_EXTENSION.
        Expected::Metadata(usize::try_from(unit).unwrap_or(usize::MAX).saturating_sub(self.unit.len()))
    }

    /// Tells whether the stream may end here.
    pub(super) fn may_end(&self) -> bool {
        self.state == State::End
            || (self.state == State::Header && self.unit.is_empty() && !self.extensions.any)
    }

    /// Takes bytes of content, no more than [`ArchiveReader::expected`] returned. Returns whether the entry is complete.
    pub(super) fn content(&mut self, length: u64) -> bool {
        let State::Content { left, padding } = self.state else { return false };
        let left = left.saturating_sub(length);
        self.state = if left > 0 { State::Content { left, padding } } else { padding_or_header(padding) };
        left == 0
    }

    /// Takes bytes of metadata, no more than [`ArchiveReader::expected`] returned. Returns the entry whose header they complete.
    ///
    /// # Errors
    /// [`DestinationError::Refused`] if the stream is no archive, or holds what is not stored.
    pub(super) fn metadata(&mut self, bytes: &[u8]) -> Result<Option<Entry>, DestinationError> {
        self.unit.extend_from_slice(bytes);
        if self.expected() != Expected::Metadata(0) {
            return Ok(None);
        }
        let unit = std::mem::take(&mut self.unit);
        let entry = match self.state {
            State::Header => self.header(&unit)?,
            State::Extension(kind, size) => {
                self.state = State::Header;
                let data = unit.get(..usize::try_from(size).unwrap_or(usize::MAX)).unwrap_or_default();
                self.extensions.add(kind, data)?;
                None
            }
            State::End if unit.iter().any(|byte| *byte != 0) => {
                return Err(refused("the archive goes on behind its end"));
            }
            State::Padding(_) => {
                self.state = State::Header;
                None
            }
            State::Content { .. } | State::End => None,
        };
        // The room is used again.
        self.unit = unit;
        self.unit.clear();
        Ok(entry)
    }

    fn header(&mut self, block: &[u8]) -> Result<Option<Entry>, DestinationError> {
        if block.iter().all(|byte| *byte == 0) {
            if self.extensions.any {
                return Err(refused("an extended header has no entry"));
            }
            self.state = State::End;
            return Ok(None);
        }
        let header = Header::from_byte_slice(block);
        if header.cksum().ok() != Some(checksum(block)) {
            return Err(refused("the archive is damaged: a checksum is wrong"));
        }
        let size = header.entry_size().map_err(|_| refused("the archive is damaged: a size is no number"))?;
        if let Some(kind) = ExtensionKind::of(header.entry_type()) {
            if size > MAX_EXTENSION {
                return Err(refused("an extended header is over 64 KiB"));
            }
            if size > 0 {
                self.state = State::Extension(kind, size);
            }
            return Ok(None);
        }
        let extensions = std::mem::take(&mut self.extensions);
        let entry = entry_of(header, size, extensions)?;
        if let Kind::File(size @ 1..) = entry.kind {
            self.state = State::Content { left: size, padding: padding_after(size) };
        }
        Ok(Some(entry))
    }
}

fn padding_or_header(padding: usize) -> State {
    if padding > 0 { State::Padding(padding) } else { State::Header }
}

impl ExtensionKind {
    fn of(kind: EntryType) -> Option<Self> {
        match kind {
            EntryType::XHeader => Some(Self::Pax),
            EntryType::XGlobalHeader => Some(Self::PaxGlobal),
            EntryType::GNULongName => Some(Self::LongName),
            EntryType::GNULongLink => Some(Self::LongLink),
            _ => None,
        }
    }
}

impl Extensions {
    fn add(&mut self, kind: ExtensionKind, data: &[u8]) -> Result<(), DestinationError> {
        let without_nul = || data.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
        self.any |= kind != ExtensionKind::PaxGlobal;
        match kind {
            ExtensionKind::Pax => self.add_records(data)?,
            ExtensionKind::PaxGlobal => {}
            ExtensionKind::LongName => self.path = Some(without_nul()),
            ExtensionKind::LongLink => self.target = Some(without_nul()),
        }
        Ok(())
    }

    /// Reads records of the form `LENGTH KEY=VALUE\n`. The length counts, not the line break, which may be in a name.
    fn add_records(&mut self, mut data: &[u8]) -> Result<(), DestinationError> {
        let damaged = || refused("the archive is damaged: an extended header has no records");
        while !data.is_empty() {
            let space = data.iter().position(|byte| *byte == b' ').ok_or_else(damaged)?;
            let length: usize = parse(data.get(..space).unwrap_or_default()).ok_or_else(damaged)?;
            let (record, rest) = data.split_at_checked(length).ok_or_else(damaged)?;
            let record =
                record.get(space + 1..).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(damaged)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(damaged)?;
            let (key, value) = record.split_at_checked(equals).ok_or_else(damaged)?;
            self.set(key, value.get(1..).unwrap_or_default())?;
            data = rest;
        }
        Ok(())
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), DestinationError> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.target = Some(value.to_vec()),
            b"size" => {
                let size =
                    parse(value).ok_or_else(|| refused("the archive is damaged: a size is no number"))?;
                self.size = Some(size);
            }
            b"mtime" => {
                let time = parse_time(value)
                    .ok_or_else(|| refused("the archive is damaged: a time is no number"))?;
                self.mtime = Some(time);
            }
            _ if key.starts_with(b"GNU.sparse.") => return Err(refused("the archive holds a sparse file")),
            _ => {}
        }
        Ok(())
    }
}

fn entry_of(header: &Header, size: u64, extensions: Extensions) -> Result<Entry, DestinationError> {
    let path = extensions.path.unwrap_or_else(|| header.path_bytes().into_owned());
    let of_entry = |why: &str| refused(&format!("{} {why}", shown(&path)));
    let components = components(&path).map_err(of_entry)?;
    let size = extensions.size.unwrap_or(size);
    let kind = match header.entry_type() {
        // The format before POSIX tells directories by the slash.
        EntryType::Regular if path.ends_with(b"/") => Kind::Directory,
        EntryType::Regular | EntryType::Continuous => Kind::File(size),
        EntryType::Directory => Kind::Directory,
        EntryType::Symlink => {
            let target =
                extensions.target.or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
            Kind::Symlink(target.unwrap_or_default())
        }
        EntryType::Link => return Err(of_entry("is a hard link")),
        EntryType::Char | EntryType::Block => return Err(of_entry("is a device")),
        EntryType::Fifo => return Err(of_entry("is a named pipe")),
        EntryType::GNUSparse => return Err(of_entry("is a sparse file")),
        _ => return Err(of_entry("is of an unknown type")),
    };
    if size > 0 && !matches!(kind, Kind::File(_)) {
        return Err(of_entry("has content, but is no file"));
    }
    let mtime = match extensions.mtime {
        Some(time) => time,
        None => Time {
            seconds: header.mtime().ok().and_then(|seconds| i64::try_from(seconds).ok()).unwrap_or(0),
            nanoseconds: 0,
        },
    };
    Ok(Entry { path: components, kind, mode: header.mode().unwrap_or(0o600) & 0o777, mtime })
}

/// Checks that a link does not lead out of the directory. `depth` is the number of directories between that and the link.
pub(super) fn check_target(path: &[Vec<u8>], target: &[u8], depth: usize) -> Result<(), DestinationError> {
    if target.len() > MAX_PATH || leads_out(target, depth) {
        let (link, target) = (shown(&path.join(&b'/')), shown(target));
        return Err(refused(&format!("{link} is a link to {target}, which leads out of the directory")));
    }
    Ok(())
}

/// Splits a path and checks it.
fn components(path: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    if path.starts_with(b"/") {
        return Err("is an absolute path");
    }
    if path.len() > MAX_PATH {
        return Err("is a path of over 4096 bytes");
    }
    if path.contains(&0) {
        return Err("has a zero byte");
    }
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".");
    let components: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
    if components.iter().any(|part| part == b"..") {
        return Err("leads out of the directory");
    }
    if components.iter().any(|part| part.len() > MAX_NAME) {
        return Err("has a name of over 255 bytes");
    }
    // The first is the root of the archive.
    if components.len() > MAX_DEPTH + 1 {
        return Err("is nested over 256 directories deep");
    }
    Ok(components)
}

/// Returns the sum of all bytes of a header, with spaces in place of the sum itself.
fn checksum(block: &[u8]) -> u32 {
    let without_sum =
        block.iter().enumerate().map(|(index, byte)| if (148..156).contains(&index) { b' ' } else { *byte });
    without_sum.map(u32::from).sum()
}

fn parse<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Reads seconds with an optional fraction. Digits after the ninth are dropped.
fn parse_time(text: &[u8]) -> Option<Time> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let nine: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds: u32 = nine.parse().ok()?;
    if text.starts_with('-') && nanoseconds > 0 {
        // -0.25 is second -1 and 750,000,000 ns.
        return Some(Time { seconds: seconds.checked_sub(1)?, nanoseconds: 1_000_000_000 - nanoseconds });
    }
    Some(Time { seconds, nanoseconds })
}

/// Returns a name as it can be shown: what is no UTF-8 is replaced, control characters are escaped, and the length is bounded.
pub(super) fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    let mut shown: String = text.chars().take(200).flat_map(char::escape_debug).collect();
    if text.chars().nth(200).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests;
