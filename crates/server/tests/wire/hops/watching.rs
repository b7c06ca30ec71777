//! Statuses, events and lists of streams that are at other nodes.

use rendezvous_server::config::Size;
use testkit::client::{Client, End, Response, with_timeout};
use testkit::cluster::TestCluster;
use testkit::server::{TestServer, get, post};

use crate::events::Subscriber;
use crate::metrics::Exposition;

/// Bytes of headers and of a report: nearly the most that a stream can have.
const LARGE: usize = 60_000;

#[tokio::test]
async fn a_stream_is_watched_and_reported_at_every_node() {
    let cluster = TestCluster::start(2).await;
    let id = cluster[0].create().await;
    let mut events = cluster[1].connect_and_send(get(&format!("/stream/{id}/events"))).await;
    assert!(events.head().await.unwrap().starts_with("HTTP/1.1 200 "));
    let mut waiting = cluster[1].get(&id).await;
    cluster[1].until(&id, "DST_CONNECTED").await;
    let target = format!("/stream/{id}/status");
    let tag = cluster[1].ask(get(&target)).await.fields("etag")[0].to_owned();
    let poll =
        format!("GET {target} HTTP/1.1\r\nHost: test\r\nIf-None-Match: {tag}\r\nPrefer: wait=20\r\n\r\n");
    let mut poll = cluster[1].connect_and_send(poll).await;
    let reported = cluster[1].post(&format!("/stream/{id}/error"), r#"{"http_status":418,"name":"N"}"#).await;
    assert_eq!(reported.status, 200);
    assert_eq!(waiting.response().await.error(), "418 N");
    assert_eq!(poll.response().await.json()["state"], "CLIENT_ERROR");
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    let events = events.rest(head).await;
    assert_eq!(events.end, End::Whole);
    assert!(String::from_utf8(events.body).unwrap().contains("CLIENT_ERROR"));
}

#[tokio::test]
async fn the_list_has_the_streams_of_all_nodes_that_answer() {
    let mut cluster = TestCluster::start(3).await;
    let mut created = Vec::new();
    for node in 0..3 {
        created.push(cluster[node].create().await);
    }
    created.sort();
    let list = cluster[1].ask(get("/stream")).await;
    assert_eq!((list.fields("rendezvous-nodes"), ids(&list)), (vec!["3/3"], created.clone()));
    assert_eq!(ids(&cluster[1].ask(get("/stream?strict=1")).await), created);
    cluster.kill(2);
    let tag = cluster.tag(2).to_string();
    created.retain(|id| !id.starts_with(&tag));
    let list = cluster[1].ask(get("/stream")).await;
    assert_eq!((list.fields("rendezvous-nodes"), ids(&list)), (vec!["2/3"], created));
    assert_eq!(cluster[1].ask(get("/stream?strict=1")).await.error(), "503 OwnerUnreachableError");
}

#[tokio::test]
async fn a_large_status_is_the_same_at_every_node() {
    let cluster = TestCluster::start(2).await;
    let mut events = Subscriber::to(&cluster[1], "/events", "").await;
    let body = serde_json::json!({"download_headers": {"X": "x".repeat(LARGE)}});
    let id = cluster[0].create_with(&body.to_string()).await;
    assert_eq!(events.next().await.status()["id"], id);
    let report = serde_json::json!({"message": "y".repeat(LARGE)});
    assert_eq!(cluster[1].post(&format!("/stream/{id}/error"), report.to_string()).await.status, 200);
    let status = cluster[0].status(&id).await;
    assert!(status.to_string().len() > 2 * LARGE);
    assert_eq!(cluster[1].status(&id).await, status);
    let mut heads = Vec::new();
    for node in [0, 1] {
        let request = format!("HEAD /stream/{id}/status HTTP/1.1\r\nHost: test\r\n\r\n");
        let head = cluster[node].connect_and_send(request).await.head().await.unwrap();
        assert!(head.contains("\r\ncontent-length: 12"), "{head}");
        heads.push(
            head.lines().filter(|line| !line.starts_with("date: ")).map(str::to_owned).collect::<Vec<_>>(),
        );
    }
    assert_eq!(heads[0], heads[1]);
    assert_eq!(events.next().await.status(), status);
}

#[tokio::test]
async fn events_of_all_nodes_go_on_when_one_of_them_ends() {
    let mut cluster =
        TestCluster::start_with(3, |config| config.drain_timeout = "100ms".parse().unwrap()).await;
    let mut events = Subscriber::to(&cluster[0], "/events", "").await;
    let of_1 = cluster[1].create().await;
    assert_eq!(events.next().await.status()["id"], of_1);
    cluster.forget(1, true);
    cluster.stop(1).await;
    let hops = async || Exposition::of(&cluster[0]).await.count("cluster_hops", &[]);
    with_timeout(async { while hops().await > 1 {} }).await;
    let of_2 = cluster[2].create().await;
    loop {
        let event = events.next().await;
        if event.name != "lagged" && event.status()["id"] == of_2 {
            break;
        }
    }
}

#[tokio::test]
async fn a_node_without_memory_for_its_list_is_left_out() {
    let mut cluster = TestCluster::start(1).await;
    cluster.add(|config| config.max_metadata_bytes = Size::bytes(1)).await;
    let id = cluster[0].create().await;
    create_many(&cluster[1], 3000).await;
    // A list that is not read holds the memory for another one.
    let mut slow = Client::connect_with_small_receive_buffer(cluster[1].address()).await;
    slow.send(get("/stream")).await;
    slow.head().await.unwrap();
    let list = cluster[0].ask(get("/stream")).await;
    assert_eq!((list.fields("rendezvous-nodes"), ids(&list)), (vec!["1/2"], vec![id]));
}

#[tokio::test]
async fn a_list_says_that_a_node_has_more_streams_than_it_lists() {
    const MOST: usize = 10_000;
    let cluster = TestCluster::start(2).await;
    for (created, is_truncated) in [(MOST, false), (1, true)] {
        create_many(&cluster[0], created).await;
        for node in [0, 1] {
            let list = cluster[node].ask(get("/stream")).await;
            assert_eq!(
                (list.fields("rendezvous-truncated").len(), ids(&list).len()),
                (usize::from(is_truncated), MOST)
            );
        }
    }
}

/// Creates so many streams.
async fn create_many(node: &TestServer, count: usize) {
    let mut client = node.connect().await;
    for batch in (0..count).step_by(50) {
        let batch = (count - batch).min(50);
        client.send(post("/stream", "").repeat(batch)).await;
        for _ in 0..batch {
            assert_eq!(client.response().await.status, 201);
        }
    }
}

/// The ids of a list, in order.
fn ids(list: &Response) -> Vec<String> {
    let list = list.json();
    let mut ids: Vec<_> =
        list.as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    ids
}
