//! Waits that a client bounds: `Prefer: wait`, and the `ttl` of a stream.

use std::time::Duration;

use rendezvous_server::config::Period;
use testkit::client::End;
use testkit::messages::request;
use testkit::server::{TestServer, get, put_head};
use tokio::time::Instant;

use crate::http2::{Http2, response};
use crate::paths::{head_of, until_taken};
use crate::time::{A_MOMENT, Clock};

const WAIT: &str = "Prefer: wait=2\r\n";

fn put(target: &str, fields: &str) -> String {
    request("PUT", target, &format!("Content-Length: 5\r\nExpect: 100-continue\r\n{fields}"))
}

#[tokio::test(start_paused = true)]
async fn a_side_that_waits_for_long_enough_gets_503_and_the_stream_lives_on() {
    let clock = Clock::stopped();
    let server = TestServer::start().await;
    let id = server.create().await;
    let target = format!("/stream/{id}");
    for side in [request("GET", &target, WAIT), put(&target, WAIT)] {
        let is_source = side.starts_with("PUT");
        let mut client = server.connect_and_send(&side).await;
        server.until(&id, if is_source { "SRC_CONNECTED" } else { "DST_CONNECTED" }).await;
        clock.advance(Duration::from_secs(2) + A_MOMENT).await;
        let refused = client.response().await;
        assert_eq!(refused.error(), "503 PeerNotConnectedError", "{side}");
        assert_eq!(refused.fields("retry-after"), ["1"]);
        assert_eq!(refused.fields("preference-applied"), ["wait=2"]);
        assert_eq!(refused.head.matches("HTTP/1.1").count(), 1, "no 100 was sent");
        assert_eq!(refused.closes(), is_source, "a body that may come closes the connection");
        assert_eq!(server.status(&id).await["state"], "CREATED");
    }
    clock.resume();
    let mut destination = server.connect_and_send(request("GET", &target, WAIT)).await;
    let mut source = server.connect_and_send(put_head(&id, "Content-Length: 5\r\n") + "hello").await;
    assert_eq!(destination.response().await.body, b"hello");
    assert_eq!(source.response().await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_wait_leaves_nothing_at_a_path_and_its_connection_usable() {
    let clock = Clock::stopped();
    let server = TestServer::start().await;
    let mut destination = server.connect().await;
    for _ in 0..3 {
        destination.send(request("GET", "/p/a", WAIT)).await;
        until_taken(&server, "/p/a").await;
        clock.advance(Duration::from_secs(2) + A_MOMENT).await;
        let refused = destination.response().await;
        assert_eq!(refused.error(), "503 PeerNotConnectedError");
        assert_eq!(head_of(&server, "/p/a").await, 404);
    }
    clock.resume();
    destination.send(request("GET", "/p/a", WAIT)).await;
    let upload = request("PUT", "/p/a", "Content-Length: 2\r\n") + "ok";
    assert_eq!(server.ask(upload).await.status, 200);
    assert_eq!(destination.response().await.body, b"ok");
}

#[tokio::test]
async fn over_http_2_the_end_of_a_wait_is_the_same() {
    let server = TestServer::start().await;
    let connection = Http2::connect(&server).await;
    let id = server.create().await;
    let target = format!("/stream/{id}");
    for (method, state) in [("GET", "DST_CONNECTED"), ("PUT", "SRC_CONNECTED")] {
        let ends = method == "GET";
        let (refused, _upload) = connection.request(method, &target, &[("prefer", "wait=1")], ends).await;
        server.until(&id, state).await;
        let refused = response(refused).await;
        assert_eq!(refused.error(), "503 PeerNotConnectedError", "{method}");
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(refused.header("preference-applied"), Some("wait=1"));
        assert_eq!(server.status(&id).await["state"], "CREATED");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_beyond_the_rest_of_the_ttl_ends_as_504() {
    let clock = Clock::stopped();
    let server = TestServer::start_with(|config| config.ttl = Period::from_secs(5)).await;
    for prefer in ["Prefer: wait=5\r\n", "Prefer: wait=60\r\n", "Prefer: wait=99999999999999999999\r\n"] {
        let id = server.create().await;
        let mut destination = server.connect_and_send(request("GET", &format!("/stream/{id}"), prefer)).await;
        server.until(&id, "DST_CONNECTED").await;
        clock.advance(Duration::from_secs(5) + A_MOMENT).await;
        assert_eq!(destination.response().await.error(), "504 SessionTimeoutError", "{prefer}");
        assert_eq!(server.status(&id).await["state"], "TIMEOUT_NO_SRC");
    }
}

#[tokio::test(start_paused = true)]
async fn a_side_that_returns_after_its_wait_expires_with_the_stream() {
    let clock = Clock::stopped();
    let server = TestServer::start_with(|config| config.ttl = Period::from_secs(5)).await;
    let id = server.create().await;
    let target = format!("/stream/{id}");
    for (passed, status) in
        [(2, "503 PeerNotConnectedError"), (2, "503 PeerNotConnectedError"), (1, "504 SessionTimeoutError")]
    {
        let mut client = server.connect_and_send(request("GET", &target, WAIT)).await;
        server.until(&id, "DST_CONNECTED").await;
        clock.advance(Duration::from_secs(passed) + A_MOMENT).await;
        assert_eq!(client.response().await.error(), status);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_waits_for_its_own_ttl() {
    let clock = Clock::stopped();
    let server = TestServer::start_with(|config| config.max_ttl = Period::from_secs(3600)).await;
    for (ttl, seconds) in [("90", 90), ("2.5", 3), (r#""10m""#, 600), ("3600", 3600)] {
        let created = server.create_response(&format!(r#"{{"ttl":{ttl}}}"#)).await;
        let id = created["stream"].as_str().unwrap();
        let keys: Vec<_> = created.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["stream", "expires_at"]);
        let created_at = server.status(id).await["created_at"].as_str().unwrap().to_owned();
        assert!(created["expires_at"].as_str().unwrap() > created_at.as_str());
        let mut destination = server.get(id).await;
        server.until(id, "DST_CONNECTED").await;
        clock.advance(Duration::from_secs(seconds) + A_MOMENT).await;
        assert_eq!(destination.response().await.error(), "504 SessionTimeoutError", "{ttl}");
        assert_eq!(server.status(id).await["state"], "TIMEOUT_NO_SRC", "it stays visible");
    }
    assert!(server.create_response("").await.get("expires_at").is_none());
}

#[tokio::test]
async fn a_ttl_beyond_the_limit_gets_400_that_names_it() {
    let server = TestServer::start_with(|config| config.max_ttl = Period::from_secs(3600)).await;
    for ttl in ["3601", r#""2h""#, "0", "-1", r#""soon""#, "true", "1e300"] {
        let refused = server.post("/stream", format!(r#"{{"ttl":{ttl}}}"#)).await;
        assert_eq!(refused.error(), "400 InvalidBodyError", "{ttl}");
        assert!(refused.message().contains("1h (--max-ttl)"), "{}", refused.message());
    }
    let server = TestServer::start_with(|config| {
        (config.ttl, config.max_ttl) = (Period::from_secs(60), Period::from_secs(1));
    })
    .await;
    assert_eq!(server.post("/stream", r#"{"ttl":60}"#).await.status, 201, "never below --ttl");
}

/// The wait of a source ends while a part of its body is in the kernel.
#[tokio::test]
async fn nothing_of_a_body_is_taken_while_its_source_waits() {
    let server = TestServer::start().await;
    let mut source = server
        .connect_and_send(request("PUT", "/p/a", "Content-Length: 5\r\nPrefer: wait=1\r\n") + "WRO")
        .await;
    let begun = Instant::now();
    let refused = source.response().await;
    assert_eq!(refused.error(), "503 PeerNotConnectedError");
    assert!(begun.elapsed() >= Duration::from_millis(900));
    let mut destination = server.connect_and_send(get("/p/a")).await;
    let upload = request("PUT", "/p/a", "Content-Length: 5\r\n") + "right";
    assert_eq!(server.ask(upload).await.status, 200);
    let download = destination.response().await;
    assert_eq!((&download.body[..], download.end), (&b"right"[..], End::Whole));
}
