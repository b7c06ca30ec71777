//! When written data is synced: at least every 64 MiB or 10 seconds, while more is written.
//!
//! *Concurrency.* Each sync runs on a thread of its own, one at a time. The position is recorded only once its sync has succeeded.
//!
//! *Bounds.* At most 128 MiB are not synced: then writing waits.

use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::Instant;

use super::part::Sync;

/// How many bytes are written before they are synced.
const EVERY_BYTES: u64 = 64 << 20;

/// After which time they are synced, if there are fewer. Seen when the next bytes are written.
const EVERY: Duration = Duration::from_secs(10);

/// The sync that runs, and the position of the last one.
#[derive(Debug)]
pub(super) struct Checkpoints {
    position: u64,
    at: Instant,
    running: Option<JoinHandle<io::Result<()>>>,
}

impl Checkpoints {
    /// All before this position is on disk.
    pub(super) fn new(position: u64) -> Self {
        Self { position, at: Instant::now(), running: None }
    }

    /// Called when `position` bytes were written. Returns the position that is safe now, if it is another one.
    pub(super) fn advance(
        &mut self,
        position: u64,
        flush: impl FnOnce() -> io::Result<Sync>,
    ) -> io::Result<Option<u64>> {
        let written = position.saturating_sub(self.position);
        let is_due = written >= EVERY_BYTES;
        let safe = match self.running.take() {
            Some(running) if is_due || running.is_finished() => {
                join(running)?;
                Some(self.position)
            }
            running => {
                self.running = running;
                None
            }
        };
        if self.running.is_none() && written > 0 && (is_due || self.at.elapsed() >= EVERY) {
            let sync = flush()?;
            (self.position, self.at) = (position, Instant::now());
            self.running = Some(std::thread::spawn(move || sync.sync()));
        }
        Ok(safe)
    }

    /// Waits for the sync that runs.
    pub(super) fn wait(&mut self) -> io::Result<()> {
        self.running.take().map_or(Ok(()), join)
    }
}

fn join(running: JoinHandle<io::Result<()>>) -> io::Result<()> {
    running.join().unwrap_or_else(|_| Err(io::Error::other("the thread that synced it has panicked")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sync() -> io::Result<Sync> {
        Ok(Sync::File(tempfile::tempfile()?))
    }

    fn no_sync() -> io::Result<Sync> {
        panic!("nothing is due");
    }

    #[test]
    fn a_position_is_safe_only_after_its_sync() {
        let mut checkpoints = Checkpoints::new(0);
        assert_eq!(checkpoints.advance(EVERY_BYTES - 1, no_sync).unwrap(), None);
        assert_eq!(checkpoints.advance(EVERY_BYTES + 5, sync).unwrap(), None, "it runs");
        assert_eq!(checkpoints.advance(2 * EVERY_BYTES + 5, sync).unwrap(), Some(EVERY_BYTES + 5));
        checkpoints.wait().unwrap();
    }

    #[test]
    fn a_sync_that_failed_is_an_error() {
        let mut checkpoints = Checkpoints::new(0);
        checkpoints.running = Some(std::thread::spawn(|| Err(io::ErrorKind::StorageFull.into())));
        let error = checkpoints.advance(EVERY_BYTES, no_sync).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[tokio::test(start_paused = true)]
    async fn few_bytes_are_synced_after_10_seconds() {
        let mut checkpoints = Checkpoints::new(100);
        tokio::time::advance(EVERY).await;
        assert_eq!(checkpoints.advance(100, no_sync).unwrap(), None, "there is nothing to sync");
        assert_eq!(checkpoints.advance(101, sync).unwrap(), None);
        checkpoints.wait().unwrap();
        assert_eq!(checkpoints.advance(102, no_sync).unwrap(), None);
    }
}
