//! The version of a status, and long polls that wait for the next one.

use std::time::Duration;

use testkit::messages::{CHUNKED, request};
use testkit::server::{TestServer, get};

use crate::http2::{Http2, response};
use crate::time::{A_MOMENT, Clock};

fn etag(response: &testkit::client::Response) -> String {
    let tags = response.fields("etag");
    let [tag] = tags[..] else { panic!("{response:?}") };
    tag.to_owned()
}

#[tokio::test]
async fn the_entity_tag_of_a_status_changes_with_the_state_and_not_with_the_bytes() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let target = format!("/stream/{id}/status");
    let mut seen = Vec::new();
    let mut look = async |state: &str| {
        server.until(&id, state).await;
        let status = server.ask(get(&target)).await;
        assert_eq!(status.fields("cache-control"), ["no-store"]);
        seen.push(etag(&status));
    };
    look("CREATED").await;
    let mut source = server.put(&id, CHUNKED).await;
    look("SRC_CONNECTED").await;
    let mut destination = server.get(&id).await;
    look("STREAMING").await;
    source.send("5\r\nhello\r\n").await;
    destination.receive(0).await;
    server.until_passed_on(&id, 5).await;
    look("STREAMING").await;
    source.send("0\r\n\r\n").await;
    source.response().await;
    look("FINISHED").await;
    assert_eq!(seen, [r#"W/"1""#, r#"W/"2""#, r#"W/"3""#, r#"W/"3""#, r#"W/"4""#]);
}

#[tokio::test]
async fn a_long_poll_is_answered_when_the_state_changes() {
    let server = TestServer::start().await;
    let connection = Http2::connect(&server).await;
    let id = server.create().await;
    let target = format!("/stream/{id}/status");
    let first = server.ask(get(&target)).await;
    let fields = format!("If-None-Match: {}\r\nPrefer: wait=60\r\n", etag(&first));
    let mut poll = server.connect_and_send(request("GET", &target, &fields)).await;
    let tag = etag(&first);
    let fields = [("if-none-match", &*tag), ("prefer", "wait=60")];
    let (poll2, _) = connection.request("GET", &target, &fields, true).await;
    // They wait: another request of the connection is answered.
    assert_eq!(connection.ask("GET", "/ping").await.status, 200);
    let _destination = server.get(&id).await;
    let changed = poll.response().await;
    assert_eq!(changed.json()["state"], "DST_CONNECTED");
    assert_eq!((etag(&changed), changed.fields("preference-applied")), (r#"W/"2""#.into(), vec!["wait=60"]));
    let changed = response(poll2).await;
    assert_eq!(
        (changed.header("etag"), &changed.json()["state"]),
        (Some(r#"W/"2""#), &"DST_CONNECTED".into())
    );
    // The connection is still usable.
    poll.send(request("GET", &target, &format!("If-None-Match: {tag}\r\nPrefer: wait=60\r\n"))).await;
    assert_eq!(poll.response().await.json()["state"], "DST_CONNECTED", "an old version is answered at once");
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_without_a_change_gets_304_after_its_wait() {
    let clock = Clock::stopped();
    let server = TestServer::start().await;
    let id = server.create().await;
    let target = format!("/stream/{id}/status");
    let fields = "If-None-Match: \"9\", W/\"1\"\r\nPrefer: wait=5\r\n";
    let mut poll = server.connect_and_send(request("GET", &target, fields)).await;
    // A second request that is pipelined is answered behind it.
    poll.send(get("/ping")).await;
    server.status(&id).await;
    clock.advance(Duration::from_secs(5) + A_MOMENT).await;
    let unchanged = poll.response().await;
    assert_eq!((unchanged.status, unchanged.body.len()), (304, 0));
    assert!(unchanged.fields("content-length").is_empty() && unchanged.fields("content-type").is_empty());
    assert_eq!(etag(&unchanged), r#"W/"1""#);
    assert_eq!(poll.response().await.body, b"pong");
}

#[tokio::test]
async fn a_condition_without_a_wait_is_ignored_and_a_wait_without_a_condition_too() {
    let server = TestServer::start().await;
    let id = server.create().await;
    for fields in
        ["If-None-Match: W/\"1\"\r\n", "Prefer: wait=60\r\n", "If-None-Match: W/\"7\"\r\nPrefer: wait=60\r\n"]
    {
        let status = server.ask(request("GET", &format!("/stream/{id}/status"), fields)).await;
        assert_eq!(status.json()["state"], "CREATED", "{fields}");
    }
    let unknown =
        server.ask(request("GET", "/stream/unknown/status", "If-None-Match: *\r\nPrefer: wait=9\r\n"));
    assert_eq!(unknown.await.error(), "404 SessionNotFoundError");
}

#[tokio::test]
async fn a_long_poll_of_a_stream_that_is_forgotten_gets_404() {
    let server = TestServer::start_with(|config| config.ttl = "300ms".parse().unwrap()).await;
    let id = server.create().await;
    server.until(&id, "TIMEOUT_NO_SRC_NO_DST").await;
    let target = format!("/stream/{id}/status");
    let fields = "If-None-Match: *\r\nPrefer: wait=60\r\n";
    let poll = server.ask(request("GET", &target, fields)).await;
    assert_eq!(poll.error(), "404 SessionNotFoundError");
}

#[tokio::test]
async fn a_long_poll_that_ends_with_the_server_tells_no_change() {
    let mut server = TestServer::start_with(|config| config.drain_timeout = "100ms".parse().unwrap()).await;
    let id = server.create().await;
    let target = format!("/stream/{id}/status");
    let tag = etag(&server.ask(get(&target)).await);
    let fields = format!("If-None-Match: {tag}\r\nPrefer: wait=60\r\n");
    let mut poll = server.connect_and_send(request("GET", &target, &fields)).await;
    server.stop().await;
    let ended = poll.response().await;
    assert_eq!((ended.status, etag(&ended)), (304, tag));
}
