//! HTTP/2: the same responses and endings as HTTP/1, on HTTP/2 streams that do not stall each other. `bodies` has the
//! tests of what becomes of the bytes of a transfer, `client` the client, `frames` frames made by hand.

mod bodies;
mod client;
mod frames;

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{Request, StatusCode};
use rendezvous_server::config::{Config, Period};
use rendezvous_server::internal::HTTP2_PREFACE;
use testkit::client::{Client, with_timeout};
use testkit::server::{TestServer, get, put_head};
use testkit::settings::behind_a_proxy;
use testkit::transport::{CERTIFICATE, is_tls};
use tokio::net::TcpStream;

pub(crate) use client::{Cut, Http2, response, rest, send_all, send_bytes};
pub(crate) use frames::{
    ACK, DATA, END_STREAM, GOAWAY, PADDED, PING, SETTINGS, WINDOW_UPDATE, frame, head,
    request_without_reading, reset_without_reading, until_all_is_read,
};

use crate::metrics::Exposition;
use crate::time::Clock;

/// The connection of the waiting side ends before the server reads the request of the next client, so no task has noticed it.
#[tokio::test]
async fn a_side_whose_connection_has_just_ended_is_not_paired_and_its_seat_is_free() {
    let server = TestServer::start().await;
    for resets in [true, false] {
        for waits in ["SRC_CONNECTED", "DST_CONNECTED"] {
            let stream = TcpStream::connect(server.address()).await.unwrap();
            if resets {
                stream.set_zero_linger().unwrap();
            }
            let leaving = if is_tls() {
                let stream = CERTIFICATE.secure(stream, &["h2"]).await.unwrap();
                Http2::begin(h2::client::handshake(stream).await.unwrap())
            } else {
                Http2::begin(h2::client::handshake(stream).await.unwrap())
            };
            let id = server.create().await;
            let (method, target) = match waits {
                "SRC_CONNECTED" => ("PUT", format!("/stream/{id}")),
                _ => ("GET", format!("/stream/{id}")),
            };
            let _response = leaving.request(method, &target, &[], true).await;
            server.until(&id, waits).await;
            let mut next = server.connect_and_send(get("/stream/unknown")).await;
            next.response().await;
            let put = put_head(&id, "Content-Length: 5\r\n") + "right";
            next.send(if method == "PUT" { get(&target) } else { put.clone() }).await;
            leaving.driver.abort();
            let other = if method == "PUT" {
                server.until(&id, "DST_CONNECTED").await;
                server.connect_and_send(put).await
            } else {
                server.until(&id, "SRC_CONNECTED").await;
                server.get(&id).await
            };
            let (mut source, mut destination) = if method == "PUT" { (other, next) } else { (next, other) };
            assert_eq!(destination.response().await.body, b"right", "{waits}, resets: {resets}");
            assert_eq!(source.response().await.status, 200, "{waits}, resets: {resets}");
        }
    }
}

#[tokio::test]
async fn every_route_answers() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let id = client.create().await;
    for (method, path, status, body) in [
        ("GET", "/ping".to_owned(), 200, "pong"),
        ("HEAD", "/ping".to_owned(), 200, ""),
        ("HEAD", format!("/stream/{id}"), 200, ""),
        ("HEAD", "/stream/unknown".to_owned(), 404, ""),
        ("GET", "/stream/unknown?x".to_owned(), 404, "SessionNotFoundError"),
        ("PUT", "/stream/unknown".to_owned(), 404, "SessionNotFoundError"),
        ("GET", "/nothing".to_owned(), 404, "BadRouteError"),
        ("GET", format!("/stream/{id}/status/"), 200, "CREATED"),
        ("GET", "/stream".to_owned(), 200, &id),
        ("GET", "/metrics".to_owned(), 200, "rendezvous_build_info"),
        ("HEAD", "/metrics".to_owned(), 200, ""),
        ("POST", format!("/stream/{id}/error"), 200, ""),
        ("GET", format!("/stream/{id}"), 400, "The other side encountered an unspecified error"),
    ] {
        let response = client.ask(method, &path).await;
        let text = String::from_utf8_lossy(&response.body).into_owned();
        assert_eq!(response.status.as_u16(), status, "{method} {path}: {text}");
        assert!(text.contains(body) && (body.is_empty() == text.is_empty()), "{method} {path}: {text}");
        assert!(response.headers.contains_key("date") && !response.headers.contains_key("connection"));
    }
}

#[tokio::test]
async fn a_connection_and_its_deliveries_are_counted() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    for _ in 0..2 {
        let id = client.create().await;
        let (upload, mut send) = client.put(&id).await;
        let download = client.get(&id).await;
        let (download, ()) = tokio::join!(response(download), send_all(&mut send, b"hello", true));
        assert_eq!(download.body, b"hello");
        assert_eq!(with_timeout(upload).await.unwrap().status(), StatusCode::OK);
    }
    let metrics = Exposition::of(&server).await;
    let labels = [("protocol", "http2"), ("tls", if is_tls() { "yes" } else { "no" })];
    assert_eq!(metrics.count("connections_total", &labels), 1);
    assert_eq!(metrics.count("delivery_wait_seconds_count", &[]), 2);
    assert_eq!(metrics.count("body_bytes_total", &[]), 10);
}

#[tokio::test]
async fn a_side_that_leaves_while_it_waits_frees_its_seat() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let id = client.create().await;
    let (upload, mut send) = client.put(&id).await;
    send_all(&mut send, b"never delivered", false).await;
    server.until(&id, "SRC_CONNECTED").await;
    send.send_reset(Reason::CANCEL);
    drop(upload);
    server.until(&id, "CREATED").await;

    let other = Http2::connect(&server).await;
    let _download = other.get(&id).await;
    server.until(&id, "DST_CONNECTED").await;
    other.driver.abort();
    server.until(&id, "CREATED").await;

    let download = client.get(&id).await;
    let (_, mut send) = client.put(&id).await;
    send_all(&mut send, b"delivered", true).await;
    assert_eq!(response(download).await.body, b"delivered");
}

#[tokio::test]
async fn a_taken_seat_is_refused_and_its_holder_unharmed() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let id = client.create().await;
    let (_upload, mut send) = client.put(&id).await;
    server.until(&id, "SRC_CONNECTED").await;
    let (second, _body) = client.put(&id).await;
    assert_eq!(response(second).await.error(), "429 AlreadyConnectedError");
    let download = client.get(&id).await;
    send_all(&mut send, b"hello", true).await;
    assert_eq!(response(download).await.body, b"hello");
}

#[tokio::test]
async fn a_100_is_sent_only_when_the_sides_have_paired() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let id = client.create().await;
    let fields = [("expect", "100-continue"), ("content-length", "2")];
    let (mut upload, mut send) = client.request("PUT", &format!("/stream/{id}"), &fields, false).await;
    server.until(&id, "SRC_CONNECTED").await;
    // The client receives this response after all frames that the server sent before it.
    assert_eq!(client.ask("GET", "/ping").await.status, StatusCode::OK);
    assert!(futures_util::poll!(poll_fn(|cx| upload.poll_informational(cx))).is_pending());
    let download = client.get(&id).await;
    let interim = with_timeout(poll_fn(|cx| upload.poll_informational(cx))).await.unwrap().unwrap();
    assert_eq!(interim.status(), StatusCode::CONTINUE);
    send_all(&mut send, b"hi", true).await;
    assert_eq!(response(download).await.body, b"hi");
    assert_eq!(response(upload).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_flood_of_cancelled_requests_ends_the_connection_with_enhance_your_calm() {
    let server = TestServer::start().await;
    let mut client = Http2::connect(&server).await;
    for _ in 0..1100 {
        let Ok(mut send) = with_timeout(client.send.clone().ready()).await else { break };
        let request = Request::builder().method("GET").uri("http://test/stream/unknown").body(()).unwrap();
        let Ok((_, mut stream)) = send.send_request(request, false) else { break };
        stream.send_reset(Reason::CANCEL);
        // Lets the connection send the frames, and open the next HTTP/2 stream.
        tokio::task::yield_now().await;
    }
    let ended = with_timeout(&mut client.driver).await.unwrap();
    assert_eq!(ended.unwrap_err().reason(), Some(Reason::ENHANCE_YOUR_CALM));
    assert_eq!(Http2::connect(&server).await.ask("GET", "/ping").await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed() {
    let server = TestServer::start_with(|config| config.keep_alive = Period::from_secs(12)).await;
    let client = Http2::connect(&server).await;
    assert_eq!(client.ask("GET", "/ping").await.status, StatusCode::OK);
    let begun = tokio::time::Instant::now();
    assert!(with_timeout(client.driver).await.unwrap().is_ok());
    assert_eq!(begun.elapsed().as_secs(), 12);
}

#[tokio::test]
async fn a_drain_sends_goaway_and_lets_sides_pair_and_transfers_finish() {
    let mut server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let (running, waiting) = (client.create().await, client.create().await);
    let download = client.get(&running).await;
    let (upload, mut send) = client.put(&running).await;
    send_all(&mut send, b"hello", false).await;
    let download = with_timeout(download).await.unwrap();
    let waiting_download = client.get(&waiting).await;
    server.until(&waiting, "DST_CONNECTED").await;
    server.stop().await;
    let late = Http2::connect(&server).await;
    let (late_upload, mut late_send) = late.put(&waiting).await;
    send_all(&mut late_send, b"paired", true).await;
    assert_eq!(response(waiting_download).await.body, b"paired");
    assert_eq!(response(late_upload).await.status, StatusCode::OK);
    send_all(&mut send, b", world", true).await;
    assert_eq!(rest(download).await.body, b"hello, world");
    assert_eq!(response(upload).await.status, StatusCode::OK);
    // After GOAWAY, a connection ends with its last HTTP/2 stream.
    assert!(with_timeout(late.driver).await.unwrap().is_ok());
    assert!(with_timeout(client.driver).await.unwrap().is_ok());
    server.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_slowly_and_does_not_stop_gets_the_whole_list() {
    let clock = Clock::stopped();
    let server = TestServer::start_with(|config| config.head_timeout = Period::from_secs(10)).await;
    let set = format!(r#"{{"download_headers":{{"x":"{}"}}}}"#, "x".repeat(60_000));
    for _ in 0..3 {
        server.create_with(&set).await;
    }
    let window = 16 * 1024;
    let client = Http2::connect_with(&server, h2::client::Builder::new().initial_window_size(window)).await;
    let (list, _) = client.request("GET", "/stream", &[], true).await;
    let (mut body, mut received) = (list.await.unwrap().into_body(), 0);
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        received += data.len();
        // The whole of a part takes longer than the timeout.
        clock.advance(Duration::from_secs(4)).await;
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    assert!(received > 3 * 60_000, "{received}");
}

#[tokio::test]
async fn a_request_whose_body_is_not_read_is_not_reset_right_after_its_response() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    for (method, path, status) in [("PUT", "/stream/unknown", 404), ("GET", "/stream", 200)] {
        let (future, mut send) = client.request(method, path, &[], false).await;
        assert_eq!(response(future).await.status, status, "{method} {path}");
        let reset = tokio::time::timeout(Duration::from_millis(500), poll_fn(|cx| send.poll_reset(cx)));
        assert!(reset.await.is_err(), "{method} {path}: the client needs time to read the response");
        send.send_reset(Reason::CANCEL);
        assert_eq!(client.ask("GET", "/ping").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_head_with_too_many_fields_is_431() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let names: Vec<String> = (0..101).map(|number| format!("x-{number}")).collect();
    for (count, status) in [(100, 200), (101, 431)] {
        let fields: Vec<_> = names[..count].iter().map(|name| (&**name, "1")).collect();
        let (future, _) = client.request("GET", "/ping", &fields, true).await;
        assert_eq!(response(future).await.status.as_u16(), status);
    }
}

/// The h2 library limits only HTTP/2 streams that have not ended. It counts these as ended.
#[tokio::test]
async fn requests_whose_responses_are_not_acknowledged_are_bounded() {
    const MAX_REQUESTS: u32 = 200;
    let server = TestServer::start().await;
    let (filler, other) = (server.create().await, server.create().await);
    // The first two of the requests.
    let mut client = Client::connect_with_small_receive_buffer(server.address()).await;
    request_without_reading(&mut client, &server, &[&filler, &other]).await;
    let mut source = server.put(&filler, "Content-Length: 200000\r\n").await;
    source.send(vec![7; 200_000]).await;
    server.until_passed_on(&filler, 200_000).await;
    let mut sources = vec![source];
    for number in 2..MAX_REQUESTS {
        let id = server.create().await;
        client.send(head(2 * number + 1, END_STREAM, "GET", &format!("/stream/{id}"))).await;
        server.until(&id, "DST_CONNECTED").await;
        sources.push(server.connect_and_send(put_head(&id, "Content-Length: 1\r\n") + "x").await);
        server.until_passed_on(&id, 1).await;
    }
    let id = server.create().await;
    client.send(head(2 * MAX_REQUESTS + 1, END_STREAM, "GET", &format!("/stream/{id}"))).await;
    for _ in 0..50 {
        assert_eq!(server.status(&id).await["state"], "CREATED", "served one request too many");
    }
    client.reset();
    for mut source in sources {
        assert_eq!(source.response().await.error(), "502 StreamDestinationError");
    }
}

#[tokio::test]
async fn a_preface_that_comes_in_two_parts_begins_http_2() {
    let server = TestServer::start().await;
    for split in 1..HTTP2_PREFACE.len() {
        let (first, rest) = HTTP2_PREFACE.split_at(split);
        let mut client = server.connect_and_send(first).await;
        // Meanwhile the server reads the first part.
        assert_eq!(server.ready().await.status, 200);
        client.send([rest, &frame(0, SETTINGS, 0, &[])].concat()).await;
        let header = client.take_bytes(9).await.unwrap();
        assert_eq!(header[3], SETTINGS, "after {split} bytes");
    }
}

#[tokio::test]
async fn expect_100_continue_is_recognized_in_any_case_and_in_a_list() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    for (fields, is_recognized) in [
        (&["100-continue"][..], true),
        (&["100-Continue"], true),
        (&["100-CONTINUE"], true),
        (&["x, 100-continue"], true),
        (&["100-continue", "x"], true),
        (&["x"], false),
        (&["100-continue-not"], false),
    ] {
        let id = client.create().await;
        let _download = client.get(&id).await;
        let fields: Vec<_> = fields.iter().map(|value| ("expect", *value)).collect();
        let (mut upload, mut send) = client.request("PUT", &format!("/stream/{id}"), &fields, false).await;
        if is_recognized {
            let interim = with_timeout(poll_fn(|cx| upload.poll_informational(cx))).await.unwrap().unwrap();
            assert_eq!(interim.status(), StatusCode::CONTINUE, "{fields:?}");
        }
        send_all(&mut send, b"hi", true).await;
        assert_eq!(response(upload).await.status, StatusCode::OK, "{fields:?}");
    }
}

#[tokio::test]
async fn a_connection_over_a_limit_is_refused_in_http2() {
    for (adjust, refusal) in [
        ((|config| config.clients.max_connections = Some(1)) as fn(&mut Config), "429 TooManyRequestsError"),
        (|config| config.max_connections = 1, "503 ServerBusyError"),
    ] {
        let server = TestServer::start_with(adjust).await;
        let first = Http2::connect(&server).await;
        assert_eq!(first.ask("GET", "/ping").await.status, StatusCode::OK);
        let second = Http2::connect(&server).await;
        let refused = second.ask("GET", "/ping").await;
        assert_eq!(refused.error(), refusal);
        assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
        assert!(with_timeout(second.driver).await.unwrap().is_ok(), "the connection ends without an error");
        assert_eq!(first.ask("GET", "/ping").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn cancelled_requests_of_a_proxy_do_not_end_its_other_requests() {
    let server = TestServer::start_with(behind_a_proxy).await;
    let client = Http2::connect(&server).await;
    let (kept, cancelled) = (client.create().await, client.create().await);
    let download = client.get(&kept).await;
    for _ in 0..1100 {
        let mut send = with_timeout(client.send.clone().ready()).await.unwrap();
        let request = Request::builder().uri(format!("http://test/stream/{cancelled}")).body(()).unwrap();
        let (_, mut stream) = send.send_request(request, true).unwrap();
        stream.send_reset(Reason::CANCEL);
        tokio::task::yield_now().await;
    }
    let (upload, mut send) = client.put(&kept).await;
    send_all(&mut send, b"hello", true).await;
    assert_eq!(response(download).await.body, b"hello");
    assert_eq!(response(upload).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_crumbs_of_a_cookie_count_as_one_field() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let names: Vec<String> = (0..100).map(|number| format!("x-{number}")).collect();
    for (others, crumbs, status) in [(0, 150, 200), (99, 2, 200), (100, 2, 431)] {
        let fields = names[..others].iter().map(|name| (&**name, "1"));
        let fields: Vec<_> = fields.chain((0..crumbs).map(|_| ("cookie", "a=b"))).collect();
        let (future, _) = client.request("GET", "/ping", &fields, true).await;
        assert_eq!(response(future).await.status.as_u16(), status, "{others} and {crumbs}");
    }
}

#[tokio::test]
async fn a_client_that_sends_its_whole_body_before_it_reads_gets_its_refusal() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let (upload, mut send) = client.put("unknown").await;
    send_all(&mut send, &vec![0; 1 << 20], true).await;
    assert_eq!(response(upload).await.error(), "404 SessionNotFoundError");
    assert_eq!(client.ask("GET", "/ping").await.status, StatusCode::OK, "the connection stays open");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_keeps_sending_a_refused_body_is_stopped() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let begun = tokio::time::Instant::now();
    let (upload, mut send) = client.put("unknown").await;
    assert_eq!(response(upload).await.error(), "404 SessionNotFoundError");
    let reset = with_timeout(poll_fn(|cx| send.poll_reset(cx))).await.unwrap();
    assert_eq!((reset, begun.elapsed().as_secs()), (Reason::NO_ERROR, 2));
    assert!(with_timeout(client.driver).await.unwrap().is_ok());
    assert_eq!(begun.elapsed().as_secs(), 2, "a connection without other requests ends with the refused one");
}

#[tokio::test]
async fn a_get_that_announces_a_body_is_refused_and_one_that_does_not_is_served() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let id = client.create().await;
    let path = format!("/stream/{id}");
    for method in ["GET", "HEAD"] {
        let (future, _unsent) = client.request(method, &path, &[("content-length", "5")], false).await;
        assert_eq!(response(future).await.status, 400, "{method}");
        assert_eq!(server.status(&id).await["state"], "CREATED", "{method}");
    }
    // Proxies send GETs like these: without a length, and with END_STREAM in the head, later, or never.
    for (ends, length) in [(true, None), (false, None), (true, Some("0")), (false, Some("0"))] {
        let id = client.create().await;
        let fields: Vec<_> = length.map(|length| ("content-length", length)).into_iter().collect();
        let (download, mut send) = client.request("GET", &format!("/stream/{id}"), &fields, false).await;
        server.until(&id, "DST_CONNECTED").await;
        if ends {
            send.send_data(Bytes::new(), true).unwrap();
        }
        let (upload, mut body) = client.put(&id).await;
        send_all(&mut body, b"hello", true).await;
        let download = response(download).await;
        assert_eq!(
            (download.status, download.body.as_slice(), download.cut),
            (StatusCode::OK, &b"hello"[..], None)
        );
        assert_eq!(download.headers["content-type"], "application/octet-stream");
        assert_eq!(response(upload).await.status, StatusCode::OK);
    }
}
