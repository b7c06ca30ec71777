//! What must hold whatever the relay does.

use std::collections::BTreeSet;
use std::time::Duration;

use super::receiver_host::ReceiverHost;
use super::relay::{AFTERMATH, HONEST_FROM};
use super::world::World;
use super::{Lies, Limit, Setup};
use crate::destination::Stored;
use crate::receive::Refusal;
use crate::reply::Verdict;
use crate::{receiver, sender};

/// Long enough for both sides to give up.
const HORIZON: Duration = Duration::from_hours(6);

/// So many worlds are tried per law, unless `RENDEZVOUS_SEEDS` says otherwise.
const SEEDS: u64 = 40;

/// Runs a world per seed, and checks what holds in all and what the law says.
fn each_world(setup: impl Fn(u64) -> Setup, mut law: impl FnMut(&str, &World)) {
    let seeds = std::env::var("RENDEZVOUS_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    for seed in 0..seeds.unwrap_or(SEEDS) {
        let mut world = World::new(seed, setup(seed));
        world.run(HORIZON);
        let name = format!(
            "seed {seed}, after {:?}: {:?}, {:?}",
            world.queue.now,
            world.sender.ending,
            world.receivers.iter().map(|host| &host.ending).collect::<Vec<_>>()
        );
        check(&name, &world);
        law(&name, &world);
    }
}

/// What holds in every world: both sides end, nothing but the source is stored, and `send` succeeds only if it is.
fn check(name: &str, world: &World) {
    assert!(world.all_ended(), "{name}: not ended, {} events", world.events);
    for host in &world.receivers {
        assert!(host.held <= world.sender.size(), "{name}");
        if let Some(receiver::Ending::Stored { stored, .. }) = host.ending {
            assert!(has_stored(world, host), "{name}: success without the data");
            assert_eq!(stored == Stored::Handed, world.setup.passes_on, "{name}");
        }
    }
    if let Some(sender::Ending::Received { complete, stored }) = &world.sender.ending {
        assert_eq!(complete.bytes, world.sender.size(), "{name}");
        let honest = (1..).zip(&world.receivers).filter(|(host, _)| !world.is_forger(*host));
        let has_receipt = honest.into_iter().any(|(_, host)| host.had_all);
        assert!(has_receipt, "{name}: a receipt was accepted for what nobody stored");
        assert_eq!(*stored == Stored::Handed, world.setup.passes_on, "{name}");
    }
}

fn has_stored(world: &World, host: &ReceiverHost) -> bool {
    host.stored.is_some() && host.held == world.sender.size() && !host.is_rotten
}

fn is_received(world: &World) -> bool {
    matches!(world.sender.ending, Some(sender::Ending::Received { .. }))
}

/// Returns whether the first receiver succeeded and knows that the sender knows.
fn is_confirmed(world: &World) -> bool {
    matches!(world.receivers[0].ending, Some(receiver::Ending::Stored { confirmed: true, .. }))
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

/// The ways of a relay to keep a transfer from being confirmed on both sides. There is no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    /// It told the sender that a token was missing, before anybody asked.
    FalseUnauthorized,
    /// It brought the receiver segments that were made for it, but for other places.
    Misplaced,
    /// The data is stored. The relay lied while the receipt or its confirmation was on its way.
    Unconfirmed,
}

/// Returns what the relay did, as it shows on its side and not only in the endings.
fn harm(world: &World) -> Option<Harm> {
    let host = &world.receivers[0];
    match (&world.sender.ending, &host.ending) {
        (
            Some(sender::Ending::Unusable { verdict: Verdict::Unauthorized }),
            Some(receiver::Ending::NoPeer),
        ) => (world.relay.false_401 && world.sender.asks == 0).then_some(Harm::FalseUnauthorized),
        (
            Some(
                sender::Ending::Failed { .. }
                | sender::Ending::Cut { .. }
                | sender::Ending::Unconfirmed { .. },
            ),
            Some(receiver::Ending::Integrity { .. }),
        ) => (host.misplaced >= 3 && !host.had_all).then_some(Harm::Misplaced),
        (
            // The answer to the last segment may be lost too: then the sender does not know that it sent all.
            Some(
                sender::Ending::Received { .. }
                | sender::Ending::Unconfirmed { .. }
                | sender::Ending::Cut { .. },
            ),
            Some(receiver::Ending::Stored { confirmed: false, .. }),
        ) => {
            let lied_until = HONEST_FROM + AFTERMATH + receiver::CONFIRM;
            host.ended_at.is_some_and(|at| at <= lied_until).then_some(Harm::Unconfirmed)
        }
        _ => None,
    }
}

#[test]
fn whatever_the_relay_does_a_transfer_is_confirmed_or_one_of_three_harms_shows() {
    let (mut resumed, mut confirmed, mut harms) = (0, 0, BTreeSet::new());
    each_world(
        |seed| Setup { lies: lies_of(seed), ..Setup::default() },
        |name, world| {
            resumed += world.receivers[0].resumed;
            if is_received(world) && is_confirmed(world) {
                confirmed += 1;
            } else {
                harms.insert(harm(world).unwrap_or_else(|| panic!("{name}: not explained")));
            }
        },
    );
    assert!(
        resumed > 0 && confirmed > 0 && harms.len() > 1,
        "{resumed} resumed, {confirmed} confirmed, {harms:?}"
    );
}

#[test]
fn without_replayed_segments_and_false_401_whatever_else_the_relay_does_the_data_is_stored() {
    each_world(
        |seed| {
            let lies = Lies { replayed: 0, false_status: 0, ..lies_of(seed) };
            Setup { lies, ..Setup::default() }
        },
        |name, world| assert!(has_stored(world, &world.receivers[0]), "{name}"),
    );
}

#[test]
fn of_two_receivers_none_gets_a_wrong_byte_and_all_end() {
    each_world(|seed| Setup { lies: lies_of(seed), receivers: 2, ..Setup::default() }, |_, _| {});
}

#[test]
fn with_an_honest_relay_one_of_two_receivers_is_served() {
    each_world(
        |_| Setup { receivers: 2, ..Setup::default() },
        |name, world| assert!(is_received(world), "{name}"),
    );
}

#[test]
fn a_receipt_for_other_data_is_not_accepted() {
    let mut received = 0;
    each_world(
        |seed| {
            let receivers = 1 + usize::from(seed % 3 == 0);
            Setup { lies: lies_of(seed), receivers, forges: true, ..Setup::default() }
        },
        |name, world| {
            assert!(world.receivers.len() > 1 || !is_received(world), "{name}");
            received += u32::from(is_received(world));
        },
    );
    assert!(received > 0, "the receiver beside a forger gets its receipt accepted");
}

#[test]
fn of_a_sender_that_errs_no_byte_is_taken_that_does_not_continue_what_is_held() {
    let (mut received, mut refused) = (0, 0);
    each_world(
        |seed| Setup { lies: lies_of(seed), errs: 10, ..Setup::default() },
        |_, world| {
            received += u32::from(is_received(world));
            refused +=
                u32::from(matches!(world.receivers[0].ending, Some(receiver::Ending::Integrity { .. })));
        },
    );
    assert!(received > 0 && refused > 0, "{received} received, {refused} refused");
}

#[test]
fn with_an_honest_relay_every_transfer_is_confirmed_without_repeating_a_byte() {
    each_world(
        |_| Setup::default(),
        |name, world| {
            assert!(is_received(world) && is_confirmed(world), "{name}");
            assert_eq!(world.sender.sent, world.sender.size(), "{name}");
            assert_eq!(world.sender.asks, 1, "{name}");
        },
    );
}

#[test]
fn data_for_a_pipe_is_never_reported_as_stored() {
    each_world(
        |seed| Setup {
            lies: lies_of(seed),
            passes_on: true,
            stops: (seed % 4 == 0).then_some(1),
            ..Setup::default()
        },
        |_, _| {},
    );
}

#[test]
fn after_cuts_and_restarts_no_more_is_sent_again_than_twice_what_was_lost() {
    each_world(
        |_| Setup { lies: Lies { cut: 20, restart: 10, ghost: 30, ..Lies::default() }, ..Setup::default() },
        |name, world| {
            assert!(is_received(world), "{name}");
            let again = world.sender.sent - world.sender.size();
            let lost = world.receivers[0].lost;
            assert!(again <= 2 * lost, "{name}: {again} bytes again, {lost} lost");
        },
    );
}

#[test]
fn a_limit_on_bodies_is_found_at_once_and_kept_to() {
    let mut too_long = 0;
    each_world(
        |seed| {
            let mut random = fastrand::Rng::with_seed(seed);
            let longest = 1 << random.u32(17..27);
            let bytes = random.u64(66_000..longest);
            Setup { limit: Some(Limit { bytes, has_status: random.bool() }), ..Setup::default() }
        },
        |name, world| {
            assert!(is_received(world) && is_confirmed(world), "{name}");
            assert_eq!(world.sender.sent, world.sender.size(), "{name}");
            // Ten halvings lead from the longest to the shortest, and two segments are in flight at two failures each.
            assert!(world.sender.too_long <= 40, "{name}: {} bodies were too long", world.sender.too_long);
            too_long += world.sender.too_long;
        },
    );
    assert!(too_long > 0, "bodies meet the limit");
}

#[test]
fn a_silent_pipe_is_not_taken_for_a_lost_sender() {
    each_world(
        |_| Setup { is_silent: true, ..Setup::default() },
        |name, world| {
            assert!(is_received(world) && is_confirmed(world), "{name}");
            assert_eq!(world.sender.asks, 1, "{name}: the receiver asked again");
            assert_eq!(world.sender.sent, world.sender.size(), "{name}");
        },
    );
}

#[test]
fn what_a_disk_lost_over_a_restart_is_received_again_or_refused() {
    let (mut mismatches, mut refused) = (0, 0);
    each_world(
        |_| {
            let lies = Lies { cut: 20, restart: 20, ..Lies::default() };
            Setup { lies, rot: 50, ..Setup::default() }
        },
        |name, world| {
            mismatches += world.receivers[0].mismatches;
            let is_gone = matches!(
                world.receivers[0].ending,
                Some(receiver::Ending::Refused { reason: Refusal::Gone, .. })
            );
            refused += u32::from(is_gone);
            assert!(is_received(world) || is_gone && world.sender.forgets(), "{name}");
        },
    );
    assert!(mismatches > 0, "disks rot");
}

#[test]
fn a_stopped_sender_ends_within_5_s_and_a_receiver_with_data_is_told() {
    let mut refused = 0;
    each_world(
        |_| Setup { stops: Some(0), ..Setup::default() },
        |name, world| {
            let Some(stopped_at) = world.sender.stopped_at else { return };
            assert!(
                is_received(world) || world.sender.ending == Some(sender::Ending::Interrupted),
                "{name}: stopped"
            );
            let took = world.sender.ended_at.unwrap().saturating_sub(stopped_at);
            assert!(took <= Duration::from_millis(5001), "{name}: {took:?}");
            let is_refused = matches!(
                world.receivers[0].ending,
                Some(receiver::Ending::Refused { reason: Refusal::Other, .. })
            );
            refused += u32::from(is_refused);
            if world.sender.held_at_stop > Some(0) && !is_received(world) {
                assert!(is_refused, "{name}: it was not told");
            }
        },
    );
    assert!(refused > 0, "senders are stopped in mid-transfer");
}

#[test]
fn a_stopped_receiver_that_is_run_again_gets_the_rest() {
    let mut resumed = 0;
    each_world(
        |_| Setup { stops: Some(1), ..Setup::default() },
        |name, world| {
            assert!(is_received(world), "{name}");
            let host = &world.receivers[0];
            assert!(has_stored(world, host), "{name}");
            let again = world.sender.sent - world.sender.size();
            assert!(again <= 2 * host.lost, "{name}: {again} bytes again, {} lost", host.lost);
            resumed += host.resumed;
        },
    );
    assert!(resumed > 0, "receivers are stopped in mid-transfer");
}
