//! Server-sent events: of one stream, and of all.

use std::time::Duration;

use bytes::Bytes;
use rendezvous_server::config::Period;
use serde_json::Value;
use testkit::client::{Client, End, find, with_timeout};
use testkit::cluster::TestCluster;
use testkit::messages::{CHUNKED, bearer, request};
use testkit::server::{TestServer, get};
use testkit::settings::{ADMIN_TOKEN, on_all_addresses, with_admin_listener, with_admin_token};

use crate::http2::{Cut, Http2, response, rest};
use crate::time::{A_MOMENT, Clock};

/// An event: its id, its name and its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    id: String,
    pub name: String,
    data: String,
}

impl Event {
    pub(crate) fn status(&self) -> Value {
        assert_eq!(self.name, "status");
        serde_json::from_str(&self.data).unwrap()
    }

    fn state(&self) -> String {
        self.status()["state"].as_str().unwrap().to_owned()
    }
}

/// Parses events strictly. Returns them and the number of comments.
fn parse(text: &str) -> (Vec<Event>, usize) {
    let (mut events, mut comments) = (Vec::new(), 0);
    assert!(text.is_empty() || text.ends_with("\n\n"), "{text}");
    for block in text.split_terminator("\n\n") {
        let mut event = Event { id: String::new(), name: String::new(), data: String::new() };
        for line in block.split('\n') {
            match line.split_once(": ") {
                Some(("id", value)) => value.clone_into(&mut event.id),
                Some(("event", value)) => value.clone_into(&mut event.name),
                Some(("data", value)) => value.clone_into(&mut event.data),
                _ if line == ":" => comments += 1,
                _ => panic!("not a line of an event: {line:?}"),
            }
        }
        if !event.name.is_empty() {
            events.push(event);
        }
    }
    (events, comments)
}

/// A subscriber over HTTP/1.
pub(crate) struct Subscriber {
    client: Client,
    text: String,
    taken: usize,
}

impl Subscriber {
    pub(crate) async fn to(server: &TestServer, target: &str, fields: &str) -> Self {
        Self::begin(server.connect_and_send(request("GET", target, fields)).await).await
    }

    async fn begin(mut client: Client) -> Self {
        let head = client.head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        for field in ["content-type: text/event-stream", "cache-control: no-store", "x-accel-buffering: no"] {
            assert!(head.lines().any(|line| line.eq_ignore_ascii_case(field)), "{head}");
        }
        Self { client, text: String::new(), taken: 0 }
    }

    /// Reads one chunk of the response. Returns false at its end.
    async fn read(&mut self) -> bool {
        let size = self.line().await;
        let size = usize::from_str_radix(&size, 16).unwrap();
        let chunk = self.client.take_bytes(size + 2).await.unwrap();
        self.text += std::str::from_utf8(&chunk[..size]).unwrap();
        size > 0
    }

    async fn line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(self.client.take_bytes(1).await.unwrap());
        }
        String::from_utf8(line).unwrap().trim_end().to_owned()
    }

    /// Waits for the next event, and skips comments.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            let (events, _) = parse(&self.text);
            if let Some(event) = events.get(self.taken) {
                self.taken += 1;
                return event.clone();
            }
            assert!(self.read().await, "the events have ended: {}", self.text);
        }
    }

    /// Reads to the end of the response. Returns the events that follow.
    async fn rest(mut self) -> Vec<Event> {
        while self.read().await {}
        parse(&self.text).0.split_off(self.taken)
    }
}

/// The states that a subscriber sees from the creation of a stream to its end.
#[tokio::test]
async fn a_subscriber_sees_each_change_once_and_the_response_ends_after_the_last() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let target = format!("/stream/{id}/events");
    let mut events = Subscriber::to(&server, &target, "").await;
    let first = events.next().await;
    assert_eq!((&*first.id, &*first.state()), ("1", "CREATED"));
    assert_eq!(first.status(), server.status(&id).await);

    let leaving = server.get(&id).await;
    assert_eq!(events.next().await.state(), "DST_CONNECTED");
    leaving.close();
    assert_eq!(events.next().await.state(), "CREATED");
    let mut source = server.put(&id, "Content-Length: 5\r\n").await;
    source.send("hello").await;
    assert_eq!(events.next().await.state(), "SRC_CONNECTED");
    let mut late = Subscriber::to(&server, &target, "Last-Event-ID: 1\r\n").await;
    assert_eq!(late.next().await.state(), "SRC_CONNECTED", "a snapshot comes first");
    let download = server.get(&id).await.response().await;
    assert_eq!(download.body, b"hello");
    assert_eq!(source.response().await.status, 200);
    for subscriber in [events, late] {
        let rest = subscriber.rest().await;
        let states: Vec<_> = rest.iter().map(|event| (&*event.id, event.state())).collect();
        assert_eq!(states, [("5", "STREAMING".to_owned()), ("6", "FINISHED".to_owned())]);
        assert_eq!(rest[1].status()["bytes_transferred"], 5);
    }
    let again = server.ask(request("GET", &target, "Last-Event-ID: 6\r\n")).await;
    assert_eq!((again.status, again.body.len()), (204, 0));
    let rest = Subscriber::to(&server, &target, "Last-Event-ID: 5\r\n").await.rest().await;
    assert_eq!(rest.iter().map(Event::state).collect::<Vec<_>>(), ["FINISHED"]);
}

#[tokio::test]
async fn over_http_2_events_end_and_a_subscriber_that_leaves_is_dropped() {
    let server = TestServer::start().await;
    let connection = Http2::connect(&server).await;
    let id = connection.create().await;
    let target = format!("/stream/{id}/events");
    let (events, _) = connection.request("GET", &target, &[], true).await;
    let (leaving, _) = connection.request("GET", &target, &[], true).await;
    drop(with_timeout(leaving).await.unwrap());
    let events = with_timeout(events).await.unwrap();
    let destination = connection.get(&id).await;
    let (outcome, mut upload) = connection.put(&id).await;
    upload.send_data(Bytes::from_static(b"hello"), true).unwrap();
    assert_eq!(response(destination).await.body, b"hello");
    assert_eq!(response(outcome).await.status, 200);
    let events = rest(events).await;
    assert_eq!(events.cut, None);
    let states: Vec<_> =
        parse(std::str::from_utf8(&events.body).unwrap()).0.iter().map(Event::state).collect();
    assert_eq!(states, ["CREATED", "DST_CONNECTED", "STREAMING", "FINISHED"]);
    let (again, _) = connection.request("GET", &target, &[("last-event-id", "4")], true).await;
    assert_eq!(response(again).await.status, 204);
}

#[tokio::test]
async fn a_reported_error_is_a_final_event_once() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let target = format!("/stream/{id}/events");
    let mut events = Subscriber::to(&server, &target, "").await;
    assert_eq!(events.next().await.state(), "CREATED");
    assert_eq!(
        server.post(&format!("/stream/{id}/error"), r#"{"name":"N","message":"M"}"#).await.status,
        200
    );
    let rest = events.rest().await;
    assert_eq!(
        rest.iter().map(|event| (&*event.id, event.state())).collect::<Vec<_>>(),
        [("2", "CLIENT_ERROR".to_owned())]
    );
    assert_eq!(rest[0].status()["error"], serde_json::json!({"name": "N", "message": "M"}));
    // The delivery of the report changes nothing that is visible.
    assert_eq!(server.get(&id).await.response().await.status, 400);
    let again = server.ask(request("GET", &target, "Last-Event-ID: 2\r\n")).await;
    assert_eq!(again.status, 204);
}

#[tokio::test(start_paused = true)]
async fn the_bytes_of_a_running_transfer_come_once_a_second_and_comments_every_15_seconds() {
    let clock = Clock::stopped();
    let server = TestServer::start().await;
    let id = server.create().await;
    let mut source = server.put(&id, CHUNKED).await;
    server.until(&id, "SRC_CONNECTED").await;
    let mut destination = server.get(&id).await;
    server.until(&id, "STREAMING").await;
    let mut events = Subscriber::to(&server, &format!("/stream/{id}/events"), "").await;
    assert_eq!(events.next().await.status()["bytes_transferred"], 0);
    for bytes in [1, 2, 3] {
        source.send("1\r\nx\r\n").await;
        server.until_passed_on(&id, bytes).await;
        clock.advance(Duration::from_secs(1) + A_MOMENT).await;
        let event = events.next().await;
        assert_eq!((&*event.id, &event.status()["bytes_transferred"]), ("3", &bytes.into()));
    }
    // Nothing moves, so there are only comments.
    for comments in 1..=2 {
        clock.advance(Duration::from_secs(15) + A_MOMENT).await;
        while parse(&events.text).1 < comments {
            assert!(events.read().await);
        }
    }
    assert_eq!(parse(&events.text).0.len(), 4);
    clock.resume();
    source.send("0\r\n\r\n").await;
    assert_eq!(destination.response().await.end, End::Whole);
    assert_eq!(events.rest().await.last().unwrap().state(), "FINISHED");
}

#[tokio::test]
async fn all_streams_are_watched_from_now_on_without_paths() {
    let server = TestServer::start().await;
    let before = server.create().await;
    let mut all = Subscriber::to(&server, "/events", "").await;
    let id = server.create().await;
    let created = all.next().await;
    assert_eq!((created.status()["id"].as_str(), &*created.state()), (Some(&*id), "CREATED"));
    let mut path = server.connect_and_send(get("/p/a")).await;
    crate::paths::until_taken(&server, "/p/a").await;
    server.ask(request("PUT", "/p/a", "Content-Length: 1\r\n") + "x").await;
    path.response().await;
    let mut destination = server.get(&id).await;
    server.until(&id, "DST_CONNECTED").await;
    assert_eq!(
        server.connect_and_send(testkit::server::put_head(&id, "")).await.response().await.status,
        200
    );
    destination.response().await;
    assert_eq!(all.next().await.state(), "STREAMING");
    let ended = all.next().await;
    assert_eq!((&*ended.state(), &*ended.id), ("FINISHED", "4"));
    assert_eq!(server.post(&format!("/stream/{before}/error"), "").await.status, 200);
    let reported = all.next().await;
    assert_eq!((reported.status()["id"].as_str(), &*reported.state()), (Some(&*before), "CLIENT_ERROR"));
}

/// The subscriber reads nothing until more has happened than the server keeps.
#[tokio::test]
async fn a_subscriber_that_reads_too_slowly_learns_how_much_it_has_missed_and_goes_on() {
    const STREAMS: usize = 3000;
    let server = TestServer::start_with(|config| config.ttl = Period::from_secs(600)).await;
    let mut client = Client::connect_with_small_receive_buffer(server.address()).await;
    client.send(get("/events")).await;
    let mut all = Subscriber::begin(client).await;
    let mut creator = server.connect().await;
    for _ in 0..STREAMS {
        creator.send(request("POST", "/stream", "Content-Length: 0\r\n")).await;
        assert_eq!(creator.response().await.status, 201);
    }
    let last = server.create().await;
    let (mut received, mut missed) = (0, 0);
    loop {
        let event = all.next().await;
        if event.name == "lagged" {
            missed += event.data.parse::<usize>().unwrap();
            continue;
        }
        received += 1;
        if event.status()["id"] == last {
            break;
        }
    }
    assert!(missed > 0, "{received} were received");
    assert_eq!(received + missed, STREAMS + 1);
}

#[tokio::test]
async fn events_need_the_rights_of_the_status_and_of_the_list() {
    let server = TestServer::start_with(|config| {
        on_all_addresses(config);
        with_admin_token(config);
    })
    .await;
    assert_eq!(server.ask(get("/events")).await.error(), "401 UnauthorizedError");
    Subscriber::to(&server, "/events", &bearer(ADMIN_TOKEN)).await;
    let created = server.create_response(r#"{"access":"split"}"#).await;
    let (id, token) = (created["stream"].as_str().unwrap(), created["upload_token"].as_str().unwrap());
    assert_eq!(server.ask(get(&format!("/stream/{id}/events"))).await.error(), "401 UnauthorizedError");
    Subscriber::to(&server, &format!("/stream/{id}/events?token={token}"), "").await;
    assert_eq!(server.ask(get("/stream/unknown/events")).await.error(), "404 SessionNotFoundError");

    let server = TestServer::start_with(on_all_addresses).await;
    assert_eq!(server.ask(get("/events")).await.error(), "403 ForbiddenError");
    let server = TestServer::start_with(with_admin_listener).await;
    assert_eq!(server.ask(get("/events")).await.error(), "404 BadRouteError");
    let mut operator = server.connect_admin().await;
    operator.send(get("/events")).await;
    Subscriber::begin(operator).await;
}

#[tokio::test]
async fn the_head_of_events_has_no_body() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let connection = Http2::connect(&server).await;
    for target in [format!("/stream/{id}/events"), "/events".to_owned()] {
        let mut client = server.connect_and_send(request("HEAD", &target, "")).await;
        let head = client.head().await.unwrap();
        assert!(head.starts_with("HTTP/1.1 200 ") && head.contains("text/event-stream"), "{head}");
        assert!(matches!(client.ending().await, Err(End::Short)));
        let response = connection.ask("HEAD", &target).await;
        assert_eq!((response.status.as_u16(), response.body.len(), response.cut), (200, 0, None));
    }
}

#[tokio::test]
async fn events_end_when_the_server_ends() {
    let mut server = TestServer::start_with(|config| config.drain_timeout = "100ms".parse().unwrap()).await;
    let id = server.create().await;
    let mut one = Subscriber::to(&server, &format!("/stream/{id}/events"), "").await;
    assert_eq!(one.next().await.state(), "CREATED");
    let all = Subscriber::to(&server, "/events", "").await;
    // More than are woken at the same time while the server runs.
    let mut others = Vec::new();
    for _ in 0..50 {
        others.push(Subscriber::to(&server, "/events", "").await);
    }
    let connection = Http2::connect(&server).await;
    let (over2, _) = connection.request("GET", &format!("/stream/{id}/events"), &[], true).await;
    let over2 = with_timeout(over2).await.unwrap();
    server.stop().await;
    assert!(one.rest().await.is_empty());
    for subscriber in others.into_iter().chain([all]) {
        assert!(subscriber.rest().await.is_empty());
    }
    assert_ne!(rest(over2).await.cut, Some(Cut::Lost));
    with_timeout(server.ended()).await;
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_may_watch() {
    let server = TestServer::start_with(|config| {
        config.cors_origins = vec!["https://app.example".parse().unwrap()];
    })
    .await;
    let id = server.create().await;
    let mut client = server
        .connect_and_send(request("GET", &format!("/stream/{id}/events"), "Origin: https://app.example\r\n"))
        .await;
    let head = client.head().await.unwrap().to_lowercase();
    assert!(head.contains("access-control-allow-origin: https://app.example"), "{head}");
    let preflight = request(
        "OPTIONS",
        &format!("/stream/{id}/status"),
        "Origin: https://app.example\r\nAccess-Control-Request-Method: GET\r\nAccess-Control-Request-Headers: prefer,if-none-match\r\n",
    );
    let allowed = server.ask(preflight).await;
    assert_eq!(allowed.status, 204);
    assert!(find(allowed.head.to_lowercase().as_bytes(), b"if-none-match").is_some(), "{allowed:?}");
}

#[tokio::test]
async fn a_subscriber_sees_the_streams_of_all_nodes_and_learns_that_one_was_lost_or_has_come() {
    let mut cluster = TestCluster::start(3).await;
    let mut all = Subscriber::to(&cluster[0], "/events", "").await;
    let mut second = Subscriber::to(&cluster[0], "/events", "").await;
    for node in [1, 0, 2] {
        let id = cluster[node].create().await;
        for subscriber in [&mut all, &mut second] {
            let event = subscriber.next().await;
            assert_eq!((&*event.id, event.status()["id"].as_str()), ("1", Some(&*id)), "of node {node}");
        }
    }
    cluster.kill(2);
    let lagged = |event: Event| (event.name, event.data) == ("lagged".into(), "0".into());
    assert!(lagged(all.next().await), "a node was lost");
    cluster.add(|_| {}).await;
    assert!(lagged(all.next().await), "a node has come");
    let id = cluster[3].create().await;
    assert_eq!(all.next().await.status()["id"], id);
}
