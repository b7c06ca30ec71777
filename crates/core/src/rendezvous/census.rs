//! The number of streams in each state, kept as running totals so that no caller walks the table.

use std::ops::Add;

use rendezvous_protocol::{Side, StreamKind};

use crate::slot::Phase;

/// The number of streams in each state, at one moment.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Census {
    /// Neither side is connected.
    pub created: usize,
    /// The source waits.
    pub source_waits: usize,
    /// The destination waits.
    pub destination_waits: usize,
    /// Both sides are connected.
    pub streaming: usize,
    /// An error was reported that no side has received yet.
    pub reported: usize,
    /// The stream has ended and is still visible.
    pub ended: usize,
}

impl Census {
    /// Returns the number of streams with at least one connected side.
    #[must_use]
    pub fn attended(&self) -> usize {
        self.source_waits + self.destination_waits + self.streaming
    }

    /// Returns the number of streams that have not ended. [`Limits::max_streams`](super::Limits::max_streams) limits it.
    #[must_use]
    pub fn alive(&self) -> usize {
        self.created + self.attended() + self.reported
    }

    /// Returns the count of streams in this phase.
    pub(super) fn count_mut(&mut self, phase: Phase<'_>) -> &mut usize {
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

impl Add for Census {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            created: self.created + other.created,
            source_waits: self.source_waits + other.source_waits,
            destination_waits: self.destination_waits + other.destination_waits,
            streaming: self.streaming + other.streaming,
            reported: self.reported + other.reported,
            ended: self.ended + other.ended,
        }
    }
}

/// The census of each kind of stream.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Censuses {
    /// Streams created by `POST /stream`.
    pub created: Census,
    /// Streams made by the first side of a path.
    pub paths: Census,
}

impl Censuses {
    /// Returns the numbers of all streams.
    #[must_use]
    pub fn total(&self) -> Census {
        self.created + self.paths
    }

    pub(super) fn of_mut(&mut self, kind: StreamKind) -> &mut Census {
        match kind {
            StreamKind::Created => &mut self.created,
            StreamKind::Path => &mut self.paths,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_the_sum_of_both_kinds_in_each_state() {
        let numbers = |[created, source_waits, destination_waits, streaming, reported, ended]: [usize; 6]| {
            Census { created, source_waits, destination_waits, streaming, reported, ended }
        };
        let kinds =
            Censuses { created: numbers([1, 2, 3, 4, 5, 6]), paths: numbers([20, 30, 40, 50, 60, 70]) };
        assert_eq!(kinds.total(), numbers([21, 32, 43, 54, 65, 76]));
    }

    #[test]
    fn every_stream_is_alive_that_has_not_ended() {
        let census = Census {
            created: 1,
            source_waits: 2,
            destination_waits: 3,
            streaming: 4,
            reported: 50,
            ended: 600,
        };
        assert_eq!((census.attended(), census.alive()), (9, 60));
    }
}
