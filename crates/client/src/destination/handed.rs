//! A destination that passes the bytes on, such as standard output.
//!
//! *Invariants.* Bytes that were passed on cannot be taken back, so the transfer can go on but not start again.

use std::io::{self, Write};
use std::path::Path;

use super::{Destination, DestinationError, ReceiverId, Resumed, Stored};
use crate::digest::Digest;
use crate::link::Id;
use crate::source::Description;

/// A writer that somebody else reads from.
pub(super) struct Handed<W> {
    writer: W,
    bytes: u64,
}

impl<W: Write> Handed<W> {
    pub(super) fn new(writer: W) -> Self {
        Self { writer, bytes: 0 }
    }
}

impl<W: Write + Send> Destination for Handed<W> {
    fn resume(&mut self) -> Result<Option<Resumed>, DestinationError> {
        Ok(None)
    }

    fn begin(&mut self, _: &Id, _: &ReceiverId, _: &Description) -> Result<(), DestinationError> {
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DestinationError> {
        self.writer.write_all(bytes).map_err(failed)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn restart(&mut self) -> Result<(), DestinationError> {
        if self.bytes > 0 { Err(DestinationError::PassedOn { bytes: self.bytes }) } else { Ok(()) }
    }

    fn finish(&mut self, _: u64, _: &Digest) -> Result<Stored, DestinationError> {
        self.writer.flush().map_err(failed)?;
        Ok(Stored::Handed)
    }

    fn confirmed(&mut self) -> Result<(), DestinationError> {
        Ok(())
    }

    fn abandon(&mut self) {}

    fn can_continue(&self) -> bool {
        false
    }

    fn stored_at(&self) -> Option<&Path> {
        None
    }
}

fn failed(source: io::Error) -> DestinationError {
    DestinationError::Io { doing: "write to", path: "the output".into(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Kind;

    fn begin(handed: &mut dyn Destination) {
        let description =
            Description { kind: Kind::File, name: "a".into(), size: None, mtime: None, mode: None };
        let receiver = ReceiverId { name: Id::random(), run: 0 };
        handed.begin(&Id::random(), &receiver, &description).unwrap();
    }

    #[test]
    fn bytes_are_passed_on_and_not_taken_back() {
        let mut out = Vec::new();
        let mut handed = Handed::new(&mut out);
        assert!(handed.resume().unwrap().is_none());
        begin(&mut handed);
        handed.restart().unwrap();
        begin(&mut handed);
        handed.write(b"ab").unwrap();
        handed.write(b"c").unwrap();
        assert!(matches!(handed.restart(), Err(DestinationError::PassedOn { bytes: 3 })));
        assert_eq!(handed.finish(3, &Digest::from([0; 32])).unwrap(), Stored::Handed);
        assert_eq!(handed.stored_at(), None);
        assert_eq!(out, b"abc");
    }
}
