//! Nodes that drain: what they hand over, and what they wait for.

use std::time::Duration;

use rendezvous_server::SHUTDOWN_GRACE;
use testkit::cluster::TestCluster;
use testkit::server::get;
use tokio::time::sleep;

use super::paths::until_somebody_is_at;

#[tokio::test]
async fn a_node_that_drains_hands_over() {
    let mut cluster = TestCluster::start(2).await;
    let path = cluster.path_of(0);
    let own = cluster[0].create().await;
    let mut reader = cluster[1].connect_and_send(get(&format!("/p/{path}"))).await;
    let mut local = cluster[0].get(&own).await;
    until_somebody_is_at(&cluster[0], &path).await;
    cluster[0].until(&own, "DST_CONNECTED").await;
    cluster.stop(0).await;
    assert!(cluster[0].create().await.starts_with(&cluster.tag(1).to_string()));
    let put = format!("PUT /p/{path} HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(cluster[0].ask(put).await.status, 200);
    assert_eq!(reader.response().await.body, b"hi");
    let mut sender = cluster[1].put(&own, "Content-Length: 2\r\n").await;
    sender.send("hi").await;
    assert_eq!((local.response().await.body, sender.response().await.status), (b"hi".to_vec(), 200));
}

#[tokio::test]
async fn a_node_that_drains_goes_on_with_what_it_passes_on() {
    let mut cluster = TestCluster::start(2).await;
    let id = cluster[1].create().await;
    let waiting = cluster[1].create().await;
    let mut reader = cluster[0].get(&id).await;
    let mut waits = cluster[0].get(&waiting).await;
    cluster[1].until(&waiting, "DST_CONNECTED").await;
    let mut sender = cluster[1].put(&id, "Content-Length: 4\r\n").await;
    sender.send("he").await;
    cluster[1].until_passed_on(&id, 2).await;
    // It has no stream of its own.
    cluster.stop(0).await;
    // Longer than a server takes that waits for nothing.
    sleep(SHUTDOWN_GRACE + Duration::from_secs(1)).await;
    sender.send("re").await;
    assert_eq!(reader.response().await.body, b"here");
    assert_eq!(sender.response().await.status, 200);
    let mut late = cluster[1].put(&waiting, "Content-Length: 2\r\n").await;
    late.send("hi").await;
    assert_eq!((waits.response().await.body, late.response().await.status), (b"hi".to_vec(), 200));
}

#[tokio::test]
async fn sides_that_wait_elsewhere_are_told_when_the_drain_ends() {
    let mut cluster = TestCluster::start_with(2, |config| config.drain_timeout = "1s".parse().unwrap()).await;
    let id = cluster[1].create().await;
    let mut waits = cluster[0].get(&id).await;
    cluster[1].until(&id, "DST_CONNECTED").await;
    cluster.stop(0).await;
    assert_eq!(waits.response().await.error(), "503 ShuttingDownError");
    cluster[1].until(&id, "CREATED").await;
}

#[tokio::test]
async fn a_side_that_moves_from_node_to_node_keeps_the_drain_of_its_own_waiting() {
    for owner in [0, 1] {
        // Where it is counted between two nodes, only some of many end too early.
        for _ in 0..6 {
            let mut cluster = TestCluster::start(3).await;
            let path = cluster.path_of(owner);
            let mut reader = cluster[0].connect_and_send(get(&format!("/p/{path}"))).await;
            until_somebody_is_at(&cluster[owner], &path).await;
            cluster.stop(0).await;
            if owner > 0 {
                cluster.stop(owner).await;
            }
            let put = format!("PUT /p/{path} HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi");
            assert_eq!(cluster[2].ask(put).await.status, 200);
            assert_eq!(reader.response().await.body, b"hi");
        }
    }
}

#[tokio::test]
async fn a_drain_waits_for_a_transfer_that_has_begun_while_it_waited_for_another_side() {
    let mut cluster = TestCluster::start(2).await;
    let [own, elsewhere] = [cluster[0].create().await, cluster[1].create().await];
    let mut waits = cluster[0].get(&elsewhere).await;
    cluster[1].until(&elsewhere, "DST_CONNECTED").await;
    cluster.stop(0).await;
    // Longer than a drain waits for a stream without a side.
    sleep(Duration::from_secs(6)).await;
    let mut reader = cluster[0].get(&own).await;
    let mut sender = cluster[0].put(&own, "Content-Length: 4\r\n").await;
    sender.send("he").await;
    cluster[0].until_passed_on(&own, 2).await;
    let mut late = cluster[1].put(&elsewhere, "Content-Length: 2\r\n").await;
    late.send("hi").await;
    assert_eq!((waits.response().await.body, late.response().await.status), (b"hi".to_vec(), 200));
    sleep(SHUTDOWN_GRACE + Duration::from_secs(1)).await;
    sender.send("re").await;
    assert_eq!((reader.response().await.body, sender.response().await.status), (b"here".to_vec(), 200));
}
