//! The state that the lock of [`Rendezvous`](super::Rendezvous) guards: the streams, their names, deadlines and counts.
//!
//! A stream has a number for its whole life. A name leads to at most one number. An id does so until the stream is forgotten, a path only
//! while a side waits there, or while bytes that the source has sent are not all read. So a path can be used again while the transfer of
//! its last bytes still goes on.
//!
//! *Invariants.* An entry has its deadline in `expiring` until it pairs, in neither while it is streaming, and in `retained`
//! after its end. The entry of a path has always had a side, and is forgotten with its end. The census counts each entry in the phase of its
//! slot.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use rendezvous_protocol::{PathName, StreamKind, StreamName};
use tokio::time::Instant;

use super::admission::AdmissionState;
use super::census::{Census, Censuses};
use super::changes::Changes;
use super::deadlines::Deadlines;
use super::entry::{Entry, Number};
use super::waiting::{Slot, WaitingSide, WaitingSideRef};
use super::{Limits, NewStream};
use crate::clients::Permit;
use crate::events::Change;
use crate::feed::{Capacity, Feed, Subscription, Turns};
use crate::header_set::StreamHeaders;
use crate::outcome::{SeatError, TooMany};
use crate::snapshot::{Cursor, Snapshot};
use crate::transfer::Transfer;

/// The table of streams. The caller holds its lock.
pub(super) struct Table<B> {
    limits: Limits,
    /// The streams in the order of their creation. Boxed, so that the map moves little.
    entries: BTreeMap<Number, Box<Entry<B>>>,
    /// The streams that can be found by their names.
    names: HashMap<StreamName, Number>,
    /// The number of the last stream.
    last: Number,
    /// Streams that have not paired.
    pub(super) expiring: Deadlines,
    /// Streams that have ended.
    pub(super) retained: Deadlines,
    pub(super) censuses: Censuses,
    pub(super) admission: AdmissionState,
    /// The feed of all streams with an id, while it has subscribers.
    all: Weak<Feed>,
    turns: Arc<Turns>,
}

/// Changes a slot and moves it to the count of its new phase.
fn update_slot<B, T>(census: &mut Census, slot: &mut Slot<B>, change: impl FnOnce(&mut Slot<B>) -> T) -> T {
    *census.count_mut(slot.phase()) -= 1;
    let changed = change(slot);
    *census.count_mut(slot.phase()) += 1;
    changed
}

impl<B> Table<B> {
    pub(super) fn new(limits: Limits, turns: Arc<Turns>) -> Self {
        Self {
            limits,
            entries: BTreeMap::new(),
            names: HashMap::new(),
            last: Number(0),
            expiring: Deadlines::default(),
            retained: Deadlines::default(),
            censuses: Censuses::default(),
            admission: AdmissionState::default(),
            all: Weak::new(),
            turns,
        }
    }

    /// Returns the stream that this name leads to.
    pub(super) fn find(&self, name: &StreamName) -> Option<&Entry<B>> {
        self.entry(*self.names.get(name)?)
    }

    pub(super) fn entry(&self, stream: Number) -> Option<&Entry<B>> {
        self.entries.get(&stream).map(|entry| &**entry)
    }

    /// Returns snapshots of the created streams after a position, oldest first.
    pub(super) fn snapshots_after(&self, after: Cursor) -> impl Iterator<Item = Snapshot> {
        let entries = self.entries.range(Number(after.0.saturating_add(1))..).map(|(_, entry)| entry);
        entries.filter(|entry| entry.name.kind() == StreamKind::Created).map(|entry| entry.snapshot())
    }

    /// Returns the position before the newest `count` created streams, if there are more.
    pub(super) fn position_before_newest(&self, count: usize) -> Option<Cursor> {
        let newest_first =
            self.entries.iter().rev().filter(|(_, entry)| entry.name.kind() == StreamKind::Created);
        newest_first.map(|(number, _)| Cursor(number.0)).nth(count)
    }

    /// Returns all running transfers.
    pub(super) fn transfers(&self) -> Vec<Arc<Transfer>> {
        self.entries.values().filter_map(|entry| entry.transfer.clone()).collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.expiring.next().into_iter().chain(self.retained.next()).min()
    }

    /// Subscribes to the changes of one stream. Returns its snapshot too; `None` if it is unknown.
    pub(super) fn watch(&mut self, name: &StreamName) -> Option<(Snapshot, Subscription)> {
        let entry = self.entries.get_mut(self.names.get(name)?)?;
        let subscription = entry.watch(&self.turns);
        Some((entry.snapshot(), subscription))
    }

    /// Subscribes to the creation, the pairing and the end of all streams with an id from now on.
    pub(super) fn watch_all(&mut self) -> Subscription {
        let feed = self.all.upgrade().unwrap_or_else(|| Feed::new(Capacity::OF_ALL_STREAMS, &self.turns));
        self.all = Arc::downgrade(&feed);
        feed.subscribe()
    }

    /// Returns the feed of all streams, if it has subscribers.
    pub(super) fn feed_of_all(&self) -> Option<Arc<Feed>> {
        self.all.upgrade()
    }

    /// Returns all feeds that have subscribers.
    pub(super) fn feeds(&self) -> impl Iterator<Item = Arc<Feed>> {
        self.all.upgrade().into_iter().chain(self.entries.values().filter_map(|entry| entry.feed()))
    }

    /// Creates a stream. `permit` is called only if there is room for it, so that a refusal does not count against the quotas of its
    /// creator.
    ///
    /// # Errors
    /// [`SeatError::ShuttingDown`], [`SeatError::TooManyStreams`], or the error of `permit`.
    pub(super) fn create(
        &mut self,
        name: StreamName,
        headers: Arc<StreamHeaders>,
        settings: NewStream,
        permit: impl FnOnce() -> Result<Option<Permit>, TooMany>,
        changes: &mut Changes,
    ) -> Result<Number, SeatError> {
        if self.admission != AdmissionState::Open {
            return Err(SeatError::ShuttingDown);
        }
        if self.censuses.total().alive() >= self.limits.max_streams {
            return Err(SeatError::TooManyStreams);
        }
        let permit = permit()?;
        let number = Number(self.last.0 + 1);
        self.last = number;
        let mut entry =
            Box::new(Entry::new(number, name.clone(), headers, settings, permit, self.limits.ttl));
        let expires = entry.expires;
        entry.expire_at(expires, &mut self.expiring);
        changes.push(&mut entry, Change::Created);
        self.censuses.of_mut(name.kind()).created += 1;
        self.names.insert(name, number);
        self.entries.insert(number, entry);
        Ok(number)
    }

    /// Changes the slot of a stream. Returns the entry and the result of `change`, or `None` if the stream is unknown.
    pub(super) fn update<T>(
        &mut self,
        stream: Number,
        change: impl FnOnce(&mut Slot<B>) -> T,
    ) -> Option<(&mut Entry<B>, T)> {
        let entry = self.entries.get_mut(&stream)?;
        let changed = update_slot(self.censuses.of_mut(entry.name.kind()), &mut entry.slot, change);
        Some((entry, changed))
    }

    /// Returns the numbers of all streams.
    pub(super) fn numbers(&self) -> Vec<Number> {
        self.entries.keys().copied().collect()
    }

    /// Returns the numbers of the streams whose paths are `wanted`.
    pub(super) fn paths(&self, wanted: impl Fn(&PathName) -> bool) -> Vec<Number> {
        let is_wanted = |name: &StreamName| matches!(name, StreamName::Path(path) if wanted(path));
        self.names.iter().filter(|(name, _)| is_wanted(name)).map(|(_, number)| *number).collect()
    }

    /// Records that a side waits, for at most the time that it has asked for.
    pub(super) fn begin_wait(&mut self, stream: Number, changes: &mut Changes) {
        let Some(entry) = self.entries.get_mut(&stream) else { return };
        let Some(waiter) = entry.slot.waiter() else { return };
        let (side, limit) = (waiter.side(), waiter.limit());
        changes.push(entry, Change::Waiting(side));
        if let Some(limit) = limit.filter(|limit| limit.end < entry.expires) {
            entry.expire_at(limit.end, &mut self.expiring);
        }
    }

    /// Frees the seat of the waiting side if `is_absent`. Returns that side.
    pub(super) fn vacate_if(
        &mut self,
        stream: Number,
        is_absent: impl FnOnce(WaitingSideRef<'_, B>) -> bool,
        changes: &mut Changes,
    ) -> Option<WaitingSide<B>> {
        let waiter = self.entry(stream)?.slot.waiter()?;
        let side = waiter.side();
        if !is_absent(waiter) {
            return None;
        }
        let (entry, left) = self.update(stream, |slot| slot.leave(side))?;
        changes.push(entry, Change::Left(side));
        match entry.name.kind() {
            // At a path without a side there is nothing.
            StreamKind::Path => self.forget(stream, changes),
            StreamKind::Created => {
                let entry = self.entries.get_mut(&stream)?;
                let expires = entry.expires;
                entry.expire_at(expires, &mut self.expiring);
            }
        }
        left
    }

    /// Records the transfer of a stream whose sides have paired, and removes its deadline.
    pub(super) fn pair(&mut self, stream: Number, transfer: &Arc<Transfer>, changes: &mut Changes) {
        let Some(entry) = self.entries.get_mut(&stream) else { return };
        entry.transfer = Some(Arc::clone(transfer));
        if let Some(deadline) = entry.deadline.take() {
            self.expiring.remove(deadline, stream);
        }
        let wait = transfer.started().saturating_duration_since(entry.created);
        changes.push(entry, Change::Paired { wait });
    }

    /// Ends the wait of a side whose own limit has passed, or a stream whose time to live has passed. Returns the waiting side, if any,
    /// and why its wait has ended.
    pub(super) fn end_wait(
        &mut self,
        stream: Number,
        now: Instant,
        changes: &mut Changes,
    ) -> Option<(WaitingSide<B>, SeatError)> {
        let entry = self.entries.get_mut(&stream)?;
        entry.deadline = None;
        if entry.expires <= now {
            let (_, waiter) = self.update(stream, Slot::expire)?;
            self.retain(stream, changes);
            return Some((waiter?, SeatError::Expired));
        }
        // The deadline is earlier than the stream's, so it is the limit of a side that waits.
        let limit = entry.slot.waiter()?.limit()?;
        let waiter = self.vacate_if(stream, |_| true, changes)?;
        Some((waiter, SeatError::PeerNotConnected { seconds: limit.seconds }))
    }

    /// Releases the transfer and permit of a stream that has ended, and keeps it visible for another time to live, unless it was made by a
    /// path. Over the limit, the oldest ended stream is forgotten. Does nothing if the stream has not ended.
    pub(super) fn retain(&mut self, stream: Number, changes: &mut Changes) {
        let Some(entry) = self.entries.get_mut(&stream) else { return };
        let Some((outcome, duration)) = entry.end() else { return };
        if let Some(deadline) = entry.deadline.take() {
            self.expiring.remove(deadline, stream);
        }
        changes.push(entry, Change::Ended { outcome, duration });
        if entry.name.kind() == StreamKind::Path {
            return self.forget(stream, changes);
        }
        let deadline = Instant::now() + self.limits.ttl;
        entry.deadline = Some(deadline);
        self.retained.insert(deadline, stream);
        if self.retained.len() > self.limits.max_streams
            && let Some(oldest) = self.retained.pop()
        {
            self.forget(oldest, changes);
        }
    }

    /// Frees the path of a transfer whose body was read. The stream cannot be found by it any more.
    pub(super) fn release(&mut self, stream: Number) {
        if let Some(entry) = self.entries.get(&stream)
            && self.names.get(&entry.name) == Some(&stream)
        {
            self.names.remove(&entry.name);
        }
    }

    pub(super) fn forget(&mut self, stream: Number, changes: &mut Changes) {
        self.release(stream);
        if let Some(entry) = self.entries.remove(&stream) {
            *self.censuses.of_mut(entry.name.kind()).count_mut(entry.slot.phase()) -= 1;
            if let Some(deadline) = entry.deadline {
                self.expiring.remove(deadline, stream);
            }
            changes.forgotten(&entry);
        }
    }

    /// Returns whether nothing is left, for the checks of the interleaving tests.
    #[cfg(all(test, shuttle))]
    pub(super) fn is_empty(&self) -> bool {
        let queues = self.expiring.len() + self.retained.len() + self.names.len();
        self.entries.is_empty() && queues == 0 && self.censuses == Censuses::default()
    }
}
