//! The limits of one stream: the size of its body, its pace, and the least rate of its upload.

use std::time::Duration;

use rendezvous_server::config::{Period, Size, StreamLimits};
use testkit::client::{Client, End, with_timeout};
use testkit::messages::{CHUNKED, framed, pattern};
use testkit::server::{TestServer, get};
use testkit::sides::Departure;

use crate::time::Clock;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn an_upload_that_declares_more_than_the_limit_takes_no_seat() {
    let server =
        streams(StreamLimits { max_bytes: Some(Size::bytes(1000)), ..StreamLimits::default() }).await;
    let id = server.create().await;
    for fields in ["Content-Length: 1001\r\n", "Content-Length: 9000000000\r\nExpect: 100-continue\r\n"] {
        let refused = server.put(&id, fields).await.response().await;
        assert_eq!(refused.error(), "413 BodyTooLargeError");
        assert!(refused.message().contains("1000 bytes") && refused.closes(), "{}", refused.message());
        assert_eq!(server.status(&id).await["state"], "CREATED");
    }
    let mut source = server.put(&id, "Content-Length: 1000\r\n").await;
    source.send([7; 1000]).await;
    assert_eq!(server.get(&id).await.response().await.body, [7; 1000], "a body at the limit");
    assert_eq!(source.response().await.status, 200);
}

async fn streams(limits: StreamLimits) -> TestServer {
    TestServer::start_with(|config| config.streams = limits).await
}

/// A stream whose sides have paired, before the first byte of its body.
pub(crate) async fn pair(server: &TestServer, fields: &str, version: &str) -> (String, Client, Client) {
    let id = server.create().await;
    let destination =
        server.connect_and_send(format!("GET /stream/{id} HTTP/{version}\r\nHost: test\r\n\r\n")).await;
    server.until(&id, "DST_CONNECTED").await;
    let source = server.put(&id, fields).await;
    server.until(&id, "STREAMING").await;
    (id, source, destination)
}

#[tokio::test]
async fn a_chunked_upload_over_the_limit_is_aborted_and_no_byte_over_it_is_passed_on() {
    let server =
        streams(StreamLimits { max_bytes: Some(Size::bytes(1000)), ..StreamLimits::default() }).await;
    let chunk = [&b"1f4\r\n"[..], &[7; 500], b"\r\n"].concat();
    for version in ["1.1", "1.0"] {
        let (id, mut source, mut destination) = pair(&server, CHUNKED, version).await;
        source.send([&chunk[..], &chunk].concat()).await;
        let head = destination.head().await.unwrap();
        server.until_passed_on(&id, 1000).await;
        source.send("1\r\nx\r\n0\r\n\r\n").await;
        let refused = source.response().await;
        assert_eq!(refused.error(), "413 BodyTooLargeError", "{version}");
        assert!(refused.message().contains("1000 bytes") && refused.closes());
        let download = destination.rest(head).await;
        assert_eq!(download.end, End::Reset, "{version}");
        assert!(download.body.len() <= 1000);
        let status = server.status(&id).await;
        assert_eq!((&status["state"], &status["bytes_transferred"]), (&"SRC_ERROR".into(), &1000.into()));

        let (id, mut source, mut destination) = pair(&server, CHUNKED, version).await;
        source.send([&b"3e9\r\n"[..], &[7; 1001], b"\r\n0\r\n\r\n"].concat()).await;
        let download = destination.response().await;
        assert!(download.status == 502 || download.end == End::Reset, "{download:?}");
        assert_eq!(source.response().await.error(), "413 BodyTooLargeError", "{version}");
        server.until(&id, "SRC_ERROR").await;

        let (_, mut source, mut destination) = pair(&server, CHUNKED, version).await;
        source.send([&chunk[..], &chunk, b"0\r\n\r\n"].concat()).await;
        assert_eq!(destination.response().await.body, [7; 1000], "a body at the limit");
        assert_eq!(source.response().await.status, 200);
    }
}

async fn passed_on(server: &TestServer, id: &str) -> u64 {
    server.status(id).await["bytes_transferred"].as_u64().unwrap()
}

/// Transfers `body` at `rate` bytes per second, by a clock that advances 5 ms at a time.
async fn paced(rate: u64, body: &[u8], chunked: bool) {
    const STEP: Duration = Duration::from_millis(5);
    let clock = Clock::stopped();
    let server = streams(StreamLimits { max_rate: Some(Size::bytes(rate)), ..StreamLimits::default() }).await;
    let (fields, encoded) = framed(body, chunked);
    let (id, mut source, mut destination) = pair(&server, &fields, "1.1").await;
    let steps = async {
        let mut time = Duration::ZERO;
        loop {
            // The server passes on up to 50 ms' worth at once, and waits for about half of that to accumulate.
            let millis = u64::try_from(time.as_millis()).unwrap();
            let least = (rate * millis.saturating_sub(30) / 1000).min(body.len() as u64);
            let mut bytes = passed_on(&server, &id).await;
            while bytes < least {
                bytes = passed_on(&server, &id).await;
            }
            let most = rate * (millis + 50) / 1000;
            assert!(bytes <= most, "{bytes} bytes in {time:?}, at most {most} expected");
            clock.advance(STEP).await;
            time += STEP;
            if bytes == body.len() as u64 && server.status(&id).await["active"] == false {
                return;
            }
        }
    };
    let (_, download, ()) = tokio::join!(source.push(&encoded), destination.response(), with_timeout(steps));
    assert_eq!(download.end, End::Whole);
    assert!(download.body == body, "the bytes differ");
    assert_eq!(source.response().await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_paced_evenly_and_delivered_whole() {
    let body = pattern(300_000);
    for chunked in [false, true] {
        paced(500_000, &body, chunked).await;
        paced(10_000, &body[..5000], chunked).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_paced_stream_reads_no_more_from_its_source_than_the_buffers_hold() {
    let _clock = Clock::stopped();
    let server = streams(StreamLimits { max_rate: Some(Size::bytes(1000)), ..StreamLimits::default() }).await;
    for chunked in [false, true] {
        let (fields, bytes) = framed(&vec![7; 64 << 20], chunked);
        let (id, mut source, _destination) = pair(&server, &fields, "1.1").await;
        tokio::select! {
            _ = source.push(&bytes) => panic!("the server read 64 MiB for a stream of 1000 bytes per second"),
            () = async { for _ in 0..200 { assert!(passed_on(&server, &id).await <= 50) } } => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_paced_stream_does_not_count_as_stalled() {
    let clock = Clock::stopped();
    for chunked in [false, true] {
        let server = TestServer::start_with(|config| {
            config.idle_timeout = "60ms".parse::<Period>().unwrap();
            config.streams.max_rate = Some(Size::bytes(10));
            config.streams.min_upload_rate = Some(Size::bytes(1000));
        })
        .await;
        let (fields, bytes) = framed(&[7; 40], chunked);
        let id = server.create().await;
        let mut source = server.put(&id, &fields).await;
        source.send(&bytes).await;
        server.until(&id, "SRC_CONNECTED").await;
        let _destination = server.get(&id).await;
        while passed_on(&server, &id).await == 0 {}
        let steps = async {
            while passed_on(&server, &id).await < 40 {
                assert_eq!(server.status(&id).await["active"], true, "chunked: {chunked}");
                clock.advance(Duration::from_millis(5)).await;
            }
        };
        with_timeout(steps).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_side_that_leaves_a_paced_stream_is_noticed_at_once() {
    let _clock = Clock::stopped();
    let server = streams(StreamLimits { max_rate: Some(Size::bytes(1000)), ..StreamLimits::default() }).await;
    for chunked in [false, true] {
        for how in Departure::ALL {
            for source_leaves in [false, true] {
                let case = format!("chunked: {chunked}, {how:?}, source: {source_leaves}");
                let (fields, bytes) = framed(&vec![7; 50_000], chunked);
                let (id, mut source, mut destination) = pair(&server, &fields, "1.1").await;
                // No more than the server's kernel buffers: a FIN cannot arrive behind a full buffer.
                source.send(&bytes[..30_000]).await;
                let head = destination.head().await.unwrap();
                server.until_passed_on(&id, 50).await;
                let (leaver, state) = if source_leaves {
                    (source, "SRC_DISCONNECTED")
                } else {
                    (std::mem::replace(&mut destination, source), "DST_DISCONNECTED")
                };
                leaver.leave(how);
                server.until(&id, state).await;
                if source_leaves {
                    let download = destination.rest(head).await;
                    assert_eq!((download.end, download.body.len()), (End::Reset, 50), "{case}");
                } else {
                    let upload = destination.response().await;
                    assert_eq!(upload.error(), "502 StreamDestinationError", "{case}");
                }
            }
        }
    }
}

async fn with_min_upload_rate(rate: u64) -> TestServer {
    streams(StreamLimits { min_upload_rate: Some(Size::bytes(rate)), ..StreamLimits::default() }).await
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_too_slow_gets_502_stream_source_error() {
    for per_second in [0, 5] {
        let clock = Clock::stopped();
        let server = with_min_upload_rate(100).await;
        let (id, mut source, mut destination) = pair(&server, CHUNKED, "1.0").await;
        for second in 1..10 {
            if per_second > 0 {
                source.send("5\r\nhello\r\n").await;
                while passed_on(&server, &id).await != second * per_second {}
            }
            clock.advance(SECOND).await;
            assert_eq!(server.status(&id).await["active"], true, "not yet");
        }
        clock.advance(2 * SECOND).await;
        let upload = source.response().await;
        assert_eq!(upload.error(), "502 StreamSourceError");
        let rate = per_second * 9 / 10;
        let sentence = format!("it sent {rate} bytes per second, and the minimum is 100");
        assert!(upload.message().contains(&sentence), "{}", upload.message());
        if per_second > 0 {
            assert_eq!(clock.resumed(destination.response()).await.end, End::Reset);
        } else {
            let download = destination.response().await;
            assert_eq!((download.error(), download.message()), (upload.error(), upload.message()));
        }
        assert_eq!(server.status(&id).await["state"], "SRC_ERROR");
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_fast_enough_is_not_aborted() {
    let clock = Clock::stopped();
    let server = with_min_upload_rate(100).await;
    let (id, mut source, mut destination) = pair(&server, "Content-Length: 6000\r\n", "1.1").await;
    for second in 1..=30 {
        source.send([7; 200]).await;
        while passed_on(&server, &id).await != second * 200 {}
        clock.advance(SECOND).await;
        assert!(second == 30 || server.status(&id).await["active"] == true, "after {second} s");
    }
    clock.resume();
    assert_eq!(destination.response().await.end, End::Whole);
    assert_eq!(source.response().await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_slow_destination_does_not_count_for_the_source() {
    let clock = Clock::stopped();
    let server = with_min_upload_rate(1 << 20).await;
    for chunked in [false, true] {
        let (fields, bytes) = framed(&vec![7; 64 << 20], chunked);
        let id = server.create().await;
        let mut destination = Client::connect_with_small_receive_buffer(server.address()).await;
        destination.send(get(&format!("/stream/{id}"))).await;
        server.until(&id, "DST_CONNECTED").await;
        let mut source = server.put(&id, &fields).await;
        let watch = async {
            // Waits until the buffers are full: 100 statuses in a row have the same number of bytes.
            let (mut before, mut unchanged) = (0, 0);
            while unchanged < 100 {
                let bytes = passed_on(&server, &id).await;
                unchanged = if bytes > 0 && bytes == before { unchanged + 1 } else { 0 };
                before = bytes;
            }
            for _ in 0..60 {
                clock.advance(SECOND).await;
                assert_eq!(server.status(&id).await["active"], true);
            }
            destination.reset();
        };
        tokio::join!(source.push(&bytes), watch);
        assert_eq!(source.response().await.error(), "502 StreamDestinationError", "chunked: {chunked}");
    }
}
