//! How many streams are in which state.

use rendezvous_protocol::Side;

use crate::slot::Phase;

/// How many streams are in which state, at one moment.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// No side is connected.
    pub created: usize,
    /// The source waits.
    pub source_waits: usize,
    /// The destination waits.
    pub destination_waits: usize,
    /// Both sides are connected.
    pub streaming: usize,
    /// An error was reported that no side has received yet.
    pub reported: usize,
    /// They have ended and are still visible.
    pub ended: usize,
}

impl Census {
    /// Streams with a connected side: one that waits, or both.
    #[must_use]
    pub fn attended(&self) -> usize {
        self.source_waits + self.destination_waits + self.streaming
    }

    /// Streams that have not ended.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.created + self.attended() + self.reported
    }

    /// The count of the streams in this phase.
    pub(super) fn of(&mut self, phase: Phase<'_>) -> &mut usize {
        match phase {
            Phase::Created => &mut self.created,
            Phase::Waiting(Side::Source) => &mut self.source_waits,
            Phase::Waiting(Side::Destination) => &mut self.destination_waits,
            Phase::Streaming => &mut self.streaming,
            Phase::Reported(_) => &mut self.reported,
            Phase::Ended(_) => &mut self.ended,
        }
    }
}
