//! A limit on memory that many requests share.
//!
//! *Invariant.* Dropping a [`Reservation`] releases its bytes, so the count is right on every path.
//!
//! *Concurrency.* The count is one atomic: no call blocks or waits for room.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A limit in bytes, and how many of them are reserved.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    reserved: AtomicU64,
}

/// Bytes reserved in a [`Budget`]. Dropping it releases them.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

/// The budget does not have the requested number of bytes left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the budget is exhausted")]
pub struct Exhausted;

impl Budget {
    /// Creates a budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, reserved: AtomicU64::new(0) })
    }

    /// Returns a reservation of 0 bytes, which can grow.
    #[must_use]
    pub fn empty_reservation(self: &Arc<Self>) -> Reservation {
        Reservation { budget: Arc::clone(self), bytes: 0 }
    }

    /// Reserves `bytes`.
    ///
    /// # Errors
    /// [`Exhausted`] if the total would exceed the limit.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, Exhausted> {
        self.reserve_if(bytes, |after| after <= self.limit)
    }

    /// Reserves `bytes`, even more than the limit if nothing else is reserved. So a response that is larger than the
    /// budget is still served, one at a time.
    ///
    /// # Errors
    /// [`Exhausted`] if the total would exceed the limit and other bytes are reserved.
    pub fn reserve_alone(self: &Arc<Self>, bytes: u64) -> Result<Reservation, Exhausted> {
        self.reserve_if(bytes, |after| after <= self.limit || after == bytes)
    }

    /// Returns the bytes that are currently reserved.
    #[cfg(test)]
    fn reserved(&self) -> u64 {
        self.reserved.load(Ordering::Relaxed)
    }

    fn reserve_if(
        self: &Arc<Self>,
        bytes: u64,
        fits: impl Fn(u64) -> bool,
    ) -> Result<Reservation, Exhausted> {
        self.add_if(bytes, fits)?;
        Ok(Reservation { budget: Arc::clone(self), bytes })
    }

    fn add_if(&self, bytes: u64, fits: impl Fn(u64) -> bool) -> Result<(), Exhausted> {
        let grown = |reserved: u64| reserved.checked_add(bytes).filter(|after| bytes == 0 || fits(*after));
        // Relaxed: the count does not order access to other memory.
        match self.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown) {
            Ok(_) => Ok(()),
            Err(_) => Err(Exhausted),
        }
    }

    fn release(&self, bytes: u64) {
        self.reserved.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Reservation {
    /// Grows or shrinks the reservation to `bytes`.
    ///
    /// # Errors
    /// [`Exhausted`] if the total would exceed the limit. The reservation is then unchanged.
    pub fn resize(&mut self, bytes: u64) -> Result<(), Exhausted> {
        if bytes == self.bytes {
            // The count is shared by all threads.
            return Ok(());
        }
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.budget.add_if(more, |after| after <= self.budget.limit)?,
            None => self.budget.release(self.bytes - bytes),
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Grows the reservation to `bytes` for memory that is useful but not needed. Fails if all reservations together would
    /// exceed half of the budget, or if the growth exceeds an eighth of what is left of that half, so that those who come
    /// later get some too.
    ///
    /// # Errors
    /// [`Exhausted`] if too little is left. The reservation is then unchanged.
    pub fn grow_optionally(&mut self, bytes: u64) -> Result<(), Exhausted> {
        let more = bytes.saturating_sub(self.bytes);
        let half = self.budget.limit / 2;
        self.budget.add_if(more, |after| more <= half.saturating_sub(after - more) / 8)?;
        self.bytes += more;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
    }
}

/// Returns an upper bound of the memory that an allocation of `bytes` takes, in bytes: allocators round sizes up by at
/// most an eighth.
#[must_use]
pub fn allocated(bytes: usize) -> u64 {
    (bytes + bytes / 8 + 16) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_a_reservation_releases_its_bytes() {
        let budget = Budget::new(10);
        let (first, second) = (budget.reserve(4).unwrap(), budget.reserve(6).unwrap());
        assert_eq!(budget.reserve(1).unwrap_err(), Exhausted);
        drop(budget.empty_reservation());
        drop(first);
        assert_eq!(budget.reserve(5).unwrap_err(), Exhausted);
        let third = budget.reserve(4).unwrap();
        drop((second, third));
        assert_eq!(budget.reserved(), 0);
    }

    #[test]
    fn a_reservation_grows_within_the_limit_and_is_unchanged_by_a_refusal() {
        let budget = Budget::new(10);
        let mut one = budget.empty_reservation();
        for (bytes, granted) in [(8, true), (10, true), (11, false), (3, true), (3, true), (0, true)] {
            assert_eq!(one.resize(bytes).is_ok(), granted, "{bytes}");
            let expected = if granted { bytes } else { 10 };
            assert_eq!(budget.reserved(), expected, "{bytes}");
        }
        drop(one);
        assert_eq!(budget.reserved(), 0);
    }

    #[test]
    fn optional_growth_leaves_half_of_the_budget_and_something_for_the_next() {
        let budget = Budget::new(1600);
        let mut grown: Vec<_> = std::iter::repeat_with(|| budget.empty_reservation()).take(100).collect();
        for reservation in &mut grown {
            for bytes in (1..=100).rev() {
                if reservation.grow_optionally(bytes).is_ok() {
                    break;
                }
            }
        }
        assert_eq!((grown[0].bytes, grown[1].bytes), (100, 87));
        assert!(budget.reserved() > 780 && budget.reserved() <= 800, "{}", budget.reserved());
        assert!(grown[99].grow_optionally(1000).is_err());
        let needed = budget.reserve(800).unwrap();
        assert_eq!(grown[0].grow_optionally(101).unwrap_err(), Exhausted, "half is in use by others");
        drop((grown, needed));
        assert_eq!(budget.reserved(), 0);
    }

    #[test]
    fn more_than_the_budget_is_granted_only_alone() {
        let budget = Budget::new(10);
        let alone = budget.reserve_alone(25).unwrap();
        assert_eq!(budget.reserve_alone(25).unwrap_err(), Exhausted);
        assert_eq!(budget.reserve_alone(1).unwrap_err(), Exhausted);
        drop(alone);
        let _small = budget.reserve_alone(2).unwrap();
        assert_eq!(budget.reserve_alone(25).unwrap_err(), Exhausted);
        assert!(budget.reserve_alone(8).is_ok());
        assert_eq!(budget.reserve(u64::MAX).unwrap_err(), Exhausted, "no sum overflows");
    }
}
