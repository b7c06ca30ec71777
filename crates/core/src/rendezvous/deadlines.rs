//! Deadlines: when waits end, when waiting streams expire, and when ended ones are forgotten.

use std::collections::BTreeSet;

use tokio::time::{Instant, sleep_until};

use super::Rendezvous;
use super::entry::Number;
use super::waiting::refuse;

/// Streams in the order of their deadlines, and of their age where these are equal. Insertion and removal cost O(log n).
#[derive(Debug, Default)]
pub(super) struct Deadlines(BTreeSet<(Instant, Number)>);

impl Deadlines {
    pub(super) fn insert(&mut self, at: Instant, stream: Number) {
        self.0.insert((at, stream));
    }

    pub(super) fn remove(&mut self, at: Instant, stream: Number) {
        self.0.remove(&(at, stream));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Removes and returns the stream with the earliest deadline.
    pub(super) fn pop(&mut self) -> Option<Number> {
        self.0.pop_first().map(|(_, stream)| stream)
    }

    /// Removes and returns a stream whose deadline is not after `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Number> {
        if self.next()? <= now { self.pop() } else { None }
    }
}

impl<B: Send + 'static> Rendezvous<B> {
    /// Ends waits, expires and forgets streams at their deadlines, and wakes many subscribers in turn. Runs
    /// forever; one task must run it.
    pub async fn run_timers(&self) {
        tokio::select! {
            () = self.run_deadlines() => {}
            () = self.turns.run() => {}
        }
    }

    async fn run_deadlines(&self) {
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
        let refused = self.change(|table, changes| {
            let mut refused = Vec::new();
            while let Some(stream) = table.expiring.pop_due(now) {
                refused.extend(table.end_wait(stream, now, changes));
            }
            while let Some(stream) = table.retained.pop_due(now) {
                table.forget(stream, changes);
            }
            refused
        });
        self.counts_decreased.notify_one();
        for (waiter, refusal) in refused {
            refuse(waiter, refusal);
        }
    }
}
