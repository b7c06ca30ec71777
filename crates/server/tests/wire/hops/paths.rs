//! Named paths: which node has one, and what happens to its sides when that changes.

use std::time::{Duration, Instant};

use rendezvous_protocol::Side;
use rendezvous_server::config::Config;
use testkit::client::{Client, with_timeout};
use testkit::cluster::{PATH_OF_NEWEST, TestCluster};
use testkit::server::{TestServer, get};
use testkit::sides::Departure;
use tokio::time::sleep;

use crate::http2::{Http2, response, send_all};

#[tokio::test]
async fn two_sides_meet_at_a_path_whatever_their_nodes_are() {
    let cluster = TestCluster::start(3).await;
    for owner in 0..3 {
        let path = cluster.path_of(owner);
        for (source, destination) in [(0, 1), (1, 2), (2, 2), (0, 0)] {
            let mut reader = cluster[destination].connect_and_send(get(&format!("/p/{path}"))).await;
            until_somebody_is_at(&cluster[owner], &path).await;
            let put = format!("PUT /p/{path} HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi");
            let mut sender = cluster[source].connect_and_send(put).await;
            assert_eq!(reader.response().await.body, b"hi");
            assert_eq!(sender.response().await.status, 200);
        }
    }
}

pub(super) async fn until_somebody_is_at(node: &TestServer, path: &str) {
    let head = format!("HEAD /p/{path} HTTP/1.1\r\nHost: test\r\n\r\n");
    let is_somebody_there = async || {
        let mut client = node.connect_and_send(&head).await;
        client.head().await.unwrap().starts_with("HTTP/1.1 200 ")
    };
    with_timeout(async { while !is_somebody_there().await {} }).await;
}

#[tokio::test]
async fn a_side_that_waits_at_a_path_moves_to_the_new_owner() {
    for waits_at in [0, 1] {
        let mut cluster = TestCluster::start(2).await;
        let path = PATH_OF_NEWEST;
        let put = format!("PUT /p/{path} HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi");
        let mut sender = cluster[waits_at].connect_and_send(put).await;
        until_somebody_is_at(&cluster[1], path).await;
        cluster.add(|_| {}).await;
        until_somebody_is_at(&cluster[2], path).await;
        assert_eq!(cluster[0].ask(get(&format!("/p/{path}"))).await.body, b"hi");
        assert_eq!(sender.response().await.status, 200);
    }
}

#[tokio::test]
async fn a_side_over_http2_that_waits_at_a_path_moves_to_the_new_owner() {
    let target = format!("/p/{PATH_OF_NEWEST}");
    for (waits_at, side) in
        [0, 1].into_iter().flat_map(|node| [(node, Side::Source), (node, Side::Destination)])
    {
        let mut cluster = TestCluster::start(2).await;
        let client = Http2::connect(&cluster[waits_at]).await;
        let method = if side == Side::Source { "PUT" } else { "GET" };
        let (waiting, mut body) = client.request(method, &target, &[], side == Side::Destination).await;
        if side == Side::Source {
            send_all(&mut body, b"hi", true).await;
        }
        until_somebody_is_at(&cluster[1], PATH_OF_NEWEST).await;
        cluster.add(|_| {}).await;
        until_somebody_is_at(&cluster[2], PATH_OF_NEWEST).await;
        let received = if side == Side::Source {
            let received = cluster[0].ask(get(&target)).await.body;
            assert_eq!(response(waiting).await.status, 200, "{side} at {waits_at}");
            received
        } else {
            let put = format!("PUT {target} HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi");
            let mut sender = cluster[0].connect_and_send(put).await;
            let received = response(waiting).await.body;
            assert_eq!(sender.response().await.status, 200, "{side} at {waits_at}");
            received
        };
        assert_eq!(received, b"hi", "{side} at {waits_at}");
    }
}

#[tokio::test]
async fn a_side_that_moves_to_another_node_waits_no_longer_in_all() {
    let short = |config: &mut Config| config.ttl = "3s".parse().unwrap();
    for (preference, error) in
        [("", "504 SessionTimeoutError"), ("Prefer: wait=2\r\n", "503 PeerNotConnectedError")]
    {
        let mut cluster = TestCluster::start_with(2, short).await;
        let began = Instant::now();
        let asks = format!("GET /p/{PATH_OF_NEWEST} HTTP/1.1\r\nHost: test\r\n{preference}\r\n");
        let mut waiting = cluster[0].connect_and_send(asks).await;
        sleep(Duration::from_millis(1500)).await;
        cluster.add(short).await;
        until_somebody_is_at(&cluster[2], PATH_OF_NEWEST).await;
        assert_eq!(waiting.response().await.error(), error);
        let waited = began.elapsed();
        // A wait counts in whole seconds.
        assert!((Duration::from_secs(2)..Duration::from_millis(3900)).contains(&waited), "{waited:?}");
    }
}

#[tokio::test]
async fn a_node_with_an_old_list_reads_again() {
    // The edge takes another node for the owner, then the owner itself does.
    for (behind, owner) in [(0, 2), (1, 1)] {
        let mut cluster = TestCluster::start(2).await;
        if owner == 2 {
            cluster.hold_list(behind).await;
            cluster.add(|_| {}).await;
        } else {
            cluster.add(|_| {}).await;
            cluster.hold_list(behind).await;
            cluster.forget(2, false);
        }
        let mut reader = cluster[0].connect_and_send(get(&format!("/p/{PATH_OF_NEWEST}"))).await;
        // Not at the owner: that would read the list for its own client.
        until_somebody_is_at(&cluster[0], PATH_OF_NEWEST).await;
        let put = format!("PUT /p/{PATH_OF_NEWEST} HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi");
        assert_eq!(cluster[0].ask(put).await.status, 200);
        assert_eq!(reader.response().await.body, b"hi");
    }
}

#[tokio::test]
async fn a_path_is_free_once_its_source_has_reset_behind_its_body_at_another_node() {
    let cluster = TestCluster::start(2).await;
    let path = cluster.path_of(0);
    let mut reader = Client::connect_with_small_buffers(cluster[0].address()).await;
    reader.send(get(&format!("/p/{path}"))).await;
    until_somebody_is_at(&cluster[0], &path).await;
    let put = |length| format!("PUT /p/{path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n");
    // More than the owner reads for a destination that stands still, and less than the kernels take between the nodes.
    let length = 3 << 20;
    let mut sender = cluster[1].connect_and_send(put(length)).await;
    sender.send("x".repeat(length)).await;
    let has_passed_all = format!("rendezvous_cluster_body_bytes_total {length}");
    let passed = async {
        while !String::from_utf8(cluster[1].ask(get("/metrics")).await.body)
            .unwrap()
            .contains(&has_passed_all)
        {}
    };
    with_timeout(passed).await;
    sender.leave(Departure::Reset);
    let asks = format!("GET /p/{path} HTTP/1.1\r\nHost: test\r\nPrefer: wait=1\r\n\r\n");
    let free = async {
        loop {
            let answer = cluster[1].ask(&asks).await;
            if answer.status != 429 {
                return answer.error();
            }
        }
    };
    assert_eq!(with_timeout(free).await, "503 PeerNotConnectedError");
}
