//! The quotas of each client: connections, streams, and streams created per minute.

use std::time::Duration;

use rendezvous_server::config::{ClientLimits, Size};
use testkit::client::{Client, End, Response, with_timeout};
use testkit::server::{TestServer, get, post};

use crate::limits::pair;
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

#[tokio::test]
async fn an_explicit_limit_on_streams_holds_with_and_without_a_body() {
    let server = limited(ClientLimits { max_streams: Some(1), ..ClientLimits::default() }).await;
    server.create().await;
    for request in [post("/stream", ""), post("/stream", "{}")] {
        assert_too_many(&server.ask(request).await, "--max-streams-per-client");
    }
}
