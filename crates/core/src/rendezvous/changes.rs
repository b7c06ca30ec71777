//! The changes of one operation on the table, and who receives them.
//!
//! The feeds have each change while the table is locked, so that their subscribers see the changes of a stream in order. Their subscribers are
//! woken, and [`Subscriber`](crate::events::Subscriber)s receive the changes, after it is unlocked.

use std::sync::Arc;

use rendezvous_protocol::StreamKind;

use super::entry::Entry;
use crate::events::{Change, Event};
use crate::feed::{Feed, Published, Wakers};

/// The changes made while the table is locked.
pub(super) struct Changes {
    events: Vec<Event>,
    /// Without subscribers no event is built.
    has_subscribers: bool,
    all: Option<Arc<Feed>>,
    wakers: Wakers,
}

impl Changes {
    /// Starts with no changes. `all` is the feed of all streams, if it has subscribers.
    pub(super) fn new(has_subscribers: bool, all: Option<Arc<Feed>>) -> Self {
        Self { events: Vec::new(), has_subscribers, all, wakers: Wakers::default() }
    }

    /// Adds a change of the stream. Its version counts the changes that are visible in its status.
    pub(super) fn push<B>(&mut self, entry: &mut Entry<B>, change: Change) {
        if entry.advance() {
            self.feed(entry, &change);
        }
        if self.has_subscribers {
            self.events.push(Event { stream: entry.snapshot(), change });
        }
    }

    fn feed<B>(&mut self, entry: &Entry<B>, change: &Change) {
        let is_milestone = matches!(
            change,
            Change::Created | Change::Paired { .. } | Change::Reported { .. } | Change::Ended { .. }
        );
        let all = self.all.as_deref().filter(|_| is_milestone && entry.name.kind() == StreamKind::Created);
        let own = entry.feed();
        for feed in own.as_deref().into_iter().chain(all) {
            feed.add(Published::new(entry.snapshot()), &mut self.wakers);
        }
    }

    /// Ends the subscriptions to the changes of a stream that is forgotten.
    pub(super) fn forgotten<B>(&mut self, entry: &Entry<B>) {
        if let Some(feed) = entry.feed() {
            feed.forget(&mut self.wakers);
        }
    }

    /// Returns the events to publish and the tasks to wake, after the table is unlocked.
    pub(super) fn into_parts(self) -> (Vec<Event>, Wakers) {
        (self.events, self.wakers)
    }
}
