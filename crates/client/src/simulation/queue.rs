//! What happens next, in virtual time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use super::Event;

/// Events by the time at which they happen.
pub(super) struct Queue {
    pub(super) now: Duration,
    events: BinaryHeap<Reverse<(Duration, u64)>>,
    what: HashMap<u64, Event>,
    next: u64,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { now: Duration::ZERO, events: BinaryHeap::new(), what: HashMap::new(), next: 0 }
    }

    pub(super) fn at(&mut self, at: Duration, event: Event) {
        self.next += 1;
        self.what.insert(self.next, event);
        self.events.push(Reverse((at.max(self.now), self.next)));
    }

    pub(super) fn after(&mut self, pause: Duration, event: Event) {
        self.at(self.now + pause, event);
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        let Reverse((at, key)) = self.events.pop()?;
        self.now = at;
        self.what.remove(&key)
    }
}
