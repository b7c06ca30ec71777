//! Requests that a node passes on to the one that has the stream.

mod connections;
mod deaths;
mod drains;
mod limits;
mod paths;
mod watching;

use std::time::Duration;

use testkit::client::Client;
use testkit::cluster::TestCluster;
use testkit::server::{get, put_head};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

#[tokio::test]
async fn a_stream_can_be_used_at_any_node() {
    let cluster = TestCluster::start(3).await;
    for (source, destination) in [(0, 0), (1, 0), (0, 1), (1, 1), (1, 2), (2, 1)] {
        for body in ["", "hello", &"x".repeat(300_000)] {
            let id = cluster[0].create().await;
            let mut reader = cluster[destination].get(&id).await;
            cluster[0].until(&id, "DST_CONNECTED").await;
            let mut sender = cluster[source].put(&id, &format!("Content-Length: {}\r\n", body.len())).await;
            sender.send(body).await;
            let received = reader.response().await;
            assert_eq!((received.status, &*received.body), (200, body.as_bytes()), "{source} {destination}");
            assert_eq!(sender.response().await.status, 200, "{source} {destination}");
            assert_eq!(cluster[1].status(&id).await["state"], "FINISHED");
        }
    }
}

/// An id of a process that does not exist.
const NOBODYS: &str = "00000001-1111-8111-9111-111111111111";

/// Every kind of request for a stream with this id.
fn requests(id: &str) -> [String; 6] {
    [
        put_head(id, "Content-Length: 2\r\n"),
        get(&format!("/stream/{id}")),
        get(&format!("/stream/{id}/status")),
        get(&format!("/stream/{id}/events")),
        format!("POST /stream/{id}/error HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"),
        format!("HEAD /stream/{id} HTTP/1.1\r\nHost: test\r\n\r\n"),
    ]
}

#[tokio::test]
async fn a_stream_of_an_unknown_node_does_not_exist_if_the_directory_says_so() {
    let cluster = TestCluster::start(2).await;
    for (is_down, status, name, retry) in
        [(false, 404, "SessionNotFoundError", vec![]), (true, 503, "DirectoryUnavailableError", vec!["2"])]
    {
        cluster.set_down(is_down);
        for request in requests(NOBODYS) {
            let is_head = request.starts_with("HEAD");
            let mut client = cluster[0].connect_and_send(request).await;
            let head = client.head().await.unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
            if !is_head {
                let response = client.rest(head).await;
                assert_eq!(response.json()["name"], name);
                assert_eq!(response.fields("retry-after"), retry);
            }
        }
    }
}

#[tokio::test]
async fn a_200_waits_for_the_kernel_of_a_destination_at_another_node() {
    let cluster = TestCluster::start(2).await;
    let id = cluster[0].create().await;
    // More than its kernel takes, and less than all buffers on the way.
    let body = "x".repeat(100_000);
    let mut reader = Client::connect_with_small_buffers(cluster[1].address()).await;
    reader.send(get(&format!("/stream/{id}"))).await;
    cluster[0].until(&id, "DST_CONNECTED").await;
    let mut sender = cluster[0].put(&id, "Content-Length: 100000\r\n").await;
    sender.send(&body).await;
    cluster[0].until_passed_on(&id, 100_000).await;
    let early = timeout(Duration::from_millis(300), sender.head()).await;
    assert!(early.is_err(), "{early:?}");
    assert_eq!(reader.response().await.body.len(), 100_000);
    assert_eq!(sender.response().await.status, 200);
}

#[tokio::test]
async fn only_the_receipt_of_the_whole_body_is_believed() {
    let cluster = TestCluster::start(1).await;
    let endless = format!("100\r\n{}", "d".repeat(65));
    for (receipt, expected) in [
        ("b\r\ndelivered 5\r\n0\r\n\r\n", 200),
        ("3\r\ndel\r\n8\r\nivered 5\r\n0\r\n\r\n", 200),
        ("b\r\ndelivered 4\r\n0\r\n\r\n", 502),
        ("c\r\ndelivered 50\r\n0\r\n\r\n", 502),
        ("8\r\nfailed 5\r\n0\r\n\r\n", 502),
        ("e\r\nfailed stalled\r\n0\r\n\r\n", 502),
        ("0\r\n\r\n", 502),
        // The whole text, without the end of the receipt.
        ("b\r\ndelivered 5\r\n", 502),
        ("-\r\n", 502),
        ("", 502),
        // More than any receipt has.
        (&endless, 502),
    ] {
        let id = cluster[0].create().await;
        let mut edge = cluster.connect_as_node(0).await;
        let head = format!(
            "GET /stream/{id} HTTP/1.1\r\nhost: node\r\nrendezvous-client: 127.0.0.1\r\nrendezvous-list: 0\r\n\
             transfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n"
        );
        edge.write_all(head.as_bytes()).await.unwrap();
        cluster[0].until(&id, "DST_CONNECTED").await;
        let mut sender = cluster[0].put(&id, "Content-Length: 5\r\n").await;
        sender.send("hello").await;
        let mut received = Vec::new();
        while !received.ends_with(b"\r\n\r\nhello") {
            assert_ne!(edge.read_buf(&mut received).await.unwrap(), 0);
        }
        assert!(received.starts_with(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"));
        edge.write_all(receipt.as_bytes()).await.unwrap();
        if expected != 200 && receipt != endless {
            edge.shutdown().await.unwrap();
        }
        // Sooner than a node is silent that keeps its connection.
        let sent = timeout(Duration::from_secs(5), sender.response()).await;
        assert_eq!(sent.unwrap().status, expected, "{receipt:?}");
    }
}

#[tokio::test]
async fn a_100_means_paired_and_a_refusal_comes_without_one() {
    let cluster = TestCluster::start(2).await;
    let expecting = "Content-Length: 2\r\nExpect: 100-continue\r\n";
    let id = cluster[0].create().await;
    let mut sender = cluster[1].put(&id, expecting).await;
    cluster[0].until(&id, "SRC_CONNECTED").await;
    assert!(timeout(Duration::from_millis(100), sender.head()).await.is_err());
    assert_eq!(cluster[1].put(&id, expecting).await.response().await.error(), "429 AlreadyConnectedError");
    let mut reader = cluster[1].get(&id).await;
    assert!(sender.head().await.unwrap().starts_with("HTTP/1.1 100 "));
    sender.send("hi").await;
    assert_eq!(reader.response().await.body, b"hi");
    assert_eq!(sender.response().await.status, 200);
}

#[tokio::test]
async fn a_100_precedes_the_answer_to_an_empty_body_too() {
    let cluster = TestCluster::start(1).await;
    // Without it, an owner that is lost then could have delivered the body, and the edge would say that nothing was taken.
    let id = cluster[0].create().await;
    let mut edge = cluster.connect_as_node(0).await;
    let head = format!(
        "PUT /stream/{id} HTTP/1.1\r\nhost: node\r\nrendezvous-client: 127.0.0.1\r\nrendezvous-list: 0\r\n\
         content-length: 0\r\nexpect: 100-continue\r\n\r\n"
    );
    edge.write_all(head.as_bytes()).await.unwrap();
    cluster[0].until(&id, "SRC_CONNECTED").await;
    assert_eq!(cluster[0].get(&id).await.response().await.status, 200);
    let mut received = Vec::new();
    while !received.ends_with(b"\r\n\r\n") || received.len() < 30 {
        assert_ne!(edge.read_buf(&mut received).await.unwrap(), 0);
    }
    assert!(received.starts_with(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n"));
}

#[tokio::test]
async fn what_a_stream_was_created_with_holds_at_every_node() {
    let cluster = TestCluster::start(2).await;
    let created = cluster[0]
        .create_response(
            r#"{"access":"split","download_headers":{"X-Down":"1","Content-Type":"text/x"},"upload_headers":{"X-Up":["a","b"]}}"#,
        )
        .await;
    let field = |name: &str| created[name].as_str().unwrap().to_owned();
    let (id, upload, download) = (field("stream"), field("upload_token"), field("download_token"));
    assert_eq!(cluster[1].ask(get(&format!("/stream/{id}"))).await.error(), "401 UnauthorizedError");
    let wrong = get(&format!("/stream/{id}?token={upload}"));
    assert_eq!(cluster[1].ask(wrong).await.error(), "403 ForbiddenError");
    let mut reader = cluster[1].connect_and_send(get(&format!("/stream/{id}?token={download}"))).await;
    let fields = format!("Content-Length: 2\r\nAuthorization: Bearer {upload}\r\n");
    let mut sender = cluster[1].put(&id, &fields).await;
    sender.send("hi").await;
    let received = reader.response().await;
    assert!(received.head.contains("\r\nX-Down: 1\r\nContent-Type: text/x\r\n"), "{}", received.head);
    assert_eq!(received.fields("x-content-type-options"), ["nosniff"]);
    let sent = sender.response().await;
    assert_eq!((sent.status, sent.fields("x-up")), (200, vec!["a", "b"]));
    assert!(sent.head.contains("X-Up: a"), "{}", sent.head);
}

#[tokio::test]
async fn a_destination_at_another_node_may_be_slow_and_not_stand_still() {
    let cluster = TestCluster::start_with(2, |config| config.idle_timeout = "1s".parse().unwrap()).await;
    // More than all buffers of the clients, and less than those between the nodes.
    let body = "X".repeat(400_000);
    for stands_still in [false, true] {
        let id = cluster[0].create().await;
        let mut reader = Client::connect_with_small_buffers(cluster[1].address()).await;
        reader.send(get(&format!("/stream/{id}"))).await;
        cluster[0].until(&id, "DST_CONNECTED").await;
        let mut sender = cluster[0].put(&id, "Content-Length: 400000\r\n").await;
        sender.send(&body).await;
        if stands_still {
            assert_eq!(sender.response().await.error(), "502 StreamDestinationError");
        } else {
            reader.head().await.unwrap();
            for part in 1..=8 {
                reader.receive(part * 50_000).await;
                sleep(Duration::from_millis(300)).await;
            }
            assert_eq!(sender.response().await.status, 200);
        }
    }
}
