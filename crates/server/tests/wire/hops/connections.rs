//! Connections between nodes: they are used again, and may break between two requests.

use testkit::cluster::{Break, TestCluster};
use testkit::server::{get, put_head};

use crate::metrics::Exposition;

#[tokio::test]
async fn a_hop_is_used_for_one_request_after_the_other() {
    let cluster = TestCluster::start(2).await;
    let mut kept = cluster[1].connect().await;
    let mut opened = Vec::new();
    for _ in 0..3 {
        let id = cluster[0].create().await;
        let mut reader = cluster[1].get(&id).await;
        kept.send(put_head(&id, "Content-Length: 2\r\n")).await;
        kept.send("hi").await;
        assert_eq!(reader.response().await.body, b"hi");
        assert_eq!(kept.response().await.status, 200);
        kept.send(get(&format!("/stream/{id}"))).await;
        assert_eq!(kept.response().await.error(), "404 SessionNotFoundError");
        opened.push(Exposition::of(&cluster[0]).await.count("connections_total", &[]));
    }
    // Of each round those that create the stream and ask for the metrics; of the first also those of the other node.
    assert_eq!(opened, [4, 6, 8]);
}

#[tokio::test]
async fn a_request_is_repeated_if_its_connection_has_ended_without_a_byte_of_a_response() {
    let mut cluster = TestCluster::start(1).await;
    let next = cluster.add_that_breaks().await;
    let id = cluster[1].create().await;
    let status = get(&format!("/stream/{id}/status"));
    for (breaks, expected) in
        [(None, 200), (Some(Break::Request), 200), (None, 200), (Some(Break::Response), 503)]
    {
        *next.lock() = breaks;
        assert_eq!(cluster[0].ask(&status).await.status, expected, "{breaks:?}");
        assert_eq!(*next.lock(), None);
    }
}
