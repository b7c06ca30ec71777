//! The memory for header sets, reports, JSON bodies, lists and statuses, which all clients share.

use std::time::Duration;

use rendezvous_server::config::Size;
use serde_json::Value;
use testkit::client::{Client, End, Response, with_timeout};
use testkit::server::{TestServer, get};

use crate::time::{A_MOMENT, Clock};

const SECOND: Duration = Duration::from_secs(1);

/// A creation body with a header set of `bytes` bytes.
fn set_of(bytes: usize) -> String {
    format!(r#"{{"upload_headers":{{"x":"{}"}}}}"#, "x".repeat(bytes))
}

fn assert_busy(refused: &Response) {
    assert_eq!(refused.error(), "503 ServerBusyError");
    assert!(refused.message().contains("--max-metadata-bytes"), "{}", refused.message());
    assert_eq!(refused.fields("retry-after").len(), 1, "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn header_sets_and_reports_of_all_streams_share_a_limit_until_they_are_forgotten() {
    let clock = Clock::stopped();
    let ttl = 60 * SECOND;
    let server = TestServer::start_with(|config| config.max_metadata_bytes = "200k".parse().unwrap()).await;
    for round in 0..3 {
        let mut created = Vec::new();
        let refused = loop {
            let response = server.post("/stream", set_of(40_000)).await;
            if response.status != 201 {
                break response;
            }
            created.push(response.stream_id());
            assert!(created.len() < 10, "{round}");
        };
        assert_busy(&refused);
        // Each takes 45 KB with the overhead of its allocation, and the next also reserves memory for its body while that arrives.
        assert!((3..=4).contains(&created.len()), "{round}: {}", created.len());

        // The limit affects neither streams without a header set nor those that exist.
        let bare = server.create_with("{}").await;
        server.create_with(r#"{"access":"split"}"#).await;
        let report = format!(r#"{{"message":"{}"}}"#, "m".repeat(40_000));
        assert_busy(&server.post(&format!("/stream/{bare}/error"), &report).await);
        assert_eq!(server.status(&bare).await["state"], "CREATED", "a refused report changes nothing");
        assert_eq!(server.status(&created[2]).await["upload_headers"]["x"].as_str().unwrap().len(), 40_000);

        // Two of them end. Their status is retained, so they still count.
        for id in &created[..2] {
            server.post(&format!("/stream/{id}/error"), "{}").await;
            assert_eq!(server.get(id).await.response().await.status, 400);
        }
        assert_busy(&server.post("/stream", set_of(40_000)).await);
        clock.advance(ttl + A_MOMENT).await;
        for id in &created[..2] {
            server.until_forgotten(id).await;
        }
        let again = server.create_response(&set_of(40_000)).await;
        // Reports count like header sets.
        let id = again["stream"].as_str().unwrap();
        assert_eq!(server.post(&format!("/stream/{id}/error"), &report).await.status, 200);
        assert_busy(&server.post("/stream", set_of(40_000)).await);
        assert_eq!(server.get(id).await.response().await.status, 400);
        clock.advance(ttl + A_MOMENT).await;
        while server.ask(get("/stream")).await.body != b"[]" {}
    }
}

#[tokio::test]
async fn json_that_is_still_arriving_counts_and_small_json_does_not() {
    let server = TestServer::start_with(|config| config.max_metadata_bytes = "100k".parse().unwrap()).await;
    let incomplete = async |bytes: usize| {
        let head = format!("POST /stream HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", bytes + 1);
        server.connect_and_send(head + &" ".repeat(bytes)).await
    };
    let mut clients = Vec::new();
    while clients.len() < 5 {
        clients.push(incomplete(60_000).await);
    }
    // The server may not have read all of it yet.
    let refused = async {
        loop {
            let response = server.post("/stream", format!("{{}}{}", " ".repeat(50_000))).await;
            if response.status != 201 {
                return response;
            }
        }
    };
    assert_busy(&with_timeout(refused).await);
    drop(clients);
    let server = TestServer::start_with(|config| config.max_metadata_bytes = Size::bytes(1)).await;
    server.create_with(r#"{"access":"split"}"#).await;
    server.create_with(&format!("{{}}{}", " ".repeat(1000))).await;
    server.create().await;
}

#[tokio::test]
async fn a_long_list_is_written_as_the_client_reads_it_and_is_whole() {
    let server = TestServer::start().await;
    let mut ids = Vec::new();
    for _ in 0..200 {
        ids.push(server.create_with(&set_of(60_000)).await);
    }
    let mut reads_nothing = Client::connect_with_small_receive_buffer(server.address()).await;
    reads_nothing.send(get("/stream")).await;
    let head = reads_nothing.head().await.unwrap();
    let others = ["GET /stream HTTP/1.1\r\nHost: test\r\n\r\n", "GET /stream HTTP/1.0\r\n\r\n"];
    let mut lists = Vec::new();
    for request in others {
        lists.push(server.ask(request).await);
    }
    lists.push(reads_nothing.rest(head).await);
    for list in lists {
        let statuses: Vec<Value> = serde_json::from_slice(&list.body).unwrap();
        let listed: Vec<_> = statuses.iter().map(|status| status["id"].as_str().unwrap()).collect();
        assert_eq!((list.status, listed), (200, ids.iter().map(String::as_str).collect()), "oldest first");
        assert!(matches!(list.end, End::Whole | End::Closed), "{:?}", list.end);
    }
    let mut head = server.connect_and_send("HEAD /stream HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert!(head.head().await.unwrap().starts_with("HTTP/1.1 200 OK"));
    head.send(get("/ping")).await;
    assert_eq!(
        head.response().await.body,
        b"pong",
        "the response to HEAD has no body, and the connection is kept"
    );
}

#[tokio::test]
async fn a_long_list_counts_as_a_large_response_and_a_single_one_is_always_served() {
    let server = TestServer::start_with(|config| config.max_metadata_bytes = Size::bytes(1000)).await;
    for _ in 0..1000 {
        server.create().await;
    }
    let list = server.ask(get("/stream")).await;
    assert_eq!((list.status, list.end), (200, End::Whole), "{}", list.body.len());
    let server = TestServer::start_with(|config| config.max_metadata_bytes = "300k".parse().unwrap()).await;
    let mut unread = Vec::new();
    for _ in 0..4 {
        server.create_with(&set_of(60_000)).await;
    }
    while server.ask(get("/stream")).await.status == 200 {
        let mut reader = Client::connect_with_small_receive_buffer(server.address()).await;
        reader.send(get("/stream").repeat(20)).await;
        reader.head().await.unwrap();
        unread.push(reader);
        assert!(unread.len() < 100, "unread lists do not count");
    }
}

#[tokio::test]
async fn large_events_count_as_large_responses_until_their_clients_read_nothing_for_too_long() {
    let server = TestServer::start_with(|config| {
        config.max_metadata_bytes = "500k".parse().unwrap();
        config.head_timeout = "1s".parse().unwrap();
    })
    .await;
    // Together more than the kernel takes for such a client.
    let id = server.create_with(&set_of(60_000)).await;
    let report = format!(r#"{{"message":"{}"}}"#, "m".repeat(60_000));
    assert_eq!(server.post(&format!("/stream/{id}/error"), &report).await.status, 200);
    let subscription = get(&format!("/stream/{id}/events"));
    let mut unread = Vec::new();
    let refused = loop {
        let mut reader = Client::connect_with_small_receive_buffer(server.address()).await;
        reader.send(&subscription).await;
        let head = reader.head().await.unwrap();
        if !head.starts_with("HTTP/1.1 200 ") {
            break server.ask(&subscription).await;
        }
        unread.push(reader);
        assert!(unread.len() < 100, "unread events do not count");
    };
    assert_busy(&refused);
    while !server.connect_and_send(&subscription).await.head().await.unwrap().starts_with("HTTP/1.1 200 ") {}
}
