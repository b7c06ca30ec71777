//! Ends of transfers that the table of `matrix.rs` does not contain.

use std::time::Duration;

use testkit::client::{Client, End};
use testkit::messages::{CHUNKED, pattern};
use testkit::server::{TestServer, get};
use testkit::sides::Departure;
use tokio::time::sleep;

use crate::http2::{Http2, request_without_reading};

#[tokio::test]
async fn a_source_with_broken_chunks_gets_400_and_the_download_is_incomplete() {
    let server = TestServer::start().await;
    for broken in ["zz\r\nabc\r\n", "5\r\nabcdefgh\r\n", "-1\r\n", "11111111111111111\r\n"] {
        for sent in ["", "4\r\nhalf\r\n"] {
            let id = server.create().await;
            let mut destination = server.get(&id).await;
            server.until(&id, "DST_CONNECTED").await;
            let mut source = server.put(&id, CHUNKED).await;
            source.send(sent).await;
            server.until(&id, "STREAMING").await;
            source.send(broken).await;
            let download = destination.response().await;
            match download.status {
                502 => assert_eq!(download.error(), "502 StreamSourceError"),
                _ => assert!(matches!(download.end, End::Short | End::Reset), "{broken:?} after {sent:?}"),
            }
            assert_eq!(source.response().await.error(), "400 BadRequestError", "{broken:?} after {sent:?}");
            server.until(&id, "SRC_ERROR").await;
        }
    }
}

/// The size of a body that does not fit into all buffers between the two sides.
const HUGE: usize = 64 << 20;

#[tokio::test]
async fn a_source_that_is_still_sending_can_read_its_502() {
    for how in Departure::ALL {
        let server = TestServer::start().await;
        let id = server.create().await;
        let mut destination = server.get(&id).await;
        let mut source = server.put(&id, &format!("Content-Length: {HUGE}\r\n")).await;
        source.send("some").await;
        destination.head().await.unwrap();
        destination.leave(how);
        source.push(&vec![7; 8 << 20]).await;
        assert_eq!(source.response().await.error(), "502 StreamDestinationError", "{how:?}");
    }
}

#[tokio::test]
async fn a_stalled_destination_stalls_the_source() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let mut destination = Client::connect_with_small_receive_buffer(server.address()).await;
    destination.send(get(&format!("/stream/{id}"))).await;
    let body = pattern(HUGE);
    let mut source = server.put(&id, &format!("Content-Length: {HUGE}\r\n")).await;
    let pushed = async {
        assert_eq!(source.push(&body).await, HUGE);
        source.response().await
    };
    let stalled = async {
        // After this many exchanges with the server, the buffers are full.
        let mut transferred = 0;
        for _ in 0..200 {
            let status = server.status(&id).await;
            transferred = status["bytes_transferred"].as_u64().unwrap();
            assert_eq!(status["active"], true);
        }
        assert!(
            transferred < HUGE as u64 / 2,
            "passed on {transferred} bytes to a destination that reads none"
        );
        destination.response().await
    };
    let (upload, download) = tokio::join!(pushed, stalled);
    assert_eq!((upload.status, download.end), (200, End::Whole));
    assert!(download.body == body, "the bytes differ");
}

#[tokio::test]
async fn a_destination_that_leaves_bytes_unread_is_the_side_that_stalls() {
    let server = TestServer::start_with(|config| config.idle_timeout = "500ms".parse().unwrap()).await;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1000);
    let http2 = Http2::connect_with(&server, &mut builder).await;
    let mut http1 = Client::connect_with_small_buffers(server.address()).await;
    // The source sends more than the destination takes, then nothing.
    for (over_http2, length) in [(true, 4000), (false, 1_000_000)] {
        let id = server.create().await;
        let mut download = None;
        if over_http2 {
            download = Some(http2.get(&id).await);
        } else {
            http1.send(get(&format!("/stream/{id}"))).await;
        }
        server.until(&id, "DST_CONNECTED").await;
        let mut source = server.put(&id, CHUNKED).await;
        source.send([format!("{length:x}\r\n").into_bytes(), vec![7; length]].concat()).await;
        assert_eq!(source.response().await.error(), "502 StreamDestinationError", "HTTP/2: {over_http2}");
        server.until(&id, "DST_ERROR").await;
        drop(download);
    }
}

/// The kernel takes more bytes only once it is rid of a third of the megabytes that it holds for the destination.
#[tokio::test]
async fn a_destination_that_reads_slowly_has_not_stalled_while_the_kernel_takes_no_more_for_it() {
    const LENGTH: usize = 30 << 20;
    let server = TestServer::start_with(|config| config.idle_timeout = "500ms".parse().unwrap()).await;
    for over_http2 in [false, true] {
        let id = server.create().await;
        let mut destination = Client::connect_with_small_receive_buffer(server.address()).await;
        if over_http2 {
            request_without_reading(&mut destination, &server, &[&id]).await;
        } else {
            destination.send(get(&format!("/stream/{id}"))).await;
        }
        server.until(&id, "DST_CONNECTED").await;
        let mut source = server.put(&id, &format!("Content-Length: {LENGTH}\r\n")).await;
        source.send("X").await;
        server.until_passed_on(&id, 1).await;
        let reading = async {
            for part in 1..=15 {
                destination.receive(part * 20_000).await;
                sleep(Duration::from_millis(100)).await;
            }
            server.status(&id).await
        };
        tokio::select! {
            () = source.send(vec![b'X'; LENGTH - 1]) => panic!("the transfer was cut"),
            status = reading => assert_eq!(status["state"], "STREAMING", "HTTP/2: {over_http2}"),
        }
    }
}

/// The kernel moves a long body of known length, if it can.
#[tokio::test]
async fn a_source_that_sends_nothing_more_is_the_side_that_stalls_however_much_has_passed() {
    let server = TestServer::start_with(|config| config.idle_timeout = "500ms".parse().unwrap()).await;
    for sent in [0, 2, 300_000] {
        let id = server.create().await;
        let mut destination = server.get(&id).await;
        server.until(&id, "DST_CONNECTED").await;
        let mut source = server.put(&id, "Content-Length: 1000000\r\n").await;
        source.send(vec![b'X'; sent]).await;
        destination.receive(sent).await;
        assert_eq!(source.response().await.error(), "502 StreamSourceError", "{sent} bytes");
        server.until(&id, "SRC_ERROR").await;
    }
}
