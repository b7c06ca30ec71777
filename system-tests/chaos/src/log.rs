//! The transcript of one transfer: who did what, and when.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// A transcript, to which all who take part in a transfer add.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    started: Instant,
    lines: Arc<Mutex<Vec<(Duration, String)>>>,
}

impl Log {
    /// An empty one, whose clock starts now.
    #[must_use]
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), lines: Arc::default() }
    }

    /// Adds what `who` did.
    pub(crate) fn note(&self, who: impl fmt::Display, what: impl fmt::Display) {
        self.lines.lock().push((self.started.elapsed(), format!("{who}: {what}")));
    }

    /// The time since it was started.
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
