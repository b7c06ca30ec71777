//! The counts of the quotas. Pure: the caller passes the time and holds the lock.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::Client;
use crate::rate::Rate;

/// How many connections or streams each client has. A client that has none is not in the map.
#[derive(Debug, Default)]
pub(super) struct Counts(HashMap<Client, usize>);

impl Counts {
    /// Adds one for `client` if it has fewer than `limit`. Returns whether it did.
    pub(super) fn take(&mut self, client: Client, limit: usize) -> bool {
        let count = self.0.get(&client).copied().unwrap_or(0);
        let is_granted = count < limit;
        if is_granted {
            self.0.insert(client, count + 1);
        }
        is_granted
    }

    /// Removes one for `client`.
    pub(super) fn release(&mut self, client: Client) {
        match self.0.get_mut(&client) {
            Some(count @ 2..) => *count -= 1,
            _ => drop(self.0.remove(&client)),
        }
    }
}

/// A token bucket for each client. A bucket is dropped when it is full again. Over `capacity` buckets, the fullest is
/// dropped, because that grants the fewest extra tokens.
#[derive(Debug)]
pub(super) struct Buckets {
    capacity: usize,
    /// When each bucket is full: its whole state, see [`Rate`].
    full_at: HashMap<Client, Duration>,
    by_time: BTreeSet<(Duration, Client)>,
}

impl Buckets {
    /// Creates a table of at most `capacity` buckets.
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, full_at: HashMap::new(), by_time: BTreeSet::new() }
    }

    /// Takes one of `client`'s tokens. On failure returns the time until one is available.
    pub(super) fn take(&mut self, client: Client, rate: Rate, now: Duration) -> Result<(), Duration> {
        self.drop_full(now);
        let full_at = self.full_at.get(&client).copied().unwrap_or(now);
        let wait = rate.wait(full_at, now);
        if wait > Duration::ZERO {
            return Err(wait);
        }
        let later = rate.take(full_at, now, 1);
        self.by_time.remove(&(full_at, client));
        self.by_time.insert((later, client));
        self.full_at.insert(client, later);
        if self.full_at.len() > self.capacity {
            self.drop_fullest();
        }
        Ok(())
    }

    fn drop_full(&mut self, now: Duration) {
        while self.by_time.first().is_some_and(|(full_at, _)| *full_at <= now) {
            self.drop_fullest();
        }
    }

    fn drop_fullest(&mut self) {
        if let Some((_, client)) = self.by_time.pop_first() {
            self.full_at.remove(&client);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn per_minute(tokens: u64) -> Rate {
        Rate::new(tokens, MINUTE, MINUTE)
    }

    #[test]
    fn a_client_that_has_none_is_not_in_the_table() {
        let mut counts = Counts::default();
        assert!(counts.take(Client(1), 2) && counts.take(Client(1), 2) && counts.take(Client(2), 2));
        assert!(!counts.take(Client(1), 2));
        counts.release(Client(1));
        assert!(counts.take(Client(1), 2));
        for client in [1, 1, 2] {
            counts.release(Client(client));
        }
        assert!(counts.0.is_empty());
    }

    #[test]
    fn a_bucket_is_dropped_when_it_is_full_again() {
        let mut buckets = Buckets::new(10);
        for client in 0..10 {
            assert_eq!(buckets.take(Client(client), per_minute(1), Duration::ZERO), Ok(()));
        }
        assert_eq!(buckets.take(Client(3), per_minute(1), MINUTE / 3), Err(MINUTE * 2 / 3));
        assert_eq!(buckets.take(Client(3), per_minute(1), MINUTE), Ok(()));
        assert_eq!((buckets.full_at.len(), buckets.by_time.len()), (1, 1));
    }

    #[test]
    fn up_to_the_capacity_no_bucket_is_dropped() {
        let mut buckets = Buckets::new(2);
        let mut take = |client| buckets.take(Client(client), per_minute(1), Duration::ZERO).is_ok();
        assert!(take(1) && take(2));
        assert!(!take(1) && !take(2));
    }

    #[test]
    fn over_the_capacity_the_fullest_bucket_is_dropped() {
        let mut buckets = Buckets::new(2);
        let mut take = |client| buckets.take(Client(client), per_minute(2), Duration::ZERO).is_ok();
        assert!(take(1) && take(1) && take(2) && take(3), "2 or 3 was dropped to make room");
        assert!(!take(1), "the empty bucket was kept");
    }

    proptest! {
        #[test]
        fn a_table_behaves_as_one_bucket_for_each_client_and_is_bounded(
            takes in prop::collection::vec((0_u64..6, 0_u64..20_000), 1..200),
            tokens in 1_u64..20,
        ) {
            let rate = per_minute(tokens);
            let (mut roomy, mut tight) = (Buckets::new(100), Buckets::new(3));
            let (mut now, mut model) = (Duration::ZERO, [Duration::ZERO; 6]);
            for (client, pause) in takes {
                now += Duration::from_millis(pause);
                let full_at = &mut model[usize::try_from(client).unwrap()];
                let expected = rate.available(*full_at, now) > 0;
                if expected {
                    *full_at = rate.take(*full_at, now, 1);
                }
                let taken = roomy.take(Client(client), rate, now);
                prop_assert_eq!(taken.is_ok(), expected);
                if let Err(wait) = taken {
                    prop_assert!(rate.available(*full_at, now + wait) > 0);
                }
                prop_assert_eq!(roomy.full_at.len(), roomy.by_time.len());
                let _ = tight.take(Client(client), rate, now);
                prop_assert!(tight.full_at.len() <= 3 && tight.by_time.len() <= 3);
            }
        }
    }
}
