//! Deadlines: when waiting streams expire, and when ended ones are forgotten.

use std::collections::BTreeMap;

use rendezvous_protocol::StreamId;
use tokio::time::{Instant, sleep_until};

use super::Rendezvous;
use super::waiting::refuse;
use crate::outcome::SeatError;

/// A deadline and the number of its stream, which orders streams with equal deadlines by age.
type Deadline = (Instant, u64);

/// Streams in the order of their deadlines. Insertion and removal cost O(log n).
#[derive(Debug, Default)]
pub(super) struct Deadlines(BTreeMap<Deadline, StreamId>);

impl Deadlines {
    pub(super) fn insert(&mut self, at: Instant, number: u64, id: StreamId) {
        self.0.insert((at, number), id);
    }

    pub(super) fn remove(&mut self, at: Instant, number: u64) {
        self.0.remove(&(at, number));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first_key_value().map(|(&(at, _), _)| at)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Removes and returns the stream with the earliest deadline.
    pub(super) fn pop(&mut self) -> Option<StreamId> {
        self.0.pop_first().map(|(_, id)| id)
    }

    /// Removes and returns a stream whose deadline is not after `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<StreamId> {
        if self.next()? <= now { self.pop() } else { None }
    }
}

impl<B: Send + 'static> Rendezvous<B> {
    /// Expires and forgets streams at their deadlines. Runs forever; one task must run it.
    pub async fn run_timers(&self) {
        loop {
            let next = self.table.lock().next_deadline();
            let due = async {
                match next {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => self.pass_deadlines(Instant::now()),
                () = self.earlier_deadline.notified() => {}
            }
        }
    }

    pub(super) fn pass_deadlines(&self, now: Instant) {
        let waiters = self.change(|table, changes| {
            let mut waiters = Vec::new();
            while let Some(id) = table.expiring.pop_due(now) {
                waiters.extend(table.expire(&id, changes));
            }
            while let Some(id) = table.retained.pop_due(now) {
                table.forget(&id);
            }
            waiters
        });
        self.counts_decreased.notify_one();
        for waiter in waiters {
            refuse(waiter, SeatError::Expired);
        }
    }
}
