//! Urgent data (tcp(7)), which the server treats like all other bytes.

use rendezvous_server::config::Size;
use testkit::client::{Client, End};
use testkit::messages::{framed, pattern};
use testkit::server::{TestServer, get, post, put_head};

/// Sends `body` in three pieces, the last byte of each as urgent data.
async fn send_with_urgent_bytes(source: &mut Client, body: &[u8]) {
    let third = body.len() / 3;
    source.send(&body[..third]).await;
    source.send_urgent(&body[third..=third]).await;
    source.send(&body[third + 1..2 * third]).await;
    source.send_urgent(&body[2 * third..=2 * third]).await;
    source.send(&body[2 * third + 1..body.len() - 1]).await;
    source.send_urgent(&body[body.len() - 1..]).await;
}

#[tokio::test]
async fn urgent_bytes_in_a_body_arrive_in_order_and_stall_nothing() {
    let server = TestServer::start().await;
    // The server splices large bodies where it can.
    for size in [4, 4000, 40_000, 3_000_000] {
        let body = pattern(size);
        for (fields, encoded) in [framed(&body, false), framed(&body, true)] {
            for half_closes in [false, true] {
                for source_first in [true, false] {
                    let case = format!("{fields:?}, half-closes: {half_closes}, first: {source_first}");
                    let id = server.create().await;
                    let send = async |source: &mut Client| {
                        send_with_urgent_bytes(source, &encoded).await;
                        if half_closes {
                            source.half_close().await;
                        }
                    };
                    let (mut source, mut destination);
                    if source_first && size < 100_000 {
                        source = server.put(&id, &fields).await;
                        server.until(&id, "SRC_CONNECTED").await;
                        send(&mut source).await;
                        assert_eq!(server.status(&id).await["state"], "SRC_CONNECTED", "{case}");
                        destination = server.get(&id).await;
                    } else {
                        destination = server.get(&id).await;
                        server.until(&id, "DST_CONNECTED").await;
                        source = server.put(&id, &fields).await;
                    }
                    let (download, upload) = tokio::join!(destination.response(), async {
                        if !source_first || size >= 100_000 {
                            send(&mut source).await;
                        }
                        source.final_response().await
                    });
                    assert_eq!((download.end, upload.status), (End::Whole, 200), "{case}");
                    assert!(download.body == body, "the bytes differ: {case}");
                }
            }
        }
    }
}

#[tokio::test]
async fn urgent_bytes_in_a_paced_body_do_not_make_its_source_look_disconnected() {
    let body = pattern(6000);
    for (fields, encoded) in [framed(&body, false), framed(&body, true)] {
        let server =
            TestServer::start_with(|config| config.streams.max_rate = Some(Size::bytes(20_000))).await;
        let id = server.create().await;
        let mut destination = server.get(&id).await;
        server.until(&id, "DST_CONNECTED").await;
        let mut source = server.put(&id, &fields).await;
        // The server has read the first part. Its pace keeps it from reading the rest, in which the urgent byte hides the bytes
        // after it.
        let (first, rest) = encoded.split_at(3000);
        source.send(first).await;
        while server.status(&id).await["bytes_transferred"].as_u64().unwrap() == 0 {}
        let (before, after) = rest.split_at(1000);
        source.send_urgent(before).await;
        source.send(after).await;
        source.half_close().await;
        let (download, upload) = tokio::join!(destination.response(), source.response());
        assert_eq!((download.end, upload.status), (End::Whole, 200), "{fields:?}");
        assert!(download.body == body, "the bytes differ: {fields:?}");
    }
}

#[tokio::test]
async fn urgent_bytes_in_heads_and_json_are_read_like_others() {
    let server = TestServer::start().await;
    for at in [1, 5, 17, 30] {
        for request in
            [get("/ping").into_bytes(), get("/stream/unknown").into_bytes(), post("/stream", "{ }")]
        {
            let mut client = server.connect().await;
            for _ in 0..2 {
                // The second request uses the kept connection.
                let (first, rest) = request.split_at(at);
                client.send_urgent(first).await;
                client.send(&rest[..rest.len() - 1]).await;
                client.send_urgent(&rest[rest.len() - 1..]).await;
                let status = client.response().await.status;
                assert!([200, 201, 404].contains(&status), "{status} at {at}");
            }
        }
    }
}

#[tokio::test]
async fn a_waiting_side_that_sends_urgent_data_keeps_its_seat() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let mut destination = server.get(&id).await;
    server.until(&id, "DST_CONNECTED").await;
    destination.send_urgent("!").await;
    for _ in 0..20 {
        assert_eq!(server.status(&id).await["state"], "DST_CONNECTED");
    }
    let mut source = server.connect_and_send(put_head(&id, "Content-Length: 2\r\n") + "hi").await;
    let (download, upload) = tokio::join!(destination.response(), source.response());
    assert_eq!((download.body.as_slice(), download.end, upload.status), (&b"hi"[..], End::Whole, 200));
}
