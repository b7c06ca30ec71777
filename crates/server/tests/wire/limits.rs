//! Limits of one client, of one stream, and of the memory for header sets, reports and lists.

use std::time::Duration;

use rendezvous_server::config::{ClientLimits, Period, Size, StreamLimits};
use serde_json::Value;
use testkit::client::{Client, End, Response, with_timeout};
use testkit::messages::{CHUNKED, framed, pattern};
use testkit::server::{TestServer, get, post};
use testkit::sides::Departure;

use crate::time::{A_MOMENT, Clock};

const SECOND: Duration = Duration::from_secs(1);

async fn limited(clients: ClientLimits) -> TestServer {
    TestServer::start_with(|config| config.clients = clients).await
}

/// A server that distinguishes its clients by the forwarding fields of a trusted proxy.
async fn limited_behind_a_proxy(clients: ClientLimits) -> TestServer {
    TestServer::start_with(|config| {
        config.clients = clients;
        testkit::settings::behind_a_proxy(config);
    })
    .await
}

async fn create_for(server: &TestServer, field: &str) -> Response {
    server.ask(format!("POST /stream HTTP/1.1\r\nHost: test\r\n{field}\r\n\r\n")).await
}

fn assert_too_many(refused: &Response, flag: &str) {
    assert_eq!(refused.error(), "429 TooManyRequestsError");
    assert!(refused.message().contains(flag), "{}", refused.message());
    assert_eq!(refused.fields("retry-after").len(), 1, "{refused:?}");
}

#[tokio::test]
async fn a_client_over_its_connection_limit_gets_429_and_others_are_served() {
    let server = limited(ClientLimits { max_connections: Some(2), ..ClientLimits::default() }).await;
    let mut first = server.connect_and_send(get("/ping")).await;
    assert_eq!(first.response().await.status, 200);
    let mut second = server.connect_and_send(get("/ping")).await;
    assert_eq!(second.response().await.status, 200);

    let refused = server.ask(get("/ping")).await;
    assert_too_many(&refused, "--max-connections-per-client");
    assert!(refused.message().contains('2') && refused.closes());
    let mut other = Client::connect_from("127.0.0.2", server.address()).await;
    other.send(get("/ping")).await;
    assert_eq!(other.response().await.status, 200);
    first.send(get("/ping")).await;
    assert_eq!(first.response().await.status, 200, "an accepted connection stays open");

    second.close();
    let served_again = async { while server.ask(get("/ping")).await.status != 200 {} };
    with_timeout(served_again).await;
}

#[tokio::test]
async fn a_connection_over_a_limit_is_refused_or_closed_but_never_takes_a_slot() {
    let server = TestServer::start_with(|config| {
        config.clients.max_connections = Some(1);
        // With this few descriptors, the server refuses four connections at a time with a response.
        config.descriptors = Some(64);
    })
    .await;
    let mut first = server.connect_and_send(get("/ping")).await;
    assert_eq!(first.response().await.status, 200);
    let mut refused = Vec::new();
    for _ in 0..4 {
        refused.push(server.connect().await);
    }
    assert_eq!(server.connect().await.ending().await, Err(End::Short), "closed without a response");
    for client in &mut refused {
        client.send(get("/ping")).await;
        assert_too_many(&client.response().await, "--max-connections-per-client");
    }
    let mut other = Client::connect_from("127.0.0.2", server.address()).await;
    other.send(get("/ping")).await;
    assert_eq!(other.response().await.status, 200);
}

#[tokio::test]
async fn a_client_over_its_limit_is_refused_at_every_attempt() {
    let server = TestServer::start_with(|config| {
        config.clients.max_connections = Some(1);
        // With this few descriptors, the server refuses four connections at a time with a response.
        config.descriptors = Some(64);
    })
    .await;
    let mut first = server.connect_and_send(get("/ping")).await;
    assert_eq!(first.response().await.status, 200);
    for _ in 0..10 {
        assert_too_many(&server.ask(get("/ping")).await, "--max-connections-per-client");
    }
}

#[tokio::test]
async fn active_streams_are_counted_per_client() {
    let server =
        limited_behind_a_proxy(ClientLimits { max_streams: Some(2), ..ClientLimits::default() }).await;
    for (name, fields) in [
        // Each row names one client in three forms.
        (
            "IPv4",
            ["X-Forwarded-For: 192.0.2.1", "Forwarded: for=192.0.2.1", "X-Forwarded-For: 9.9.9.9, 192.0.2.1"],
        ),
        (
            "IPv6, by its /64",
            [
                "Forwarded: for=\"[2001:db8::1]:4711\"",
                "X-Forwarded-For: 2001:db8::2",
                "Forwarded: for=\"[2001:db8::3]\", for=127.0.0.1",
            ],
        ),
        ("the proxy itself", ["X-Forwarded-For: unknown", "Forwarded: by=192.0.2.1", "X-Other: 192.0.2.1"]),
    ] {
        let first = create_for(&server, fields[0]).await;
        assert_eq!(first.status, 201, "{name}");
        assert_eq!(create_for(&server, fields[1]).await.status, 201, "{name}");
        assert_too_many(&create_for(&server, fields[2]).await, "--max-streams-per-client");

        // A reported error ends the stream once a client has received it.
        let id = first.stream_id();
        assert_eq!(server.post(&format!("/stream/{id}/error"), "{}").await.status, 200);
        assert_too_many(&create_for(&server, fields[2]).await, "--max-streams-per-client");
        assert_eq!(server.get(&id).await.response().await.error(), "400 Error");
        assert_eq!(create_for(&server, fields[2]).await.status, 201, "{name}");
    }
    for _ in 0..5 {
        assert_eq!(server.ask(get("/ping")).await.status, 200);
    }
}

/// This limit keeps the memory of one client's waiting uploads below 256 MiB.
#[tokio::test]
async fn a_remote_client_has_1500_streams_at_most() {
    let server = limited_behind_a_proxy(ClientLimits::default()).await;
    let request = "POST /stream HTTP/1.1\r\nHost: test\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n";
    let mut client = server.connect().await;
    for number in 0..1500 {
        client.send(request).await;
        assert_eq!(client.response().await.status, 201, "{number}");
    }
    client.send(request).await;
    assert_too_many(&client.response().await, "--max-streams-per-client");
}

#[tokio::test]
async fn forwarding_fields_of_untrusted_clients_are_ignored() {
    let server = limited(ClientLimits { max_streams: Some(1), ..ClientLimits::default() }).await;
    assert_eq!(create_for(&server, "X-Forwarded-For: 192.0.2.1").await.status, 201);
    assert_too_many(&create_for(&server, "X-Forwarded-For: 192.0.2.2").await, "--max-streams-per-client");
    assert_too_many(&create_for(&server, "Forwarded: for=192.0.2.2").await, "--max-streams-per-client");
}

#[tokio::test]
async fn connections_of_a_trusted_proxy_are_not_limited_per_client() {
    let server =
        limited_behind_a_proxy(ClientLimits { max_connections: Some(1), ..ClientLimits::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = server.connect_and_send(get("/ping")).await;
        assert_eq!(client.response().await.status, 200);
        clients.push(client);
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_over_its_creation_rate_gets_429_with_the_time_to_wait() {
    for (limit, wait) in [(2, 30), (60, 1), (600, 1)] {
        let clock = Clock::stopped();
        let limits = ClientLimits { max_creations_per_minute: Some(limit), ..ClientLimits::default() };
        let server = limited(limits).await;
        for number in 0..limit {
            // Without and with a body.
            let created = server.post("/stream", if number % 2 == 0 { "" } else { "{}" }).await;
            assert_eq!(created.status, 201, "{number} of {limit}");
        }
        let refused = server.post("/stream", "").await;
        assert_too_many(&refused, "--max-creations-per-minute");
        assert_eq!(refused.fields("retry-after"), [wait.to_string()]);
        assert!(!refused.closes(), "the connection stays open for other requests");
        assert_too_many(&server.post("/stream", "{}").await, "--max-creations-per-minute");

        clock.advance(Duration::from_secs(wait)).await;
        let mut created = 0;
        while server.post("/stream", "").await.status == 201 {
            created += 1;
        }
        assert_eq!(created, (limit * usize::try_from(wait).unwrap() / 60).max(1), "{limit}");
    }
}

#[tokio::test]
async fn a_creation_that_is_refused_for_another_reason_does_not_count() {
    let clients = |creations: usize| ClientLimits {
        max_creations_per_minute: Some(creations),
        max_streams: Some(2),
        ..ClientLimits::default()
    };
    let set = r#"{"download_headers":{"x":"1"}}"#;

    let server = TestServer::start_with(|config| {
        config.clients = clients(2);
        config.max_streams = 1;
    })
    .await;
    let id = server.create().await;
    for body in ["", set, "", "{}", ""] {
        assert_eq!(server.post("/stream", body).await.error(), "503 ServerBusyError");
    }
    assert_eq!(server.post(&format!("/stream/{id}/error"), "{}").await.status, 200);
    assert_eq!(server.get(&id).await.response().await.status, 400);
    server.create().await;
    assert_eq!(
        server.post("/stream", "").await.error(),
        "503 ServerBusyError",
        "the refused creations do not count"
    );

    let server = TestServer::start_with(|config| {
        config.clients = clients(1);
        config.max_metadata_bytes = Size::bytes(1);
    })
    .await;
    for _ in 0..3 {
        assert_eq!(server.post("/stream", set).await.error(), "503 ServerBusyError");
    }
    server.create().await;

    let server = limited(clients(3)).await;
    let (first, _) = (server.create().await, server.create().await);
    for body in ["", set, "", "{}", ""] {
        assert_too_many(&server.post("/stream", body).await, "--max-streams-per-client");
    }
    assert_eq!(server.post(&format!("/stream/{first}/error"), "{}").await.status, 200);
    assert_eq!(server.get(&first).await.response().await.status, 400);
    server.create().await;
    assert_too_many(&server.post("/stream", "").await, "--max-streams-per-client");
}

#[tokio::test(start_paused = true)]
async fn an_expired_stream_no_longer_counts_for_its_client() {
    let clock = Clock::stopped();
    let server = limited(ClientLimits { max_streams: Some(1), ..ClientLimits::default() }).await;
    let id = server.create().await;
    assert_too_many(&server.post("/stream", "").await, "--max-streams-per-client");
    clock.advance(60 * SECOND + A_MOMENT).await;
    server.until(&id, "TIMEOUT_NO_SRC_NO_DST").await;
    server.create().await;
}

#[tokio::test]
async fn a_stream_counts_for_its_client_until_its_transfer_has_ended() {
    let server = limited(ClientLimits { max_streams: Some(1), ..ClientLimits::default() }).await;
    let (_, mut source, mut destination) = pair(&server, "Content-Length: 2\r\n", "1.1").await;
    assert_too_many(&server.post("/stream", "").await, "--max-streams-per-client");
    source.send("h").await;
    destination.head().await.unwrap();
    assert_too_many(&server.post("/stream", "").await, "--max-streams-per-client");
    source.send("i").await;
    assert_eq!(destination.body_bytes(2).await, b"hi");
    assert_eq!(source.response().await.status, 200);
    server.create().await;
}

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

#[tokio::test]
async fn an_upload_that_declares_more_than_the_limit_takes_no_seat() {
    let server =
        streams(StreamLimits { max_bytes: Some(Size::bytes(1000)), ..StreamLimits::default() }).await;
    let id = server.create().await;
    for fields in ["Content-Length: 1001\r\n", "Content-Length: 9000000000\r\nExpect: 100-continue\r\n"] {
        let refused = server.put(&id, fields).await.response().await;
        assert_eq!(refused.error(), "413 BodyTooLargeError");
        assert!(refused.message().contains("1000 bytes") && refused.closes(), "{}", refused.message());
        assert_eq!(server.status(&id).await["state"], "CREATED");
    }
    let mut source = server.put(&id, "Content-Length: 1000\r\n").await;
    source.send([7; 1000]).await;
    assert_eq!(server.get(&id).await.response().await.body, [7; 1000], "a body at the limit");
    assert_eq!(source.response().await.status, 200);
}

async fn streams(limits: StreamLimits) -> TestServer {
    TestServer::start_with(|config| config.streams = limits).await
}

/// A stream whose sides have paired, before the first byte of its body.
async fn pair(server: &TestServer, fields: &str, version: &str) -> (String, Client, Client) {
    let id = server.create().await;
    let destination =
        server.connect_and_send(format!("GET /stream/{id} HTTP/{version}\r\nHost: test\r\n\r\n")).await;
    server.until(&id, "DST_CONNECTED").await;
    let source = server.put(&id, fields).await;
    server.until(&id, "STREAMING").await;
    (id, source, destination)
}

#[tokio::test]
async fn a_chunked_upload_over_the_limit_is_aborted_and_no_byte_over_it_is_passed_on() {
    let server =
        streams(StreamLimits { max_bytes: Some(Size::bytes(1000)), ..StreamLimits::default() }).await;
    let chunk = [&b"1f4\r\n"[..], &[7; 500], b"\r\n"].concat();
    for version in ["1.1", "1.0"] {
        let (id, mut source, mut destination) = pair(&server, CHUNKED, version).await;
        source.send([&chunk[..], &chunk].concat()).await;
        let head = destination.head().await.unwrap();
        server.until_passed_on(&id, 1000).await;
        source.send("1\r\nx\r\n0\r\n\r\n").await;
        let refused = source.response().await;
        assert_eq!(refused.error(), "413 BodyTooLargeError", "{version}");
        assert!(refused.message().contains("1000 bytes") && refused.closes());
        let download = destination.rest(head).await;
        assert_eq!(download.end, End::Reset, "{version}");
        assert!(download.body.len() <= 1000);
        let status = server.status(&id).await;
        assert_eq!((&status["state"], &status["bytes_transferred"]), (&"SRC_ERROR".into(), &1000.into()));

        let (id, mut source, mut destination) = pair(&server, CHUNKED, version).await;
        source.send([&b"3e9\r\n"[..], &[7; 1001], b"\r\n0\r\n\r\n"].concat()).await;
        let download = destination.response().await;
        assert!(download.status == 502 || download.end == End::Reset, "{download:?}");
        assert_eq!(source.response().await.error(), "413 BodyTooLargeError", "{version}");
        server.until(&id, "SRC_ERROR").await;

        let (_, mut source, mut destination) = pair(&server, CHUNKED, version).await;
        source.send([&chunk[..], &chunk, b"0\r\n\r\n"].concat()).await;
        assert_eq!(destination.response().await.body, [7; 1000], "a body at the limit");
        assert_eq!(source.response().await.status, 200);
    }
}

async fn passed_on(server: &TestServer, id: &str) -> u64 {
    server.status(id).await["bytes_transferred"].as_u64().unwrap()
}

/// Transfers `body` at `rate` bytes per second, by a clock that advances 5 ms at a time.
async fn paced(rate: u64, body: &[u8], chunked: bool) {
    const STEP: Duration = Duration::from_millis(5);
    let clock = Clock::stopped();
    let server = streams(StreamLimits { max_rate: Some(Size::bytes(rate)), ..StreamLimits::default() }).await;
    let (fields, encoded) = framed(body, chunked);
    let (id, mut source, mut destination) = pair(&server, &fields, "1.1").await;
    let steps = async {
        let mut time = Duration::ZERO;
        loop {
            // The server passes on up to 50 ms' worth at once, and waits for about half of that to accumulate.
            let millis = u64::try_from(time.as_millis()).unwrap();
            let least = (rate * millis.saturating_sub(30) / 1000).min(body.len() as u64);
            let mut bytes = passed_on(&server, &id).await;
            while bytes < least {
                bytes = passed_on(&server, &id).await;
            }
            let most = rate * (millis + 50) / 1000;
            assert!(bytes <= most, "{bytes} bytes in {time:?}, at most {most} expected");
            clock.advance(STEP).await;
            time += STEP;
            if bytes == body.len() as u64 && server.status(&id).await["active"] == false {
                return;
            }
        }
    };
    let (_, download, ()) = tokio::join!(source.push(&encoded), destination.response(), with_timeout(steps));
    assert_eq!(download.end, End::Whole);
    assert!(download.body == body, "the bytes differ");
    assert_eq!(source.response().await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_paced_evenly_and_delivered_whole() {
    let body = pattern(300_000);
    for chunked in [false, true] {
        paced(500_000, &body, chunked).await;
        paced(10_000, &body[..5000], chunked).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_paced_stream_reads_no_more_from_its_source_than_the_buffers_hold() {
    let _clock = Clock::stopped();
    let server = streams(StreamLimits { max_rate: Some(Size::bytes(1000)), ..StreamLimits::default() }).await;
    for chunked in [false, true] {
        let (fields, bytes) = framed(&vec![7; 64 << 20], chunked);
        let (id, mut source, _destination) = pair(&server, &fields, "1.1").await;
        tokio::select! {
            _ = source.push(&bytes) => panic!("the server read 64 MiB for a stream of 1000 bytes per second"),
            () = async { for _ in 0..200 { assert!(passed_on(&server, &id).await <= 50) } } => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_paced_stream_does_not_count_as_stalled() {
    let clock = Clock::stopped();
    for chunked in [false, true] {
        let server = TestServer::start_with(|config| {
            config.idle_timeout = "60ms".parse::<Period>().unwrap();
            config.streams.max_rate = Some(Size::bytes(10));
            config.streams.min_upload_rate = Some(Size::bytes(1000));
        })
        .await;
        let (fields, bytes) = framed(&[7; 40], chunked);
        let id = server.create().await;
        let mut source = server.put(&id, &fields).await;
        source.send(&bytes).await;
        server.until(&id, "SRC_CONNECTED").await;
        let _destination = server.get(&id).await;
        while passed_on(&server, &id).await == 0 {}
        let steps = async {
            while passed_on(&server, &id).await < 40 {
                assert_eq!(server.status(&id).await["active"], true, "chunked: {chunked}");
                clock.advance(Duration::from_millis(5)).await;
            }
        };
        with_timeout(steps).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_side_that_leaves_a_paced_stream_is_noticed_at_once() {
    let _clock = Clock::stopped();
    let server = streams(StreamLimits { max_rate: Some(Size::bytes(1000)), ..StreamLimits::default() }).await;
    for chunked in [false, true] {
        for how in Departure::ALL {
            for source_leaves in [false, true] {
                let case = format!("chunked: {chunked}, {how:?}, source: {source_leaves}");
                let (fields, bytes) = framed(&vec![7; 50_000], chunked);
                let (id, mut source, mut destination) = pair(&server, &fields, "1.1").await;
                // No more than the server's kernel buffers: a FIN cannot arrive behind a full buffer.
                source.send(&bytes[..30_000]).await;
                let head = destination.head().await.unwrap();
                server.until_passed_on(&id, 50).await;
                let (leaver, state) = if source_leaves {
                    (source, "SRC_DISCONNECTED")
                } else {
                    (std::mem::replace(&mut destination, source), "DST_DISCONNECTED")
                };
                leaver.leave(how);
                server.until(&id, state).await;
                if source_leaves {
                    let download = destination.rest(head).await;
                    assert_eq!((download.end, download.body.len()), (End::Reset, 50), "{case}");
                } else {
                    let upload = destination.response().await;
                    assert_eq!(upload.error(), "502 StreamDestinationError", "{case}");
                }
            }
        }
    }
}

async fn with_min_upload_rate(rate: u64) -> TestServer {
    streams(StreamLimits { min_upload_rate: Some(Size::bytes(rate)), ..StreamLimits::default() }).await
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_too_slow_gets_502_stream_source_error() {
    for per_second in [0, 5] {
        let clock = Clock::stopped();
        let server = with_min_upload_rate(100).await;
        let (id, mut source, mut destination) = pair(&server, CHUNKED, "1.0").await;
        for second in 1..10 {
            if per_second > 0 {
                source.send("5\r\nhello\r\n").await;
                while passed_on(&server, &id).await != second * per_second {}
            }
            clock.advance(SECOND).await;
            assert_eq!(server.status(&id).await["active"], true, "not yet");
        }
        clock.advance(2 * SECOND).await;
        let upload = source.response().await;
        assert_eq!(upload.error(), "502 StreamSourceError");
        let rate = per_second * 9 / 10;
        let sentence = format!("it sent {rate} bytes per second, and the minimum is 100");
        assert!(upload.message().contains(&sentence), "{}", upload.message());
        if per_second > 0 {
            assert_eq!(clock.resumed(destination.response()).await.end, End::Reset);
        } else {
            let download = destination.response().await;
            assert_eq!((download.error(), download.message()), (upload.error(), upload.message()));
        }
        assert_eq!(server.status(&id).await["state"], "SRC_ERROR");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_fast_enough_is_not_aborted() {
    let clock = Clock::stopped();
    let server = with_min_upload_rate(100).await;
    let (id, mut source, mut destination) = pair(&server, "Content-Length: 6000\r\n", "1.1").await;
    for second in 1..=30 {
        source.send([7; 200]).await;
        while passed_on(&server, &id).await != second * 200 {}
        clock.advance(SECOND).await;
        assert!(second == 30 || server.status(&id).await["active"] == true, "after {second} s");
    }
    clock.resume();
    assert_eq!(destination.response().await.end, End::Whole);
    assert_eq!(source.response().await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_slow_destination_does_not_count_for_the_source() {
    let clock = Clock::stopped();
    let server = with_min_upload_rate(1 << 20).await;
    for chunked in [false, true] {
        let (fields, bytes) = framed(&vec![7; 64 << 20], chunked);
        let id = server.create().await;
        let mut destination = Client::connect_with_small_receive_buffer(server.address()).await;
        destination.send(get(&format!("/stream/{id}"))).await;
        server.until(&id, "DST_CONNECTED").await;
        let mut source = server.put(&id, &fields).await;
        let watch = async {
            // Waits until the buffers are full: 100 statuses in a row have the same number of bytes.
            let (mut before, mut unchanged) = (0, 0);
            while unchanged < 100 {
                let bytes = passed_on(&server, &id).await;
                unchanged = if bytes > 0 && bytes == before { unchanged + 1 } else { 0 };
                before = bytes;
            }
            for _ in 0..60 {
                clock.advance(SECOND).await;
                assert_eq!(server.status(&id).await["active"], true);
            }
            destination.reset();
        };
        tokio::join!(source.push(&bytes), watch);
        assert_eq!(source.response().await.error(), "502 StreamDestinationError", "chunked: {chunked}");
    }
}

#[tokio::test]
async fn an_explicit_limit_on_streams_holds_with_and_without_a_body() {
    let server = limited(ClientLimits { max_streams: Some(1), ..ClientLimits::default() }).await;
    server.create().await;
    for request in [post("/stream", ""), post("/stream", "{}")] {
        assert_too_many(&server.ask(request).await, "--max-streams-per-client");
    }
}
