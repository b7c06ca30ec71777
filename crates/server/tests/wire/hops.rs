//! Requests that a node passes on to the one that has the stream.

use std::time::{Duration, Instant};

use rendezvous_protocol::Side;
use testkit::client::{Client, End, with_timeout};
use testkit::cluster::TestCluster;
use testkit::server::{TestServer, get, put_head};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::time::timeout;

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

#[tokio::test]
async fn a_hop_is_used_for_one_request_after_the_other() {
    let cluster = TestCluster::start(2).await;
    let mut kept = cluster[1].connect().await;
    for _ in 0..3 {
        let id = cluster[0].create().await;
        let mut reader = cluster[1].get(&id).await;
        kept.send(put_head(&id, "Content-Length: 2\r\n")).await;
        kept.send("hi").await;
        assert_eq!(reader.response().await.body, b"hi");
        assert_eq!(kept.response().await.status, 200);
        kept.send(get(&format!("/stream/{id}"))).await;
        assert_eq!(kept.response().await.error(), "404 SessionNotFoundError");
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

async fn until_somebody_is_at(node: &TestServer, path: &str) {
    loop {
        let mut client =
            node.connect_and_send(format!("HEAD /p/{path} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        if with_timeout(client.head()).await.unwrap().starts_with("HTTP/1.1 200 ") {
            return;
        }
    }
}

#[tokio::test]
async fn a_side_that_waits_at_a_path_moves_to_the_new_owner() {
    for waits_at in [0, 1] {
        let mut cluster = TestCluster::start(2).await;
        let path = cluster.path_of(0);
        let put = format!("PUT /p/{path} HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi");
        let mut sender = cluster[waits_at].connect_and_send(put).await;
        until_somebody_is_at(&cluster[0], &path).await;
        // Nodes come until one of them owns the path.
        while cluster.owner(&path) == 0 {
            cluster.add(|_| {}).await;
        }
        let owner = cluster.owner(&path);
        until_somebody_is_at(&cluster[owner], &path).await;
        assert_eq!(cluster[0].ask(get(&format!("/p/{path}"))).await.body, b"hi");
        assert_eq!(sender.response().await.status, 200);
    }
}

#[tokio::test]
async fn a_node_with_an_old_list_reads_again() {
    let mut cluster = TestCluster::start(2).await;
    let path = cluster.path_of(0);
    // Both an edge and an owner may be behind.
    for behind in [1, 2] {
        let before = cluster.owner(&path);
        cluster.hold_list(behind.min(cluster.nodes().len() - 1));
        while cluster.owner(&path) == before {
            cluster.add(|_| {}).await;
        }
        let mut reader = cluster[1].connect_and_send(get(&format!("/p/{path}"))).await;
        until_somebody_is_at(&cluster[cluster.owner(&path)], &path).await;
        let put = format!("PUT /p/{path} HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi");
        assert_eq!(cluster[0].ask(put).await.status, 200);
        assert_eq!(reader.response().await.body, b"hi");
    }
}

/// A node that proves itself and then says nothing.
async fn silent_node(cluster: &TestCluster) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tag = cluster.add_silent(listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok((mut connection, _)) = listener.accept().await {
            connection.write_all(&tag.to_bytes()).await.unwrap();
            connections.push(connection);
        }
    });
    format!("{tag}-1111-8111-9111-111111111111")
}

#[tokio::test]
async fn a_side_that_waits_at_a_silent_node_is_let_go_and_nothing_new_is_begun() {
    let cluster = TestCluster::start(1).await;
    let id = silent_node(&cluster).await;
    let asked = Instant::now();
    let mut waiting = cluster[0].get(&id).await;
    assert_eq!(waiting.response().await.error(), "503 OwnerUnreachableError");
    let waited = asked.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_secs(4)).contains(&waited), "{waited:?}");
    let asked = Instant::now();
    assert_eq!(cluster[0].get(&id).await.response().await.error(), "503 OwnerUnreachableError");
    assert!(asked.elapsed() < Duration::from_millis(500));
}

#[tokio::test]
async fn the_list_has_the_streams_of_all_nodes_that_answer() {
    let mut cluster = TestCluster::start(3).await;
    let mut created = Vec::new();
    for node in 0..3 {
        created.push(cluster[node].create().await);
    }
    let listed = |list: &testkit::client::Response| {
        let mut ids: Vec<_> = list
            .json()
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["id"].as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        ids
    };
    created.sort();
    let list = cluster[1].ask(get("/stream")).await;
    assert_eq!((list.fields("rendezvous-nodes"), listed(&list)), (vec!["3/3"], created.clone()));
    cluster.kill(2);
    let tag = cluster.tag(2).to_string();
    created.retain(|id| !id.starts_with(&tag));
    let list = cluster[1].ask(get("/stream")).await;
    assert_eq!((list.fields("rendezvous-nodes"), listed(&list)), (vec!["2/3"], created));
    assert_eq!(cluster[1].ask(get("/stream?strict=1")).await.error(), "503 OwnerUnreachableError");
}

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
