//! The table of streams, as whoever holds its lock sees it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use rendezvous_protocol::StreamId;
use tokio::time::Instant;

use super::admission::AdmissionState;
use super::deadlines::Deadlines;
use super::seats::{Party, PartyRef, Slot};
use super::{Census, Limits, NewStream, Snapshot, SnapshotState};
use crate::budget::Reservation;
use crate::clients::Place;
use crate::events::{Change, Event};
use crate::header_set::StreamHeaders;
use crate::outcome::Outcome;
use crate::slot::Phase;
use crate::token::Tokens;
use crate::transfer::Transfer;

/// The table of streams.
pub(super) struct Table<B> {
    limits: Limits,
    /// Boxed, so that the table grows by moving little and has little spare room.
    entries: HashMap<StreamId, Box<Entry<B>>>,
    by_age: BTreeMap<u64, StreamId>,
    created: u64,
    /// Those that have not paired.
    pub(super) expiring: Deadlines,
    /// Those that have ended.
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
    /// Among the streams of its creator, until it has ended.
    place: Option<Place>,
    bytes: u64,
    /// Boxed, because most streams have none of them.
    rare: Option<Box<RareFields>>,
}

/// What few streams have.
#[derive(Default)]
struct RareFields {
    tokens: Option<Tokens>,
    /// The memory of its header sets, and of an error that was reported.
    reserved: Vec<Reservation>,
}

/// What has changed while the table was locked, to be published afterwards.
pub(super) struct Changes {
    events: Vec<Event>,
    /// Somebody subscribes to them.
    are_published: bool,
}

impl Changes {
    pub(super) fn new(are_published: bool) -> Self {
        Self { events: Vec::new(), are_published }
    }

    pub(super) fn push<B>(&mut self, entry: &Entry<B>, change: Change) {
        if self.are_published {
            self.events.push(Event { stream: entry.snapshot(), change });
        }
    }

    pub(super) fn into_events(self) -> Vec<Event> {
        self.events
    }
}

/// Changes a slot, and counts it where it stands then.
fn update_slot<B, T>(census: &mut Census, slot: &mut Slot<B>, change: impl FnOnce(&mut Slot<B>) -> T) -> T {
    *census.of(slot.phase()) -= 1;
    let changed = change(slot);
    *census.of(slot.phase()) += 1;
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

    /// The streams that were created behind this number, oldest first.
    pub(super) fn entries_after(&self, number: u64) -> impl Iterator<Item = Snapshot> {
        let ids = self.by_age.range(number.saturating_add(1)..).map(|(_, id)| id);
        ids.filter_map(|id| self.entry(id).map(Entry::snapshot))
    }

    /// The transfers that run.
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
        place: Option<Place>,
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
            place,
            bytes: 0,
            rare: has_rare.then(|| Box::new(RareFields { tokens, reserved: Vec::from_iter(reserved) })),
        });
        changes.push(&entry, Change::Created);
        self.entries.insert(id.clone(), entry);
        self.by_age.insert(number, id.clone());
        self.expiring.insert(deadline, number, id.clone());
        self.census.created += 1;
    }

    /// Changes the slot of a stream; `None` where there is none of this id.
    pub(super) fn update<T>(
        &mut self,
        id: &StreamId,
        change: impl FnOnce(&mut Slot<B>) -> T,
    ) -> Option<(&mut Entry<B>, T)> {
        let entry = self.entries.get_mut(id)?;
        let changed = update_slot(&mut self.census, &mut entry.slot, change);
        Some((entry, changed))
    }

    /// Changes the slots of all streams, and returns what that gives.
    pub(super) fn update_all<T>(&mut self, change: impl Fn(&mut Slot<B>) -> Option<T>) -> Vec<T> {
        let slots = self.entries.values_mut().map(|entry| &mut entry.slot);
        slots.filter_map(|slot| update_slot(&mut self.census, slot, &change)).collect()
    }

    /// Frees the seat of the side that waits, if that `is_absent`.
    pub(super) fn dismiss(
        &mut self,
        id: &StreamId,
        is_absent: impl FnOnce(PartyRef<'_, B>) -> bool,
        changes: &mut Changes,
    ) -> Option<Party<B>> {
        let waiter = self.entry(id)?.slot.waiter()?;
        let side = waiter.side();
        if !is_absent(waiter) {
            return None;
        }
        let (entry, left) = self.update(id, |slot| slot.leave(side))?;
        changes.push(entry, Change::Left(side));
        left
    }

    /// The sides of the stream have paired: it waits no more.
    pub(super) fn pair(&mut self, id: &StreamId, transfer: &Arc<Transfer>, changes: &mut Changes) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        entry.transfer = Some(Arc::clone(transfer));
        if let Some(deadline) = entry.deadline.take() {
            self.expiring.remove(deadline, entry.number);
            let left = deadline.saturating_duration_since(transfer.started());
            changes.push(entry, Change::Paired { wait: self.limits.ttl.saturating_sub(left) });
        }
    }

    /// The time to live of the stream has passed. Returns the side that waits, if any.
    pub(super) fn expire(&mut self, id: &StreamId, changes: &mut Changes) -> Option<Party<B>> {
        let (entry, waiter) = self.update(id, Slot::expire)?;
        entry.deadline = None;
        self.retain(id, changes);
        waiter
    }

    /// The stream has ended: it stays visible for another time to live, unless too many have.
    pub(super) fn retain(&mut self, id: &StreamId, changes: &mut Changes) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let Phase::Ended(outcome) = entry.slot.phase() else { return };
        let outcome = outcome.clone();
        let transfer = entry.transfer.take();
        entry.bytes = transfer.as_ref().map_or(0, |transfer| transfer.bytes());
        entry.deactivated_at.get_or_insert_with(SystemTime::now);
        entry.place = None;
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
            *self.census.of(entry.slot.phase()) -= 1;
        }
    }

    /// For the laws of the interleavings: nothing is left.
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

    /// An error was reported, whose memory is `reserved`.
    pub(super) fn reported(&mut self, reserved: Option<Reservation>) {
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
            number: self.number,
        }
    }
}
