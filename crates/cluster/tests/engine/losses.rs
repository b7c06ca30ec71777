//! An engine that dies, stops, restarts empty, is flushed, or whose clock is set.

use std::time::Duration;

use rendezvous_cluster::watch::Lookup;
use rendezvous_cluster::{EngineState, View};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::nodes::{Node, knows, tag, timing};
use crate::servers::Engine;

fn knows_all(view: &View) -> bool {
    (1..=3).all(|name| knows(view, name))
}

fn is_reached(view: &View) -> bool {
    matches!(view.engine, EngineState::Reached)
}

/// Checks that nobody is lost until the reads are believed again, and that absence is not believed before.
async fn nobody_is_lost(nodes: &[Node], since: Instant) {
    for node in nodes {
        node.always("nobody is lost", knows_all, |view| view.believed > Some(since)).await;
    }
    for node in nodes {
        assert!(matches!(node.members.lookup(tag(9)).await, Lookup::Unknown));
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn after_flushall_nobody_is_lost_and_no_absence_believed() {
    let engine = Engine::start(&[]).await;
    let nodes = Node::start_all(&engine.url(), 3).await;
    let number = nodes[0].members.view().number;
    let flushed = Instant::now();
    let () = engine.run(&["FLUSHALL"]).await;
    assert!(matches!(nodes[0].members.lookup(tag(9)).await, Lookup::NotBelieved));
    nobody_is_lost(&nodes, flushed).await;
    assert!(flushed.elapsed() >= timing().hold, "{:?}", flushed.elapsed());
    assert!(nodes.iter().all(|node| node.members.view().number > number));
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_node_that_starts_after_flushall_does_not_believe_what_it_reads() {
    let engine = Engine::start(&[]).await;
    let nodes = Node::start_all(&engine.url(), 3).await;
    drop(nodes);
    let () = engine.run(&["FLUSHALL"]).await;
    let late = Node::start(&engine.url(), crate::nodes::record(4));
    let view = late.until("a read", is_reached).await;
    assert_eq!(view.believed, None);
    assert!(matches!(late.members.lookup(tag(1)).await, Lookup::NotBelieved));
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn after_a_restart_with_lost_data_nobody_is_lost() {
    let mut engine = Engine::start(&[]).await;
    let nodes = Node::start_all(&engine.url(), 3).await;
    let killed = Instant::now();
    engine.kill();
    engine.restart().await;
    nobody_is_lost(&nodes, killed).await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn while_the_engine_is_gone_for_long_nobody_is_lost() {
    let mut engine = Engine::start(&[]).await;
    let nodes = Node::start_all(&engine.url(), 3).await;
    let killed = Instant::now();
    engine.kill();
    let long = killed + 3 * timing().life;
    nodes[0].always("nobody is lost", knows_all, |view| view.attempted > Some(long)).await;
    assert!(matches!(nodes[0].members.lookup(tag(9)).await, Lookup::NotBelieved));
    engine.restart().await;
    let returned = Instant::now();
    nodes[0].until("recovery", is_reached).await;
    assert!(
        returned.elapsed() < 5 * timing().interval + Duration::from_millis(500),
        "{:?}",
        returned.elapsed()
    );
    nobody_is_lost(&nodes, returned).await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn an_engine_that_stops_is_noticed_by_the_time_limit_of_calls() {
    let engine = Engine::start(&[]).await;
    let nodes = Node::start_all(&engine.url(), 3).await;
    engine.signal(Signal::STOP);
    let stopped = Instant::now();
    let lookup = nodes[0].members.lookup(tag(9)).await;
    assert!(matches!(lookup, Lookup::NotBelieved), "{lookup:?}");
    assert!(stopped.elapsed() < Duration::from_millis(2500), "{:?}", stopped.elapsed());
    nodes[0].always("nobody is lost", knows_all, |view| !is_reached(view)).await;
    sleep(2 * timing().life).await;
    engine.signal(Signal::CONT);
    let resumed = Instant::now();
    nobody_is_lost(&nodes, resumed).await;
}

/// The script compares the engine's clock with what it has written. So a clock that is set forward by an hour is the same as a hash whose
/// times are an hour older.
#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_clock_that_is_set_removes_nobody_and_expiry_goes_on() {
    const SET_CLOCK: &str = "
        local hash = redis.call('HGETALL', KEYS[1])
        for at = 1, #hash, 2 do
            local time, rest = string.match(hash[at + 1], '^(%d+)(.*)$')
            if hash[at] ~= '#number' then
                time = string.format('%.0f', tonumber(time) - ARGV[1] * 1000)
                redis.call('HSET', KEYS[1], hash[at], time .. rest)
            end
        end";
    for seconds in ["3600", "-3600", "31536000", "2"] {
        let engine = Engine::start(&[]).await;
        let mut nodes = Node::start_all(&engine.url(), 3).await;
        let set = Instant::now();
        let () = engine.run(&["EVAL", SET_CLOCK, "1", "rv:{test}:nodes", seconds]).await;
        let later = set + 2 * timing().life;
        nodes[0]
            .always(
                seconds,
                |view| knows_all(view) && view.warnings.is_empty(),
                |view| view.read > Some(later),
            )
            .await;
        let died = Instant::now();
        drop(nodes.pop());
        nodes[0].until("the death", |view| !knows(view, 3)).await;
        assert!(died.elapsed() < timing().life + 5 * timing().interval, "{seconds}: {:?}", died.elapsed());
    }
}

/// What a failover with lost writes looks like: the engine has an older state.
#[tokio::test]
#[ignore = "needs redis-server"]
async fn an_older_state_of_the_engine_is_recognized() {
    let engine = Engine::start(&[]).await;
    let mut nodes = Node::start_all(&engine.url(), 2).await;
    let older: Vec<u8> = engine.run(&["DUMP", "rv:{test}:nodes"]).await;
    nodes.push(Node::start(&engine.url(), crate::nodes::record(3)));
    for node in &nodes {
        node.until("all know all", knows_all).await;
    }
    let number = nodes[0].members.view().number;
    let lost = Instant::now();
    let mut restore = redis::cmd("RESTORE");
    restore.arg("rv:{test}:nodes").arg(0).arg(older).arg("REPLACE");
    let client = redis::Client::open(engine.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let () = restore.query_async(&mut connection).await.unwrap();
    nobody_is_lost(&nodes, lost).await;
    assert!(nodes.iter().all(|node| node.members.view().number > number));
}
