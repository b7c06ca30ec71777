//! Nodes that die, or fall silent, while others pass requests on to them.

use std::time::{Duration, Instant};

use rendezvous_protocol::Side;
use testkit::client::{Client, End, with_timeout};
use testkit::cluster::TestCluster;
use testkit::server::get;

use super::requests;
use crate::http2::{Cut, Http2, response};
use crate::metrics::Exposition;

#[tokio::test]
async fn a_stream_of_a_node_that_is_gone_gets_503_in_time() {
    let mut cluster = TestCluster::start(2).await;
    let id = cluster[0].create().await;
    cluster.kill(0);
    for is_forgotten in [false, true] {
        if is_forgotten {
            cluster.forget(0, true);
        }
        for request in requests(&id).into_iter().take(5) {
            let asked = Instant::now();
            let response = cluster[1].ask(request).await;
            assert_eq!(response.error(), "503 OwnerUnreachableError");
            assert_eq!(response.fields("retry-after"), ["3"]);
            assert!(asked.elapsed() < Duration::from_secs(3));
        }
    }
}

#[tokio::test]
async fn a_side_that_waits_at_a_node_that_dies_gets_503() {
    for side in [Side::Source, Side::Destination] {
        let mut cluster = TestCluster::start(2).await;
        let id = cluster[0].create().await;
        let (mut waiting, state) = match side {
            Side::Source => (cluster[1].put(&id, "Content-Length: 2\r\n").await, "SRC_CONNECTED"),
            Side::Destination => (cluster[1].get(&id).await, "DST_CONNECTED"),
        };
        cluster[0].until(&id, state).await;
        cluster.kill(0);
        assert_eq!(waiting.response().await.error(), "503 OwnerUnreachableError", "{side}");
    }
}

#[tokio::test]
async fn a_transfer_whose_owner_dies_is_visibly_cut() {
    for sent in ["", "h"] {
        let mut cluster = TestCluster::start(3).await;
        let id = cluster[0].create().await;
        let mut reader = cluster[1].get(&id).await;
        cluster[0].until(&id, "DST_CONNECTED").await;
        let mut sender = cluster[2].put(&id, "Content-Length: 2\r\nExpect: 100-continue\r\n").await;
        assert!(sender.head().await.unwrap().starts_with("HTTP/1.1 100 "));
        sender.send(sent).await;
        if sent.is_empty() {
            cluster[0].until(&id, "STREAMING").await;
        } else {
            cluster[0].until_passed_on(&id, 1).await;
        }
        cluster.kill(0);
        match sent {
            "" => assert_eq!(reader.response().await.error(), "502 OwnerLostError"),
            _ => assert_ne!(reader.response().await.end, End::Whole),
        }
        assert_eq!(sender.response().await.error(), "502 OwnerLostError");
    }
}

#[tokio::test]
async fn a_transfer_whose_other_node_dies_is_visibly_cut() {
    for dies in [1, 2] {
        let mut cluster = TestCluster::start(3).await;
        let id = cluster[0].create().await;
        let mut reader = cluster[1].get(&id).await;
        cluster[0].until(&id, "DST_CONNECTED").await;
        let mut sender = cluster[2].put(&id, "Content-Length: 2\r\n").await;
        sender.send("h").await;
        cluster[0].until_passed_on(&id, 1).await;
        cluster.kill(dies);
        if dies == 1 {
            assert_eq!(sender.response().await.error(), "502 StreamDestinationError");
            cluster[0].until(&id, "DST_DISCONNECTED").await;
        } else {
            assert_ne!(reader.response().await.end, End::Whole);
            cluster[0].until(&id, "SRC_DISCONNECTED").await;
        }
    }
}

#[tokio::test]
async fn a_side_that_waits_at_a_node_that_falls_silent_is_let_go_and_nothing_new_is_begun() {
    let mut cluster = TestCluster::start(1).await;
    let is_frozen = cluster.add_that_freezes().await;
    let id = cluster[1].create().await;
    let mut waiting = cluster[0].get(&id).await;
    cluster[1].until(&id, "DST_CONNECTED").await;
    is_frozen.send_replace(true);
    let asked = Instant::now();
    assert_eq!(waiting.response().await.error(), "503 OwnerUnreachableError");
    let waited = asked.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(4)).contains(&waited), "{waited:?}");
    let asked = Instant::now();
    assert_eq!(cluster[0].get(&id).await.response().await.error(), "503 OwnerUnreachableError");
    assert!(asked.elapsed() < Duration::from_millis(500));
}

#[tokio::test]
async fn a_side_that_waits_for_a_node_that_falls_silent_leaves_its_seat_whatever_its_connection_carried_before()
 {
    let mut cluster = TestCluster::start(1).await;
    let is_frozen = cluster.add_that_freezes().await;
    let id = cluster[1].create().await;
    let mut reader = cluster[0].get(&id).await;
    cluster[1].until(&id, "DST_CONNECTED").await;
    let mut sender = cluster[1].put(&id, "Content-Length: 2\r\n").await;
    sender.send("hi").await;
    assert_eq!((reader.response().await.body, sender.response().await.status), (b"hi".to_vec(), 200));
    // The hop is used again.
    let id = cluster[1].create().await;
    let _waiting = cluster[0].get(&id).await;
    cluster[1].until(&id, "DST_CONNECTED").await;
    is_frozen.send_replace(true);
    let asked = Instant::now();
    cluster[1].until(&id, "CREATED").await;
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_transfer_whose_node_falls_silent_goes_on_when_that_is_heard_again() {
    let mut cluster = TestCluster::start(1).await;
    let is_frozen = cluster.add_that_freezes().await;
    let (id, other_id) = (cluster[1].create().await, cluster[1].create().await);
    let mut reader = cluster[0].get(&id).await;
    cluster[1].until(&id, "DST_CONNECTED").await;
    let mut sender = cluster[1].put(&id, "Content-Length: 2\r\n").await;
    sender.send("h").await;
    cluster[1].until_passed_on(&id, 1).await;
    let mut waiting = cluster[0].get(&other_id).await;
    cluster[1].until(&other_id, "DST_CONNECTED").await;
    is_frozen.send_replace(true);
    // Each node takes the other for silent.
    assert_eq!(waiting.response().await.error(), "503 OwnerUnreachableError");
    cluster[1].until(&other_id, "CREATED").await;
    is_frozen.send_replace(false);
    sender.send("i").await;
    let received = reader.response().await;
    assert_eq!((received.body, received.end), (b"hi".to_vec(), End::Whole));
    assert_eq!(sender.response().await.status, 200);
}

#[tokio::test]
async fn a_destination_that_stands_still_is_cut_once_the_owner_has_lost_the_source() {
    let cluster = TestCluster::start(2).await;
    let (id, other_id) = (cluster[0].create().await, cluster[0].create().await);
    let mut reader = Client::connect_with_small_buffers(cluster[1].address()).await;
    reader.send(get(&format!("/stream/{id}"))).await;
    let client = Http2::connect(&cluster[1]).await;
    let download = client.get(&other_id).await;
    for (id, hops_left) in [(&id, 1), (&other_id, 0)] {
        cluster[0].until(id, "DST_CONNECTED").await;
        let mut sender = cluster[0].put(id, "Content-Length: 400001\r\n").await;
        // More than all buffers of the destination, and less than those between the nodes.
        sender.send("X".repeat(400_000)).await;
        cluster[0].until_passed_on(id, 400_000).await;
        let hops = async || Exposition::of(&cluster[1]).await.count("cluster_hops", &[]);
        sender.reset();
        cluster[0].until(id, "SRC_DISCONNECTED").await;
        with_timeout(async { while hops().await > hops_left {} }).await;
    }
    assert_eq!(reader.take_bytes(400_000).await, Err(End::Reset));
    assert!(matches!(response(download).await.cut, Some(Cut::Reset(_))));
}
