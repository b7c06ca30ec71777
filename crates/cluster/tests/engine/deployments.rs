//! Engines with passwords, ACLs and TLS, behind Sentinel, and as Redis Cluster.

use rendezvous_cluster::{EngineState, View};
use tokio::time::Instant;

use crate::nodes::{Node, knows, record};
use crate::servers::Engine;

/// The rights that the documentation of the directory names.
const RIGHTS: &str = "~rv:{test}:nodes +eval +time +hlen +hgetall +hget +hset +hdel +info";

fn error(view: &View) -> Option<&str> {
    match &view.engine {
        EngineState::Unreachable { error, .. } => Some(error),
        EngineState::NotAsked | EngineState::Reached => None,
    }
}

async fn fails_with(url: &str, what: &str) {
    let node = Node::start(url, record(1));
    let view = node.until("a failure", |view| error(view).is_some()).await;
    assert!(error(&view).is_some_and(|error| error.contains(what)), "{url}: {:?}", error(&view));
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_user_with_the_documented_rights_suffices() {
    let rights: Vec<&str> = RIGHTS.split(' ').collect();
    let engine = Engine::start(&[]).await;
    let () = engine.run(&[&["ACL", "SETUSER", "node", "on", ">p@ss"], &rights[..]].concat()).await;
    let url = format!("redis://node:p%40ss@127.0.0.1:{}", engine.port);
    let mut nodes = Node::start_all(&url, 2).await;
    assert_eq!(nodes[0].members.view().warnings, []);
    nodes.pop().unwrap().exit().await;
    nodes[0].until("the exit", |view| !knows(view, 2)).await;
    fails_with(&format!("redis://node:wrong@127.0.0.1:{}", engine.port), "authentication failed").await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn an_engine_with_a_password_but_no_users() {
    let engine = Engine::start(&["--requirepass", "hunter2"]).await;
    Node::start_all(&format!("redis://:hunter2@127.0.0.1:{}", engine.port), 2).await;
    fails_with(&engine.url(), "asks for a password").await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_failover_by_sentinel_loses_nobody() {
    let mut master = Engine::start(&[]).await;
    let replica = Engine::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]).await;
    let sentinel = Engine::start(&["--sentinel"]).await;
    let () =
        sentinel.run(&["SENTINEL", "MONITOR", "mymaster", "127.0.0.1", &master.port.to_string(), "1"]).await;
    let () = sentinel.run(&["SENTINEL", "SET", "mymaster", "down-after-milliseconds", "500"]).await;
    let () = sentinel.run(&["SENTINEL", "SET", "mymaster", "failover-timeout", "3000"]).await;
    // The second sentinel does not exist.
    let url = format!("redis+sentinel://127.0.0.1:{},127.0.0.1:1/mymaster", sentinel.port);
    let nodes = Node::start_all(&url, 3).await;
    until_replicated(&sentinel, &replica).await;
    let number = nodes[0].members.view().number;
    let killed = Instant::now();
    master.kill();
    for node in &nodes {
        node.always(
            "nobody is lost",
            |view| (1..=3).all(|name| knows(view, name)),
            |view| view.believed > Some(killed),
        )
        .await;
        assert!(node.members.view().number >= number);
    }
    let role: Vec<redis::Value> = replica.run(&["ROLE"]).await;
    assert_eq!(role[0], redis::Value::BulkString(b"master".to_vec()));
}

/// Waits until the sentinel knows the replica and that has the directory.
async fn until_replicated(sentinel: &Engine, replica: &Engine) {
    let mut views = 0;
    loop {
        let replicas: Vec<redis::Value> = sentinel.run(&["SENTINEL", "REPLICAS", "mymaster"]).await;
        let fields: u32 = replica.run(&["HLEN", "rv:{test}:nodes"]).await;
        if !replicas.is_empty() && fields > 0 {
            return;
        }
        views += 1;
        assert!(views < 400, "the replica does not follow");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_service_that_no_sentinel_knows_is_named() {
    let sentinel = Engine::start(&["--sentinel"]).await;
    fails_with(&format!("redis+sentinel://127.0.0.1:{}/mymaster", sentinel.port), "\"mymaster\"").await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn a_replica_is_recognized() {
    let master = Engine::start(&[]).await;
    let replica = Engine::start(&["--replicaof", "127.0.0.1", &master.port.to_string()]).await;
    fails_with(&replica.url(), "is a replica").await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn redis_cluster_redirects_to_the_node_that_has_the_key() {
    let options = ["--cluster-enabled", "yes"];
    let (one, other) = (Engine::start(&options).await, Engine::start(&options).await);
    let slot: u32 = one.run(&["CLUSTER", "KEYSLOT", "rv:{test}:nodes"]).await;
    assert!(slot < 8192, "{slot}");
    let () = one.run(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]).await;
    let () = other.run(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]).await;
    let () = one.run(&["CLUSTER", "MEET", "127.0.0.1", &other.port.to_string()]).await;
    // The node of the other slots is given.
    let nodes = Node::start_all(&format!("redis+cluster://127.0.0.1:{},127.0.0.1:1", other.port), 2).await;
    let fields: u32 = one.run(&["HLEN", "rv:{test}:nodes"]).await;
    assert_eq!(fields, 5);
    drop(nodes);
    fails_with(&other.url(), "redis+cluster://").await;
}

#[tokio::test]
#[ignore = "needs redis-server"]
async fn tls_to_an_engine_that_has_none_fails_with_a_reason() {
    let engine = Engine::start(&[]).await;
    fails_with(&format!("rediss://127.0.0.1:{}", engine.port), "cannot connect").await;
}
