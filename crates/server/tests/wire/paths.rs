//! Named paths: streams that their first side makes.

use std::time::Duration;

use rendezvous_server::config::{ClientLimits, Period, Size, StreamLimits, Token};
use testkit::client::{Client, End, Response};
use testkit::messages::{CHUNKED, bearer, pattern, request};
use testkit::server::{TestServer, get};
use testkit::sides::Departure;

use crate::http2::{Http2, response, rest};
use crate::metrics::Exposition;

const CREATE_TOKEN: &str = "create-token-16-bytes";

/// Returns a `PUT` of this body.
fn put(path: &str, fields: &str, body: &str) -> String {
    request("PUT", path, &format!("Content-Length: {}\r\n{fields}", body.len())) + body
}

/// Waits until a side waits or streams at a path.
pub(crate) async fn until_taken(server: &TestServer, path: &str) {
    while head_of(server, path).await != 200 {}
}

/// Waits until nobody is at a path.
async fn until_free(server: &TestServer, path: &str) {
    while head_of(server, path).await != 404 {}
}

/// The status of a `HEAD`.
pub(crate) async fn head_of(server: &TestServer, path: &str) -> u16 {
    let mut client = server.connect_and_send(request("HEAD", path, "Connection: close\r\n")).await;
    client.head().await.unwrap()[9..12].parse().unwrap()
}

#[tokio::test]
async fn the_first_side_makes_the_path_and_the_second_is_paired_with_it() {
    let server = TestServer::start().await;
    for (method, first) in [("PUT", "source"), ("POST", "source"), ("PUT", "destination")] {
        let path = format!("/p/a/{method}/{first}");
        assert_eq!(head_of(&server, &path).await, 404);
        let upload = put(&path, "Content-Type: text/x-test\r\n", "hello").replacen("PUT", method, 1);
        let (mut source, mut destination);
        if first == "source" {
            source = server.connect_and_send(&upload).await;
            until_taken(&server, &path).await;
            destination = server.connect_and_send(get(&path)).await;
        } else {
            destination = server.connect_and_send(get(&path)).await;
            until_taken(&server, &path).await;
            source = server.connect_and_send(&upload).await;
        }
        let download = destination.response().await;
        assert_eq!((download.status, &download.body[..], download.end), (200, &b"hello"[..], End::Whole));
        assert_eq!(download.fields("content-type"), ["text/x-test"]);
        assert_eq!(download.fields("cache-control"), ["no-store"]);
        let outcome = source.response().await;
        assert_eq!((outcome.status, outcome.body.len()), (200, 0));
        assert_eq!(head_of(&server, &path).await, 404);
    }
    assert_eq!(server.ask(get("/stream")).await.body, b"[]", "paths are not listed");
}

#[tokio::test]
async fn spellings_of_a_path_that_are_equal_after_decoding_meet() {
    let server = TestServer::start().await;
    for (one, other) in
        [("/p/a%2Fb", "/p/a/b/"), ("/p/%61", "/p/a"), ("/p/a+b", "/p/a%2Bb"), ("/p/a?x=1", "/p/a?n=1")]
    {
        let mut destination = server.connect_and_send(get(one)).await;
        until_taken(&server, other).await;
        assert_eq!(server.ask(put(other, "", "x")).await.status, 200, "{one} {other}");
        assert_eq!(destination.response().await.body, b"x");
    }
    let mut upper = server.connect_and_send(get("/p/A")).await;
    until_taken(&server, "/p/A").await;
    assert_eq!(head_of(&server, "/p/a").await, 404, "case matters");
    assert_eq!(server.ask(put("/p/A", "", "x")).await.status, 200);
    assert_eq!(upper.response().await.status, 200);
}

#[tokio::test]
async fn a_path_that_is_invalid_or_has_several_destinations_gets_400() {
    let server = TestServer::start().await;
    let connection = Http2::connect(&server).await;
    for path in [
        "/p/",
        "/p/a//b",
        "/p/a/../b",
        "/p/%2e",
        "/p/%00",
        "/p/a%zz",
        "/p/a?n=2",
        "/p/a?n=",
        "/p/a?x&n=1&n=3",
    ] {
        for method in ["GET", "PUT", "POST"] {
            let refused = server.ask(request(method, path, "")).await;
            assert_eq!(refused.error(), "400 BadRequestError", "{method} {path}");
            assert_eq!(connection.ask(method, path).await.error(), "400 BadRequestError", "{method} {path}");
        }
    }
    let long = format!("/p/{}", "a".repeat(513));
    assert_eq!(server.ask(get(&long)).await.error(), "400 BadRequestError");
    for request in [request("PUT", "/p/a", "Content-Range: bytes 0-1/2\r\n"), request("GET", "/p/a", CHUNKED)]
    {
        assert_eq!(server.ask(request).await.error(), "400 BadRequestError");
    }
    for request in [get("/p"), request("DELETE", "/p/a", ""), request("OPTIONS", "/p/a", "")] {
        assert_eq!(server.ask(request).await.error(), "404 BadRouteError");
    }
}

#[tokio::test]
async fn a_taken_seat_gets_429_and_the_others_are_unharmed() {
    let server = TestServer::start().await;
    let mut source = server.connect_and_send(request("PUT", "/p/a", "Content-Length: 5\r\n")).await;
    until_taken(&server, "/p/a").await;
    assert_eq!(server.ask(put("/p/a", "", "x")).await.error(), "429 AlreadyConnectedError");
    let mut destination = server.connect_and_send(get("/p/a")).await;
    source.send("he").await;
    assert!(destination.head().await.unwrap().starts_with("HTTP/1.1 200 "));
    for request in [put("/p/a", "", "x"), get("/p/a")] {
        assert_eq!(server.ask(request).await.error(), "429 AlreadyConnectedError");
    }
    source.send("llo").await;
    assert_eq!(destination.body_bytes(5).await, b"hello");
    assert_eq!(source.response().await.status, 200);
}

/// Sides of a client that sends its next request when it has the last byte of a response.
#[tokio::test]
async fn a_client_that_loops_never_meets_its_own_last_transfer() {
    let server = TestServer::start().await;
    for (name, size, chunked) in
        [("small", 5, false), ("chunks", 70_000, true), ("spliced", 3 << 20, false), ("empty", 0, false)]
    {
        let path = format!("/p/{name}");
        let (mut sender, mut receiver) = (server.connect().await, server.connect().await);
        let body = pattern(size);
        let (fields, encoded) = testkit::messages::framed(&body, chunked);
        let upload = [request("PUT", &path, &fields).as_bytes(), &encoded].concat();
        for round in 0..30 {
            receiver.send(get(&path)).await;
            let sending = async {
                sender.push(&upload).await;
                sender.response().await.status
            };
            let (status, download) = tokio::join!(sending, receiver.response());
            assert_eq!((status, download.status), (200, 200), "{name}, round {round}");
            assert!(download.body == body && download.end == End::Whole, "{name}, round {round}");
        }
    }
}

#[tokio::test]
async fn a_path_is_free_before_the_last_byte_of_its_download() {
    let server = TestServer::start().await;
    let mut source = server.connect_and_send(request("PUT", "/p/a", CHUNKED)).await;
    let mut destination = server.connect_and_send(get("/p/a")).await;
    source.send("1\r\nx\r\n").await;
    destination.receive(0).await;
    assert!(destination.head().await.unwrap().starts_with("HTTP/1.1 200 "));
    assert_eq!(head_of(&server, "/p/a").await, 200, "the transfer is running");
    source.send("0\r\n\r\n").await;
    // The end of the body has arrived, so the path is free, whatever the old transfer still does.
    assert_eq!(source.response().await.status, 200);
    assert_eq!(head_of(&server, "/p/a").await, 404);
}

/// The destination reads nothing, so the transfer is not over.
#[tokio::test]
async fn what_remains_of_a_transfer_cannot_be_joined_and_counts_against_the_quota() {
    let server = TestServer::start_with(|config| {
        config.clients = ClientLimits { max_streams: Some(1), ..ClientLimits::default() };
    })
    .await;
    let destination = Client::connect_with_small_receive_buffer(server.address()).await;
    let mut destination = destination;
    destination.send(get("/p/a")).await;
    until_taken(&server, "/p/a").await;
    let body = pattern(200_000);
    let head = request("PUT", "/p/a", &format!("Content-Length: {}\r\n", body.len()));
    let mut source = server.connect_and_send([head.as_bytes(), &body].concat()).await;
    until_free(&server, "/p/a").await;
    let refused = server.ask(get("/p/a")).await;
    assert_eq!(refused.error(), "429 TooManyRequestsError", "the old transfer counts as a stream");

    let download = destination.response().await;
    assert!(download.body == body && download.end == End::Whole);
    assert_eq!(source.response().await.status, 200);
    let mut next = server.connect_and_send(get("/p/a")).await;
    until_taken(&server, "/p/a").await;
    assert_eq!(server.ask(put("/p/a", "", "next")).await.status, 200);
    assert_eq!(next.response().await.body, b"next");
}

/// The destination reads nothing, so the server reads nothing more of the source either.
#[tokio::test]
async fn a_source_that_is_reset_behind_a_stalled_destination_frees_the_path() {
    let server = TestServer::start().await;
    let mut destination = Client::connect_with_small_receive_buffer(server.address()).await;
    destination.send(get("/p/a")).await;
    until_taken(&server, "/p/a").await;
    let head = request("PUT", "/p/a", "Content-Length: 100000000\r\n");
    let mut source = server.connect_and_send(head).await;
    let stalled = async { source.push(&pattern(100_000_000)).await };
    assert!(tokio::time::timeout(Duration::from_secs(2), stalled).await.is_err(), "the source must stall");
    assert_eq!(head_of(&server, "/p/a").await, 200);
    source.reset();
    until_free(&server, "/p/a").await;
    let mut next = server.connect_and_send(get("/p/a")).await;
    until_taken(&server, "/p/a").await;
    assert_eq!(server.ask(put("/p/a", "", "next")).await.status, 200);
    assert_eq!(next.response().await.body, b"next");
    assert_eq!(destination.response().await.end, End::Reset, "the old transfer is cut");
}

#[tokio::test]
async fn a_side_that_leaves_while_it_waits_leaves_nothing() {
    let server = TestServer::start().await;
    for how in Departure::ALL {
        for waiting in
            [put("/p/a", "", "WRONG"), get("/p/a"), request("PUT", "/p/a", "Content-Length: 9\r\n")]
        {
            let client = server.connect_and_send(&waiting).await;
            until_taken(&server, "/p/a").await;
            client.leave(how);
            until_free(&server, "/p/a").await;
            let mut destination = server.connect_and_send(get("/p/a")).await;
            until_taken(&server, "/p/a").await;
            assert_eq!(server.ask(put("/p/a", "", "right")).await.status, 200, "{how:?} {waiting}");
            assert_eq!(destination.response().await.body, b"right");
        }
    }
    let metrics = Exposition::of(&server).await;
    for state in ["created", "source_waits", "destination_waits", "streaming", "ended"] {
        assert_eq!(metrics.count("streams", &[("state", state)]), 0, "{state}");
    }
}

#[tokio::test]
async fn a_failed_transfer_ends_as_that_of_a_stream_and_frees_the_path() {
    let server = TestServer::start().await;
    for how in Departure::ALL {
        let mut source = server.connect_and_send(request("PUT", "/p/a", "Content-Length: 10\r\n")).await;
        let mut destination = server.connect_and_send(get("/p/a")).await;
        source.send("part").await;
        let head = destination.head().await.unwrap();
        source.leave(how);
        assert_ne!(destination.rest(head).await.end, End::Whole, "{how:?}");
        until_free(&server, "/p/a").await;

        let mut source = server.connect_and_send(request("PUT", "/p/a", "Content-Length: 10\r\n")).await;
        let mut destination = server.connect_and_send(get("/p/a")).await;
        source.send("part").await;
        destination.head().await.unwrap();
        destination.leave(how);
        assert_eq!(source.response().await.error(), "502 StreamDestinationError", "{how:?}");
        assert_eq!(head_of(&server, "/p/a").await, 404);
    }
}

#[tokio::test]
async fn the_first_side_waits_at_most_the_ttl_of_the_server() {
    let server = TestServer::start_with(|config| config.ttl = Period::from_secs(1)).await;
    let refused = server.ask(get("/p/a")).await;
    assert_eq!(refused.error(), "504 SessionTimeoutError");
    let connection = Http2::connect(&server).await;
    assert_eq!(connection.ask("PUT", "/p/a").await.error(), "504 SessionTimeoutError");
    let metrics = Exposition::of(&server).await;
    assert_eq!(metrics.count("streams_ended_total", &[("outcome", "expired"), ("kind", "path")]), 2);
    assert_eq!(metrics.count("streams", &[("kind", "path")]), 0);
}

#[tokio::test]
async fn making_a_path_needs_the_create_token_and_joining_it_does_not() {
    let server = TestServer::start_with(|config| config.create_token = Token::parse(CREATE_TOKEN).ok()).await;
    let token = bearer(CREATE_TOKEN);
    for (fields, refusal) in
        [(String::new(), "401 UnauthorizedError"), (bearer("wrong-16-bytes-xx"), "403 ForbiddenError")]
    {
        for side in [put("/p/a", &fields, "x"), request("GET", "/p/a", &fields)] {
            let refused = server.ask(side).await;
            assert_eq!(refused.error(), refusal);
            assert_eq!(refused.fields("www-authenticate").is_empty(), refusal.starts_with("403"));
        }
    }
    assert_eq!(head_of(&server, "/p/a").await, 404);
    let mut destination = server.connect_and_send(request("GET", "/p/a", &token)).await;
    until_taken(&server, "/p/a").await;
    assert_eq!(server.ask(get("/p/a")).await.error(), "429 AlreadyConnectedError");
    let mut source = server.connect_and_send(request("PUT", "/p/a", "Content-Length: 2\r\n") + "x").await;
    destination.head().await.unwrap();
    for side in [put("/p/a", "", "x"), get("/p/a")] {
        assert_eq!(server.ask(side).await.error(), "429 AlreadyConnectedError", "a transfer is running");
    }
    source.send("y").await;
    assert_eq!(destination.body_bytes(2).await, b"xy");
    assert_eq!(source.response().await.status, 200);
    assert_eq!(server.ask(get("/p/a")).await.error(), "401 UnauthorizedError");
    let source = server.connect_and_send(put("/p/a?token=create-token-16-bytes", "", "x")).await;
    until_taken(&server, "/p/a").await;
    source.close();
}

#[tokio::test]
async fn at_a_path_without_sides_a_client_without_the_create_token_learns_no_more_than_that() {
    let server = TestServer::start_with(|config| {
        config.create_token = Token::parse(CREATE_TOKEN).ok();
        config.max_streams = 1;
        config.streams = StreamLimits { max_bytes: Some(Size::bytes(10)), ..StreamLimits::default() };
    })
    .await;
    let mut waiting = server.connect_and_send(request("GET", "/p/a", &bearer(CREATE_TOKEN))).await;
    until_taken(&server, "/p/a").await;
    for side in [get("/p/b"), put("/p/b", "", "x"), request("PUT", "/p/b", "Content-Length: 1000\r\n")] {
        assert_eq!(server.ask(&side).await.error(), "401 UnauthorizedError", "{side}");
    }
    assert_eq!(server.ask(put("/p/a", "", "x")).await.status, 200);
    assert_eq!(waiting.response().await.body, b"x");
}

#[tokio::test]
async fn a_path_counts_against_the_limits_on_streams() {
    let server = TestServer::start_with(|config| config.max_streams = 1).await;
    let waiting = server.connect_and_send(get("/p/a")).await;
    until_taken(&server, "/p/a").await;
    assert_eq!(server.ask(get("/p/b")).await.error(), "503 ServerBusyError");
    assert_eq!(server.post("/stream", "").await.error(), "503 ServerBusyError");
    waiting.close();
    until_free(&server, "/p/a").await;

    let server = TestServer::start_with(|config| {
        config.clients = ClientLimits { max_creations_per_minute: Some(2), ..ClientLimits::default() };
    })
    .await;
    for _ in 0..2 {
        let mut destination = server.connect_and_send(get("/p/a")).await;
        until_taken(&server, "/p/a").await;
        assert_eq!(server.ask(put("/p/a", "", "x")).await.status, 200, "joining is not a creation");
        destination.response().await;
    }
    let refused = server.ask(get("/p/a")).await;
    assert_eq!(refused.error(), "429 TooManyRequestsError");
    assert!(refused.message().contains("--max-creations-per-minute"));
}

#[tokio::test]
async fn a_post_is_an_upload_as_a_put_is() {
    let server = TestServer::start().await;
    let waiting = server.connect_and_send(request("PUT", "/p/taken", "Content-Length: 9\r\n")).await;
    until_taken(&server, "/p/taken").await;
    for method in ["PUT", "POST"] {
        let mut destination = server.connect_and_send(get("/p/a")).await;
        until_taken(&server, "/p/a").await;
        let upload = request(method, "/p/a", "Content-Length: 2\r\n") + "hi!" + &get("/ping");
        let outcome = server.ask(upload).await;
        assert_eq!((outcome.status, outcome.closes()), (200, true), "{method}: no request follows an upload");
        assert_eq!(destination.response().await.body, b"hi");
        let refused = server.ask(request(method, "/p/taken", "Content-Length: 5\r\n")).await;
        assert_eq!(refused.error(), "429 AlreadyConnectedError", "{method}");
        assert!(refused.closes(), "{method}: the body is not waited for");
    }
    waiting.close();
}

#[tokio::test]
async fn a_body_over_the_size_limit_makes_no_path() {
    let server =
        TestServer::start_with(|config| config.streams.max_bytes = Some("10".parse().unwrap())).await;
    let refused = server.ask(request("PUT", "/p/a", "Content-Length: 11\r\n")).await;
    assert_eq!(refused.error(), "413 BodyTooLargeError");
    assert_eq!(head_of(&server, "/p/a").await, 404);
}

#[tokio::test]
async fn a_draining_server_makes_no_paths_and_joins_waiting_sides() {
    let mut server = TestServer::start().await;
    let mut destination = server.connect_and_send(get("/p/a")).await;
    until_taken(&server, "/p/a").await;
    let mut late = server.connect().await;
    let mut source = server.connect().await;
    server.stop().await;
    late.send(get("/p/b")).await;
    assert_eq!(late.response().await.error(), "503 ShuttingDownError");
    source.send(put("/p/a", "", "x")).await;
    assert_eq!(source.response().await.status, 200);
    assert_eq!(destination.response().await.body, b"x");
    server.ended().await;
}

#[tokio::test]
async fn a_page_of_another_site_and_a_prefetch_cannot_use_a_path_up() {
    let server = TestServer::start_with(|config| {
        config.cors_origins = vec!["https://app.example".parse().unwrap()];
    })
    .await;
    let frame = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: iframe\r\n";
    let image = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n";
    for fields in [
        image,
        frame,
        "Origin: https://evil.example\r\n",
        "Sec-Purpose: prefetch\r\n",
        "Purpose: prefetch\r\n",
    ] {
        assert_eq!(
            server.ask(request("GET", "/p/a", fields)).await.error(),
            "403 ForbiddenError",
            "{fields}"
        );
    }
    let link = "Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\n";
    assert_eq!(server.ask(put("/p/a", link, "x")).await.error(), "403 ForbiddenError");
    for fields in [link, "Origin: https://app.example\r\nSec-Fetch-Site: cross-site\r\n"] {
        let mut destination = server.connect_and_send(request("GET", "/p/a", fields)).await;
        until_taken(&server, "/p/a").await;
        assert_eq!(server.ask(put("/p/a", "", "x")).await.status, 200);
        assert_eq!(destination.response().await.status, 200, "{fields}");
    }
}

#[tokio::test]
async fn a_server_without_paths_answers_404() {
    let server = TestServer::start_with(|config| config.no_paths = true).await;
    for request in [get("/p/a"), put("/p/a", "", "x"), get("/p/a//b"), get("/p/")] {
        assert_eq!(server.ask(request).await.error(), "404 BadRouteError");
    }
}

#[tokio::test]
async fn sides_of_both_versions_of_http_meet_at_a_path() {
    let server = TestServer::start().await;
    let connection = Http2::connect(&server).await;
    let (download, _) = connection.request("GET", "/p/a", &[], true).await;
    until_taken(&server, "/p/a").await;
    assert_eq!(server.ask(put("/p/a", "", "from 1")).await.status, 200);
    assert_eq!(response(download).await.body, b"from 1");

    let mut destination = server.connect_and_send(get("/p/a")).await;
    let (outcome, mut upload) = connection.request("POST", "/p/a", &[], false).await;
    upload.send_data("from 2".into(), true).unwrap();
    let received: Response = destination.response().await;
    assert_eq!(received.body, b"from 2");
    assert_eq!(response(outcome).await.status, 200);

    for round in 0..20 {
        let (download, _) = connection.request("GET", "/p/a", &[], true).await;
        let (outcome, mut upload) = connection.request("PUT", "/p/a", &[], false).await;
        upload.send_data("both 2".into(), true).unwrap();
        let download = tokio::time::timeout(Duration::from_secs(20), download).await.unwrap().unwrap();
        assert_eq!(rest(download).await.body, b"both 2", "round {round}");
        assert_eq!(response(outcome).await.status, 200, "round {round}");
    }
}
