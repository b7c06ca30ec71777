//! The tables of what clients have. Pure: the caller says what time it is.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::Client;
use crate::rate::Rate;

/// How many things each client has; who has none is not in it.
#[derive(Debug, Default)]
pub(super) struct Counts(HashMap<Client, usize>);

impl Counts {
    /// One more for `client`, if it has fewer than `limit`.
    pub(super) fn take(&mut self, client: Client, limit: usize) -> bool {
        let count = self.0.get(&client).copied().unwrap_or(0);
        let may = count < limit;
        if may {
            self.0.insert(client, count + 1);
        }
        may
    }

    /// One less for `client`.
    pub(super) fn give_back(&mut self, client: Client) {
        match self.0.get_mut(&client) {
            Some(count @ 2..) => *count -= 1,
            _ => drop(self.0.remove(&client)),
        }
    }
}

/// A bucket of tokens for each client, kept until it is full again. Where there are too many, the fullest is
/// forgotten: that gives the fewest tokens away.
#[derive(Debug)]
pub(super) struct Buckets {
    most: usize,
    full_at: HashMap<Client, Duration>,
    by_time: BTreeSet<(Duration, Client)>,
}

impl Buckets {
    /// At most `most` buckets at a time.
    pub(super) fn new(most: usize) -> Self {
        Self { most, full_at: HashMap::new(), by_time: BTreeSet::new() }
    }

    /// Takes a token of `client`'s, or says how long it takes until there is one.
    pub(super) fn take(&mut self, client: Client, rate: Rate, now: Duration) -> Result<(), Duration> {
        self.forget(|full_at| full_at <= now);
        let full_at = self.full_at.get(&client).copied().unwrap_or(now);
        let wait = rate.wait(full_at, now);
        if wait > Duration::ZERO {
            return Err(wait);
        }
        let later = rate.take(full_at, now, 1);
        self.by_time.remove(&(full_at, client));
        self.by_time.insert((later, client));
        self.full_at.insert(client, later);
        if self.full_at.len() > self.most {
            self.forget_fullest();
        }
        Ok(())
    }

    fn forget(&mut self, is_due: impl Fn(Duration) -> bool) {
        while self.by_time.first().is_some_and(|(full_at, _)| is_due(*full_at)) {
            self.forget_fullest();
        }
    }

    fn forget_fullest(&mut self) {
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

    fn a_minute(tokens: u64) -> Rate {
        Rate::new(tokens, MINUTE, MINUTE)
    }

    #[test]
    fn who_has_none_is_not_in_the_table() {
        let mut counts = Counts::default();
        assert!(counts.take(Client(1), 2) && counts.take(Client(1), 2) && counts.take(Client(2), 2));
        assert!(!counts.take(Client(1), 2));
        counts.give_back(Client(1));
        assert!(counts.take(Client(1), 2));
        for client in [1, 1, 2] {
            counts.give_back(Client(client));
        }
        assert!(counts.0.is_empty());
    }

    #[test]
    fn a_bucket_goes_when_it_is_full_again() {
        let mut buckets = Buckets::new(10);
        for client in 0..10 {
            assert_eq!(buckets.take(Client(client), a_minute(1), Duration::ZERO), Ok(()));
        }
        assert_eq!(buckets.take(Client(3), a_minute(1), MINUTE / 3), Err(MINUTE * 2 / 3));
        assert_eq!(buckets.take(Client(3), a_minute(1), MINUTE), Ok(()));
        assert_eq!((buckets.full_at.len(), buckets.by_time.len()), (1, 1));
    }

    #[test]
    fn of_too_many_buckets_the_fullest_goes() {
        let mut buckets = Buckets::new(2);
        let mut take = |client| buckets.take(Client(client), a_minute(2), Duration::ZERO).is_ok();
        assert!(take(1) && take(1) && take(2) && take(3), "2 or 3 was forgotten to make room");
        assert!(!take(1), "who has used up its tokens was not");
    }

    proptest! {
        #[test]
        fn a_table_is_as_a_bucket_for_each_client_and_bounded(
            takes in prop::collection::vec((0_u64..6, 0_u64..20_000), 1..200),
            tokens in 1_u64..20,
        ) {
            let rate = a_minute(tokens);
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
