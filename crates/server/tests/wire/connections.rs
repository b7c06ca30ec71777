//! Connections: refused requests, keep-alive, and the connection limit.

use testkit::client::End;
use testkit::messages::{CHUNKED, request};
use testkit::server::{TestServer, get, post, put_head};
use testkit::settings::with_admin_listener;
use testkit::sides::Departure;

use crate::http2::{Http2, response};

#[tokio::test]
async fn responses_keep_the_connection_open_and_pipelined_requests_are_answered_in_order() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let status = format!("/stream/{id}/status");
    let mut client = server
        .connect_and_send(
            [
                get("/ping").into_bytes(),
                post("/nowhere", "some body"),
                get("/ping/?x=1").into_bytes(),
                get("http://test/ping").into_bytes(),
                get(&status).into_bytes(),
                get("/stream/unknown").into_bytes(),
                post("/stream/unknown/error", "{}"),
                post("/stream", "not json"),
                b"PUT /ping HTTP/1.1\r\nHost: test\r\n\r\n".into(),
                put_head("unknown", "Content-Length: 0\r\n").into(),
                get("/ping").into_bytes(),
            ]
            .concat(),
        )
        .await;
    for expected in [200, 404, 200, 200, 200, 404, 404, 400, 404, 404, 200] {
        let response = client.response().await;
        assert_eq!((response.status, response.closes()), (expected, false), "{response:?}");
    }
}

#[tokio::test]
async fn a_small_unneeded_body_may_arrive_after_its_response() {
    let server = TestServer::start().await;
    let mut client =
        server.connect_and_send("POST /nowhere HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n").await;
    assert_eq!(client.response().await.status, 404);
    client.send(format!("hello{}", get("/ping"))).await;
    assert_eq!(client.response().await.status, 200);
}

#[tokio::test]
async fn a_connection_closes_when_either_side_asks_for_it() {
    let server = TestServer::start().await;
    for request in [
        "GET /ping HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".to_owned(),
        "GET /ping HTTP/1.0\r\n\r\n".to_owned(),
        "GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".to_owned(),
        put_head("unknown", "Content-Length: 3\r\n"),
        "PUT /ping HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
    ] {
        let mut client = server.connect_and_send(&request).await;
        assert!(client.response().await.closes(), "{request:?}");
        assert_eq!(client.ending().await, Err(End::Short), "FIN without more bytes: {request:?}");
    }
}

#[tokio::test]
async fn an_ambiguous_request_is_refused_and_its_connection_closes() {
    let server = TestServer::start().await;
    for request in [
        "GET /ping HTTP/1.1\r\n\r\n",
        "GET /ping HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /ping HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
        "GET /ping HTTP/1.1\nHost: a\n\n",
        "GET /ping HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        "GET /ping HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n",
        "POST /stream HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        "POST /stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "PUT /stream/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "PUT /stream/x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\u{16}\u{3}\u{1}",
    ] {
        let mut client = server.connect_and_send([get("/ping"), request.into(), get("/ping")].concat()).await;
        assert_eq!(client.response().await.status, 200, "the preceding request");
        let refused = client.response().await;
        assert_eq!(refused.error(), "400 BadRequestError", "{request:?}");
        assert!(refused.closes());
        assert_eq!(client.ending().await, Err(End::Short), "no response to what follows: {request:?}");
    }
}

#[tokio::test]
async fn a_request_hidden_after_a_broken_body_is_not_answered() {
    let server = TestServer::start().await;
    let mut client = server
        .connect_and_send("POST /stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\n{}\r\n0\r\n\r\nGET /ping HTTP/1.1\r\nHost: a\r\n\r\n")
        .await;
    let refused = client.response().await;
    assert_eq!(refused.error(), "400 BadRequestError");
    assert_eq!(client.ending().await, Err(End::Short));
}

#[tokio::test]
async fn a_head_over_the_limits_is_431() {
    let server = TestServer::start().await;
    let head = |fields: String| format!("GET /ping HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    for request in [
        head(format!("X: {}\r\n", "a".repeat(16 * 1024))),
        head("X: 1\r\n".repeat(100)),
        format!("GET /{} HTTP/1.1\r\n", "a".repeat(65_536)),
    ] {
        let mut client = server.connect().await;
        client.push(request.as_bytes()).await;
        let refused = client.response().await;
        assert_eq!(refused.error(), "431 BadRequestError");
        assert!(refused.closes());
    }
}

/// The configured limits on request heads, and their bytes. `None` is the default.
const HEAD_LIMITS: [(Option<&str>, usize); 4] =
    [(None, 16 << 10), (Some("4k"), 4 << 10), (Some("20000"), 20_000), (Some("1m"), 1 << 20)];

async fn server_with_head_limit(limit: Option<&str>) -> TestServer {
    TestServer::start_with(|config| {
        if let Some(limit) = limit {
            config.max_head_bytes = limit.parse().unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn a_head_is_served_up_to_the_limit_and_refused_above_it() {
    for (limit, bytes) in HEAD_LIMITS {
        let server = server_with_head_limit(limit).await;
        for (version, host) in [("1.1", "Host: a\r\n"), ("1.0", "")] {
            let head = |value: &str| format!("GET /ping HTTP/{version}\r\n{host}X: {value}\r\n\r\n");
            let around = head("").len();
            let longest = head(&"a".repeat(bytes - around));
            assert_eq!(server.ask(&longest).await.status, 200, "{limit:?}, HTTP/{version}");
            let longer = head(&"a".repeat(bytes - around + 1));
            let mut client = server.connect().await;
            client.push(longer.as_bytes()).await;
            let refused = client.response().await;
            assert_eq!(refused.error(), "431 BadRequestError", "{limit:?}, HTTP/{version}");
            assert!(refused.message().contains(&format!(" {bytes} bytes")), "{}", refused.message());
            assert!(refused.closes());
        }
    }
}

/// A list of fields counts their names and values, and 32 bytes for each (RFC 9113, section 6.5.2). h2 serves lists below the limit.
#[tokio::test]
async fn a_head_over_http2_is_served_below_the_limit_and_refused_above_it() {
    for (limit, bytes) in HEAD_LIMITS {
        let server = server_with_head_limit(limit).await;
        let client = Http2::connect(&server).await;
        let pseudo = [(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/ping")];
        let size = |(name, value): (&str, &str)| name.len() + value.len() + 32;
        let around = pseudo.map(size).iter().sum::<usize>() + size(("x", ""));
        for (length, status) in [(bytes - 1, 200), (bytes + 1, 431)] {
            let value = "a".repeat(length - around);
            let (future, _) = client.request("GET", "/ping", &[("x", &value)], true).await;
            assert_eq!(response(future).await.status.as_u16(), status, "{limit:?}: {length} bytes");
        }
        assert_eq!(client.ask("GET", "/ping").await.status.as_u16(), 200, "the connection is kept");
    }
}

/// While only empty lines have arrived, each read examines all of them.
#[tokio::test]
async fn empty_lines_count_as_part_of_a_head() {
    let server = server_with_head_limit(Some("1m")).await;
    let lines = "\r\n".repeat(100_000);
    assert_eq!(server.ask(lines.clone() + &get("/ping")).await.status, 200);
    let mut client = server.connect().await;
    client.push(lines.repeat(6).as_bytes()).await;
    assert_eq!(client.response().await.error(), "431 BadRequestError");
}

#[tokio::test]
async fn an_unknown_route_gets_bad_route_error() {
    let server = TestServer::start().await;
    for request in
        [request("PUT", "/", ""), get("//ping"), get("/PING"), get("*"), request("DELETE", "/stream", "")]
    {
        let refused = server.ask(&request).await;
        assert_eq!(refused.error(), "404 BadRouteError", "{request:?}");
        assert_eq!(refused.message(), "No endpoint exists for the specified method and/or route");
    }
}

#[tokio::test]
async fn a_client_over_the_connection_limit_gets_503() {
    let server = TestServer::start_with(|config| config.max_connections = 1).await;
    let mut first = server.connect_and_send(get("/ping")).await;
    assert_eq!(first.response().await.status, 200);
    let refused = server.ask(get("/ping")).await;
    assert_eq!(refused.error(), "503 ServerBusyError");
    assert!(refused.fields("retry-after").len() == 1);
    first.send(get("/ping")).await;
    assert_eq!(first.response().await.status, 200, "an accepted connection stays open");
}

#[tokio::test]
async fn a_full_server_answers_every_admin_probe_despite_idle_admin_connections() {
    let server = TestServer::start_with(|config| {
        config.max_connections = 1;
        with_admin_listener(config);
        config.clients.max_connections = Some(1);
        // With this few descriptors, the admin listener has 16 connections.
        config.descriptors = Some(256);
    })
    .await;
    let mut first = server.connect_and_send(get("/ping")).await;
    assert_eq!(first.response().await.status, 200);
    let mut idle = Vec::new();
    for number in 0..40 {
        let mut client = server.connect_admin().await;
        client.send(&get("/healthz")[..number % 20]).await;
        idle.push(client);
    }
    for number in 0..100 {
        for path in ["/healthz", "/readyz", "/metrics"] {
            assert_eq!(server.ask_admin(get(path)).await.status, 200, "{path}, {number}");
        }
    }
    assert_eq!(server.ask(get("/ping")).await.error(), "503 ServerBusyError");
    assert!(idle[0].ending().await.is_err(), "the oldest idle connection is closed");
    let metrics = String::from_utf8(server.ask_admin(get("/metrics")).await.body).unwrap();
    let open = metrics.lines().find_map(|line| line.strip_prefix("rendezvous_open_connections ")).unwrap();
    assert!(open.parse::<usize>().unwrap() <= 1 + 16 + 1, "{open}");
    first.send(get("/ping")).await;
    assert_eq!(first.response().await.status, 200, "an accepted connection stays open");
}

#[tokio::test]
async fn clients_that_disconnect_inside_a_request_do_no_harm() {
    let server = TestServer::start().await;
    for number in 0..100 {
        let client = server.connect_and_send(&put_head("x", "")[..number % 20]).await;
        client.leave(if number % 3 == 0 { Departure::Close } else { Departure::Reset });
    }
    assert_eq!(server.ask(get("/ping")).await.body, b"pong");
}

#[tokio::test]
async fn one_connection_carries_several_sides_in_turn() {
    let server = TestServer::start().await;
    let (mut source, mut destination) = (server.connect().await, server.connect().await);
    for (fields, pieces) in [
        ("Content-Length: 5\r\n", &["hel", "lo"][..]),
        (CHUNKED, &["3\r\nhel\r\n", "2\r\nlo\r\n0\r\n\r\n"]),
        ("Content-Length: 5\r\nExpect: 100-continue\r\n", &["hel", "lo"]),
        ("Content-Length: 0\r\n", &[]),
    ] {
        let id = server.create().await;
        destination.send(get(&format!("/stream/{id}"))).await;
        server.until(&id, "DST_CONNECTED").await;
        source.send(put_head(&id, fields)).await;
        for piece in pieces {
            // The server reads each piece by itself. An empty body is over before anyone sees it stream.
            server.until(&id, "STREAMING").await;
            let before = server.status(&id).await["bytes_transferred"].clone();
            source.send(piece).await;
            while server.status(&id).await["bytes_transferred"] == before {}
        }
        let (download, upload) = (destination.response().await, source.final_response().await);
        let expected: &[u8] = if pieces.is_empty() { b"" } else { b"hello" };
        assert_eq!((download.end, &download.body[..]), (End::Whole, expected), "{fields:?}");
        assert_eq!((upload.status, upload.closes(), download.closes()), (200, false, false), "{fields:?}");
    }
    // The socket option that turns the end of an aborted download into a reset is off again after a whole one.
    for mut kept in [source, destination] {
        kept.send("GET /ping HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").await;
        assert_eq!(kept.response().await.body, b"pong");
        assert_eq!(kept.ending().await, Err(End::Short), "FIN");
    }
}

#[tokio::test]
async fn a_destination_that_sent_more_while_it_waited_reads_its_response_to_the_end_without_a_reset() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let get = request("GET", &format!("/stream/{id}"), "Connection: close\r\n");
    let mut destination = server.connect_and_send(get).await;
    server.until(&id, "DST_CONNECTED").await;
    destination.send("GET /ping").await;
    let mut source = server.put(&id, "Content-Length: 5\r\n").await;
    source.send("hello").await;
    assert_eq!(source.response().await.status, 200);
    assert_eq!(destination.response().await.body, b"hello");
    assert_eq!(destination.ending().await, Err(End::Short), "FIN");
}
