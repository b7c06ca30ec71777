//! What becomes of the bytes of a transfer over HTTP/2, and how its end is told to either side.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::StatusCode;
use rendezvous_server::internal::HTTP2_PREFACE;
use testkit::client::{Client, End, with_timeout};
use testkit::messages::pattern;
use testkit::server::{TestServer, put_head};
use tokio::time::sleep;

use super::client::{Http2, response, send_all};
use super::frames::{
    CANCEL, DATA, END_STREAM, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, head, request_without_reading,
    reset_without_reading, until_all_is_read,
};

#[tokio::test]
async fn transfers_work_between_http1_and_http2() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let body = pattern(3_000_000);

    // Both sides on one connection, in either order.
    for get_first in [true, false] {
        let id = client.create().await;
        let (download, (upload, mut send)) = if get_first {
            let download = client.get(&id).await;
            (download, client.put(&id).await)
        } else {
            let put = client.put(&id).await;
            (client.get(&id).await, put)
        };
        let (download, ()) = tokio::join!(response(download), send_all(&mut send, &body, true));
        assert_eq!((download.status, download.cut), (StatusCode::OK, None));
        assert!(download.body == body);
        assert_eq!(download.headers["cache-control"], "no-store");
        assert_eq!(with_timeout(upload).await.unwrap().status(), StatusCode::OK);
    }

    // From HTTP/1 to HTTP/2, with a length.
    let id = client.create().await;
    let download = client.get(&id).await;
    let mut source = server.put(&id, &format!("Content-Length: {}\r\n", body.len())).await;
    let (seen, _) = tokio::join!(response(download), source.push(&body));
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
    assert_eq!(with_timeout(upload).await.unwrap().status(), StatusCode::OK);
    assert_eq!(server.status(&id).await["state"], "FINISHED");
}

#[tokio::test]
async fn an_empty_body_is_delivered_whole() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let id = client.create().await;
    let download = client.get(&id).await;
    let (upload, _) = client.request("PUT", &format!("/stream/{id}"), &[], true).await;
    let seen = response(download).await;
    assert_eq!((seen.status, seen.body.len(), seen.cut), (StatusCode::OK, 0, None));
    assert_eq!(with_timeout(upload).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_stalled_destination_does_not_stall_others_on_its_connection() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let id = server.create().await;
        let download = client.get(&id).await;
        let (upload, mut send) = client.put(&id).await;
        // Fills the buffers up, as nothing reads the download.
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
    // The client's receive window for the connection is used up by now, so the other transfer is an upload.
    let id = server.create().await;
    let mut destination = server.get(&id).await;
    let (upload, mut send) = client.put(&id).await;
    let body = vec![7; 1 << 20];
    let (seen, ()) = tokio::join!(destination.response(), send_all(&mut send, &body, true));
    assert!(seen.body == body);
    assert_eq!(response(upload).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_stalled_destination_is_noticed_though_another_on_its_connection_reads() {
    const MUCH: usize = 30 << 20;
    let server = TestServer::start_with(|config| config.idle_timeout = "500ms".parse().unwrap()).await;
    let (stalled, moving) = (server.create().await, server.create().await);
    let mut client = Client::connect_with_small_receive_buffer(server.address()).await;
    // A window of 1000 bytes for each HTTP/2 stream. That of the second, and that of the connection, grow.
    let settings = frame(0, SETTINGS, 0, &[0, 4, 0, 0, 3, 232]);
    client.send([HTTP2_PREFACE, &settings].concat()).await;
    for (stream, id) in [(1, &stalled), (3, &moving)] {
        client.send(head(stream, END_STREAM, "GET", &format!("/stream/{id}"))).await;
        server.until(id, "DST_CONNECTED").await;
    }
    for stream in [0, 3] {
        client.send(frame(stream, WINDOW_UPDATE, 0, &(1_u32 << 30).to_be_bytes())).await;
    }
    let length = format!("Content-Length: {MUCH}\r\n");
    let (mut first, mut second) = (server.put(&stalled, &length).await, server.put(&moving, &length).await);
    first.send(vec![b'X'; 2000]).await;
    let reading = async {
        for bytes in 1.. {
            client.receive(bytes * 20_000).await;
            sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = second.send(vec![b'X'; MUCH]) => panic!("the transfer was cut"),
        () = reading => {}
        refused = first.response() => assert_eq!(refused.error(), "502 StreamDestinationError"),
    }
    assert_eq!(server.status(&moving).await["state"], "STREAMING");
}

#[tokio::test]
async fn a_stalled_destination_that_disconnects_fails_its_source() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let other = Http2::connect(&server).await;
    let id = client.create().await;
    let download = other.get(&id).await;
    let (upload, mut send) = client.put(&id).await;
    let download = {
        // Sends until both flow-control windows are full.
        let body = vec![0; 1 << 20];
        let mut sending = std::pin::pin!(send_all(&mut send, &body, false));
        let download = tokio::select! {
            () = &mut sending => panic!("1 MiB was sent without a reader"),
            download = with_timeout(download) => download.unwrap(),
        };
        let full = tokio::time::timeout(Duration::from_millis(200), sending);
        assert!(full.await.is_err());
        download
    };
    other.driver.abort();
    drop(download);
    assert_eq!(response(upload).await.error(), "502 StreamDestinationError");
}

#[tokio::test]
async fn data_received_with_a_reset_is_passed_on_before_the_abort() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let mut destination = server.get(&id).await;
    server.until(&id, "DST_CONNECTED").await;
    let mut source = server.connect().await;
    let request = [frame(0, SETTINGS, 0, &[]), head(1, 0, "PUT", &format!("/stream/{id}"))].concat();
    source.send([HTTP2_PREFACE, &request].concat()).await;
    server.until(&id, "STREAMING").await;
    source.send([frame(1, DATA, 0, b"hello"), frame(1, RST_STREAM, 0, &CANCEL)].concat()).await;
    let head = destination.head().await.unwrap();
    let response = destination.rest(head).await;
    assert_eq!((response.status, &response.body[..]), (200, &b"hello"[..]));
    assert_eq!(response.end, End::Reset);
}

#[tokio::test]
async fn a_reset_after_the_last_frame_ends_the_transfer_at_once() {
    for (length, of_the_connection) in [(1, false), (1000, false), (50_000, false), (1000, true)] {
        let server = TestServer::start().await;
        let (full, last) = (server.create().await, server.create().await);
        let mut client = Client::connect_with_small_receive_buffer(server.address()).await;
        request_without_reading(&mut client, &server, &[&full, &last]).await;
        // Fills the buffers of the connection.
        let mut filler = server.put(&full, "Content-Length: 100000000\r\n").await;
        let body = vec![0; 100_000_000];
        let pushing = tokio::time::timeout(Duration::from_millis(300), filler.push(&body));
        assert!(pushing.await.is_err(), "100 MB were sent without a reader");

        let mut source = server.put(&last, &format!("Content-Length: {length}\r\n")).await;
        source.send(vec![7; length]).await;
        server.until_passed_on(&last, length).await;
        if of_the_connection {
            client.reset();
        } else {
            reset_without_reading(&mut client, 3).await;
        }
        assert_eq!(source.response().await.error(), "502 StreamDestinationError", "{length} bytes");
        server.until(&last, "DST_DISCONNECTED").await;
    }
}

#[tokio::test]
async fn a_download_in_the_kernels_buffers_is_delivered_only_when_acknowledged() {
    // More than the client's kernel buffers, and less than the server's.
    const LENGTH: usize = 200_000;
    let server = TestServer::start().await;
    let (id, other) = (server.create().await, server.create().await);
    let mut client = Client::connect_with_small_receive_buffer(server.address()).await;
    request_without_reading(&mut client, &server, &[&id, &other]).await;
    let mut source = server.put(&id, &format!("Content-Length: {LENGTH}\r\n")).await;
    source.send(vec![7; LENGTH]).await;
    server.until_passed_on(&id, LENGTH).await;
    // After this many exchanges, the server has written all that it can.
    for _ in 0..50 {
        assert_eq!(server.status(&id).await["state"], "STREAMING");
    }
    client.reset();
    assert_eq!(source.response().await.error(), "502 StreamDestinationError");
    server.until(&id, "DST_DISCONNECTED").await;
}

#[tokio::test]
async fn small_frames_of_a_waiting_upload_are_all_passed_on() {
    let server = TestServer::start().await;
    // As large as the window.
    let body = pattern(65_535);
    let frames: Vec<u8> = body.iter().flat_map(|byte| frame(1, DATA, 0, &[*byte])).collect();
    for to_http2 in [false, true] {
        let id = server.create().await;
        let mut source = server.connect().await;
        let begin = [frame(0, SETTINGS, 0, &[]), head(1, 0, "PUT", &format!("/stream/{id}"))].concat();
        source.send([HTTP2_PREFACE, &begin].concat()).await;
        server.until(&id, "SRC_CONNECTED").await;
        source.send(&frames).await;
        source.send(frame(1, DATA, END_STREAM, &[])).await;
        until_all_is_read(&mut source).await;
        let (received, is_whole) = if to_http2 {
            // The client library ends a connection on which it receives many small frames.
            let download = response(Http2::connect(&server).await.get(&id).await).await;
            (download.body, download.cut.is_none())
        } else {
            let download = server.get(&id).await.response().await;
            (download.body, download.end == End::Whole)
        };
        assert_eq!((received.len(), is_whole), (body.len(), true), "to HTTP/2: {to_http2}");
        assert!(received == body, "to HTTP/2: {to_http2}");
        server.until(&id, "FINISHED").await;
    }
}

#[tokio::test]
async fn a_source_that_resets_has_left_and_one_that_sends_more_than_it_declared_has_erred() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    for (sends_more, state) in [(false, "SRC_DISCONNECTED"), (true, "SRC_ERROR")] {
        let id = server.create().await;
        let mut destination = server.get(&id).await;
        let fields = [("content-length", "5")];
        let (_upload, mut send) = client.request("PUT", &format!("/stream/{id}"), &fields, false).await;
        send_all(&mut send, b"abc", false).await;
        destination.head().await.unwrap();
        if sends_more {
            send_all(&mut send, b"defgh", true).await;
        } else {
            send.send_reset(Reason::CANCEL);
        }
        server.until(&id, state).await;
    }
}

#[tokio::test]
async fn a_source_that_resets_after_its_declared_length_does_no_harm() {
    let server = TestServer::start_with(|config| config.streams.max_rate = Some("8k".parse().unwrap())).await;
    let client = Http2::connect(&server).await;
    let id = server.create().await;
    let mut destination = server.get(&id).await;
    let body = pattern(16_000);
    let length = [("content-length", "16000")];
    let (_upload, mut send) = client.request("PUT", &format!("/stream/{id}"), &length, false).await;
    send_all(&mut send, &body, false).await;
    // The rate holds some of it back, so the response begins before the body was passed on.
    let head = destination.head().await.unwrap();
    send.send_reset(Reason::CANCEL);
    let download = destination.rest(head).await;
    assert!(download.body == body && download.end == End::Whole, "{} bytes", download.body.len());
    server.until(&id, "FINISHED").await;
}

#[tokio::test]
async fn pieces_that_are_joined_for_a_destination_stay_whole_and_in_order() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let body = pattern(100_000);
    // Sizes around those of frames, in each order.
    for sizes in [[1, 2, 20_000, 3], [16_384, 1, 16_383, 1], [5, 16_384, 16_385, 5], [30_000, 1, 1, 30_000]] {
        let id = server.create().await;
        let (mut chunks, mut rest) = (Vec::new(), &*body);
        for size in sizes.into_iter().cycle() {
            let (chunk, behind) = rest.split_at(size.min(rest.len()));
            chunks.extend([format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat());
            rest = behind;
            if chunk.is_empty() {
                break;
            }
        }
        // The first piece is what was read ahead, and more is available at once.
        let put = put_head(&id, "Transfer-Encoding: chunked\r\n");
        let mut source = server.connect_and_send([put.as_bytes(), &chunks].concat()).await;
        server.until(&id, "SRC_CONNECTED").await;
        let seen = response(client.get(&id).await).await;
        assert!(seen.body == body && seen.cut.is_none(), "chunks of {sizes:?}: {} bytes", seen.body.len());
        assert_eq!(source.response().await.status, 200, "chunks of {sizes:?}");
    }
}
