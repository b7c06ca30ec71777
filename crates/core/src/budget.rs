//! A limit in bytes that many owners share. Pure.
//!
//! Dropping a [`Reservation`] gives its bytes back, so no path can forget it. The count is one atomic: nothing waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that may be reserved at a time, and how many are.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    reserved: AtomicU64,
}

/// Bytes reserved in a [`Budget`]. Dropping it gives them back.
#[derive(Debug)]
pub struct Reservation {
    budget: Arc<Budget>,
    bytes: u64,
}

/// The budget has no room for that many bytes now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the budget is exhausted")]
pub struct Exhausted;

impl Budget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, reserved: AtomicU64::new(0) })
    }

    /// Reserves `bytes`; none are always granted.
    ///
    /// # Errors
    /// [`Exhausted`]
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Reservation, Exhausted> {
        self.reserve_if(bytes, |after| after <= self.limit)
    }

    /// Reserves `bytes`, also more than the limit if nothing else is reserved: so what is too large to fit is still served, one at
    /// a time.
    ///
    /// # Errors
    /// [`Exhausted`]
    pub fn reserve_alone(self: &Arc<Self>, bytes: u64) -> Result<Reservation, Exhausted> {
        self.reserve_if(bytes, |after| after <= self.limit || after == bytes)
    }

    /// Bytes that are reserved now.
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
        // The count guards no other memory.
        match self.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown) {
            Ok(_) => Ok(()),
            Err(_) => Err(Exhausted),
        }
    }

    fn give_back(&self, bytes: u64) {
        self.reserved.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Reservation {
    /// Changes the reservation to `bytes`.
    ///
    /// # Errors
    /// [`Exhausted`]; the reservation stays as it was.
    pub fn resize(&mut self, bytes: u64) -> Result<(), Exhausted> {
        match bytes.checked_sub(self.bytes) {
            Some(more) => self.budget.add_if(more, |after| after <= self.budget.limit)?,
            None => self.budget.give_back(self.bytes - bytes),
        }
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

/// Bytes that an allocation of `bytes` takes at most: allocators round sizes up by at most an eighth.
#[must_use]
pub fn allocated(bytes: usize) -> u64 {
    (bytes + bytes / 8 + 16) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reserved_is_given_back_when_it_is_dropped() {
        let budget = Budget::new(10);
        let (first, second) = (budget.reserve(4).unwrap(), budget.reserve(6).unwrap());
        assert_eq!(budget.reserve(1).unwrap_err(), Exhausted);
        assert_eq!(budget.reserve(0).unwrap().bytes, 0, "nothing is always granted");
        drop(first);
        assert_eq!(budget.reserve(5).unwrap_err(), Exhausted);
        let third = budget.reserve(4).unwrap();
        drop((second, third));
        assert_eq!(budget.reserved(), 0);
    }

    #[test]
    fn a_reservation_grows_while_there_is_room_and_keeps_what_it_has_otherwise() {
        let budget = Budget::new(10);
        let mut one = budget.reserve(0).unwrap();
        for (bytes, granted) in [(8, true), (10, true), (11, false), (3, true), (3, true), (0, true)] {
            assert_eq!(one.resize(bytes).is_ok(), granted, "{bytes}");
            let expected = if granted { bytes } else { 10 };
            assert_eq!(budget.reserved(), expected, "{bytes}");
        }
        drop(one);
        assert_eq!(budget.reserved(), 0);
    }

    #[test]
    fn what_is_larger_than_the_budget_is_granted_only_alone() {
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
