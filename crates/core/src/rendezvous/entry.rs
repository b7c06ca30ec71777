//! One stream in the table.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use rendezvous_protocol::StreamName;
use tokio::time::Instant;

use super::NewStream;
use super::deadlines::Deadlines;
use super::waiting::Slot;
use crate::budget::Reservation;
use crate::clients::Permit;
use crate::feed::{Capacity, Feed, Subscription, Turns};
use crate::header_set::StreamHeaders;
use crate::outcome::Outcome;
use crate::slot::Phase;
use crate::snapshot::{Cursor, Snapshot, SnapshotState};
use crate::token::Tokens;
use crate::transfer::Transfer;

/// The number of a stream. The first stream has 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Number(pub(super) u64);

/// One stream.
pub(super) struct Entry<B> {
    pub(super) number: Number,
    pub(super) name: StreamName,
    pub(super) slot: Slot<B>,
    pub(super) headers: Arc<StreamHeaders>,
    pub(super) transfer: Option<Arc<Transfer>>,
    /// How often the visible state has changed.
    version: u64,
    /// Whether the last change was the last visible one.
    was_final: bool,
    created_at: SystemTime,
    deactivated_at: Option<SystemTime>,
    pub(super) created: Instant,
    /// When the stream expires if its sides have not paired.
    pub(super) expires: Instant,
    /// The deadline under which it is in the queue `expiring` or `retained` of the table.
    pub(super) deadline: Option<Instant>,
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
    /// Its changes, while there are subscribers.
    feed: Weak<Feed>,
}

impl<B> Entry<B> {
    /// Creates a stream that waits for both sides, by default for `ttl`.
    pub(super) fn new(
        number: Number,
        name: StreamName,
        headers: Arc<StreamHeaders>,
        settings: NewStream,
        permit: Option<Permit>,
        ttl: Duration,
    ) -> Self {
        let NewStream { tokens, reserved, ttl: own_ttl, .. } = settings;
        let has_rare = tokens.is_some() || reserved.is_some();
        let rare = || Box::new(RareFields { tokens, reserved: Vec::from_iter(reserved), feed: Weak::new() });
        let created = Instant::now();
        let expires = created + own_ttl.unwrap_or(ttl);
        Self {
            number,
            name,
            slot: Slot::default(),
            headers,
            transfer: None,
            version: 0,
            was_final: false,
            created_at: SystemTime::now(),
            deactivated_at: None,
            created,
            expires,
            deadline: None,
            permit,
            bytes: 0,
            rare: has_rare.then(rare),
        }
    }

    pub(super) fn has_ended(&self) -> bool {
        matches!(self.slot.phase(), Phase::Ended(_))
    }

    /// Returns whether its visible state stays: it has ended, or has a report.
    pub(super) fn is_final(&self) -> bool {
        matches!(self.slot.phase(), Phase::Reported(_) | Phase::Ended(_))
    }

    /// Counts a change. Returns whether it is visible: the delivery of a report is not.
    pub(super) fn advance(&mut self) -> bool {
        let is_final = self.is_final();
        let was_final = std::mem::replace(&mut self.was_final, is_final);
        self.version += u64::from(!was_final);
        !was_final
    }

    /// Releases the transfer and the permit of a stream that has ended. Returns how it has ended, and the duration of its transfer. `None` if
    /// it has not ended.
    pub(super) fn end(&mut self) -> Option<(Outcome, Option<Duration>)> {
        let Phase::Ended(outcome) = self.slot.phase() else { return None };
        let outcome = outcome.clone();
        let transfer = self.transfer.take();
        self.bytes = transfer.as_ref().map_or(0, |transfer| transfer.bytes());
        self.deactivated_at.get_or_insert_with(SystemTime::now);
        self.permit = None;
        Some((outcome, transfer.map(|transfer| transfer.started().elapsed())))
    }

    /// Subscribes to its changes.
    pub(super) fn watch(&mut self, turns: &Arc<Turns>) -> Subscription {
        let rare = self.rare.get_or_insert_default();
        let feed = rare.feed.upgrade().unwrap_or_else(|| Feed::new(Capacity::OF_A_STREAM, turns));
        rare.feed = Arc::downgrade(&feed);
        feed.subscribe()
    }

    pub(super) fn tokens(&self) -> Option<&Tokens> {
        self.rare.as_ref()?.tokens.as_ref()
    }

    /// Returns its feed, if that has subscribers.
    pub(super) fn feed(&self) -> Option<Arc<Feed>> {
        self.rare.as_ref()?.feed.upgrade()
    }

    /// Sets or moves the deadline of a stream that has not paired.
    pub(super) fn expire_at(&mut self, at: Instant, expiring: &mut Deadlines) {
        if let Some(before) = self.deadline.replace(at) {
            expiring.remove(before, self.number);
        }
        expiring.insert(at, self.number);
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
            name: self.name.clone(),
            version: self.version,
            created_at: self.created_at,
            deactivated_at: self.deactivated_at,
            state,
            headers: Arc::clone(&self.headers),
            bytes_transferred: self.transfer.as_ref().map_or(self.bytes, |transfer| transfer.bytes()),
            position: Cursor(self.number.0),
        }
    }
}
