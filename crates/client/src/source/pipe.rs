//! A pipe: read once, with its last bytes kept for going back.
//!
//! *Bounds.* The replay buffer takes as much memory as was read, up to its limit and one block of 256 KiB. It is full only once that much
//! was read.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::PathBuf;

use super::{Description, Kind, Source, SourceError};

/// The size of the blocks that the replay buffer takes and gives back.
const BLOCK: usize = 256 * 1024;

/// A reader that cannot seek.
pub(super) struct PipeSource<R> {
    description: Description,
    path: PathBuf,
    reader: R,
    at_end: bool,
    position: u64,
    replay: ReplayBuffer,
}

impl<R: Read> PipeSource<R> {
    /// Takes a reader. The path is for messages.
    pub(super) fn new(reader: R, path: PathBuf, name: String, replay_buffer: usize) -> Self {
        let description = Description { kind: Kind::File, name, size: None, mtime: None, mode: None };
        let replay = ReplayBuffer { limit: replay_buffer, start: 0, end: 0, blocks: VecDeque::new() };
        Self { description, path, reader, at_end: false, position: 0, replay }
    }
}

impl<R: Read + Send> Source for PipeSource<R> {
    fn description(&self) -> &Description {
        &self.description
    }

    fn earliest(&self) -> u64 {
        self.replay.start
    }

    fn seek(&mut self, offset: u64) -> Result<(), SourceError> {
        if offset < self.replay.start {
            return Err(SourceError::Gone { offset, earliest: self.replay.start });
        }
        self.position = offset.min(self.replay.end);
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, SourceError> {
        if self.position < self.replay.end {
            let copied = self.replay.copy_from(self.position, buffer);
            self.position += copied as u64;
            return Ok(copied);
        }
        if self.at_end {
            return Ok(0);
        }
        let read = loop {
            match self.reader.read(buffer) {
                Ok(read) => break read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(SourceError::io("read", &self.path, error)),
            }
        };
        self.at_end = read == 0 && !buffer.is_empty();
        self.replay.append(buffer.get(..read).unwrap_or_default());
        self.position = self.replay.end;
        Ok(read)
    }

    fn check(&mut self) -> Result<(), SourceError> {
        Ok(())
    }
}

/// The last bytes of a stream.
struct ReplayBuffer {
    limit: usize,
    /// The offset of the first byte that is held.
    start: u64,
    /// The offset behind the last.
    end: u64,
    /// All but the last are full.
    blocks: VecDeque<Vec<u8>>,
}

impl ReplayBuffer {
    fn append(&mut self, mut bytes: &[u8]) {
        self.end += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.blocks.back().is_none_or(|block| block.len() == BLOCK) {
                self.blocks.push_back(Vec::with_capacity(BLOCK));
            }
            let Some(last) = self.blocks.back_mut() else { return };
            let (taken, rest) = bytes.split_at(bytes.len().min(BLOCK - last.len()));
            last.extend_from_slice(taken);
            bytes = rest;
            self.forget();
        }
    }

    /// Drops the first blocks as long as the others hold at least `limit` bytes.
    fn forget(&mut self) {
        while let Some(last) = self.blocks.back()
            && let Some(full) = self.blocks.len().checked_sub(2)
            && full * BLOCK + last.len() >= self.limit
        {
            self.blocks.pop_front();
            self.start += BLOCK as u64;
        }
    }

    /// Copies from this offset on, which is held, as far as a block goes.
    fn copy_from(&self, offset: u64, buffer: &mut [u8]) -> usize {
        let within = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        let rest =
            self.blocks.get(within / BLOCK).and_then(|block| block.get(within % BLOCK..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..length), rest.get(..length)) {
            to.copy_from_slice(from);
        }
        length
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn pipe(bytes: &[u8], limit: usize) -> PipeSource<Cursor<Vec<u8>>> {
        PipeSource::new(Cursor::new(bytes.to_vec()), PathBuf::from("pipe"), "pipe".into(), limit)
    }

    fn read_all(source: &mut dyn Source, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = vec![0; step];
        loop {
            match source.read(&mut buffer).unwrap() {
                0 => return all,
                read => all.extend_from_slice(&buffer[..read]),
            }
        }
    }

    #[test]
    fn an_offset_before_the_replay_buffer_is_gone() {
        let bytes: Vec<u8> = (0..3 * BLOCK).map(|index| index.to_le_bytes()[1]).collect();
        let mut source = pipe(&bytes, BLOCK);
        assert_eq!(read_all(&mut source, 5000), bytes);
        let earliest = source.earliest();
        assert!(earliest > 0);
        let error = source.seek(earliest - 1).unwrap_err();
        assert!(
            matches!(error, SourceError::Gone { .. }) && error.to_string().contains("--replay-buffer"),
            "{error}"
        );
        source.seek(earliest).unwrap();
        assert_eq!(
            read_all(&mut source, 7000),
            &bytes[3 * BLOCK - (3 * BLOCK - usize::try_from(earliest).unwrap())..]
        );
    }

    #[test]
    fn the_replay_buffer_grows_only_with_use() {
        let mut source = pipe(&[7; 1000], 1 << 40);
        read_all(&mut source, 64);
        assert_eq!(source.replay.blocks.len(), 1);
        assert_eq!(source.earliest(), 0);
    }

    proptest! {
        #[test]
        fn the_last_bytes_up_to_the_limit_can_always_be_read_again(
            length in 0..4 * BLOCK, limit in 0..3 * BLOCK, step in 1000..300_000usize, back in any::<prop::sample::Index>(),
        ) {
            let bytes: Vec<u8> = (0..=250).cycle().take(length).collect();
            let mut source = pipe(&bytes, limit);
            prop_assert_eq!(&read_all(&mut source, step), &bytes);
            let held = length - usize::try_from(source.earliest()).unwrap();
            prop_assert!(held >= limit.min(length), "{} of {}", held, limit);
            prop_assert!(source.replay.blocks.len() * BLOCK <= limit + 2 * BLOCK);
            let offset = length - back.index(held + 1);
            source.seek(offset as u64).unwrap();
            prop_assert_eq!(&read_all(&mut source, step)[..], &bytes[offset..]);
        }
    }
}
