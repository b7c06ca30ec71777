//! Tests of the rules of membership, by a script of reads and links.

use std::time::Duration;

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::record::tests::{cluster, record};
use crate::view::{Found, Warning};

const OWN: u8 = 0;

fn tag(name: u8) -> Tag {
    Tag::from([name; 4])
}

fn node(name: u8) -> Record {
    record([name; 4], 7000 + u16::from(name))
}

/// A membership and its clock, which begins at a moment in which the directory is long settled.
struct Script {
    membership: Membership,
    now: Instant,
    /// The list's number in the engine.
    number: u64,
}

impl Script {
    fn new() -> Self {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let now = runtime.block_on(async { Instant::now() }) + Duration::from_hours(1);
        Self { membership: Membership::new(node(OWN), Timing::default()), now, number: 1 }
    }

    /// Members 0 to 3 after a believed read.
    fn settled() -> Self {
        let mut script = Self::new();
        script.read(&[1, 2, 3]);
        script
    }

    fn pass(&mut self, seconds: f64) -> &mut Self {
        self.now += Duration::from_secs_f64(seconds);
        self
    }

    fn read(&mut self, nodes: &[u8]) -> &mut Self {
        self.read_aged(nodes, Duration::from_hours(1))
    }

    fn read_aged(&mut self, nodes: &[u8], age: Duration) -> &mut Self {
        self.read_as(nodes, self.number, age)
    }

    fn read_as(&mut self, nodes: &[u8], before: u64, age: Duration) -> &mut Self {
        let (_, known) = self.membership.known();
        self.number = before.max(known);
        let read = Read {
            started: self.now,
            age,
            before,
            number: self.number,
            records: nodes.iter().map(|name| node(*name)).collect(),
            ignored: 0,
            taken: false,
            eviction: None,
        };
        self.membership.apply(read, self.now);
        self
    }

    fn members(&self) -> Vec<u8> {
        self.membership
            .view(self.now)
            .members()
            .iter()
            .map(|member| member.record.tag.to_bytes()[0])
            .collect()
    }

    fn departed(&self) -> Vec<u8> {
        self.membership
            .view(self.now)
            .departed()
            .iter()
            .map(|departed| departed.record.tag.to_bytes()[0])
            .collect()
    }

    fn believed(&self) -> bool {
        self.membership.view(self.now).believed == Some(self.now)
    }
}

#[test]
fn a_node_that_knows_only_itself_is_a_member() {
    let view = Script::new().membership.view(Script::new().now);
    assert_eq!(view.members().len(), 1);
    assert!(view.members()[0].listed);
    assert_eq!((view.number, view.believed, view.registration), (0, None, Registration::Pending));
}

#[test]
fn a_node_that_vanishes_alone_is_departed_for_60_seconds_and_then_unknown() {
    let mut script = Script::settled();
    script.pass(1.0).read(&[1, 2]);
    assert_eq!((script.members(), script.departed(), script.believed()), (vec![0, 1, 2], vec![3], true));
    script.pass(59.0).read(&[1, 2]);
    assert_eq!(script.departed(), [3]);
    script.pass(1.0).read(&[1, 2]);
    assert_eq!((script.members(), script.departed()), (vec![0, 1, 2], vec![]));
}

#[test]
fn a_departed_node_that_returns_is_a_member() {
    let mut script = Script::settled();
    script.pass(1.0).read(&[1, 2]).pass(5.0).read(&[1, 2, 3]);
    assert_eq!((script.members(), script.departed()), (vec![0, 1, 2, 3], vec![]));
}

#[test]
fn after_a_loss_of_all_records_nobody_is_removed_for_10_seconds() {
    let mut script = Script::settled();
    // FLUSHALL: the number is gone, and node 1 is the first to register again.
    script.pass(1.0).read_as(&[1], 0, Duration::ZERO);
    assert_eq!((script.members(), script.departed(), script.believed()), (vec![0, 1, 2, 3], vec![], false));
    script.pass(1.0).read_aged(&[1, 2], Duration::from_secs(1));
    assert_eq!((script.members(), script.believed()), (vec![0, 1, 2, 3], false));
    script.pass(8.9).read_aged(&[1, 2], Duration::from_millis(9900));
    assert_eq!((script.members(), script.believed()), (vec![0, 1, 2, 3], false));
    script.pass(0.1).read_aged(&[1, 2], Duration::from_secs(10));
    assert_eq!((script.members(), script.departed(), script.believed()), (vec![0, 1, 2], vec![3], true));
    // It has been missing for 10 seconds already.
    script.pass(50.0).read(&[1, 2]);
    assert!(script.departed().is_empty());
}

#[test]
fn a_number_that_went_back_is_not_believed_even_if_nobody_is_missing() {
    let mut script = Script::settled();
    script.number = 7;
    script.pass(1.0).read(&[1, 2, 3]);
    assert!(script.believed());
    script.pass(1.0).read_as(&[1, 2, 3], 6, Duration::from_hours(1));
    assert!(!script.believed());
    script.pass(10.0).read(&[1, 2, 3]);
    assert!(script.believed());
}

#[test]
fn records_that_vanish_together_are_held_and_one_that_vanishes_later_too() {
    let mut script = Script::settled();
    script.pass(1.0).read(&[1]);
    assert_eq!((script.members(), script.believed()), (vec![0, 1, 2, 3], false));
    script.pass(1.0).read(&[]);
    assert_eq!(script.members(), [0, 1, 2, 3]);
    script.pass(9.0).read(&[2]);
    assert_eq!((script.members(), script.departed(), script.believed()), (vec![0, 2], vec![1, 3], true));
}

#[test]
fn a_new_node_does_not_believe_a_young_directory() {
    let mut script = Script::new();
    script.read_as(&[1], 1, Duration::from_secs(4));
    assert!(!script.believed());
    script.pass(5.9).read_as(&[1], 1, Duration::from_millis(9900));
    assert!(!script.believed());
    script.pass(0.1).read_as(&[1], 1, Duration::from_secs(10));
    assert!(script.believed());
}

#[test]
fn a_node_with_a_link_is_a_member_whatever_the_directory_says() {
    let mut script = Script::settled();
    script.membership.link(node(3), script.now);
    script.pass(1.0).read(&[1, 2]);
    assert_eq!(script.members(), [0, 1, 2, 3]);
    let view = script.membership.view(script.now);
    let Some(Found::Member(member)) = view.find(tag(3)) else { panic!("{view:?}") };
    assert!(member.linked && !member.listed);
    // It is departed from the end of its last link on.
    script.pass(100.0);
    script.membership.link(node(3), script.now);
    script.membership.unlink(tag(3), script.now);
    assert_eq!(script.members(), [0, 1, 2, 3]);
    script.membership.unlink(tag(3), script.now);
    assert_eq!((script.members(), script.departed()), (vec![0, 1, 2], vec![3]));
    script.pass(59.0).read(&[1, 2]);
    assert_eq!(script.departed(), [3]);
}

#[test]
fn a_node_that_only_a_link_knows_is_a_member_and_owns_no_paths() {
    let mut script = Script::new();
    script.membership.link(node(9), script.now);
    assert_eq!(script.members(), [0, 9]);
    let view = script.membership.view(script.now);
    let cluster = cluster();
    assert!((0..100_u8).all(|path| view.owner(&cluster, &[path]).unwrap().tag == tag(OWN)));
}

#[test]
fn a_node_that_drains_does_not_take_it_back_by_an_older_read() {
    let mut script = Script::settled();
    let known = |script: &Script| match script.membership.view(script.now).find(tag(1)) {
        Some(Found::Member(member)) => member.record.clone(),
        other => panic!("{other:?}"),
    };
    let before = Record::clone(&known(&script));
    script.membership.update(Record { draining: true, ..before.clone() });
    assert!(known(&script).draining);
    script.membership.update(before);
    assert!(known(&script).draining);
    // Another process with this tag, as unlikely as it is, does not drain.
    script.membership.update(node(1));
    assert!(!known(&script).draining);
}

#[test]
fn a_failed_attempt_changes_no_member_and_says_since_when() {
    let mut script = Script::settled();
    let began = script.pass(1.0).now;
    script.membership.fail(began, "refused".into(), began);
    script.pass(30.0);
    script.membership.fail(script.now, "refused again".into(), script.now);
    let view = script.membership.view(script.now);
    assert_eq!(script.members(), [0, 1, 2, 3]);
    let EngineState::Unreachable { since, error } = &view.engine else { panic!("{view:?}") };
    assert_eq!((*since, &**error), (began, "refused again"));
    assert_eq!((view.attempted, view.age(script.now)), (Some(script.now), Some(Duration::from_secs(31))));
    assert!(view.believed < Some(began));
    script.read(&[1, 2, 3]);
    assert!(matches!(script.membership.view(script.now).engine, EngineState::Reached));
}

#[test]
fn without_the_engine_a_node_whose_process_has_ended_owns_no_paths() {
    let mut script = Script::settled();
    let owns = |script: &Script, name: u8| {
        let view = script.membership.view(script.now);
        let paths = (0..100).map(|path: u8| [path; 3]);
        paths
            .filter_map(|path| view.owner(&cluster(), &path).map(|owner| owner.tag))
            .any(|owner| owner == tag(name))
    };
    let (now, fails) =
        (script.now, |script: &mut Script| script.membership.fail(script.now, "refused".into(), script.now));
    script.membership.link(node(2), now);
    for name in [1, 2] {
        script.membership.refuse(tag(name));
    }
    assert!(owns(&script, 1), "its record would expire");
    fails(&mut script);
    assert!(!owns(&script, 1));
    assert!(owns(&script, 2), "it has a link");
    script.membership.link(node(1), now);
    assert!(owns(&script, 1), "its process runs");
    script.membership.unlink(tag(1), now);
    assert!(owns(&script, 1), "a link that ends is no proof");
    script.membership.refuse(tag(1));
    assert!(!owns(&script, 1));
    script.membership.link(node(9), now);
    assert!(owns(&script, 9), "it has joined since the last read");
    script.read(&[1, 2, 3]);
    assert!(owns(&script, 1) && !owns(&script, 9), "the engine decides again");
}

#[test]
fn a_new_tag_is_registered_anew() {
    let mut script = Script::new();
    let read = |taken| Read {
        started: script.now,
        age: Duration::from_hours(1),
        before: 1,
        number: 1,
        records: vec![node(OWN)],
        ignored: 2,
        taken,
        eviction: None,
    };
    script.membership.apply(read(true), script.now);
    let view = script.membership.view(script.now);
    assert_eq!((view.registration, view.members().len(), view.ignored), (Registration::Taken, 1, 2));
    script.membership.publish(node(5));
    assert_eq!(script.membership.view(script.now).registration, Registration::Pending);
    script.membership.apply(read(false), script.now);
    assert_eq!(script.membership.view(script.now).registration, Registration::Registered);
    // The other node with the old tag is a member like any other.
    assert_eq!(script.members(), [0, 5]);
}

#[test]
fn warnings_name_what_is_wrong() {
    let mut script = Script::new();
    let records = vec![
        record([1; 4], 7001),
        record([2; 4], 7001),
        Record { settings: crate::record::SettingsDigest::of(&[]), ..node(3) },
        Record { versions: crate::record::Versions::new(2, 3).unwrap(), ..node(4) },
    ];
    let apply = |script: &mut Script, eviction: &str| {
        let read = Read {
            started: script.now,
            age: Duration::from_hours(1),
            before: 1,
            number: 1,
            records: records.clone(),
            ignored: 7,
            taken: false,
            eviction: Some(eviction.to_owned()),
        };
        script.membership.apply(read, script.now);
        script.membership.view(script.now).warnings
    };
    let shared = Warning::SharedAddress { address: records[0].address.clone(), nodes: vec![tag(1), tag(2)] };
    let others = [
        Warning::RecordsIgnored(7),
        Warning::OtherSettings(vec![tag(3)]),
        Warning::OtherVersions(vec![tag(4)]),
    ];
    assert_eq!(apply(&mut script, "noeviction"), others);
    script.pass(10.0);
    let warnings = apply(&mut script, "allkeys-lru");
    assert_eq!(warnings[0], Warning::Eviction("allkeys-lru".into()));
    assert_eq!(warnings[2], shared);
    assert_eq!(apply(&mut script, "volatile-lfu")[0], others[0]);
    let text = shared.to_string();
    assert!(text.contains("nodes 01010101, 02020202 advertise the same address 127.0.0.1:7001"), "{text}");
}

proptest! {
    /// Whatever the reads say: a linked node is a member, a node in the last read is one, and a believed read has removed all others.
    #[test]
    fn a_view_follows_from_the_last_reads(
        steps in vec((btree_set(1..6_u8, 0..6), 1..20_u64, any::<bool>(), 0..6_u8), 1..40),
    ) {
        let mut script = Script::new();
        for (present, seconds, lost, link) in steps {
            let nodes: Vec<u8> = present.iter().copied().collect();
            let before = script.members();
            script.pass(f64::from(u32::try_from(seconds).unwrap()));
            if link > 0 {
                script.membership.link(node(link), script.now);
            }
            if lost { script.read_as(&nodes, 0, Duration::ZERO); } else { script.read(&nodes); }
            let members = script.members();
            prop_assert!(nodes.iter().all(|name| members.contains(name)));
            prop_assert!(link == 0 || members.contains(&link));
            if lost {
                prop_assert!(!script.believed());
                prop_assert!(before.iter().all(|name| members.contains(name)), "{before:?} {members:?}");
            }
            if script.believed() {
                let view = script.membership.view(script.now);
                let unexplained = view.members().iter().find(|member| {
                    let name = member.record.tag.to_bytes()[0];
                    name != OWN && !member.linked && !present.contains(&name)
                });
                prop_assert!(unexplained.is_none(), "{unexplained:?}");
            }
            if link > 0 {
                script.membership.unlink(tag(link), script.now);
            }
        }
    }
}
