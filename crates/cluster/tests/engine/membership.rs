//! Nodes that start, exit, die, drain and collide.

use rendezvous_cluster::watch::Lookup;
use rendezvous_cluster::{EngineState, Record, Registration, Warning};
use tokio::time::Instant;

use crate::nodes::{Node, knows, record, tag, timing};
use crate::servers::{Engine, free_port};

#[tokio::test]
#[ignore = "needs redis-server"]
async fn nodes_find_each_other_and_agree_on_the_list() {
    let engine = Engine::start(&[]).await;
    let nodes = Node::start_all(&engine.url(), 3).await;
    let number = nodes[0].members.view().number;
    for node in &nodes {
        let view = node.until("the same number", |view| view.number == number).await;
        assert_eq!(view.registration, Registration::Registered);
        assert_eq!(view.warnings, []);
        let owners = (0..100_u8).map(|path| view.owner(&"test".parse().unwrap(), &[path]).unwrap().tag);
        let first = nodes[0].members.view();
        assert!(
            owners.eq((0..100_u8).map(|path| first.owner(&"test".parse().unwrap(), &[path]).unwrap().tag))
        );
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn the_number_stands_still_while_nothing_changes() {
    let engine = Engine::start(&[]).await;
    let nodes = Node::start_all(&engine.url(), 2).await;
    let number = nodes[1].members.view().number;
    let later = Instant::now() + timing().interval * 5;
    nodes[0].always("the number", |view| view.number == number, |view| view.read > Some(later)).await;
    nodes[1].members.publish(Record { draining: true, ..Record::clone(&nodes[1].members.view().own) });
    let draining = nodes[0].until("the change", |view| view.number > number).await;
    assert!(draining.members()[1].record.draining);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_node_that_exits_is_removed_at_once_and_one_that_dies_when_its_record_expires() {
    let engine = Engine::start(&[]).await;
    let mut nodes = Node::start_all(&engine.url(), 3).await;
    let exited = Instant::now();
    nodes.pop().unwrap().exit().await;
    nodes[0].until("the exit", |view| !knows(view, 3)).await;
    assert!(exited.elapsed() < timing().life, "{:?}", exited.elapsed());
    let died = Instant::now();
    drop(nodes.pop());
    nodes[0].until("the death", |view| !knows(view, 2)).await;
    assert!(died.elapsed() + timing().interval > timing().life, "{:?}", died.elapsed());
    assert!(matches!(nodes[0].members.lookup(tag(2)).await, Lookup::Departed(_)));
    nodes[0].until("it is forgotten", |view| view.departed().is_empty()).await;
    assert!(matches!(nodes[0].members.lookup(tag(2)).await, Lookup::Unknown));
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_lookup_finds_a_node_that_has_just_registered() {
    let engine = Engine::start(&[]).await;
    let nodes = Node::start_all(&engine.url(), 1).await;
    assert!(matches!(nodes[0].members.lookup(tag(2)).await, Lookup::Unknown));
    let second = Node::start(&engine.url(), record(2));
    second.until("it is registered", |view| view.registration == Registration::Registered).await;
    // Without waiting for the first node's next interval.
    let lookup = nodes[0].members.lookup(tag(2)).await;
    assert!(matches!(&lookup, Lookup::Member(member) if member.record.tag == tag(2)), "{lookup:?}");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn many_lookups_share_few_reads() {
    let engine = Engine::start(&[]).await;
    let nodes = Node::start_all(&engine.url(), 1).await;
    let calls = async || {
        let info: String = engine.run(&["INFO", "commandstats"]).await;
        let line = info.lines().find(|line| line.starts_with("cmdstat_eval:")).unwrap().to_owned();
        line.split_once("calls=").unwrap().1.split_once(',').unwrap().0.parse::<u32>().unwrap()
    };
    let (before, began) = (calls().await, Instant::now());
    let lookups: Vec<_> = (0..1000_u32)
        .map(|other| {
            let members = nodes[0].members.clone();
            tokio::spawn(async move { members.lookup(other.to_be_bytes().into()).await })
        })
        .collect();
    for lookup in lookups {
        assert!(matches!(lookup.await.unwrap(), Lookup::Unknown));
    }
    let reads = calls().await - before;
    let most = 2 + u32::try_from(began.elapsed().as_millis() / timing().spacing.as_millis()).unwrap();
    assert!((1..=most).contains(&reads), "{reads} reads, at most {most}");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_node_that_cannot_reach_the_engine_stays_in_the_list_while_another_one_hears_it() {
    let engine = Engine::start(&[]).await;
    let mut nodes = Node::start_all(&engine.url(), 2).await;
    let cut_off = nodes.pop().unwrap();
    let own = Record::clone(&cut_off.members.view().own);
    let link = nodes[0].members.link(own.clone());
    let number = nodes[0].members.view().number;
    // From here on it does not renew its record.
    drop(cut_off);
    let enough = Instant::now() + timing().life * 3;
    let hearing = async {
        loop {
            link.hear(own.clone());
            tokio::time::sleep(timing().interval).await;
        }
    };
    let stays = nodes[0].always(
        "it is in the list, which has not changed",
        |view| view.number == number && view.members().iter().all(|member| member.listed),
        |view| view.read > Some(enough),
    );
    tokio::select! {
        () = stays => {}
        () = hearing => {}
    }
    // A link over which nothing is heard any more does not keep it there.
    nodes[0].until("it leaves the list", |view| view.members().iter().any(|member| !member.listed)).await;
    drop(link);
    nodes[0].until("it is gone", |view| !knows(view, 2)).await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_node_whose_tag_is_taken_says_so_and_registers_with_another() {
    let engine = Engine::start(&[]).await;
    let nodes = Node::start_all(&engine.url(), 1).await;
    let late = Node::start(&engine.url(), Record { address: "127.0.0.1:9999".parse().unwrap(), ..record(1) });
    late.until("taken", |view| view.registration == Registration::Taken).await;
    assert_eq!(nodes[0].members.view().registration, Registration::Registered);
    late.members.publish(record(2));
    late.until("registered", |view| view.registration == Registration::Registered && knows(view, 1)).await;
    nodes[0].until("found", |view| knows(view, 2)).await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn nodes_that_advertise_one_address_are_warned_about() {
    let engine = Engine::start(&[]).await;
    let nodes = Node::start_all(&engine.url(), 1).await;
    let own = record(2);
    let second = Record { address: record(1).address, ..own };
    let second = Node::start(&engine.url(), second);
    let warning = Warning::SharedAddress { address: record(1).address, nodes: vec![tag(1), tag(2)] };
    for node in [&nodes[0], &second] {
        node.until("the warning", |view| view.warnings.contains(&warning)).await;
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn clusters_on_one_engine_do_not_see_each_other() {
    let engine = Engine::start(&[]).await;
    let one = Node::start_in("one", &engine.url(), record(1));
    let other = Node::start_in("other", &engine.url(), record(2));
    for node in [&one, &other] {
        let view = node.until("believed", |view| view.believed.is_some()).await;
        assert_eq!((view.members().len(), view.ignored), (1, 0));
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_node_that_starts_before_the_engine_waits_for_it() {
    let port = free_port();
    let node = Node::start(&format!("redis://127.0.0.1:{port}"), record(1));
    let view = node.until("a failure", |view| view.attempted.is_some()).await;
    assert!(
        matches!(&view.engine, EngineState::Unreachable { error, .. } if error.contains("refused")),
        "{view:?}"
    );
    assert!(matches!(node.members.lookup(tag(2)).await, Lookup::NotBelieved));
    assert_eq!((view.members().len(), view.registration), (1, Registration::Pending));
}
