//! Seats, and what happens to a side that waits.

use tokio::net::TcpSocket;

use crate::client::{Client, End};
use crate::server::{TestServer, get, put_head};
use crate::transport::is_tls;

#[tokio::test]
async fn a_taken_seat_is_refused_and_the_pair_is_unharmed() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let mut source = server.put(&id, "Content-Length: 5\r\n").await;
    server.until(&id, "SRC_CONNECTED").await;
    for _ in 0..2 {
        let second =
            server.say(put_head(&id, "Content-Length: 5\r\nExpect: 100-continue\r\n")).await.response().await;
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

#[derive(Debug, Clone, Copy)]
enum Left {
    Closed,
    Reset,
}

fn leave(client: Client, how: Left) {
    match how {
        Left::Closed => client.close(),
        Left::Reset => client.reset(),
    }
}

#[tokio::test]
async fn a_waiting_source_that_leaves_frees_its_seat_and_its_bytes_reach_nobody() {
    for (what, said) in [
        ("nothing of its body", ("Content-Length: 100\r\n", String::new())),
        ("a part of its body", ("Content-Length: 100\r\n", "WRONG".into())),
        ("chunks without an end", ("Transfer-Encoding: chunked\r\n", "5\r\nWRONG\r\n".into())),
        ("no body, but an expectation", ("Content-Length: 5\r\nExpect: 100-continue\r\n", String::new())),
        ("a whole body", ("Content-Length: 5\r\n", "WRONG".into())),
        ("a whole chunked body", ("Transfer-Encoding: chunked\r\n", "5\r\nWRONG\r\n0\r\n\r\n".into())),
        ("an empty body", ("", String::new())),
    ] {
        for how in [Left::Closed, Left::Reset] {
            let server = TestServer::start().await;
            let [fast, slow] = served(&server).await;
            for mut source in [server.connect().await, fast, slow] {
                let id = server.create().await;
                source.send(put_head(&id, said.0)).await;
                server.until(&id, "SRC_CONNECTED").await;
                source.send(&said.1).await;
                leave(source, how);
                let status = server.until(&id, "CREATED").await;
                assert_eq!(status["active"], true, "{what}");

                let mut destination = server.get(&id).await;
                let mut source = server.put(&id, "Content-Length: 5\r\n").await;
                source.send("right").await;
                let download = destination.response().await;
                assert_eq!(
                    (download.end, &download.body[..]),
                    (End::Whole, &b"right"[..]),
                    "{what}, {how:?}"
                );
                assert_eq!(source.response().await.status, 200, "{what}, {how:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_waiting_destination_that_leaves_frees_its_seat() {
    for how in [Left::Closed, Left::Reset] {
        let server = TestServer::start().await;
        let id = server.create().await;
        let destination = server.get(&id).await;
        server.until(&id, "DST_CONNECTED").await;
        leave(destination, how);
        server.until(&id, "CREATED").await;
        let mut destination = server.get(&id).await;
        server.until(&id, "DST_CONNECTED").await;
        let mut source = server.put(&id, "").await;
        assert_eq!(source.response().await.status, 200);
        assert_eq!(destination.response().await.status, 200);
    }
}

/// Connections that have been served already, in either lane: what they ask next is read in one go.
async fn served(server: &TestServer) -> [Client; 2] {
    let mut clients = [server.say(get("/stream/unknown")).await, server.say(get("/ping")).await];
    for client in &mut clients {
        client.response().await;
    }
    clients
}

/// What a side says that leaves, and how it leaves, where that is a leave: the upload, the download.
const DEPARTURES: [(&str, &str, Left); 7] = [
    ("Content-Length: 100\r\n", "WRONG", Left::Closed),
    ("Content-Length: 100\r\n", "WRONG", Left::Reset),
    ("Content-Length: 5\r\n", "WRONG", Left::Reset),
    ("Content-Length: 5\r\nExpect: 100-continue\r\n", "", Left::Closed),
    ("Transfer-Encoding: chunked\r\n", "5\r\nWRONG\r\n0\r\n", Left::Closed),
    ("Transfer-Encoding: chunked\r\n", "5\r\nWRONG\r\n0\r\n\r\n", Left::Reset),
    ("", "", Left::Reset),
];

/// The request of whoever comes is with the server's kernel before the other leaves, and is read only then: nothing tells the
/// server sooner that the other has left.
#[tokio::test]
async fn a_source_that_has_just_left_is_not_met_and_its_seat_is_free() {
    let server = TestServer::start().await;
    for (fields, said, how) in DEPARTURES {
        for mut next in served(&server).await {
            let case = format!("{fields:?} {said:?} {how:?}");
            let id = server.create().await;
            let mut gone = server.put(&id, fields).await;
            gone.send(said).await;
            server.until(&id, "SRC_CONNECTED").await;
            next.send(get(&format!("/stream/{id}"))).await;
            leave(gone, how);
            server.until(&id, "DST_CONNECTED").await;
            let mut source = server.put(&id, "Content-Length: 5\r\n").await;
            source.send("right").await;
            assert_eq!(next.response().await.body, b"right", "{case}");
            assert_eq!(source.response().await.status, 200, "{case}");
        }
        for mut next in served(&server).await {
            let case = format!("{fields:?} {said:?} {how:?}, another source");
            let id = server.create().await;
            let mut gone = server.put(&id, fields).await;
            gone.send(said).await;
            server.until(&id, "SRC_CONNECTED").await;
            next.send(put_head(&id, "Content-Length: 5\r\n") + "right").await;
            leave(gone, how);
            // Behind what was sent before.
            assert_eq!(server.status(&id).await["state"], "SRC_CONNECTED", "{case}");
            let download = server.get(&id).await.response().await;
            assert_eq!((download.end, &download.body[..]), (End::Whole, &b"right"[..]), "{case}");
            assert_eq!(next.response().await.status, 200, "{case}");
        }
    }
}

#[tokio::test]
async fn a_destination_that_has_just_left_is_not_met_and_its_seat_is_free() {
    let server = TestServer::start().await;
    for how in [Left::Closed, Left::Reset] {
        for by_source in [true, false] {
            for mut next in served(&server).await {
                let id = server.create().await;
                let gone = server.get(&id).await;
                server.until(&id, "DST_CONNECTED").await;
                let request = if by_source {
                    put_head(&id, "Content-Length: 5\r\n") + "right"
                } else {
                    get(&format!("/stream/{id}"))
                };
                next.send(request).await;
                leave(gone, how);
                let mut other = if by_source {
                    server.until(&id, "SRC_CONNECTED").await;
                    server.get(&id).await
                } else {
                    server.status(&id).await;
                    server.say(put_head(&id, "Content-Length: 5\r\n") + "right").await
                };
                let (source, destination) =
                    if by_source { (&mut next, &mut other) } else { (&mut other, &mut next) };
                assert_eq!(destination.response().await.body, b"right", "{how:?}");
                assert_eq!(source.response().await.status, 200, "{how:?}");
            }
        }
    }
}

/// One that only closes its sending side counts as gone, also where whoever comes notices that first.
#[tokio::test]
async fn a_destination_that_half_closes_as_it_is_met_is_not_answered() {
    let server = TestServer::start().await;
    for mut source in served(&server).await {
        let id = server.create().await;
        let mut gone = server.get(&id).await;
        server.until(&id, "DST_CONNECTED").await;
        source.send(put_head(&id, "Content-Length: 5\r\n") + "right").await;
        gone.half_close().await;
        server.until(&id, "SRC_CONNECTED").await;
        assert_eq!(gone.head().await, Err(End::Short));
        assert_eq!(server.get(&id).await.response().await.body, b"right");
        assert_eq!(source.response().await.status, 200);
    }
}

/// Whoever waits does not pay for a side that comes and has gone by the time it is let in.
#[tokio::test]
async fn a_side_that_leaves_as_it_comes_does_not_use_the_stream_up() {
    let server = TestServer::start().await;
    for (fields, said, how) in DEPARTURES {
        for mut gone in served(&server).await {
            let id = server.create().await;
            let mut destination = server.get(&id).await;
            server.until(&id, "DST_CONNECTED").await;
            gone.send(put_head(&id, fields) + said).await;
            leave(gone, how);
            assert_eq!(server.status(&id).await["state"], "DST_CONNECTED", "{fields:?} {said:?} {how:?}");
            let mut source = server.say(put_head(&id, "Content-Length: 5\r\n") + "right").await;
            assert_eq!(destination.response().await.body, b"right", "{fields:?} {said:?} {how:?}");
            assert_eq!(source.response().await.status, 200, "{fields:?} {said:?} {how:?}");
        }
    }
    for how in [Left::Closed, Left::Reset] {
        for mut gone in served(&server).await {
            let id = server.create().await;
            let mut source = server.say(put_head(&id, "Content-Length: 5\r\n") + "right").await;
            server.until(&id, "SRC_CONNECTED").await;
            gone.send(get(&format!("/stream/{id}"))).await;
            leave(gone, how);
            assert_eq!(server.status(&id).await["state"], "SRC_CONNECTED", "{how:?}");
            assert_eq!(server.get(&id).await.response().await.body, b"right", "{how:?}");
            assert_eq!(source.response().await.status, 200, "{how:?}");
        }
    }
}

#[tokio::test]
async fn a_source_may_half_close_behind_a_whole_body_as_it_comes_or_as_it_is_met() {
    let server = TestServer::start().await;
    for (fields, body) in
        [("Content-Length: 5\r\n", "hello"), ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n")]
    {
        for waits in [true, false] {
            for mut next in served(&server).await {
                let id = server.create().await;
                let put = put_head(&id, fields) + body;
                let (mut source, mut destination);
                if waits {
                    source = server.say(put).await;
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
async fn a_source_may_half_close_behind_a_whole_body_while_it_waits() {
    for (fields, body) in
        [("Content-Length: 5\r\n", "hello"), ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n")]
    {
        let server = TestServer::start().await;
        let [fast, slow] = served(&server).await;
        for mut source in [server.connect().await, fast, slow] {
            let id = server.create().await;
            source.send(put_head(&id, fields)).await;
            source.send(body).await;
            source.half_close().await;
            // It is asked whether it is still there.
            assert_eq!(source.head().await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
            assert_eq!(server.status(&id).await["state"], "SRC_CONNECTED");
            let download = server.get(&id).await.response().await;
            assert_eq!((download.end, &download.body[..]), (End::Whole, &b"hello"[..]));
            assert_eq!(source.final_response().await.status, 200);
        }
    }
}

#[tokio::test]
async fn a_source_that_half_closes_one_byte_too_early_while_it_waits_has_left() {
    for (fields, body) in
        [("Content-Length: 5\r\n", "hell"), ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r")]
    {
        let server = TestServer::start().await;
        let [fast, slow] = served(&server).await;
        for mut source in [server.connect().await, fast, slow] {
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
async fn a_100_comes_when_the_sides_have_paired_and_not_before() {
    let server = TestServer::start().await;
    for expects in ["100-continue", "100-Continue", "x, 100-continue"] {
        let id = server.create().await;
        let mut source = server.put(&id, &format!("Content-Length: 5\r\nExpect: {expects}\r\n")).await;
        server.until(&id, "SRC_CONNECTED").await;
        let mut destination = tokio::select! {
            biased;
            head = source.head() => panic!("the source was answered while it waited: {head:?}"),
            destination = server.get(&id) => destination,
        };
        assert_eq!(source.head().await.unwrap(), "HTTP/1.1 100 Continue\r\n\r\n", "{expects}");
        source.send("hello").await;
        assert_eq!(destination.response().await.body, b"hello");
        assert_eq!(source.response().await.status, 200);
    }
}

#[tokio::test]
async fn a_refusal_comes_without_a_100() {
    let server = TestServer::start().await;
    let expects = "Content-Length: 5\r\nExpect: 100-continue\r\n";
    let unknown = server.put("unknown", expects).await.response().await;
    assert_eq!(unknown.error(), "404 SessionNotFoundError");

    let id = server.create().await;
    let mut reported = server.put(&id, expects).await;
    server.until(&id, "SRC_CONNECTED").await;
    server.post(&format!("/stream/{id}/error"), r#"{"http_status":418,"name":"N","message":"M"}"#).await;
    let answer = reported.response().await;
    assert_eq!((answer.error(), answer.message()), ("418 N".into(), "M".into()));
}

#[tokio::test]
async fn a_head_request_takes_no_seat() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let probe = |id: &str| format!("HEAD /stream/{id} HTTP/1.1\r\nHost: test\r\n\r\n");
    for _ in 0..2 {
        let head = server.say(probe(&id)).await.head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    }
    assert_eq!(server.status(&id).await["state"], "CREATED");
    let head = server.say(probe("unknown")).await.head().await.unwrap();
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
        let answer = server.ask(request).await;
        assert_eq!(answer.error(), "404 SessionNotFoundError");
        assert_eq!(answer.message(), "The specified session id does not exist");
    }
    assert_eq!(server.post(&format!("/stream/{id}/error"), "{}").await.error(), "409 StreamStartedError");
    let head =
        server.say(format!("HEAD /stream/{id} HTTP/1.1\r\nHost: test\r\n\r\n")).await.head().await.unwrap();
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
async fn nothing_of_a_source_that_closed_behind_its_whole_body_is_delivered() {
    let server = TestServer::start_with(|config| config.ttl = "300ms".parse().unwrap()).await;
    for (fields, body) in
        [("Content-Length: 5\r\n", "hello"), ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n")]
    {
        let rounds = (0..30).map(async |_| {
            let id = server.create().await;
            let mut source = server.put(&id, fields).await;
            source.send(body).await;
            server.until(&id, "SRC_CONNECTED").await;
            // The server has the rest of the request and the FIN at once, and looks at the request first.
            let (begun, rest) = (get(&format!("/stream/{id}")), "\r\n");
            let mut destination = server.say(begun.strip_suffix(rest).unwrap()).await;
            assert_eq!(server.ask(get("/ping")).await.status, 200);
            destination.send(rest).await;
            source.close();
            destination.response().await.status
        });
        let statuses = futures_util::future::join_all(rounds).await;
        assert!(statuses.iter().all(|status| matches!(status, 502 | 504)), "{fields:?} {statuses:?}");
    }
}

/// More than the server's kernel takes of a waiting source, and less than both kernels hold.
const BEHIND_A_FULL_BUFFER: usize = 300_000;

/// A source that waits, has sent all of its body, and whose kernel holds a part of that back.
async fn hidden_source(server: &TestServer, id: &str, chunked: bool) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_send_buffer_size(1 << 20).unwrap();
    let mut source = Client::begin(socket.connect(server.address()).await.unwrap()).await;
    let body = vec![b'x'; BEHIND_A_FULL_BUFFER];
    if chunked {
        source.send(put_head(id, "Transfer-Encoding: chunked\r\n")).await;
        source
            .send([format!("{BEHIND_A_FULL_BUFFER:x}\r\n").as_bytes(), &body, b"\r\n0\r\n\r\n"].concat())
            .await;
    } else {
        source.send(put_head(id, &format!("Content-Length: {BEHIND_A_FULL_BUFFER}\r\n"))).await;
        source.send(&body).await;
    }
    server.until(id, "SRC_CONNECTED").await;
    source
}

#[tokio::test]
async fn nothing_of_a_source_that_left_behind_a_full_buffer_looks_whole() {
    let server = TestServer::start().await;
    for chunked in [false, true] {
        let id = server.create().await;
        hidden_source(&server, &id, chunked).await.close();
        if is_tls() && server.status(&id).await["state"] == "CREATED" {
            // What TLS reads ahead made room for the FIN.
            continue;
        }
        let seen = server.get(&id).await.response().await;
        assert!(
            seen.status == 200 && matches!(seen.end, End::Short | End::Reset),
            "{chunked} {:?}",
            seen.end
        );
        server.until(&id, "SRC_DISCONNECTED").await;
    }
}

#[tokio::test]
async fn a_source_that_only_half_closed_behind_a_full_buffer_is_delivered() {
    let server = TestServer::start().await;
    for chunked in [false, true] {
        let id = server.create().await;
        let mut source = hidden_source(&server, &id, chunked).await;
        source.half_close().await;
        let seen = server.get(&id).await.response().await;
        assert_eq!((seen.end, seen.body.len()), (End::Whole, BEHIND_A_FULL_BUFFER), "{chunked}");
        assert_eq!(source.final_response().await.status, 200);
        server.until(&id, "FINISHED").await;
    }
}

/// Its FIN is stuck behind what follows its body.
#[tokio::test]
async fn a_source_that_left_behind_much_more_than_its_body_never_looks_whole() {
    let server = TestServer::start().await;
    for (fields, said) in
        [("Content-Length: 5\r\n", "hello"), ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n")]
    {
        let id = server.create().await;
        let mut source = server.say(put_head(&id, fields) + said).await;
        server.until(&id, "SRC_CONNECTED").await;
        // More than the server's kernel takes, less than the client's own does.
        source.send(vec![b'x'; 1 << 20]).await;
        source.close();
        let download = server.get(&id).await.response().await;
        assert_ne!((download.status, download.end), (200, End::Whole), "{fields:?}");
        server.until(&id, "SRC_DISCONNECTED").await;
    }
}
