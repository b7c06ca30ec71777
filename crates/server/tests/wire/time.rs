//! Timeouts: expiry, retention, the idle limit, slow heads, lingering close, and the drain. The tests advance a paused clock.

use std::time::Duration;

use rendezvous_server::config::Period;
use testkit::client::{Client, End, with_timeout};
use testkit::messages::CHUNKED;
use testkit::server::{TestServer, get, post, put_head};
use testkit::settings::with_admin_listener;

use crate::metrics::Exposition;

const TTL: Duration = Duration::from_mins(1);
const IDLE: Duration = Duration::from_hours(6);

/// A clock that only [`Clock::advance`] moves. A paused tokio clock alone would jump to the next timer whenever all tasks wait,
/// even while bytes are in flight.
pub(crate) struct Clock {
    _holds_clock: std::sync::mpsc::Sender<()>,
}

impl Clock {
    pub(crate) fn stopped() -> Self {
        let (held, ended) = std::sync::mpsc::channel();
        // tokio's clock does not jump while a blocking task runs. Dropping the sender ends the task.
        tokio::task::spawn_blocking(move || ended.recv());
        Self { _holds_clock: held }
    }

    pub(crate) async fn advance(&self, duration: Duration) {
        tokio::time::advance(duration).await;
    }

    /// Resumes real time. A delivery needs it: the server polls for the acknowledgement, which the kernel may send 40 ms after the
    /// last byte.
    pub(crate) fn resume(self) {
        drop(self);
        tokio::time::resume();
    }

    /// Resumes real time until `future` is ready.
    pub(crate) async fn resumed<T>(&self, future: impl Future<Output = T>) -> T {
        tokio::time::resume();
        let output = future.await;
        tokio::time::pause();
        output
    }

    async fn advance_to_just_before(&self, duration: Duration) {
        self.advance(duration.saturating_sub(A_MOMENT)).await;
    }
}

/// A step across a deadline, longer than the resolution of tokio's timers (1 ms).
pub(crate) const A_MOMENT: Duration = Duration::from_millis(10);

#[tokio::test(start_paused = true)]
async fn a_side_that_waits_gets_504_when_the_ttl_has_passed_since_the_creation() {
    let clock = Clock::stopped();
    let server = TestServer::start().await;
    for (source, state) in [(true, "TIMEOUT_NO_DST"), (false, "TIMEOUT_NO_SRC")] {
        let id = server.create().await;
        clock.advance(TTL / 2).await;
        let mut side =
            if source { server.put(&id, "Content-Length: 1000000\r\n").await } else { server.get(&id).await };
        server.until(&id, if source { "SRC_CONNECTED" } else { "DST_CONNECTED" }).await;
        if source {
            side.send(vec![7; 20_000]).await;
        }
        clock.advance_to_just_before(TTL / 2).await;
        assert_eq!(server.status(&id).await["active"], true, "not yet");
        clock.advance(2 * A_MOMENT).await;
        let expired = side.response().await;
        assert_eq!(expired.error(), "504 SessionTimeoutError");
        assert_eq!(expired.message(), "The specified session expired before both sides connected");

        let status = server.status(&id).await;
        assert_eq!((&status["state"], &status["active"]), (&state.into(), &false.into()));
        assert_eq!(status["error"]["name"], "SessionTimeoutError");
        assert!(status["deactivated_at"].is_string());
        assert_eq!(server.get(&id).await.response().await.error(), "404 SessionNotFoundError");
        let report = server.post(&format!("/stream/{id}/error"), "{}").await;
        assert_eq!(report.error(), "404 SessionNotFoundError");
    }
}

#[tokio::test(start_paused = true)]
async fn an_ended_stream_is_forgotten_after_one_more_ttl() {
    let clock = Clock::stopped();
    let server = TestServer::start().await;
    let id = server.create().await;
    clock.advance(TTL + A_MOMENT).await;
    assert_eq!(server.until(&id, "TIMEOUT_NO_SRC_NO_DST").await["active"], false);
    clock.advance_to_just_before(TTL).await;
    assert_eq!(server.ask(get(&format!("/stream/{id}/status"))).await.status, 200);
    clock.advance(2 * A_MOMENT).await;
    let forgotten = async { while server.ask(get("/stream")).await.body != b"[]" {} };
    with_timeout(forgotten).await;
    assert_eq!(server.ask(get(&format!("/stream/{id}/status"))).await.error(), "404 SessionNotFoundError");
    let metrics = Exposition::of(&server).await;
    for state in ["created", "source_waits", "destination_waits", "streaming", "ended"] {
        assert_eq!(metrics.count("streams", &[("state", state)]), 0, "{state}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reported_error_can_be_fetched_until_the_ttl_ends() {
    let clock = Clock::stopped();
    let server = TestServer::start().await;
    let (in_time, too_late) = (server.create().await, server.create().await);
    for id in [&in_time, &too_late] {
        server.post(&format!("/stream/{id}/error"), r#"{"http_status":418}"#).await;
    }
    clock.advance_to_just_before(TTL).await;
    assert_eq!(server.get(&in_time).await.response().await.error(), "418 Error");
    clock.advance(2 * A_MOMENT).await;
    assert_eq!(server.get(&too_late).await.response().await.error(), "404 SessionNotFoundError");
    assert_eq!(server.status(&too_late).await["state"], "CLIENT_ERROR");
}

#[tokio::test(start_paused = true)]
async fn a_pair_outlives_the_ttl_even_when_silent() {
    let clock = Clock::stopped();
    let server = TestServer::start().await;
    let id = server.create().await;
    let mut destination = server.get(&id).await;
    let mut source = server.put(&id, "Content-Length: 5\r\n").await;
    server.until(&id, "STREAMING").await;
    clock.advance(3 * TTL).await;
    source.send("he").await;
    destination.head().await.unwrap();
    clock.advance(3 * TTL).await;
    clock.resume();
    source.send("llo").await;
    assert_eq!(destination.body_bytes(5).await, b"hello");
    assert_eq!(source.response().await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_outlived_all_deadlines_is_forgotten_one_ttl_after_its_end() {
    let clock = Clock::stopped();
    let server = TestServer::start().await;
    let id = server.create().await;
    let destination = server.get(&id).await;
    let mut source = server.put(&id, "Content-Length: 5\r\n").await;
    server.until(&id, "STREAMING").await;
    // The table has no deadline left.
    clock.advance(TTL + A_MOMENT).await;
    assert_eq!(server.status(&id).await["state"], "STREAMING");
    destination.reset();
    assert_eq!(source.response().await.error(), "502 StreamDestinationError");
    clock.advance_to_just_before(TTL).await;
    assert_eq!(server.status(&id).await["state"], "DST_DISCONNECTED");
    clock.advance(2 * A_MOMENT).await;
    server.until_forgotten(&id).await;
}

/// While a FIN is stuck behind a full buffer, the server cannot detect that the client has left.
#[tokio::test(start_paused = true)]
async fn a_source_whose_fin_is_behind_a_full_buffer_keeps_its_seat_and_never_looks_whole() {
    for fields in ["Content-Length: 100000000\r\n", CHUNKED] {
        for is_paired in [true, false] {
            let clock = Clock::stopped();
            let server = TestServer::start().await;
            let id = server.create().await;
            let mut source = server.put(&id, fields).await;
            server.until(&id, "SRC_CONNECTED").await;
            // More than the server's kernel buffers, and less than both kernels buffer.
            source.send("200000\r\n").await;
            source.send(vec![7; 1 << 20]).await;
            source.close();
            clock.advance_to_just_before(TTL).await;
            assert_eq!(server.status(&id).await["state"], "SRC_CONNECTED", "{fields:?}");
            if is_paired {
                let mut destination = server.get(&id).await;
                // An abort, like a delivery, takes real time.
                let download = clock.resumed(destination.response()).await;
                assert_ne!((download.status, download.end), (200, End::Whole), "{fields:?}");
                server.until(&id, "SRC_DISCONNECTED").await;
            } else {
                clock.advance(2 * A_MOMENT).await;
                server.until(&id, "TIMEOUT_NO_DST").await;
            }
        }
    }
}

/// Some clients and proxies take an interim response that they did not ask for as the final one, or lose bytes.
#[tokio::test(start_paused = true)]
async fn a_source_that_waits_is_sent_no_byte_however_long_it_waits_and_however_much_it_has_sent() {
    const STEPS: u32 = 8;
    let clock = Clock::stopped();
    let server = TestServer::start().await;
    let mut waiting = Vec::new();
    // Requests that precede the PUT on its connection.
    for before in [String::new(), get("/stream/unknown"), get("/ping"), get("/ping").repeat(2)] {
        for (fields, sent) in [
            ("Content-Length: 100000000\r\n", 1 << 20),
            ("Content-Length: 100000000\r\nX-Forwarded-For: 192.0.2.1\r\nVia: 1.1 a\r\n", 1 << 20),
            ("Content-Length: 100000000\r\nExpect: 100-continue\r\n", 1 << 20),
            ("Content-Length: 50000\r\n", 50_000),
            ("Content-Length: 5\r\n", 5),
            ("Content-Length: 5\r\n", 0),
            (CHUNKED, 1 << 20),
            ("", 0),
        ] {
            let id = server.create().await;
            let mut source = server.connect_and_send([before.clone(), put_head(&id, fields)].concat()).await;
            for _ in before.matches("HTTP/1.1") {
                source.response().await;
            }
            server.until(&id, "SRC_CONNECTED").await;
            if fields.contains("chunked") {
                source.send("200000\r\n").await;
            }
            source.send(vec![7; sent]).await;
            waiting.push((format!("{fields:?} after {before:?}"), id, source));
        }
    }
    for _ in 0..STEPS {
        clock.advance_to_just_before(TTL / STEPS).await;
        server.until(&waiting[0].1, "SRC_CONNECTED").await;
    }
    clock.advance((STEPS + 1) * A_MOMENT).await;
    for (case, _, mut source) in waiting {
        assert_eq!(source.response().await.error(), "504 SessionTimeoutError", "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_stalls_for_the_idle_limit_gets_502_and_the_download_is_incomplete() {
    for mid_body in [false, true] {
        let clock = Clock::stopped();
        let server = TestServer::start().await;
        let id = server.create().await;
        let mut destination = server.get(&id).await;
        let mut source = server.put(&id, "Content-Length: 5\r\n").await;
        server.until(&id, "STREAMING").await;
        let mut head = None;
        if mid_body {
            clock.advance(IDLE / 2).await;
            source.send("he").await;
            head = Some(destination.head().await.unwrap());
            // Bytes have moved, which restarts the idle limit.
            clock.advance_to_just_before(IDLE).await;
            assert_eq!(server.status(&id).await["active"], true);
            clock.advance(2 * A_MOMENT).await;
        } else {
            clock.advance(IDLE + A_MOMENT).await;
        }
        let upload = source.response().await;
        assert_eq!(upload.error(), "502 StreamSourceError");
        assert!(upload.message().contains("no byte moved for 6h"), "{}", upload.message());
        match head {
            None => assert_eq!(destination.response().await.error(), "502 StreamSourceError"),
            Some(head) => assert_eq!(destination.rest(head).await.end, End::Reset),
        }
        server.until(&id, "SRC_ERROR").await;
    }
}

/// The server has written the whole body, so only the acknowledgements show that bytes move.
#[tokio::test(start_paused = true)]
async fn a_destination_that_reads_the_last_bytes_slowly_has_not_stalled() {
    const LENGTH: usize = 1 << 20;
    let clock = Clock::stopped();
    let server = TestServer::start().await;
    let id = server.create().await;
    let mut destination = Client::connect_with_small_receive_buffer(server.address()).await;
    destination.send(get(&format!("/stream/{id}"))).await;
    server.until(&id, "DST_CONNECTED").await;
    let mut source = server.put(&id, &format!("Content-Length: {LENGTH}\r\n")).await;
    source.send(vec![b'X'; LENGTH]).await;
    server.until_passed_on(&id, LENGTH).await;
    destination.head().await.unwrap();
    for eighth in 1..=4 {
        destination.receive(eighth * LENGTH / 8).await;
        clock.advance(IDLE / 2 + A_MOMENT).await;
        for _ in 0..20 {
            assert_eq!(server.status(&id).await["state"], "STREAMING");
        }
    }
    clock.resume();
    destination.receive(LENGTH).await;
    assert_eq!(source.response().await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_takes_too_long_is_408_and_a_new_connection_that_sends_nothing_is_closed() {
    let clock = Clock::stopped();
    let server = TestServer::start().await;
    let mut slow = server.connect_and_send("GET /ping HTT").await;
    let mut idle = server.connect().await;
    // After this exchange, the server waits for both clients.
    assert_eq!(server.ask(get("/ping")).await.status, 200);
    clock.advance(Duration::from_secs(10) + A_MOMENT).await;
    let refused = slow.response().await;
    assert_eq!(refused.error(), "408 BadRequestError");
    assert!(refused.closes());
    assert_eq!(idle.head().await, Err(End::Short));
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_kept_between_two_requests_for_the_keep_alive_time() {
    let clock = Clock::stopped();
    for keep_alive in [5, 75] {
        let server = TestServer::start_with(|config| config.keep_alive = Period::from_secs(keep_alive)).await;
        let mut kept = server.connect_and_send(get("/ping")).await;
        assert_eq!(kept.response().await.status, 200);
        // After this exchange, the server waits for the next request.
        assert_eq!(server.ask(get("/ping")).await.status, 200);
        clock.advance(Duration::from_secs(keep_alive - 1)).await;
        kept.send(get("/ping")).await;
        assert_eq!(kept.response().await.status, 200);
        assert_eq!(server.ask(get("/ping")).await.status, 200);
        clock.advance(Duration::from_secs(keep_alive) + A_MOMENT).await;
        assert_eq!(kept.head().await, Err(End::Short));
    }
}

#[tokio::test(start_paused = true)]
async fn empty_lines_between_two_requests_do_not_begin_a_head() {
    let clock = Clock::stopped();
    let server = TestServer::start().await;
    let mut kept = server.connect_and_send([&post("/nowhere", "body"), &b"\r\n\r\n\r"[..]].concat()).await;
    assert_eq!(kept.response().await.status, 404);
    assert_eq!(server.ask(get("/ping")).await.status, 200);
    clock.advance(Duration::from_secs(10) + A_MOMENT).await;
    kept.send("\n").await;
    kept.send(get("/ping")).await;
    assert_eq!(kept.response().await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_small_unneeded_body_that_does_not_arrive_ends_its_connection() {
    let clock = Clock::stopped();
    let server = TestServer::start().await;
    let mut slow = server
        .connect_and_send("POST /nowhere HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhell")
        .await;
    let response = slow.response().await;
    assert_eq!((response.status, response.closes()), (404, false), "the response does not wait for the body");
    assert_eq!(server.ask(get("/ping")).await.status, 200);
    clock.advance(Duration::from_secs(10) + A_MOMENT).await;
    assert_eq!(slow.head().await, Err(End::Short));
}

#[tokio::test(start_paused = true)]
async fn a_json_body_that_takes_too_long_is_408() {
    let clock = Clock::stopped();
    let server = TestServer::start().await;
    let mut slow =
        server.connect_and_send("POST /stream HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\n{").await;
    assert_eq!(server.ask(get("/ping")).await.status, 200);
    clock.advance(Duration::from_secs(10) + A_MOMENT).await;
    let refused = slow.response().await;
    assert_eq!(refused.error(), "408 BadRequestError");
    assert!(refused.closes());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_keeps_sending_after_its_response_is_cut_off_after_two_seconds() {
    let clock = Clock::stopped();
    let server = TestServer::start().await;
    let mut source = server.put("unknown", "Content-Length: 1000000\r\n").await;
    assert_eq!(source.response().await.status, 404);
    assert_eq!(source.ending().await, Err(End::Short), "half-closed");
    source.send("is still taken").await;
    clock.advance(Duration::from_secs(2) + A_MOMENT).await;
    // The server resets the connection at the next bytes.
    let cut_off = async { while source.push(&[7; 1000]).await > 0 {} };
    with_timeout(cut_off).await;
}

#[tokio::test(start_paused = true)]
async fn a_draining_server_lets_sides_pair_and_transfers_finish_but_creates_no_stream() {
    let clock = Clock::stopped();
    let mut server = TestServer::start().await;
    let (running, waiting) = (server.create().await, server.create().await);
    let mut destination = server.get(&running).await;
    let mut source = server.put(&running, "Content-Length: 5\r\n").await;
    server.until(&running, "STREAMING").await;
    let mut waiting_source = server.put(&waiting, "Content-Length: 5\r\n").await;
    server.until(&waiting, "SRC_CONNECTED").await;
    let mut idle = server.connect_and_send(get("/ping")).await;
    idle.response().await;
    let mut busy =
        server.connect_and_send("POST /stream HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n{").await;
    let mut new = server.connect().await;
    let mut pipelining =
        server.connect_and_send([&get("/ping").into_bytes(), &post("/stream", "")[..9]].concat()).await;
    pipelining.response().await;
    assert_eq!(server.ask(get("/ping")).await.status, 200);

    server.stop().await;
    assert_eq!(idle.head().await, Err(End::Short), "idle connections are closed");
    busy.send("}").await;
    new.send(post("/stream", "")).await;
    pipelining.send(&post("/stream", "")[9..]).await;
    for client in
        [&mut busy, &mut new, &mut pipelining, &mut server.connect_and_send(post("/stream", "{}")).await]
    {
        let refused = client.response().await;
        assert_eq!(refused.error(), "503 ShuttingDownError");
        assert_eq!(refused.fields("retry-after").len(), 1);
        assert!(refused.closes());
    }

    let mut late_destination = server.get(&waiting).await;
    clock.resume();
    for (source, destination) in
        [(&mut waiting_source, &mut late_destination), (&mut source, &mut destination)]
    {
        source.send("hello").await;
        assert_eq!(destination.response().await.body, b"hello");
        assert_eq!(source.response().await.status, 200);
    }
    with_timeout(server.ended()).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_five_seconds_for_a_side_to_connect() {
    let clock = Clock::stopped();
    let mut server = TestServer::start().await;
    let (used, _unused) = (server.create().await, server.create().await);
    server.stop().await;
    clock.advance(Duration::from_secs(4)).await;
    let (mut source, mut destination) =
        (server.put(&used, "Content-Length: 5\r\n").await, server.get(&used).await);
    server.until(&used, "STREAMING").await;
    clock.advance(Duration::from_secs(2)).await;
    clock.resume();
    source.send("hello").await;
    assert_eq!(destination.response().await.body, b"hello");
    assert_eq!(source.response().await.status, 200);
    with_timeout(server.ended()).await;
}

#[tokio::test(start_paused = true)]
async fn after_the_drain_timeout_waiting_sides_get_503_and_transfers_are_aborted_visibly_and_counted() {
    for version in ["1.1", "1.0"] {
        let clock = Clock::stopped();
        let mut server = TestServer::start_with(|config| {
            config.drain_timeout = Period::from_secs(30);
            with_admin_listener(config);
        })
        .await;
        let (id, unpaired) = (server.create().await, server.create().await);
        let mut destination =
            server.connect_and_send(format!("GET /stream/{id} HTTP/{version}\r\nHost: test\r\n\r\n")).await;
        let mut source = server.put(&id, CHUNKED).await;
        source.send("5\r\nhello\r\n").await;
        let head = destination.head().await.unwrap();
        let mut waiting = server.put(&unpaired, "Content-Length: 5\r\nExpect: 100-continue\r\n").await;
        server.until(&unpaired, "SRC_CONNECTED").await;
        server.stop().await;
        clock.advance(Duration::from_secs(30) + A_MOMENT).await;
        assert_eq!(clock.resumed(destination.rest(head)).await.end, End::Reset, "HTTP/{version}");
        for refused in [source.response().await, waiting.response().await] {
            assert_eq!(refused.error(), "503 ShuttingDownError");
            assert_eq!(refused.fields("retry-after").len(), 1);
        }
        let metrics = server.ask_admin(get("/metrics")).await.body;
        let aborted = "rendezvous_streams_ended_total{outcome=\"shut_down\",kind=\"stream\"} 1";
        assert!(String::from_utf8(metrics).unwrap().lines().any(|line| line == aborted));
        // Otherwise the server would read from them for two more seconds.
        source.close();
        waiting.close();
        clock.resumed(with_timeout(server.ended())).await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_drain_timeout_both_sides_of_a_pair_without_a_byte_get_503() {
    let clock = Clock::stopped();
    let mut server = TestServer::start_with(|config| config.drain_timeout = Period::from_secs(30)).await;
    let id = server.create().await;
    let mut destination = server.get(&id).await;
    let mut source = server.put(&id, "Content-Length: 5\r\n").await;
    server.until(&id, "STREAMING").await;
    server.stop().await;
    clock.advance(Duration::from_secs(30) + A_MOMENT).await;
    for side in [&mut source, &mut destination] {
        assert_eq!(side.response().await.error(), "503 ShuttingDownError");
    }
}
