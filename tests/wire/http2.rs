//! HTTP/2: the same answers and endings as HTTP/1, on streams that do not stall each other.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode};
use serde_json::Value;
use tokio::net::TcpStream;

use http_rendezvous::config::DataPath;
use http_rendezvous::wire::inbound::HTTP2_PREFACE;

use crate::client::{End, soon};
use crate::metrics::Exposition;
use crate::server::{TestServer, get, put_head};
use crate::transport::{CERTIFICATE, is_tls};

/// A connection.
struct Http2 {
    send: SendRequest<Bytes>,
    driver: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

/// An answer that was read to its end.
#[derive(Debug)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    /// How the stream was cut, if it was.
    cut: Option<Cut>,
}

#[derive(Debug, PartialEq, Eq)]
enum Cut {
    Reset(Reason),
    Lost,
}

impl Http2 {
    async fn connect(server: &TestServer) -> Self {
        Self::connect_with(server, &mut h2::client::Builder::new()).await
    }

    async fn connect_with(server: &TestServer, builder: &mut h2::client::Builder) -> Self {
        if is_tls() {
            let stream = CERTIFICATE.connect(server.address(), &["h2"]).await.unwrap();
            Self::begin(builder.handshake(stream).await.unwrap())
        } else {
            let stream = TcpStream::connect(server.address()).await.unwrap();
            stream.set_nodelay(true).unwrap();
            Self::begin(builder.handshake(stream).await.unwrap())
        }
    }

    fn begin<T>((send, connection): (SendRequest<Bytes>, h2::client::Connection<T, Bytes>)) -> Self
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        Self { send, driver: tokio::spawn(connection) }
    }

    /// Sends a head; what is to come of it, and the body's sender.
    async fn request(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        ends: bool,
    ) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        let mut request = Request::builder().method(method).uri(format!("http://test{path}"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut send = soon(self.send.clone().ready()).await.unwrap();
        send.send_request(request.body(()).unwrap(), ends).unwrap()
    }

    async fn ask(&self, method: &str, path: &str) -> Answer {
        let (response, _) = self.request(method, path, &[], true).await;
        answer(response).await
    }

    async fn create(&self) -> String {
        self.ask("POST", "/stream").await.json()["stream"].as_str().unwrap().to_owned()
    }

    async fn get(&self, id: &str) -> h2::client::ResponseFuture {
        self.request("GET", &format!("/stream/{id}"), &[], true).await.0
    }

    async fn put(&self, id: &str) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        self.request("PUT", &format!("/stream/{id}"), &[], false).await
    }
}

impl Answer {
    fn json(&self) -> Value {
        assert_eq!(self.cut, None, "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }

    fn error(&self) -> String {
        format!("{} {}", self.status.as_u16(), self.json()["name"].as_str().unwrap())
    }
}

async fn answer(response: h2::client::ResponseFuture) -> Answer {
    rest(soon(response).await.unwrap()).await
}

async fn rest(response: Response<RecvStream>) -> Answer {
    let (parts, mut stream) = response.into_parts();
    let mut answer = Answer { status: parts.status, headers: parts.headers, body: Vec::new(), cut: None };
    while let Some(data) = soon(stream.data()).await {
        match data {
            Ok(data) => {
                stream.flow_control().release_capacity(data.len()).unwrap();
                answer.body.extend_from_slice(&data);
            }
            Err(error) => {
                answer.cut = Some(error.reason().map_or(Cut::Lost, Cut::Reset));
                break;
            }
        }
    }
    answer
}

/// Its connection has ended before the server reads what the other asks for.
#[tokio::test]
async fn a_side_whose_connection_has_just_ended_is_not_met_and_its_seat_is_free() {
    let server = TestServer::start().await;
    for resets in [true, false] {
        for waits in ["SRC_CONNECTED", "DST_CONNECTED"] {
            let stream = TcpStream::connect(server.address()).await.unwrap();
            if resets {
                stream.set_zero_linger().unwrap();
            }
            let gone = if is_tls() {
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
            let _asked = gone.request(method, &target, &[], true).await;
            server.until(&id, waits).await;
            let mut next = server.say(get("/stream/unknown")).await;
            next.response().await;
            let put = put_head(&id, "Content-Length: 5\r\n") + "right";
            next.send(if method == "PUT" { get(&target) } else { put.clone() }).await;
            gone.driver.abort();
            let other = if method == "PUT" {
                server.until(&id, "DST_CONNECTED").await;
                server.say(put).await
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

/// Sends as the server takes it.
async fn send_all(send: &mut SendStream<Bytes>, bytes: &[u8], ends: bool) {
    let mut data = Bytes::copy_from_slice(bytes);
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let room = soon(poll_fn(|cx| send.poll_capacity(cx))).await.unwrap().unwrap();
        send.send_data(data.split_to(room.min(data.len())), false).unwrap();
    }
    if ends {
        send.send_data(Bytes::new(), true).unwrap();
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
        let answer = client.ask(method, &path).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status.as_u16(), status, "{method} {path}: {text}");
        assert!(text.contains(body) && (body.is_empty() == text.is_empty()), "{method} {path}: {text}");
        assert!(answer.headers.contains_key("date") && !answer.headers.contains_key("connection"));
    }
}

#[tokio::test]
async fn a_connection_and_what_is_delivered_over_it_are_counted() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    for _ in 0..2 {
        let id = client.create().await;
        let (upload, mut send) = client.put(&id).await;
        let download = client.get(&id).await;
        let (answer, ()) = tokio::join!(answer(download), send_all(&mut send, b"hello", true));
        assert_eq!(answer.body, b"hello");
        assert_eq!(soon(upload).await.unwrap().status(), StatusCode::OK);
    }
    let told = Exposition::of(&server).await;
    let labels = [("lane", "http2"), ("protocol", "http2"), ("tls", if is_tls() { "yes" } else { "no" })];
    assert_eq!(told.count("connections_total", &labels), 1);
    assert_eq!(told.count("delivery_wait_seconds_count", &[]), 2);
    assert_eq!(told.count("body_bytes_total", &[]), 10);
}

#[tokio::test]
async fn streams_reach_every_other_version_of_http() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let body: Vec<u8> = (0..3_000_000u32).map(|at| (at % 251) as u8).collect();

    // Both sides on one connection, and in either order.
    for get_first in [true, false] {
        let id = client.create().await;
        let (download, (upload, mut send)) = if get_first {
            let download = client.get(&id).await;
            (download, client.put(&id).await)
        } else {
            let put = client.put(&id).await;
            (client.get(&id).await, put)
        };
        let (answer, ()) = tokio::join!(answer(download), send_all(&mut send, &body, true));
        assert_eq!((answer.status, answer.cut), (StatusCode::OK, None));
        assert!(answer.body == body);
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(soon(upload).await.unwrap().status(), StatusCode::OK);
    }

    // From HTTP/1 to HTTP/2, with a length.
    let id = client.create().await;
    let download = client.get(&id).await;
    let mut source = server.put(&id, &format!("Content-Length: {}\r\n", body.len())).await;
    let (seen, _) = tokio::join!(answer(download), source.push(&body));
    assert!(seen.body == body && seen.cut.is_none());
    assert_eq!(seen.headers["content-length"], body.len().to_string());
    assert_eq!(source.response().await.status, 200);

    // From HTTP/2 to HTTP/1, with a length.
    let id = client.create().await;
    let mut destination = server.get(&id).await;
    let length = body.len().to_string();
    let fields = [("content-length", &*length), ("content-type", "text/x")];
    let (upload, mut send) = client.request("PUT", &format!("/stream/{id}"), &fields, false).await;
    let (seen, ()) = tokio::join!(destination.response(), send_all(&mut send, &body, true));
    assert!(seen.body == body && seen.end == End::Whole);
    assert_eq!(
        (seen.fields("content-length"), seen.fields("content-type")),
        (vec![&*length], vec!["text/x"])
    );
    assert_eq!(soon(upload).await.unwrap().status(), StatusCode::OK);
    assert_eq!(server.status(&id).await["state"], "FINISHED");
}

#[tokio::test]
async fn an_empty_body_is_a_whole_one() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let id = client.create().await;
    let download = client.get(&id).await;
    let (upload, _) = client.request("PUT", &format!("/stream/{id}"), &[], true).await;
    let seen = answer(download).await;
    assert_eq!((seen.status, seen.body.len(), seen.cut), (StatusCode::OK, 0, None));
    assert_eq!(soon(upload).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_source_that_resets_cuts_the_download() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    for over_http1 in [false, true] {
        let id = client.create().await;
        let (_upload, mut send) = client.put(&id).await;
        send_all(&mut send, b"half", false).await;
        if over_http1 {
            let mut destination = server.get(&id).await;
            let head = destination.head().await.unwrap();
            send.send_reset(Reason::CANCEL);
            assert_eq!(destination.rest(head).await.end, End::Short);
        } else {
            let download = soon(client.get(&id).await).await.unwrap();
            send.send_reset(Reason::CANCEL);
            let seen = rest(download).await;
            assert_eq!((&seen.body[..], seen.cut), (&b"half"[..], Some(Cut::Reset(Reason::INTERNAL_ERROR))));
        }
        server.until(&id, "SRC_DISCONNECTED").await;
    }
}

#[tokio::test]
async fn a_source_that_is_cut_over_http1_cuts_the_download() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    for fields in ["Transfer-Encoding: chunked\r\n", "Content-Length: 9\r\n"] {
        let id = client.create().await;
        let download = client.get(&id).await;
        let mut source = server.put(&id, fields).await;
        source.send(if fields.starts_with('T') { "4\r\nhalf\r\n" } else { "half" }).await;
        let download = soon(download).await.unwrap();
        source.close();
        let seen = rest(download).await;
        assert_eq!((&seen.body[..], seen.cut.is_some()), (&b"half"[..], true), "{fields}");
        server.until(&id, "SRC_DISCONNECTED").await;
    }
}

#[tokio::test]
async fn a_destination_that_resets_or_goes_is_told_to_the_source() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    for goes in [false, true] {
        let id = client.create().await;
        let other = Http2::connect(&server).await;
        let download = other.get(&id).await;
        let (upload, mut send) = client.put(&id).await;
        send_all(&mut send, b"half", false).await;
        let download = soon(download).await.unwrap();
        if goes {
            other.driver.abort();
        }
        drop(download);
        let seen = answer(upload).await;
        assert_eq!(seen.error(), "502 StreamDestinationError");
        server.until(&id, "DST_DISCONNECTED").await;
    }
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
    assert_eq!(answer(download).await.body, b"delivered");
}

#[tokio::test]
async fn a_taken_seat_is_refused_and_its_holder_unharmed() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let id = client.create().await;
    let (_upload, mut send) = client.put(&id).await;
    server.until(&id, "SRC_CONNECTED").await;
    let (second, _body) = client.put(&id).await;
    assert_eq!(answer(second).await.error(), "429 AlreadyConnectedError");
    let download = client.get(&id).await;
    send_all(&mut send, b"hello", true).await;
    assert_eq!(answer(download).await.body, b"hello");
}

#[tokio::test]
async fn a_100_comes_only_when_the_sides_have_paired() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let id = client.create().await;
    let fields = [("expect", "100-continue"), ("content-length", "2")];
    let (mut upload, mut send) = client.request("PUT", &format!("/stream/{id}"), &fields, false).await;
    server.until(&id, "SRC_CONNECTED").await;
    assert!(futures_util::poll!(poll_fn(|cx| upload.poll_informational(cx))).is_pending());
    let download = client.get(&id).await;
    let interim = soon(poll_fn(|cx| upload.poll_informational(cx))).await.unwrap().unwrap();
    assert_eq!(interim.status(), StatusCode::CONTINUE);
    send_all(&mut send, b"hi", true).await;
    assert_eq!(answer(download).await.body, b"hi");
    assert_eq!(answer(upload).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_waiting_source_is_held_by_its_window() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let id = client.create().await;
    let (_upload, mut send) = client.put(&id).await;
    send.reserve_capacity(1 << 20);
    let room = soon(poll_fn(|cx| send.poll_capacity(cx))).await.unwrap().unwrap();
    assert!(room <= 64 * 1024, "{room}");
}

#[tokio::test]
async fn a_stalled_destination_does_not_stall_its_neighbours() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let id = server.create().await;
        let download = client.get(&id).await;
        let (upload, mut send) = client.put(&id).await;
        // As much as goes without anybody reading it.
        let mut taken = 0;
        while taken < 4 << 20 {
            send.reserve_capacity(1 << 16);
            let room = tokio::time::timeout(Duration::from_millis(100), poll_fn(|cx| send.poll_capacity(cx)));
            let Ok(Some(Ok(room))) = room.await else { break };
            send.send_data(Bytes::from(vec![0; room]), false).unwrap();
            taken += room;
        }
        stalled.push((download, upload, send));
    }
    // What the client takes of all its streams together is used up by now; so its neighbour is an upload.
    let id = server.create().await;
    let mut destination = server.get(&id).await;
    let (upload, mut send) = client.put(&id).await;
    let body = vec![7; 1 << 20];
    let (seen, ()) = tokio::join!(destination.response(), send_all(&mut send, &body, true));
    assert!(seen.body == body);
    assert_eq!(answer(upload).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_connection_is_told_to_calm_down_by_frames_that_move_nothing() {
    let server = TestServer::start().await;
    let mut client = Http2::connect(&server).await;
    for _ in 0..1100 {
        let Ok(mut send) = soon(client.send.clone().ready()).await else { break };
        let request = Request::builder().method("GET").uri("http://test/stream/unknown").body(()).unwrap();
        let Ok((_, mut stream)) = send.send_request(request, false) else { break };
        stream.send_reset(Reason::CANCEL);
        // Lets it go out, and the next stream be opened.
        tokio::task::yield_now().await;
    }
    let ended = soon(&mut client.driver).await.unwrap();
    assert_eq!(ended.unwrap_err().reason(), Some(Reason::ENHANCE_YOUR_CALM));
    assert_eq!(Http2::connect(&server).await.ask("GET", "/ping").await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    assert_eq!(client.ask("GET", "/ping").await.status, StatusCode::OK);
    let begun = tokio::time::Instant::now();
    assert!(soon(client.driver).await.unwrap().is_ok());
    assert_eq!(begun.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn a_drain_says_goaway_and_lets_streams_meet_and_finish() {
    let mut server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let (running, waiting) = (client.create().await, client.create().await);
    let download = client.get(&running).await;
    let (upload, mut send) = client.put(&running).await;
    send_all(&mut send, b"hello", false).await;
    let download = soon(download).await.unwrap();
    let waits = client.get(&waiting).await;
    server.until(&waiting, "DST_CONNECTED").await;
    server.stop().await;
    let late = Http2::connect(&server).await;
    let (late_upload, mut late_send) = late.put(&waiting).await;
    send_all(&mut late_send, b"met", true).await;
    assert_eq!(answer(waits).await.body, b"met");
    assert_eq!(answer(late_upload).await.status, StatusCode::OK);
    send_all(&mut send, b", world", true).await;
    assert_eq!(rest(download).await.body, b"hello, world");
    assert_eq!(answer(upload).await.status, StatusCode::OK);
    // A connection that was told to go away is over when its streams are.
    assert!(soon(late.driver).await.unwrap().is_ok());
    assert!(soon(client.driver).await.unwrap().is_ok());
    server.ended().await;
}

#[tokio::test]
async fn a_destination_that_leaves_with_the_last_byte_of_a_known_length_has_got_it() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    for _ in 0..20 {
        let id = server.create().await;
        let other = Http2::connect(&server).await;
        let download = other.get(&id).await;
        let length = [("content-length", "4")];
        let (upload, mut send) = client.request("PUT", &format!("/stream/{id}"), &length, false).await;
        send_all(&mut send, b"half", true).await;
        let mut download = soon(download).await.unwrap().into_body();
        assert_eq!(soon(download.data()).await.unwrap().unwrap(), "half");
        other.driver.abort();
        assert_eq!(answer(upload).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_destination_that_goes_while_it_takes_nothing_leaves_nobody_waiting() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let other = Http2::connect(&server).await;
    let id = client.create().await;
    let download = other.get(&id).await;
    let (upload, mut send) = client.put(&id).await;
    let download = {
        // Until the windows of both are full.
        let body = vec![0; 1 << 20];
        let mut sending = std::pin::pin!(send_all(&mut send, &body, false));
        let download = tokio::select! {
            () = &mut sending => panic!("nobody takes it"),
            download = soon(download) => download.unwrap(),
        };
        let full = tokio::time::timeout(Duration::from_millis(200), sending);
        assert!(full.await.is_err());
        download
    };
    other.driver.abort();
    drop(download);
    assert_eq!(answer(upload).await.error(), "502 StreamDestinationError");
}

#[tokio::test]
async fn a_refused_upload_is_not_reset_behind_its_answer() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let (upload, mut send) = client.put("unknown").await;
    assert_eq!(answer(upload).await.error(), "404 SessionNotFoundError");
    let reset = tokio::time::timeout(Duration::from_millis(500), poll_fn(|cx| send.poll_reset(cx)));
    assert!(reset.await.is_err(), "the client had no time to read it");
    send.send_reset(Reason::CANCEL);
    assert_eq!(client.ask("GET", "/ping").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_head_of_too_many_fields_is_431() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let names: Vec<String> = (0..101).map(|number| format!("x-{number}")).collect();
    for (count, status) in [(100, 200), (101, 431)] {
        let fields: Vec<_> = names[..count].iter().map(|name| (&**name, "1")).collect();
        let (response, _) = client.request("GET", "/ping", &fields, true).await;
        assert_eq!(answer(response).await.status.as_u16(), status);
    }
}

/// A frame of stream 1, or of the connection (RFC 9113, section 4.1).
fn frame(stream: u8, kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], payload].concat()
}

/// By hand, because the library sends nothing that a reset follows.
#[tokio::test]
async fn what_came_with_a_reset_is_passed_on_before_the_cut() {
    const PUT: [(&str, &str); 3] = [(":method", "PUT"), (":scheme", "http"), (":authority", "test")];
    let (data, headers, reset, settings) = (0, 1, 3, 4);
    for data_path in [DataPath::Auto, DataPath::Portable] {
        let server = TestServer::start_with(|config| config.data_path = data_path).await;
        let id = server.create().await;
        let mut destination = server.get(&id).await;
        server.until(&id, "DST_CONNECTED").await;
        let mut source = server.connect().await;
        let path = format!("/stream/{id}");
        let fields = PUT.into_iter().chain([(":path", path.as_str())]).flat_map(|(name, value)| {
            let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
            [vec![0], text(name), text(value)].concat()
        });
        let fields: Vec<u8> = fields.collect();
        let request = [frame(0, settings, 0, &[]), frame(1, headers, 4, &fields)].concat();
        source.send([HTTP2_PREFACE, &request].concat()).await;
        server.until(&id, "STREAMING").await;
        source.send([frame(1, data, 0, b"hello"), frame(1, reset, 0, &[0, 0, 0, 8])].concat()).await;
        let head = destination.head().await.unwrap();
        let response = destination.rest(head).await;
        assert_eq!((response.status, &response.body[..]), (200, &b"hello"[..]), "{data_path:?}");
        assert_eq!(response.end, End::Short);
    }
}
