//! Limits that a node has on the requests of others.

use std::time::Duration;

use futures_util::future::join_all;
use rendezvous_server::config::Token;
use testkit::client::Client;
use testkit::cluster::TestCluster;
use testkit::server::{TestServer, get};
use tokio::time::sleep;

use super::paths::until_somebody_is_at;
use crate::http2::{Http2, response, send_all};

/// Sends a body from a source at this node to a reader that waits for it.
async fn transfer(node: &TestServer, id: &str, mut reader: Client) {
    let mut sender = node.put(id, "Content-Length: 2\r\n").await;
    sender.send("hi").await;
    assert_eq!((reader.response().await.body, sender.response().await.status), (b"hi".to_vec(), 200));
}

#[tokio::test]
async fn nodes_that_are_full_of_each_others_requests_are_not_silent() {
    let cluster = TestCluster::start_with(2, |config| config.max_connections = 20).await;
    let mut waiting = Vec::new();
    for _ in 0..8 {
        for (owner, edge) in [(0, 1), (1, 0)] {
            let id = cluster[owner].create().await;
            waiting.push((cluster[edge].get(&id).await, id, owner));
        }
    }
    for (_, id, owner) in &waiting {
        cluster[*owner].until(id, "DST_CONNECTED").await;
    }
    let mut refused = Vec::new();
    for _ in 0..6 {
        let id = cluster[0].create().await;
        refused.push(cluster[1].get(&id).await);
    }
    // Longer than a node is waited for.
    sleep(Duration::from_secs(3)).await;
    for (reader, id, owner) in waiting {
        transfer(&cluster[owner], &id, reader).await;
    }
}

#[tokio::test]
async fn clients_that_watch_streams_of_other_nodes_leave_room_for_sides() {
    let cluster = TestCluster::start_with(2, |config| config.max_connections = 20).await;
    let id = cluster[0].create().await;
    let mut watching = Vec::new();
    for _ in 0..10 {
        let mut client = cluster[1].connect_and_send(get(&format!("/stream/{id}/events"))).await;
        assert!(client.head().await.unwrap().starts_with("HTTP/1.1 200 "));
        watching.push(client);
    }
    assert_eq!(cluster[1].ask(get(&format!("/stream/{id}/events"))).await.error(), "503 ServerBusyError");
    let reader = cluster[1].get(&id).await;
    cluster[0].until(&id, "DST_CONNECTED").await;
    transfer(&cluster[1], &id, reader).await;
}

#[tokio::test]
async fn a_head_of_the_most_fields_and_bytes_passes_a_hop() {
    let cluster = TestCluster::start(2).await;
    for (query, fields) in [
        // With Host and Content-Length a hundred. The edge adds some.
        (String::new(), "Prefer: handling=lenient\r\n".repeat(98)),
        // With the other lines some bytes less than 16 KiB.
        (String::new(), format!("Content-Disposition: {}\r\n", "x".repeat(16_250))),
        // The edge moves the token into a field.
        (format!("?token={}", "x".repeat(16_200)), String::new()),
    ] {
        let mut statuses = Vec::new();
        for edge in [0, 1] {
            let id = cluster[0].create().await;
            let mut reader = cluster[edge].get(&id).await;
            cluster[0].until(&id, "DST_CONNECTED").await;
            let mut sender =
                cluster[edge].put(&format!("{id}{query}"), &format!("Content-Length: 2\r\n{fields}")).await;
            sender.send("hi").await;
            statuses.push((sender.response().await.status, reader.response().await.body));
        }
        assert_eq!(statuses, vec![(200, b"hi".to_vec()); 2], "{} and {} bytes", query.len(), fields.len());
    }
}

#[tokio::test]
async fn a_get_with_a_body_is_refused_at_every_node() {
    let cluster = TestCluster::start(2).await;
    let id = cluster[0].create().await;
    let request = format!("GET /stream/{id} HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi");
    for node in [0, 1] {
        assert_eq!(cluster[node].ask(request.clone()).await.error(), "400 BadRequestError", "node {node}");
    }
}

#[tokio::test]
async fn strangers_at_the_port_for_nodes_take_no_room_from_nodes() {
    /// More than may be there at once before they have proved themselves.
    const STRANGERS: usize = 300;
    let cluster = TestCluster::start(2).await;
    let id = cluster[0].create().await;
    let mut strangers = Vec::new();
    for _ in 0..STRANGERS {
        strangers.push(cluster.connect_as_stranger(0).await);
    }
    let reader = cluster[1].get(&id).await;
    cluster[0].until(&id, "DST_CONNECTED").await;
    transfer(&cluster[1], &id, reader).await;
}

/// Lets this many readers of a node wait at another one at once, and then serves them.
async fn transfer_at_once(cluster: &TestCluster, owner: usize, edge: usize, count: usize) {
    let mut readers = Vec::new();
    for _ in 0..count {
        let id = cluster[owner].create().await;
        let reader = cluster[edge].get(&id).await;
        cluster[owner].until(&id, "DST_CONNECTED").await;
        readers.push((id, reader));
    }
    for (id, reader) in readers {
        transfer(&cluster[owner], &id, reader).await;
    }
}

#[tokio::test]
async fn unused_connections_between_nodes_take_no_room() {
    let cluster = TestCluster::start_with(3, |config| config.max_connections = 20).await;
    // Afterwards the first node has as many open as it may, and the second as many from others.
    transfer_at_once(&cluster, 1, 0, 18).await;
    transfer_at_once(&cluster, 1, 2, 6).await;
    transfer_at_once(&cluster, 2, 0, 6).await;
}

#[tokio::test]
async fn the_last_request_of_an_http_2_connection_may_be_the_other_side_at_each_node() {
    let cluster =
        TestCluster::start_with(2, |config| config.max_streams_per_connection = "3".parse().unwrap()).await;
    let client = Http2::connect(&cluster[1]).await;
    let mut downloads = Vec::new();
    for _ in 0..2 {
        let id = cluster[0].create().await;
        downloads.push((client.get(&id).await, id.clone()));
        cluster[0].until(&id, "DST_CONNECTED").await;
    }
    let other = cluster[0].create().await;
    let (refused, _) = client.request("GET", &format!("/stream/{other}"), &[], true).await;
    assert_eq!(response(refused).await.error(), "503 ServerBusyError");
    for (download, id) in downloads {
        let (upload, mut send) = client.put(&id).await;
        send_all(&mut send, b"body", true).await;
        assert_eq!(response(download).await.body, b"body");
        assert_eq!(response(upload).await.status, 200);
    }
}

#[tokio::test]
async fn more_sides_at_once_than_nodes_may_be_unproved_find_room() {
    // With so few descriptors that is 64 connections.
    let cluster = TestCluster::start_with(2, |config| config.descriptors = Some(1024)).await;
    let mut ids = Vec::new();
    for _ in 0..150 {
        ids.push(cluster[0].create().await);
    }
    let readers = join_all(ids.iter().map(|id| cluster[1].get(id))).await;
    for (id, reader) in ids.iter().zip(readers) {
        transfer(&cluster[0], id, reader).await;
    }
}

#[tokio::test]
async fn the_streams_of_a_client_are_its_own_whatever_its_node_is() {
    let cluster = TestCluster::start_with(2, |config| config.clients.max_streams = Some(1)).await;
    let mut paths = cluster.paths_of(0);
    let mut waiting = Vec::new();
    for (client, is_refused) in [("127.0.0.2", false), ("127.0.0.3", false), ("127.0.0.2", true)] {
        let path = paths.next().unwrap();
        let mut reader = Client::connect_from(client, cluster[1].address()).await;
        reader.send(get(&format!("/p/{path}"))).await;
        if is_refused {
            assert_eq!(reader.response().await.error(), "429 TooManyRequestsError");
        } else {
            until_somebody_is_at(&cluster[0], &path).await;
        }
        waiting.push(reader);
    }
}

#[tokio::test]
async fn making_a_path_needs_the_create_token_at_every_node() {
    let token = "create-token-16-bytes";
    let cluster = TestCluster::start_with(2, |config| config.create_token = Token::parse(token).ok()).await;
    let path = cluster.path_of(0);
    for node in [0, 1] {
        for (token, refusal) in
            [("", "401 UnauthorizedError"), ("?token=wrong-16-bytes-xx", "403 ForbiddenError")]
        {
            assert_eq!(
                cluster[node].ask(get(&format!("/p/{path}{token}"))).await.error(),
                refusal,
                "node {node}"
            );
        }
        let mut reader = cluster[node].connect_and_send(get(&format!("/p/{path}?token={token}"))).await;
        until_somebody_is_at(&cluster[0], &path).await;
        // A client that joins needs none.
        assert_eq!(
            cluster[node]
                .ask(format!("PUT /p/{path} HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi"))
                .await
                .status,
            200,
            "node {node}"
        );
        assert_eq!(reader.response().await.body, b"hi");
    }
}
