//! Others that write to the engine: they can deny service and nothing else.

use rendezvous_cluster::{ClusterName, EngineState, Record, Registration, Secrets, Warning};

use crate::nodes::{Node, knows, record, tag};
use crate::servers::Engine;

const KEY: &str = "rv:{test}:nodes";

/// A line as the script writes it, that does not expire before the hour.
async fn line(engine: &Engine, record: &str) -> String {
    let (seconds, _): (u64, u64) = engine.run(&["TIME"]).await;
    format!("{} {record}", (seconds + 3600) * 1000)
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn records_by_another_secret_or_cluster_or_tag_are_ignored_and_counted() {
    let engine = Engine::start(&[]).await;
    let nodes = Node::start_all(&engine.url(), 2).await;
    let cluster: ClusterName = "test".parse().unwrap();
    let own = Secrets::parse(crate::nodes::SECRET).unwrap();
    let other = Secrets::parse("another secret of 32 characters or more").unwrap();
    let lines = [
        (tag(5), record(5).seal(&cluster, &other)),
        (tag(6), record(6).seal(&"other".parse().unwrap(), &own)),
        (tag(7), record(8).seal(&cluster, &own)),
        (tag(9), "nonsense".to_owned()),
    ];
    for (tag, record) in lines {
        let () = engine.run(&["HSET", KEY, &tag.to_string(), &line(&engine, &record).await]).await;
    }
    let view = nodes[0].until("four lines are ignored", |view| view.ignored == 4).await;
    assert_eq!(view.members().len(), 2);
    assert_eq!(view.warnings, [Warning::RecordsIgnored(4)]);
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn lines_that_the_script_does_not_write_are_removed() {
    let engine = Engine::start(&[]).await;
    let nodes = Node::start_all(&engine.url(), 1).await;
    let long = line(&engine, &"x".repeat(2000)).await;
    for value in ["", "x", "12", "-1 x", "1e300", &long] {
        let () = engine.run(&["HSET", KEY, "00000000", value]).await;
        nodes[0].members.reread().await.unwrap();
        let exists: bool = engine.run(&["HEXISTS", KEY, "00000000"]).await;
        assert!(!exists, "{value:.20}");
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_forged_line_in_place_of_the_own_record_is_replaced() {
    let engine = Engine::start(&[]).await;
    let nodes = Node::start_all(&engine.url(), 2).await;
    let other = Secrets::parse("another secret of 32 characters or more").unwrap();
    let forged = Record { address: "10.6.6.6:666".parse().unwrap(), ..record(1) };
    let forged = line(&engine, &forged.seal(&"test".parse().unwrap(), &other)).await;
    let () = engine.run(&["HSET", KEY, &tag(1).to_string(), &forged]).await;
    let view = nodes[0].members.reread().await.unwrap();
    assert_eq!(view.registration, Registration::Registered);
    let now: String = engine.run(&["HGET", KEY, &tag(1).to_string()]).await;
    assert!(now.contains("at=127.0.0.1:7001"), "{now}");
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_number_that_is_none_does_not_stop_the_directory() {
    let engine = Engine::start(&[]).await;
    let nodes = Node::start_all(&engine.url(), 2).await;
    for number in ["x", "-1", "inf", "1e300", "nan", ""] {
        for field in ["#number", "#ran", "#born"] {
            let () = engine.run(&["HSET", KEY, field, number]).await;
            // Not believed, but read.
            let _ = nodes[0].members.reread().await;
            let view = nodes[0].members.view();
            assert!(matches!(view.engine, EngineState::Reached), "{field} {number}: {view:?}");
            assert!(knows(&view, 2));
        }
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn the_largest_number_stops_no_later_change() {
    let engine = Engine::start(&[]).await;
    let nodes = Node::start_all(&engine.url(), 2).await;
    let () = engine.run(&["HSET", KEY, "#number", "9007199254740991"]).await;
    let third = Node::start(&engine.url(), record(3));
    nodes[0].until("a new node", |view| knows(view, 3)).await;
    third.exit().await;
    // A number that went back would be believed by nobody.
    nodes[0].until("its end", |view| !knows(view, 3) && view.believed == view.read).await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_hash_with_too_many_fields_is_not_read() {
    const FLOOD: &str = "for at = 1, 1001 do redis.call('HSET', KEYS[1], 'field' .. at, 'x') end";
    let engine = Engine::start(&[]).await;
    let nodes = Node::start_all(&engine.url(), 2).await;
    let () = engine.run(&["EVAL", FLOOD, "1", KEY]).await;
    let view = nodes[0].until("a failure", |view| !matches!(view.engine, EngineState::Reached)).await;
    assert!(
        matches!(&view.engine, EngineState::Unreachable { error, .. } if error.contains("delete it")),
        "{view:?}"
    );
    assert!(knows(&view, 2));
    let () = engine.run(&["DEL", KEY]).await;
    nodes[0].until("recovery", |view| matches!(view.engine, EngineState::Reached)).await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_policy_that_evicts_is_warned_about() {
    for (policy, warned) in
        [("allkeys-lru", true), ("allkeys-random", true), ("noeviction", false), ("volatile-ttl", false)]
    {
        let engine = Engine::start(&["--maxmemory", "100mb", "--maxmemory-policy", policy]).await;
        let nodes = Node::start_all(&engine.url(), 1).await;
        let expected = if warned { vec![Warning::Eviction(policy.to_owned())] } else { vec![] };
        assert_eq!(nodes[0].members.view().warnings, expected);
    }
}
