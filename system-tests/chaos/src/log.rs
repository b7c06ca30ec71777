//! The transcript of one transfer: the actions of all clients, with their times.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A transcript, shared by all clients of a transfer.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    started: Instant,
    lines: Arc<Mutex<Vec<(Duration, String)>>>,
}

impl Log {
    /// An empty transcript whose clock starts now.
    #[must_use]
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), lines: Arc::default() }
    }

    /// Adds an action of `who`.
    pub(crate) fn note(&self, who: impl fmt::Display, what: impl fmt::Display) {
        self.lines.lock().push((self.started.elapsed(), format!("{who}: {what}")));
    }

    /// The time since its start.
    #[must_use]
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines
            .lock()
            .iter()
            .try_for_each(|(at, line)| writeln!(f, "  {:>9.3} ms  {line}", at.as_secs_f64() * 1e3))
    }
}
