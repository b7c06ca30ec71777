//! A destination on disk: `.part`, its state file, and the steps at the end.
//!
//! *Invariants.* The state file comes first and goes last. What it records as on disk has been synced before. [`Destination::finish`] has
//! three steps, and after a crash within or between any of them a restarted receiver goes on to the same end: all data synced; `complete`
//! recorded; named. After `complete` the data is never taken for unverified, and `.part` exists exactly as long as the data has no name.
//!
//! *Concurrency.* One receiver per link and directory, by a lock on the state file.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use super::checkpoints::Checkpoints;
use super::part::{Part, Resume};
use super::place::Place;
use super::state::{CompleteRecord, Found, Names, Record, StateFile};
use super::{Complete, Destination, DestinationError, ReceiverId, Resumed, Stored};
use crate::digest::{Digest, Hasher};
use crate::link::{Id, Link};
use crate::source::Description;

/// A directory that is received into.
#[derive(Debug)]
pub(super) struct Local {
    place: Place,
    names: Names,
    run: Option<Run>,
    stored_at: Option<PathBuf>,
}

/// A transfer that has begun.
#[derive(Debug)]
struct Run {
    state: StateFile,
    record: Record,
    /// `None` once the data has its name.
    part: Option<Part>,
    bytes: u64,
    checkpoints: Checkpoints,
}

impl Local {
    pub(super) fn new(place: Place, link: &Link) -> Self {
        Self { place, names: Names::of(link), run: None, stored_at: None }
    }

    fn state_failed(&self, doing: &'static str) -> impl FnOnce(io::Error) -> DestinationError + use<> {
        self.place.failed(doing, OsStr::new(&self.names.state()))
    }

    fn ids_of(&self, record: &Record) -> Result<(Id, ReceiverId), DestinationError> {
        let transfer = record.transfer.parse().map_err(|error| self.damaged(error))?;
        let name = record.receiver.parse().map_err(|error| self.damaged(error))?;
        Ok((transfer, ReceiverId { name, run: record.run }))
    }

    fn damaged(&self, error: impl std::error::Error) -> DestinationError {
        self.state_failed("use")(io::Error::other(format!("{error}: remove it to start anew")))
    }

    /// Removes all but the state file, which must be locked.
    fn remove_data(&self, part: &str) -> Result<(), DestinationError> {
        for name in [part, &self.names.headers(), &self.names.earlier()] {
            self.place.remove(name)?;
        }
        Ok(())
    }

    /// Tells an error of the file system that means that the space is used up.
    fn or_no_space(&self, error: DestinationError) -> DestinationError {
        match error {
            DestinationError::Io { source, .. }
                if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) =>
            {
                let held = self.run.as_ref().map_or(0, |run| run.bytes);
                let size = self.run.as_ref().and_then(|run| run.record.size).unwrap_or(0);
                let available = self.place.available().unwrap_or(0);
                let needed = size.saturating_sub(held).max(1);
                DestinationError::NoSpace { path: self.place.path.clone(), needed, available }
            }
            error => error,
        }
    }

    /// Goes on where an earlier run was cut. Returns `None` if it has left too little.
    fn resume_part(&mut self, state: StateFile, record: Record) -> Result<Option<Resumed>, DestinationError> {
        let description = record.description();
        self.place.check_name(&description)?;
        let mut hasher = Hasher::default();
        let part = match Part::resume(&self.place.directory, &self.names, &record, &mut hasher)? {
            Resume::Part(part) => part,
            Resume::Lost => {
                self.remove_data(&record.part)?;
                self.place.remove(&self.names.state())?;
                return Ok(None);
            }
        };
        let bytes = record.offset;
        if let Some(size) = record.size {
            self.place.check_space(size.saturating_sub(bytes))?;
        }
        let (transfer, receiver) = self.ids_of(&record)?;
        let checkpoints = Checkpoints::new(bytes);
        self.run = Some(Run { state, record, part: Some(part), bytes, checkpoints });
        Ok(Some(Resumed { transfer, receiver, description, bytes, hasher, complete: None }))
    }

    /// Gives complete data its name, unless it has it already.
    fn resume_complete(
        &mut self,
        state: StateFile,
        record: Record,
        complete: &CompleteRecord,
    ) -> Result<Option<Resumed>, DestinationError> {
        let sha256 = complete.sha256.parse().map_err(|error| self.damaged(error))?;
        let (transfer, receiver) = self.ids_of(&record)?;
        let (bytes, description) = (complete.bytes, record.description());
        let named = match &complete.target {
            Some(target) => OsString::from(target),
            None => self.place.name(&description),
        };
        let has_part = self.place.holds(OsStr::new(&record.part))?;
        self.run = Some(Run { state, record, part: None, bytes, checkpoints: Checkpoints::new(bytes) });
        if has_part {
            self.publish()?;
        } else {
            self.published(&named)?;
        }
        let complete = Some(Complete { bytes, sha256 });
        Ok(Some(Resumed { transfer, receiver, description, bytes, hasher: Hasher::default(), complete }))
    }

    /// The first step of the end: all data is on disk, with its mode and times.
    fn sync_part(&mut self, bytes: u64) -> Result<(), DestinationError> {
        let failed = self.place.failed("sync", OsStr::new("the received data"));
        let Some(Run { record, part: Some(part), bytes: held, checkpoints, .. }) = &mut self.run else {
            return Ok(());
        };
        if *held != bytes {
            let what = format!("{held} bytes were received, and {bytes} were announced");
            return Err(DestinationError::Refused { what });
        }
        part.close(&record.description())?;
        checkpoints.wait().and_then(|()| part.flush()?.sync()).map_err(failed)
    }

    /// The second step: from here on the data counts as received, whatever happens.
    fn record_complete(&mut self, bytes: u64, sha256: &Digest) -> Result<(), DestinationError> {
        let failed = self.state_failed("write");
        let Some(Run { state, record, .. }) = &mut self.run else { return Ok(()) };
        let complete = CompleteRecord { bytes, sha256: sha256.to_string(), target: None };
        (record.offset, record.complete) = (bytes, Some(complete));
        state.write(record).map_err(failed)
    }

    /// The third step: the data gets its name.
    fn publish(&mut self) -> Result<(), DestinationError> {
        let Some(Run { state, record, part, .. }) = &mut self.run else { return Ok(()) };
        *part = None;
        let (name, description) = (record.part.clone(), record.description());
        let target = self.place.publish(&name, &description, &self.names, |target| {
            if let Some(complete) = &mut record.complete {
                complete.target = target.to_str().map(str::to_owned);
            }
            state.write(record)
        })?;
        self.published(&target)
    }

    /// The data has its name: what is not needed any more is removed.
    fn published(&mut self, name: &OsStr) -> Result<(), DestinationError> {
        self.place.sync()?;
        // A user may have moved it after an earlier run has stored it.
        self.stored_at = self.place.holds(name)?.then(|| self.place.path.join(name));
        self.place.remove(&self.names.headers())?;
        self.place.remove(&self.names.replaced())
    }

    /// Records all that is written, as the last act of a receiver that goes on later.
    fn record_all(&mut self) -> io::Result<()> {
        let Some(Run { state, record, part: Some(part), bytes, checkpoints }) = &mut self.run else {
            return Ok(());
        };
        if record.complete.is_some() || record.offset == *bytes {
            return Ok(());
        }
        checkpoints.wait()?;
        part.flush()?.sync()?;
        record.offset = *bytes;
        state.write(record)
    }
}

impl Destination for Local {
    fn resume(&mut self) -> Result<Option<Resumed>, DestinationError> {
        let found = StateFile::open(&self.place.directory, &self.names.state());
        let (mut state, mut record) = match found.map_err(self.state_failed("use"))? {
            Found::Nothing => return Ok(None),
            Found::Record(found) => *found,
        };
        record.run = record.run.saturating_add(1);
        state.write(&record).map_err(self.state_failed("write"))?;
        match record.complete.clone() {
            Some(complete) => self.resume_complete(state, record, &complete),
            None => self.resume_part(state, record),
        }
    }

    fn begin(
        &mut self,
        transfer: &Id,
        receiver: &ReceiverId,
        description: &Description,
    ) -> Result<(), DestinationError> {
        self.place.check_name(description)?;
        self.place.check_space(description.size.unwrap_or(0))?;
        let part = self.names.part(&self.place.name(description).to_string_lossy());
        let ids = (receiver.name.as_str(), receiver.run);
        let record = Record::new(transfer.as_str(), ids, description, part);
        let mut state = StateFile::create(&self.place.directory, &self.names.state())
            .map_err(self.state_failed("create"))?;
        let created = state
            .write(&record)
            .map_err(self.state_failed("write"))
            // Somebody may have removed the state file only.
            .and_then(|()| self.remove_data(&record.part))
            .and_then(|()| {
                Part::create(&self.place.directory, &self.names, &record)
                    .map_err(self.place.failed("create", OsStr::new(&record.part)))
            });
        match created {
            Ok(part) => {
                let checkpoints = Checkpoints::new(0);
                self.run = Some(Run { state, record, part: Some(part), bytes: 0, checkpoints });
                Ok(())
            }
            Err(error) => {
                let _ = self.remove_data(&record.part);
                let _ = self.place.remove(&self.names.state());
                Err(self.or_no_space(error))
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DestinationError> {
        let failed = self.place.failed("sync", OsStr::new("the received data"));
        let Some(Run { state, record, part: Some(part), bytes: held, checkpoints }) = &mut self.run else {
            return Ok(());
        };
        let written = part.write(bytes).and_then(|()| {
            *held += bytes.len() as u64;
            let advanced = checkpoints.advance(*held, || part.flush()).and_then(|safe| match safe {
                Some(offset) => {
                    record.offset = offset;
                    state.write(record)
                }
                None => Ok(()),
            });
            advanced.map_err(failed)
        });
        written.map_err(|error| self.or_no_space(error))
    }

    fn restart(&mut self) -> Result<(), DestinationError> {
        let Some(mut run) = self.run.take() else { return Ok(()) };
        // What it syncs is dropped anyway.
        let _ = run.checkpoints.wait();
        run.part = None;
        self.remove_data(&run.record.part)?;
        self.place.remove(&self.names.state())
    }

    fn finish(&mut self, bytes: u64, sha256: &Digest) -> Result<Stored, DestinationError> {
        self.sync_part(bytes)
            .and_then(|()| self.record_complete(bytes, sha256))
            .and_then(|()| self.publish())
            .map_err(|error| self.or_no_space(error))?;
        Ok(Stored::Disk)
    }

    fn confirmed(&mut self) -> Result<(), DestinationError> {
        self.run = None;
        self.place.remove(&self.names.state())
    }

    fn abandon(&mut self) {
        // What is complete stays, and so does its state file: only its confirmation has failed.
        if self.run.as_ref().is_some_and(|run| run.record.complete.is_none()) {
            // An error that cannot be mended is being reported already.
            let _ = self.restart();
        }
    }

    fn stored_at(&self) -> Option<&Path> {
        self.stored_at.as_deref()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // Without it the next run goes on from the last checkpoint.
        let _ = self.record_all();
    }
}

#[cfg(test)]
mod tests;
