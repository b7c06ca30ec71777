//! Seats, and sides that wait.

use testkit::client::{Client, End};
use testkit::messages::{CHUNKED, framed, request};
use testkit::server::{TestServer, get, put_head};
use testkit::sides::Departure;
use testkit::transport::is_tls;
use tokio::net::TcpSocket;

#[tokio::test]
async fn a_taken_seat_is_refused_and_the_pair_is_unharmed() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let mut source = server.put(&id, "Content-Length: 5\r\n").await;
    server.until(&id, "SRC_CONNECTED").await;
    for _ in 0..2 {
        let second = server
            .connect_and_send(put_head(&id, "Content-Length: 5\r\nExpect: 100-continue\r\n"))
            .await
            .response()
            .await;
        assert_eq!(second.error(), "429 AlreadyConnectedError");
        assert_eq!(second.message(), "A client has already connected to the source side of this stream");
    }
    let mut destination = server.get(&id).await;
    source.send("he").await;
    destination.head().await.unwrap();
    for (request, side) in [(put_head(&id, ""), "source"), (get(&format!("/stream/{id}")), "destination")] {
        let second = server.ask(request).await;
        assert_eq!(second.error(), "429 AlreadyConnectedError");
        assert!(second.message().contains(side));
    }
    source.send("llo").await;
    assert_eq!(destination.body_bytes(5).await, b"hello");
    assert_eq!(source.response().await.status, 200);
}

/// The framing fields and the body of an upload, in both framings.
const WHOLE_BODIES: [(&str, &str); 2] =
    [("Content-Length: 5\r\n", "hello"), (CHUNKED, "5\r\nhello\r\n0\r\n\r\n")];

#[tokio::test]
async fn a_waiting_source_that_leaves_frees_its_seat_and_its_bytes_are_not_delivered() {
    for (case, fields, body) in [
        ("nothing of its body", "Content-Length: 100\r\n", ""),
        ("a part of its body", "Content-Length: 100\r\n", "WRONG"),
        ("chunks without an end", CHUNKED, "5\r\nWRONG\r\n"),
        ("no body, but an expectation", "Content-Length: 5\r\nExpect: 100-continue\r\n", ""),
        ("a whole body", "Content-Length: 5\r\n", "WRONG"),
        ("a whole chunked body", CHUNKED, "5\r\nWRONG\r\n0\r\n\r\n"),
        ("an empty body", "", ""),
    ] {
        for how in Departure::ALL {
            let server = TestServer::start().await;
            for mut source in new_and_kept(&server).await {
                let id = server.create().await;
                source.send(put_head(&id, fields)).await;
                server.until(&id, "SRC_CONNECTED").await;
                source.send(body).await;
                source.leave(how);
                let status = server.until(&id, "CREATED").await;
                assert_eq!(status["active"], true, "{case}");

                let mut destination = server.get(&id).await;
                let mut source = server.put(&id, "Content-Length: 5\r\n").await;
                source.send("right").await;
                let download = destination.response().await;
                assert_eq!(
                    (download.end, &download.body[..]),
                    (End::Whole, &b"right"[..]),
                    "{case}, {how:?}"
                );
                assert_eq!(source.response().await.status, 200, "{case}, {how:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_waiting_destination_that_leaves_frees_its_seat() {
    for how in Departure::ALL {
        let server = TestServer::start().await;
        let id = server.create().await;
        let destination = server.get(&id).await;
        server.until(&id, "DST_CONNECTED").await;
        destination.leave(how);
        server.until(&id, "CREATED").await;
        let mut destination = server.get(&id).await;
        server.until(&id, "DST_CONNECTED").await;
        let mut source = server.put(&id, "").await;
        assert_eq!(source.response().await.status, 200);
        assert_eq!(destination.response().await.status, 200);
    }
}

/// Two kept connections that have each had one response. The server reads the whole of their next request at once.
async fn kept(server: &TestServer) -> [Client; 2] {
    let mut clients =
        [server.connect_and_send(get("/stream/unknown")).await, server.connect_and_send(get("/ping")).await];
    for client in &mut clients {
        client.response().await;
    }
    clients
}

/// A new connection and two kept ones.
async fn new_and_kept(server: &TestServer) -> [Client; 3] {
    let [first, second] = kept(server).await;
    [server.connect().await, first, second]
}

/// Sources that the server recognizes as disconnected: framing fields, the sent part of the body, and how the source leaves. (A FIN after a
/// whole body may be a half-close.)
const DEPARTING_SOURCES: [(&str, &str, Departure); 7] = [
    ("Content-Length: 100\r\n", "WRONG", Departure::Close),
    ("Content-Length: 100\r\n", "WRONG", Departure::Reset),
    ("Content-Length: 5\r\n", "WRONG", Departure::Reset),
    ("Content-Length: 5\r\nExpect: 100-continue\r\n", "", Departure::Close),
    (CHUNKED, "5\r\nWRONG\r\n0\r\n", Departure::Close),
    (CHUNKED, "5\r\nWRONG\r\n0\r\n\r\n", Departure::Reset),
    ("", "", Departure::Reset),
];

/// The request of the next client is in the server's kernel before the waiting side leaves, and the server reads it only afterwards.
/// So the server has no earlier sign that the side has left.
#[tokio::test]
async fn a_source_that_has_just_left_is_not_paired_and_its_seat_is_free() {
    let server = TestServer::start().await;
    for (fields, body, how) in DEPARTING_SOURCES {
        for mut next in kept(&server).await {
            let case = format!("{fields:?} {body:?} {how:?}");
            let id = server.create().await;
            let mut leaving = server.put(&id, fields).await;
            leaving.send(body).await;
            server.until(&id, "SRC_CONNECTED").await;
            next.send(get(&format!("/stream/{id}"))).await;
            leaving.leave(how);
            server.until(&id, "DST_CONNECTED").await;
            let mut source = server.put(&id, "Content-Length: 5\r\n").await;
            source.send("right").await;
            assert_eq!(next.response().await.body, b"right", "{case}");
            assert_eq!(source.response().await.status, 200, "{case}");
        }
        for mut next in kept(&server).await {
            let case = format!("{fields:?} {body:?} {how:?}, another source");
            let id = server.create().await;
            let mut leaving = server.put(&id, fields).await;
            leaving.send(body).await;
            server.until(&id, "SRC_CONNECTED").await;
            next.send(put_head(&id, "Content-Length: 5\r\n") + "right").await;
            leaving.leave(how);
            // The server has read the earlier request of `next` before it answers this.
            assert_eq!(server.status(&id).await["state"], "SRC_CONNECTED", "{case}");
            let download = server.get(&id).await.response().await;
            assert_eq!((download.end, &download.body[..]), (End::Whole, &b"right"[..]), "{case}");
            assert_eq!(next.response().await.status, 200, "{case}");
        }
    }
}

#[tokio::test]
async fn a_destination_that_has_just_left_is_not_paired_and_its_seat_is_free() {
    let server = TestServer::start().await;
    for how in Departure::ALL {
        for by_source in [true, false] {
            for mut next in kept(&server).await {
                let id = server.create().await;
                let leaving = server.get(&id).await;
                server.until(&id, "DST_CONNECTED").await;
                let request = if by_source {
                    put_head(&id, "Content-Length: 5\r\n") + "right"
                } else {
                    get(&format!("/stream/{id}"))
                };
                next.send(request).await;
                leaving.leave(how);
                let mut other = if by_source {
                    server.until(&id, "SRC_CONNECTED").await;
                    server.get(&id).await
                } else {
                    server.status(&id).await;
                    server.connect_and_send(put_head(&id, "Content-Length: 5\r\n") + "right").await
                };
                let (source, destination) =
                    if by_source { (&mut next, &mut other) } else { (&mut other, &mut next) };
                assert_eq!(destination.response().await.body, b"right", "{how:?}");
                assert_eq!(source.response().await.status, 200, "{how:?}");
            }
        }
    }
}

/// A half-closed destination counts as disconnected, even if that is first detected when the source connects.
#[tokio::test]
async fn a_destination_that_half_closes_as_a_source_connects_is_not_answered() {
    let server = TestServer::start().await;
    for mut source in kept(&server).await {
        let id = server.create().await;
        let mut leaving = server.get(&id).await;
        server.until(&id, "DST_CONNECTED").await;
        source.send(put_head(&id, "Content-Length: 5\r\n") + "right").await;
        leaving.half_close().await;
        server.until(&id, "SRC_CONNECTED").await;
        assert_eq!(leaving.head().await, Err(End::Short));
        assert_eq!(server.get(&id).await.response().await.body, b"right");
        assert_eq!(source.response().await.status, 200);
    }
}

/// A side that has left by the time the server reads its request is not paired with the waiting side.
#[tokio::test]
async fn a_side_that_leaves_as_it_connects_does_not_use_up_the_stream() {
    let server = TestServer::start().await;
    for (fields, body, how) in DEPARTING_SOURCES {
        for mut leaving in kept(&server).await {
            let id = server.create().await;
            let mut destination = server.get(&id).await;
            server.until(&id, "DST_CONNECTED").await;
            leaving.send(put_head(&id, fields) + body).await;
            leaving.leave(how);
            assert_eq!(server.status(&id).await["state"], "DST_CONNECTED", "{fields:?} {body:?} {how:?}");
            let mut source = server.connect_and_send(put_head(&id, "Content-Length: 5\r\n") + "right").await;
            assert_eq!(destination.response().await.body, b"right", "{fields:?} {body:?} {how:?}");
            assert_eq!(source.response().await.status, 200, "{fields:?} {body:?} {how:?}");
        }
    }
    for how in Departure::ALL {
        for mut leaving in kept(&server).await {
            let id = server.create().await;
            let mut source = server.connect_and_send(put_head(&id, "Content-Length: 5\r\n") + "right").await;
            server.until(&id, "SRC_CONNECTED").await;
            leaving.send(get(&format!("/stream/{id}"))).await;
            leaving.leave(how);
            assert_eq!(server.status(&id).await["state"], "SRC_CONNECTED", "{how:?}");
            assert_eq!(server.get(&id).await.response().await.body, b"right", "{how:?}");
            assert_eq!(source.response().await.status, 200, "{how:?}");
        }
    }
}

#[tokio::test]
async fn a_source_may_half_close_after_a_whole_body_as_it_connects_or_is_paired() {
    let server = TestServer::start().await;
    for (fields, body) in WHOLE_BODIES {
        for waits in [true, false] {
            for mut next in kept(&server).await {
                let id = server.create().await;
                let put = put_head(&id, fields) + body;
                let (mut source, mut destination);
                if waits {
                    source = server.connect_and_send(put).await;
                    server.until(&id, "SRC_CONNECTED").await;
                    next.send(get(&format!("/stream/{id}"))).await;
                    source.half_close().await;
                    destination = next;
                } else {
                    destination = server.get(&id).await;
                    server.until(&id, "DST_CONNECTED").await;
                    next.send(put).await;
                    next.half_close().await;
                    source = next;
                }
                assert_eq!(destination.response().await.body, b"hello", "{fields:?}, waits: {waits}");
                assert_eq!(source.final_response().await.status, 200, "{fields:?}, waits: {waits}");
            }
        }
    }
}

#[tokio::test]
async fn a_source_may_half_close_after_a_whole_body_while_it_waits() {
    for (fields, body) in WHOLE_BODIES {
        let server = TestServer::start().await;
        for mut source in new_and_kept(&server).await {
            let id = server.create().await;
            source.send(put_head(&id, fields)).await;
            source.send(body).await;
            source.half_close().await;
            // With a 100, the server checks whether the source is still connected.
            assert_eq!(source.head().await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
            assert_eq!(server.status(&id).await["state"], "SRC_CONNECTED");
            let download = server.get(&id).await.response().await;
            assert_eq!((download.end, &download.body[..]), (End::Whole, &b"hello"[..]));
            assert_eq!(source.final_response().await.status, 200);
        }
    }
}

#[tokio::test]
async fn an_http_1_0_source_that_half_closes_after_a_whole_body_is_served_without_a_100() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let put = format!("PUT /stream/{id} HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello");
    let mut source = server.connect_and_send(put).await;
    server.until(&id, "SRC_CONNECTED").await;
    source.half_close().await;
    // A server that probed it would do so about now.
    assert_eq!(server.status(&id).await["state"], "SRC_CONNECTED");
    let download = server.get(&id).await.response().await;
    assert_eq!((download.end, &download.body[..]), (End::Whole, &b"hello"[..]));
    let head = source.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.0 200"), "{head}");
}

#[tokio::test]
async fn a_source_that_half_closes_after_bytes_behind_its_whole_body_is_served() {
    let server = TestServer::start().await;
    // More than is discarded to find out whether a source has left.
    let body = ["hello", &"x".repeat(100_000)].concat();
    let id = server.create().await;
    let mut source = server.connect_and_send(put_head(&id, "Content-Length: 5\r\n") + &body).await;
    source.half_close().await;
    server.until(&id, "SRC_CONNECTED").await;
    let download = server.get(&id).await.response().await;
    assert_eq!((download.end, &download.body[..]), (End::Whole, &b"hello"[..]));
    assert_eq!(source.final_response().await.status, 200);
}

/// They would hide that the source has left.
#[tokio::test]
async fn a_waiting_source_that_sends_more_than_16_kib_behind_its_body_counts_as_gone() {
    let server = TestServer::start().await;
    for (behind, state) in [(10_000, "FINISHED"), (100_000, "SRC_DISCONNECTED")] {
        let id = server.create().await;
        let body = ["hello", &"x".repeat(behind)].concat();
        let _source = server.connect_and_send(put_head(&id, "Content-Length: 5\r\n") + &body).await;
        server.until(&id, "SRC_CONNECTED").await;
        let _destination = server.get(&id).await;
        server.until(&id, state).await;
    }
}

#[tokio::test]
async fn a_source_that_half_closes_one_byte_too_early_while_it_waits_has_left() {
    for (fields, body) in [("Content-Length: 5\r\n", "hell"), (CHUNKED, "5\r\nhello\r\n0\r\n\r")] {
        let server = TestServer::start().await;
        for mut source in new_and_kept(&server).await {
            let id = server.create().await;
            source.send(put_head(&id, fields)).await;
            server.until(&id, "SRC_CONNECTED").await;
            source.send(body).await;
            source.half_close().await;
            server.until(&id, "CREATED").await;
        }
    }
}

#[tokio::test]
async fn a_100_is_sent_when_the_sides_have_paired_and_not_before() {
    let server = TestServer::start().await;
    for expects in ["100-continue", "100-Continue", "x, 100-continue"] {
        let id = server.create().await;
        let mut source = server.put(&id, &format!("Content-Length: 5\r\nExpect: {expects}\r\n")).await;
        server.until(&id, "SRC_CONNECTED").await;
        let mut destination = tokio::select! {
            biased;
            head = source.head() => panic!("the waiting source got a response: {head:?}"),
            destination = server.get(&id) => destination,
        };
        assert_eq!(source.head().await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n", "{expects}");
        source.send("hello").await;
        assert_eq!(destination.response().await.body, b"hello");
        assert_eq!(source.response().await.status, 200);
    }
}

#[tokio::test]
async fn a_refusal_is_sent_without_a_100() {
    let server = TestServer::start().await;
    let expects = "Content-Length: 5\r\nExpect: 100-continue\r\n";
    let unknown = server.put("unknown", expects).await.response().await;
    assert_eq!(unknown.error(), "404 SessionNotFoundError");

    let id = server.create().await;
    let mut reported = server.put(&id, expects).await;
    server.until(&id, "SRC_CONNECTED").await;
    server.post(&format!("/stream/{id}/error"), r#"{"http_status":418,"name":"N","message":"M"}"#).await;
    let response = reported.response().await;
    assert_eq!((response.error(), response.message()), ("418 N".into(), "M".into()));
}

#[tokio::test]
async fn a_head_request_takes_no_seat() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let probe = |id: &str| request("HEAD", &format!("/stream/{id}"), "");
    for _ in 0..2 {
        let head = server.connect_and_send(probe(&id)).await.head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }
    assert_eq!(server.status(&id).await["state"], "CREATED");
    let head = server.connect_and_send(probe("unknown")).await.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
}

#[tokio::test]
async fn an_ended_stream_is_not_found() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let mut destination = server.get(&id).await;
    server.put(&id, "").await.response().await;
    destination.response().await;
    for request in [get(&format!("/stream/{id}")), put_head(&id, "")] {
        let response = server.ask(request).await;
        assert_eq!(response.error(), "404 SessionNotFoundError");
        assert_eq!(response.message(), "The specified session id does not exist");
    }
    assert_eq!(server.post(&format!("/stream/{id}/error"), "{}").await.error(), "409 StreamStartedError");
    let head =
        server.connect_and_send(request("HEAD", &format!("/stream/{id}"), "")).await.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 404 "), "{head}");
}

#[tokio::test]
async fn ids_that_name_properties_of_javascript_objects_are_unknown_ids() {
    let server = TestServer::start().await;
    for id in ["__proto__", "constructor", "toString", "hasOwnProperty"] {
        for request in [get(&format!("/stream/{id}")), put_head(id, ""), get(&format!("/stream/{id}/status"))]
        {
            assert_eq!(server.ask(request).await.error(), "404 SessionNotFoundError", "{id}");
        }
        assert_eq!(
            server.post(&format!("/stream/{id}/error"), "{}").await.error(),
            "404 SessionNotFoundError"
        );
    }
}

#[tokio::test]
async fn nothing_of_a_source_that_closed_after_its_whole_body_is_delivered() {
    let server = TestServer::start_with(|config| config.ttl = "1s".parse().unwrap()).await;
    for (fields, body) in WHOLE_BODIES {
        let rounds = (0..30).map(async |_| {
            let id = server.create().await;
            let mut source = server.put(&id, fields).await;
            source.send(body).await;
            server.until(&id, "SRC_CONNECTED").await;
            // The rest of the request and the FIN of the source arrive together, and the server reads the request first.
            let (request, rest) = (get(&format!("/stream/{id}")), "\r\n");
            let mut destination = server.connect_and_send(request.strip_suffix(rest).unwrap()).await;
            assert_eq!(server.ask(get("/ping")).await.status, 200);
            destination.send(rest).await;
            source.close();
            destination.response().await.status
        });
        let statuses = futures_util::future::join_all(rounds).await;
        assert!(statuses.iter().all(|status| matches!(status, 502 | 504)), "{fields:?} {statuses:?}");
    }
}

/// The size of a body that is larger than the buffer of the server's kernel for a waiting source, and fits into the buffers of both
/// kernels.
const LARGER_THAN_A_BUFFER: usize = 300_000;

/// A waiting source that has written its whole body, a part of which is still in its own kernel.
async fn source_with_a_full_buffer(server: &TestServer, id: &str, chunked: bool) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(1 << 20).unwrap();
    let mut source = Client::begin(socket.connect(server.address()).await.unwrap()).await;
    let (fields, encoded) = framed(&vec![b'x'; LARGER_THAN_A_BUFFER], chunked);
    source.send(put_head(id, &fields)).await;
    source.send(encoded).await;
    server.until(id, "SRC_CONNECTED").await;
    source
}

#[tokio::test]
async fn nothing_of_a_source_that_left_with_a_full_buffer_looks_whole() {
    let server = TestServer::start().await;
    for chunked in [false, true] {
        let id = server.create().await;
        source_with_a_full_buffer(&server, &id, chunked).await.close();
        if is_tls() && server.status(&id).await["state"] == "CREATED" {
            // The read-ahead of TLS has emptied the kernel's buffer, so the FIN has arrived.
            continue;
        }
        let download = server.get(&id).await.response().await;
        assert!(
            download.status == 200 && matches!(download.end, End::Short | End::Reset),
            "chunked: {chunked}, {:?}",
            download.end
        );
        server.until(&id, "SRC_DISCONNECTED").await;
    }
}

#[tokio::test]
async fn a_source_that_only_half_closed_with_a_full_buffer_is_delivered() {
    let server = TestServer::start().await;
    for chunked in [false, true] {
        let id = server.create().await;
        let mut source = source_with_a_full_buffer(&server, &id, chunked).await;
        source.half_close().await;
        let download = server.get(&id).await.response().await;
        let whole = (End::Whole, LARGER_THAN_A_BUFFER);
        assert_eq!((download.end, download.body.len()), whole, "chunked: {chunked}");
        assert_eq!(source.final_response().await.status, 200);
        server.until(&id, "FINISHED").await;
    }
}

/// The FIN of the source is stuck behind the bytes that follow its body.
#[tokio::test]
async fn a_source_that_closed_after_much_more_than_its_body_never_looks_whole() {
    let server = TestServer::start().await;
    for (fields, body) in WHOLE_BODIES {
        let id = server.create().await;
        let mut source = server.connect_and_send(put_head(&id, fields) + body).await;
        server.until(&id, "SRC_CONNECTED").await;
        // More than the server's kernel buffers, and less than both kernels buffer.
        source.send(vec![b'x'; 1 << 20]).await;
        source.close();
        let download = server.get(&id).await.response().await;
        assert_ne!((download.status, download.end), (200, End::Whole), "{fields:?}");
        server.until(&id, "SRC_DISCONNECTED").await;
    }
}
