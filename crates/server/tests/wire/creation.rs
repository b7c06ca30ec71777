//! `POST /stream`, the list and the status object.

use rendezvous_protocol::StreamId;
use testkit::client::{End, with_timeout};
use testkit::server::{TestServer, get, post};

#[tokio::test]
async fn a_created_stream_has_a_status() {
    let server = TestServer::start().await;
    let response = server.post("/stream", "").await;
    assert_eq!(response.status, 201);
    let id = response.stream_id();
    assert_eq!(response.body, format!(r#"{{"stream":"{id}"}}"#).into_bytes());

    let status = String::from_utf8(server.ask(get(&format!("/stream/{id}/status"))).await.body).unwrap();
    let created_at = server.status(&id).await["created_at"].as_str().unwrap().to_owned();
    assert_eq!(
        status,
        format!(
            r#"{{"id":"{id}","created_at":"{created_at}","state":"CREATED","active":true,"bytes_transferred":0}}"#
        )
    );
    let digits = created_at.replace(|letter: char| letter.is_ascii_digit(), "0");
    assert_eq!(digits, "0000-00-00T00:00:00.000Z");
}

#[tokio::test]
async fn the_ids_of_a_server_begin_with_its_tag() {
    let (server, other) = (TestServer::start().await, TestServer::start().await);
    let tag = |id: String| StreamId::parse(&id).unwrap().tag().expect("a server has created it");
    let tags = [server.create().await, server.create().await, other.create().await].map(tag);
    assert_eq!(tags[0], tags[1]);
    assert_ne!(tags[0], tags[2]);
}

#[tokio::test]
async fn a_server_with_a_public_url_gives_the_url_of_a_stream() {
    let public_url = Some("https://node-1.example/relay/".parse().unwrap());
    let server = TestServer::start_with(|config| config.public_url = public_url).await;
    let response = server.post("/stream", r#"{"access":"split"}"#).await;
    let id = response.stream_id();
    let start =
        format!(r#"{{"stream":"{id}","url":"https://node-1.example/relay/stream/{id}","upload_token":""#);
    assert!(response.body.starts_with(start.as_bytes()), "{response:?}");
}

#[tokio::test]
async fn the_status_object_has_its_fields_in_order() {
    let server = TestServer::start().await;
    let id = server
        .create_with(r#"{"upload_headers":{"B":"2","a":1.5},"download_headers":{"X-A":1,"x-b":["c",true]}}"#)
        .await;
    server.post(&format!("/stream/{id}/error"), r#"{"name":"N","message":"M"}"#).await;
    let response = server.ask(get(&format!("/stream/{id}/status"))).await;
    let fields: Vec<_> = response.json().as_object().unwrap().keys().cloned().collect();
    assert_eq!(
        fields,
        [
            "id",
            "created_at",
            "deactivated_at",
            "state",
            "active",
            "error",
            "download_headers",
            "upload_headers",
            "bytes_transferred"
        ]
    );
    let text = String::from_utf8(response.body).unwrap();
    assert!(text.contains(
        r#""state":"CLIENT_ERROR","active":false,"error":{"name":"N","message":"M"},"download_headers":{"X-A":1,"x-b":["c",true]},"upload_headers":{"B":"2","a":1.5},"bytes_transferred":0}"#
    ), "{text}");
}

#[tokio::test]
async fn the_list_has_every_stream_with_the_newest_last() {
    let server = TestServer::start().await;
    assert_eq!(server.ask(get("/stream")).await.body, b"[]");
    let mut created = Vec::new();
    for _ in 0..20 {
        created.push(server.create().await);
    }
    let list = server.ask(get("/stream?verbose=1")).await.json();
    let listed: Vec<_> = list.as_array().unwrap().iter().map(|entry| entry["id"].as_str().unwrap()).collect();
    assert_eq!(listed, created);
}

#[tokio::test]
async fn an_invalid_creation_body_is_refused_and_the_connection_stays_open() {
    let server = TestServer::start().await;
    let nested = format!(r#"{{"a":{}{}}}"#, "[".repeat(30_000), "]".repeat(30_000));
    let mut client = server.connect().await;
    for body in ["{", "   ", "[]", &nested, r#"{"download_headers":{"b ad":1}}"#, r#"{"upload_headers":7}"#] {
        client.send(post("/stream", body)).await;
        let refused = client.response().await;
        assert_eq!(refused.error(), "400 InvalidBodyError");
        assert!(!refused.closes());
    }
    client.send(get("/stream")).await;
    assert_eq!(client.response().await.body, b"[]");
}

#[tokio::test]
async fn a_client_that_awaits_it_gets_a_100_before_a_small_body() {
    let server = TestServer::start().await;
    let mut creating = server
        .connect_and_send(
            "POST /stream HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n",
        )
        .await;
    assert!(with_timeout(creating.head()).await.unwrap().starts_with("HTTP/1.1 100 "));
    creating.send("{}").await;
    assert_eq!(creating.response().await.status, 201);
}

#[tokio::test]
async fn a_body_over_64_kib_is_refused_before_it_is_read() {
    let server = TestServer::start().await;
    let largest = format!(r#"{{"pad":"{}"}}"#, "x".repeat(64 * 1024 - 10));
    assert_eq!(largest.len(), 64 * 1024);
    assert_eq!(server.post("/stream", &largest).await.status, 201);

    let declared =
        "POST /stream HTTP/1.1\r\nHost: test\r\nContent-Length: 65537\r\nExpect: 100-continue\r\n\r\n";
    let refused = server.ask(declared).await;
    assert_eq!(refused.error(), "413 BodyTooLargeError");
    assert!(refused.message().contains("65536") && refused.closes());

    let mut endless = server
        .connect_and_send("POST /stream HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(65_536));
    endless.push(chunk.repeat(3).as_bytes()).await;
    assert_eq!(endless.response().await.error(), "413 BodyTooLargeError");
    // The server stops reading it after a while.
    while endless.push(chunk.as_bytes()).await == chunk.len() {}
}

#[tokio::test]
async fn a_body_may_be_chunked_slow_and_of_any_content_type() {
    let server = TestServer::start().await;
    let mut client = server
        .connect_and_send("POST /stream HTTP/1.1\r\nHost: test\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    for piece in ["3\r\n{\"d\r\n", "1d\r\nownload_headers\":{\"X-A\":\"1\"}}\r\n", "0\r\n", "\r\n"] {
        client.send(piece).await;
    }
    let created = client.response().await;
    assert_eq!((created.status, created.closes()), (201, false));
    assert_eq!(server.status(&created.stream_id()).await["download_headers"]["X-A"], "1");
    // The next request begins where the chunked body ended.
    client.send(get("/ping")).await;
    assert_eq!(client.response().await.body, b"pong");
}

#[tokio::test]
async fn a_client_may_half_close_after_its_request() {
    let server = TestServer::start().await;
    let mut client = server.connect_and_send(post("/stream", "{}")).await;
    client.half_close().await;
    let created = client.response().await;
    assert_eq!((created.status, created.end), (201, End::Whole));
}

#[tokio::test]
async fn a_creation_over_the_stream_limit_gets_503_with_retry_after() {
    let server = TestServer::start_with(|config| config.max_streams = 2).await;
    let first = server.create().await;
    server.create().await;
    let refused = server.post("/stream", "").await;
    assert_eq!(refused.error(), "503 ServerBusyError");
    assert_eq!(refused.fields("retry-after").len(), 1);

    // A stream that has ended does not count, even while its status is retained.
    let mut destination = server.get(&first).await;
    server.put(&first, "").await.response().await;
    destination.response().await;
    server.create().await;
    assert_eq!(server.post("/stream", "").await.status, 503);
    assert_eq!(server.status(&first).await["state"], "FINISHED");
}
