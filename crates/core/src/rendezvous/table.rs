//! The state that the lock of [`Rendezvous`](super::Rendezvous) guards: the streams, their order, deadlines and counts.
//!
//! *Invariants.* An entry has its deadline in `expiring` until it pairs, in neither while it is streaming, and in `retained`
//! after its end. The census counts each entry in the phase of its slot.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use rendezvous_protocol::StreamId;
use tokio::time::Instant;

use super::admission::AdmissionState;
use super::deadlines::Deadlines;
use super::waiting::{Slot, WaitingSide, WaitingSideRef};
use super::{Census, Limits, NewStream};
use crate::budget::Reservation;
use crate::clients::Permit;
use crate::events::{Change, Event};
use crate::header_set::StreamHeaders;
use crate::outcome::Outcome;
use crate::slot::Phase;
use crate::snapshot::{Cursor, Snapshot, SnapshotState};
use crate::token::Tokens;
use crate::transfer::Transfer;

/// The table of streams. The caller holds its lock.
pub(super) struct Table<B> {
    limits: Limits,
    /// Boxed, so that the map moves little when it grows and its spare capacity takes little memory.
    entries: HashMap<StreamId, Box<Entry<B>>>,
    /// Ids by the number of the stream: the order of creation.
    by_age: BTreeMap<u64, StreamId>,
    /// The number of the last stream that was created. The first is 1.
    created: u64,
    /// Streams that have not paired.
    pub(super) expiring: Deadlines,
    /// Streams that have ended.
    pub(super) retained: Deadlines,
    pub(super) census: Census,
    pub(super) admission: AdmissionState,
}

/// One stream.
pub(super) struct Entry<B> {
    pub(super) id: StreamId,
    pub(super) slot: Slot<B>,
    pub(super) headers: Arc<StreamHeaders>,
    pub(super) transfer: Option<Arc<Transfer>>,
    number: u64,
    created_at: SystemTime,
    deactivated_at: Option<SystemTime>,
    deadline: Option<Instant>,
    /// Counts the stream against its creator's quota until it ends.
    permit: Option<Permit>,
    /// Body bytes of the transfer that has ended.
    bytes: u64,
    /// Boxed, because most streams have none of these fields.
    rare: Option<Box<RareFields>>,
}

/// The fields of an [`Entry`] that few streams use.
#[derive(Default)]
struct RareFields {
    tokens: Option<Tokens>,
    /// The memory of the header sets and of a report.
    reserved: Vec<Reservation>,
}

/// The changes made while the table is locked, to be published after it is unlocked.
pub(super) struct Changes {
    events: Vec<Event>,
    /// Without subscribers no event is built.
    has_subscribers: bool,
}

impl Changes {
    pub(super) fn new(has_subscribers: bool) -> Self {
        Self { events: Vec::new(), has_subscribers }
    }

    pub(super) fn push<B>(&mut self, entry: &Entry<B>, change: Change) {
        if self.has_subscribers {
            self.events.push(Event { stream: entry.snapshot(), change });
        }
    }

    pub(super) fn into_events(self) -> Vec<Event> {
        self.events
    }
}

/// Changes a slot and moves it to the count of its new phase.
fn update_slot<B, T>(census: &mut Census, slot: &mut Slot<B>, change: impl FnOnce(&mut Slot<B>) -> T) -> T {
    *census.count_mut(slot.phase()) -= 1;
    let changed = change(slot);
    *census.count_mut(slot.phase()) += 1;
    changed
}

impl<B> Table<B> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: HashMap::new(),
            by_age: BTreeMap::new(),
            created: 0,
            expiring: Deadlines::default(),
            retained: Deadlines::default(),
            census: Census::default(),
            admission: AdmissionState::default(),
        }
    }

    pub(super) fn entry(&self, id: &StreamId) -> Option<&Entry<B>> {
        self.entries.get(id).map(|entry| &**entry)
    }

    /// Returns snapshots of the streams after a position, oldest first.
    pub(super) fn snapshots_after(&self, after: Cursor) -> impl Iterator<Item = Snapshot> {
        let ids = self.by_age.range(after.0.saturating_add(1)..).map(|(_, id)| id);
        ids.filter_map(|id| self.entry(id).map(Entry::snapshot))
    }

    /// Returns all running transfers.
    pub(super) fn transfers(&self) -> Vec<Arc<Transfer>> {
        self.entries.values().filter_map(|entry| entry.transfer.clone()).collect()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.expiring.next().into_iter().chain(self.retained.next()).min()
    }

    pub(super) fn insert(
        &mut self,
        id: &StreamId,
        headers: Arc<StreamHeaders>,
        rest: NewStream,
        permit: Option<Permit>,
        changes: &mut Changes,
    ) {
        self.created += 1;
        let (number, deadline) = (self.created, Instant::now() + self.limits.ttl);
        let NewStream { tokens, reserved, .. } = rest;
        let has_rare = tokens.is_some() || reserved.is_some();
        let entry = Box::new(Entry {
            id: id.clone(),
            slot: Slot::default(),
            headers,
            transfer: None,
            number,
            created_at: SystemTime::now(),
            deactivated_at: None,
            deadline: Some(deadline),
            permit,
            bytes: 0,
            rare: has_rare.then(|| Box::new(RareFields { tokens, reserved: Vec::from_iter(reserved) })),
        });
        changes.push(&entry, Change::Created);
        self.entries.insert(id.clone(), entry);
        self.by_age.insert(number, id.clone());
        self.expiring.insert(deadline, number, id.clone());
        self.census.created += 1;
    }

    /// Changes the slot of a stream. Returns the entry and the result of `change`, or `None` if the id is unknown.
    pub(super) fn update<T>(
        &mut self,
        id: &StreamId,
        change: impl FnOnce(&mut Slot<B>) -> T,
    ) -> Option<(&mut Entry<B>, T)> {
        let entry = self.entries.get_mut(id)?;
        let changed = update_slot(&mut self.census, &mut entry.slot, change);
        Some((entry, changed))
    }

    /// Changes the slots of all streams. Returns the results that are not `None`.
    pub(super) fn update_all<T>(&mut self, change: impl Fn(&mut Slot<B>) -> Option<T>) -> Vec<T> {
        let slots = self.entries.values_mut().map(|entry| &mut entry.slot);
        slots.filter_map(|slot| update_slot(&mut self.census, slot, &change)).collect()
    }

    /// Frees the seat of the waiting side if `is_absent`. Returns that side.
    pub(super) fn vacate_if(
        &mut self,
        id: &StreamId,
        is_absent: impl FnOnce(WaitingSideRef<'_, B>) -> bool,
        changes: &mut Changes,
    ) -> Option<WaitingSide<B>> {
        let waiter = self.entry(id)?.slot.waiter()?;
        let side = waiter.side();
        if !is_absent(waiter) {
            return None;
        }
        let (entry, left) = self.update(id, |slot| slot.leave(side))?;
        changes.push(entry, Change::Left(side));
        left
    }

    /// Records the transfer of a stream whose sides have paired, and removes its deadline.
    pub(super) fn pair(&mut self, id: &StreamId, transfer: &Arc<Transfer>, changes: &mut Changes) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        entry.transfer = Some(Arc::clone(transfer));
        if let Some(deadline) = entry.deadline.take() {
            self.expiring.remove(deadline, entry.number);
            let left = deadline.saturating_duration_since(transfer.started());
            changes.push(entry, Change::Paired { wait: self.limits.ttl.saturating_sub(left) });
        }
    }

    /// Ends a stream whose time to live has passed. Returns the waiting side, if any.
    pub(super) fn expire(&mut self, id: &StreamId, changes: &mut Changes) -> Option<WaitingSide<B>> {
        let (entry, waiter) = self.update(id, Slot::expire)?;
        entry.deadline = None;
        self.retain(id, changes);
        waiter
    }

    /// Keeps a stream that has ended visible for another time to live, and releases its transfer and permit. Over the
    /// limit, the oldest ended stream is forgotten. Does nothing if the stream has not ended.
    pub(super) fn retain(&mut self, id: &StreamId, changes: &mut Changes) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let Phase::Ended(outcome) = entry.slot.phase() else { return };
        let outcome = outcome.clone();
        let transfer = entry.transfer.take();
        entry.bytes = transfer.as_ref().map_or(0, |transfer| transfer.bytes());
        entry.deactivated_at.get_or_insert_with(SystemTime::now);
        entry.permit = None;
        if let Some(deadline) = entry.deadline.take() {
            self.expiring.remove(deadline, entry.number);
        }
        let deadline = Instant::now() + self.limits.ttl;
        entry.deadline = Some(deadline);
        self.retained.insert(deadline, entry.number, id.clone());
        let duration = transfer.map(|transfer| transfer.started().elapsed());
        changes.push(entry, Change::Ended { outcome, duration });
        if self.retained.len() > self.limits.max_streams
            && let Some(oldest) = self.retained.pop()
        {
            self.forget(&oldest);
        }
    }

    pub(super) fn forget(&mut self, id: &StreamId) {
        if let Some(entry) = self.entries.remove(id) {
            self.by_age.remove(&entry.number);
            *self.census.count_mut(entry.slot.phase()) -= 1;
        }
    }

    /// Returns whether nothing is left, for the checks of the interleaving tests.
    #[cfg(all(test, shuttle))]
    pub(super) fn is_empty(&self) -> bool {
        let queues = self.expiring.len() + self.retained.len() + self.by_age.len();
        self.entries.is_empty() && queues == 0 && self.census == Census::default()
    }
}

impl<B> Entry<B> {
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.slot.phase(), Phase::Ended(_))
    }

    pub(super) fn tokens(&self) -> Option<&Tokens> {
        self.rare.as_ref()?.tokens.as_ref()
    }

    /// Records that an error was reported. `reserved` is its memory.
    pub(super) fn set_reported(&mut self, reserved: Option<Reservation>) {
        self.deactivated_at = Some(SystemTime::now());
        if let Some(reserved) = reserved {
            self.rare.get_or_insert_default().reserved.push(reserved);
        }
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let state = match self.slot.phase() {
            Phase::Created => SnapshotState::Created,
            Phase::Waiting(side) => SnapshotState::Waiting(side),
            Phase::Streaming => SnapshotState::Streaming,
            Phase::Reported(report) => SnapshotState::Ended(Outcome::Reported(Arc::clone(report))),
            Phase::Ended(outcome) => SnapshotState::Ended(outcome.clone()),
        };
        Snapshot {
            id: self.id.clone(),
            created_at: self.created_at,
            deactivated_at: self.deactivated_at,
            state,
            headers: Arc::clone(&self.headers),
            bytes_transferred: self.transfer.as_ref().map_or(self.bytes, |transfer| transfer.bytes()),
            position: Cursor(self.number),
        }
    }
}
