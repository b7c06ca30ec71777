//! What must hold whatever the relay does.

use std::time::Duration;

use super::Lies;
use super::world::World;
use crate::{receiver, sender};

/// Long enough for both sides to give up.
const HORIZON: Duration = Duration::from_hours(6);

fn seeds(default: u64) -> u64 {
    std::env::var("RENDEZVOUS_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(default)
}

fn lies_of(seed: u64) -> Lies {
    let mut random = fastrand::Rng::with_seed(seed ^ 0x5eed);
    let mut percent = || if random.bool() { 0 } else { random.u8(0..40) };
    Lies {
        lost: percent(),
        false_status: percent(),
        replayed: percent(),
        damaged: percent(),
        cut: percent(),
        ghost: percent(),
        delayed: percent(),
        restart: percent() / 2,
    }
}

/// What holds in every world.
fn check(seed: u64, world: &World) {
    assert!(world.all_ended(), "seed {seed}: not ended after {:?}, {} events", world.queue.now, world.events);
    let has_stored =
        |host: &super::receiver_host::ReceiverHost| host.stored.is_some() && host.held == world.sender.size;
    if let Some(sender::Ending::Received { complete, .. }) = &world.sender.ending {
        assert_eq!(complete.bytes, world.sender.size, "seed {seed}");
        assert!(world.receivers.iter().any(has_stored), "seed {seed}: a receipt for what nobody stored");
    }
    for host in &world.receivers {
        assert!(host.held <= world.sender.size, "seed {seed}");
        if let Some(receiver::Ending::Stored { .. }) = host.ending {
            assert!(has_stored(host), "seed {seed}");
        }
    }
}

#[test]
fn whatever_the_relay_does_no_wrong_byte_is_taken_and_both_sides_end() {
    let mut resumed = 0;
    for seed in 0..seeds(300) {
        let mut world = World::new(seed, lies_of(seed), 1);
        world.run(HORIZON);
        check(seed, &world);
        resumed += u64::from(world.receivers[0].resumed);
        // The relay is honest after ten minutes. Until then it can end a transfer for good only by three segments in a row of another place.
        let is_stored = matches!(world.sender.ending, Some(sender::Ending::Received { .. }));
        let ending = &world.receivers[0].ending;
        let is_explained = matches!(
            ending,
            Some(receiver::Ending::Integrity { .. } | receiver::Ending::Stored { confirmed: false, .. })
        );
        assert!(is_stored || is_explained, "seed {seed}: {:?}, {ending:?}", world.sender.ending);
    }
    assert!(resumed > 0, "receivers restart");
}

#[test]
fn of_two_receivers_none_gets_a_wrong_byte_and_all_end() {
    for seed in 0..seeds(200) {
        let mut world = World::new(seed, lies_of(seed), 2);
        world.run(HORIZON);
        check(seed, &world);
    }
}

#[test]
fn with_an_honest_relay_every_transfer_is_confirmed_without_repeating_a_byte() {
    for seed in 0..seeds(100) {
        let mut world = World::new(seed, Lies::default(), 1);
        world.run(HORIZON);
        check(seed, &world);
        assert!(
            matches!(world.sender.ending, Some(sender::Ending::Received { .. })),
            "seed {seed}: {:?}",
            world.sender.ending
        );
        let ending = &world.receivers[0].ending;
        assert!(
            matches!(ending, Some(receiver::Ending::Stored { confirmed: true, .. })),
            "seed {seed}: {ending:?}"
        );
        assert_eq!(world.sender.sent, world.sender.size, "seed {seed}");
    }
}

#[test]
fn after_cuts_and_restarts_no_more_is_sent_again_than_twice_what_was_lost() {
    for seed in 0..seeds(200) {
        let lies = Lies { cut: 20, restart: 10, ghost: 30, ..Lies::default() };
        let mut world = World::new(seed, lies, 1);
        world.run(HORIZON);
        check(seed, &world);
        assert!(
            matches!(world.sender.ending, Some(sender::Ending::Received { .. })),
            "seed {seed}: {:?}",
            world.sender.ending
        );
        let again = world.sender.sent - world.sender.size;
        let lost = world.receivers[0].lost;
        assert!(again <= 2 * lost, "seed {seed}: {again} bytes again, {lost} lost");
    }
}
