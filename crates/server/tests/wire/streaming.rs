//! The bytes of a transfer, and the headers of its two responses.

use testkit::client::{Client, End, Response, with_timeout};
use testkit::messages::{CHUNKED, request};
use testkit::server::{TestServer, get, put_head};
use testkit::transport::is_tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The responses of a transfer with the destination first: download, upload.
async fn transfer(server: &TestServer, id: &str, fields: &str, body: &[u8]) -> (Response, Response) {
    let sides = server.connect_sides(id, fields, false).await;
    finish(sides, body).await
}

/// Sends the body, and returns the responses: download, upload.
async fn finish((mut source, mut destination): (Client, Client), body: &[u8]) -> (Response, Response) {
    tokio::join!(destination.response(), async {
        source.send(body).await;
        source.response().await
    })
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A chunked body, in chunks of these sizes in turn, each with the extension.
fn chunked(body: &[u8], sizes: &[usize], extension: &str, trailers: &str) -> Vec<u8> {
    let (mut encoded, mut left, mut sizes) = (Vec::new(), body, sizes.iter().cycle());
    while !left.is_empty() {
        let (chunk, rest) = left.split_at(left.len().min(*sizes.next().unwrap()));
        encoded.extend(format!("{:x}{extension}\r\n", chunk.len()).bytes());
        encoded.extend(chunk);
        encoded.extend(b"\r\n");
        left = rest;
    }
    encoded.extend(format!("0\r\n{trailers}\r\n").bytes());
    encoded
}

#[tokio::test]
async fn every_byte_arrives_in_either_order_of_sides_and_with_either_framing() {
    let server = TestServer::start().await;
    for size in [0, 1, 1000, 65_536, 3_000_001] {
        let body = noise(size);
        for source_first in [true, false] {
            for (fields, encoded) in [
                (format!("Content-Length: {size}\r\n"), body.clone()),
                (CHUNKED.into(), chunked(&body, &[65_536], "", "")),
            ] {
                let id = server.create().await;
                let sides = server.connect_sides(&id, &fields, source_first).await;
                let (download, upload) = finish(sides, &encoded).await;
                let case = format!("{size} bytes, source first: {source_first}, {fields:?}");
                assert_eq!((download.status, download.end, upload.status), (200, End::Whole, 200), "{case}");
                assert!(download.body == body, "the bytes differ: {case}");
                assert_eq!(server.status(&id).await["bytes_transferred"], size, "{case}");
            }
        }
    }
}

/// The server reads bytes that follow the body together with the body.
#[tokio::test]
async fn bytes_after_a_body_are_not_delivered() {
    let server = TestServer::start().await;
    for size in [1, 5, 1000, 200_000] {
        let body = noise(size);
        for (fields, encoded) in [
            (format!("Content-Length: {size}\r\n"), body.clone()),
            (CHUNKED.into(), chunked(&body, &[65_536], "", "")),
        ] {
            for source_first in [true, false] {
                let case = format!("{size} bytes, source first: {source_first}, {fields:?}");
                let id = server.create().await;
                let put = [put_head(&id, &fields).as_bytes(), &encoded, get("/ping").as_bytes()].concat();
                let (mut source, mut destination);
                if source_first {
                    source = server.connect().await;
                    source.push(&put[..put.len().min(10_000)]).await;
                    server.until(&id, "SRC_CONNECTED").await;
                    destination = server.get(&id).await;
                } else {
                    destination = server.get(&id).await;
                    server.until(&id, "DST_CONNECTED").await;
                    source = server.connect().await;
                    source.push(&put[..put.len().min(10_000)]).await;
                }
                let (download, upload) = tokio::join!(destination.response(), async {
                    source.push(put.get(10_000..).unwrap_or_default()).await;
                    source.response().await
                });
                assert_eq!((download.end, upload.status), (End::Whole, 200), "{case}");
                assert!(download.body == body, "the bytes differ: {case}");
                assert!(upload.closes(), "{case}");
                assert_eq!(source.ending().await, Err(End::Short), "no response to what follows: {case}");
            }
        }
    }
}

/// The body is large and has a known length, so the server splices it.
#[tokio::test]
async fn a_destination_that_leaves_is_noticed_while_the_source_of_a_large_body_is_silent() {
    for how in ["close", "reset", "half-close"] {
        let server = TestServer::start().await;
        let id = server.create().await;
        let mut destination = server.get(&id).await;
        let mut source = server.put(&id, "Content-Length: 1000000\r\n").await;
        source.send(vec![b'X'; 500_000]).await;
        destination.head().await.unwrap();
        destination.receive(500_000).await;
        // A half-closed destination stays connected, to read the response.
        let mut half_closed = None;
        match how {
            "close" => destination.close(),
            "reset" => destination.reset(),
            _ => half_closed.insert(destination).half_close().await,
        }
        assert_eq!(source.response().await.error(), "502 StreamDestinationError", "{how}");
    }
}

#[tokio::test]
async fn chunk_extensions_and_trailers_are_not_delivered() {
    let server = TestServer::start().await;
    let body = noise(20_000);
    for encoded in [
        chunked(&body, &[777], ";a=b;c=\"d e\"", "X-T: 1\r\nX-U: 2\r\n"),
        chunked(&body, &[1, 2, 3, 5, 7, 1021], "", ""),
    ] {
        let id = server.create().await;
        let (download, upload) = transfer(&server, &id, CHUNKED, &encoded).await;
        assert_eq!((download.end, upload.status), (End::Whole, 200));
        assert!(download.body == body);
        assert!(download.fields("x-t").is_empty());
    }
}

/// The limit of 16 KiB for extensions holds for each chunk. A body of any length may have a signature in each, as in Amazon S3.
#[tokio::test]
async fn any_number_of_chunks_may_have_extensions() {
    let server = TestServer::start().await;
    let signature = format!(";chunk-signature={}", "0".repeat(64));
    let long = format!(";{}", "e".repeat(16_000));
    for (size, chunk, extension) in [
        (60_000, 10, ";a=b"),
        (3000, 10, &signature),
        (1_000_000, 8192, &signature),
        (50, 1, &long),
        (50, 1, &" ".repeat(16_000)),
    ] {
        let body = noise(size);
        let id = server.create().await;
        let encoded = chunked(&body, &[chunk], extension, "");
        let (download, upload) = transfer(&server, &id, CHUNKED, &encoded).await;
        let case = format!("{size} bytes by {chunk} with {extension:.20}");
        assert_eq!((download.end, upload.status), (End::Whole, 200), "{case}");
        assert!(download.body == body, "the bytes differ: {case}");
    }
}

#[tokio::test]
async fn json_may_be_sent_in_chunks_with_extensions() {
    let server = TestServer::start().await;
    let json = format!(r#"{{"unknown":"{}"}}"#, "a".repeat(2000));
    let encoded = chunked(json.as_bytes(), &[1], &format!(";{}", "e".repeat(100)), "X: 1\r\n");
    let head = "POST /stream HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client =
        server.connect_and_send([head.as_bytes(), &encoded, head.as_bytes(), b"0\r\n\r\n"].concat()).await;
    for _ in 0..2 {
        assert_eq!(client.response().await.status, 201);
    }
}

#[tokio::test]
async fn each_byte_is_passed_on_and_counted_as_it_arrives() {
    for (fields, encode) in [
        ("Content-Length: 5\r\n", (|byte| vec![byte]) as fn(u8) -> Vec<u8>),
        (CHUNKED, |byte| vec![b'1', b'\r', b'\n', byte, b'\r', b'\n']),
    ] {
        let server = TestServer::start().await;
        let id = server.create().await;
        // HTTP/1.0 has no chunks, so the client can read the download byte by byte.
        let mut destination = server.connect_and_send(format!("GET /stream/{id} HTTP/1.0\r\n\r\n")).await;
        server.until(&id, "DST_CONNECTED").await;
        let mut source = server.put(&id, fields).await;
        for (count, byte) in (1..).zip(*b"hello") {
            source.send(encode(byte)).await;
            if count == 1 {
                destination.head().await.unwrap();
            }
            assert_eq!(destination.body_bytes(count).await.last(), Some(&byte));
            let status = server.status(&id).await;
            assert_eq!(status["bytes_transferred"], count);
        }
    }
}

#[tokio::test]
async fn the_creators_header_sets_are_sent_as_spelled() {
    let server = TestServer::start().await;
    let id = server
        .create_with(
            r#"{"download_headers":{"content-TYPE":"text/csv","X-A":1,"Set-Cookie":["a=1","b=2"],"Cache-Control":"max-age=5"},
                "upload_headers":{"LOCATION":"http://new/path","x-b":true}}"#,
        )
        .await;
    let (download, upload) =
        transfer(&server, &id, "Content-Length: 1\r\nContent-Type: text/plain\r\n", b"x").await;
    for line in
        ["content-TYPE: text/csv", "X-A: 1", "Set-Cookie: a=1", "Set-Cookie: b=2", "Cache-Control: max-age=5"]
    {
        assert!(download.head.contains(&format!("\r\n{line}\r\n")), "{line}: {}", download.head);
    }
    assert_eq!(download.fields("content-type"), ["text/csv"], "overrides the source's");
    assert_eq!(download.fields("cache-control"), ["max-age=5"], "overrides the default");
    for line in ["LOCATION: http://new/path", "x-b: true"] {
        assert!(upload.head.contains(&format!("\r\n{line}\r\n")), "{line}: {}", upload.head);
    }
    assert!(upload.fields("x-a").is_empty() && download.fields("location").is_empty());
}

#[tokio::test]
async fn the_download_has_the_sources_content_fields_and_safe_defaults() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let put = "Content-Length: 1\r\nContent-Type: text/html\r\nContent-Encoding: gzip\r\nContent-Language: de\r\n\
        Content-Disposition: attachment\r\nContent-Digest: sha-256=:x:\r\nRepr-Digest: sha-256=:y:\r\n\
        X-Secret: no\r\nAuthorization: no\r\n";
    let (download, _) = transfer(&server, &id, put, b"x").await;
    for (name, value) in [
        ("content-type", "text/html"),
        ("content-encoding", "gzip"),
        ("content-language", "de"),
        ("content-disposition", "attachment"),
        ("content-digest", "sha-256=:x:"),
        ("repr-digest", "sha-256=:y:"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("x-robots-tag", "none"),
        ("accept-ranges", "none"),
        ("x-accel-buffering", "no"),
        ("content-length", "1"),
    ] {
        assert_eq!(download.fields(name), [value], "{name}");
    }
    assert!(!download.closes());
    assert!(download.fields("x-secret").is_empty() && download.fields("authorization").is_empty());
}

#[tokio::test]
async fn a_download_without_a_declared_type_is_octet_stream() {
    let server = TestServer::start().await;
    for (settings, put, types) in [
        ("{}", "", &["application/octet-stream"][..]),
        (r#"{"download_headers":{"X-A":1}}"#, "", &["application/octet-stream"]),
        (r#"{"download_headers":{"Content-Type":[]}}"#, "", &["application/octet-stream"]),
        (
            r#"{"download_headers":{"Content-Type":[]}}"#,
            "Content-Type: text/a\r\n",
            &["application/octet-stream"],
        ),
        (r#"{"download_headers":{"content-type":""}}"#, "", &["application/octet-stream"]),
        ("{}", "Content-Type:\r\n", &["application/octet-stream"]),
        ("{}", "Content-Type: text/a\r\n", &["text/a"]),
        (r#"{"download_headers":{"CONTENT-type":"text/b"}}"#, "", &["text/b"]),
        (r#"{"download_headers":{"Content-Type":"text/b"}}"#, "Content-Type: text/a\r\n", &["text/b"]),
    ] {
        for framing in ["Content-Length: 1\r\n", "Content-Length: 0\r\n"] {
            let id = server.create_with(settings).await;
            let body = if framing.contains('1') { &b"x"[..] } else { b"" };
            let (download, _) = transfer(&server, &id, &format!("{framing}{put}"), body).await;
            assert_eq!(download.fields("content-type"), types, "{settings} {put}");
        }
    }
}

#[tokio::test]
async fn a_get_or_head_of_a_stream_with_a_body_is_refused_at_once() {
    let server = TestServer::start().await;
    let id = server.create().await;
    // The client sends none of these bodies.
    for body in [
        "Content-Length: 5\r\n",
        "Content-Length: 5\r\nExpect: 100-continue\r\n",
        "Content-Length: 5000000000\r\n",
        "Transfer-Encoding: chunked\r\n",
    ] {
        let path = format!("/stream/{id}");
        let mut client = server.connect_and_send(request("GET", &path, body)).await;
        let refused = client.response().await;
        assert_eq!((refused.error().as_str(), refused.closes()), ("400 BadRequestError", true), "{body}");
        assert!(client.ending().await.is_err(), "{body}");
        let mut client = server.connect_and_send(request("HEAD", &path, body)).await;
        assert!(client.head().await.unwrap().starts_with("HTTP/1.1 400 "), "{body}");
        assert_eq!(server.status(&id).await["state"], "CREATED", "{body}");
    }
    // A GET without a body is served, and a refused one does not affect a waiting destination.
    for no_body in ["", "Content-Length: 0\r\n", "Expect: 100-continue\r\n"] {
        let id = server.create().await;
        let path = format!("/stream/{id}");
        let mut destination = server.connect_and_send(request("GET", &path, no_body)).await;
        server.until(&id, "DST_CONNECTED").await;
        let refused = server.ask(request("GET", &path, "Content-Length: 5\r\n")).await;
        assert_eq!(refused.error(), "400 BadRequestError");
        let mut source = server.put(&id, "Content-Length: 2\r\n").await;
        source.send("hi").await;
        assert_eq!(destination.response().await.body, b"hi", "{no_body}");
    }
}

#[tokio::test]
async fn a_range_is_ignored_and_a_content_range_refused() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let refused =
        server.put(&id, "Content-Length: 5\r\nContent-Range: bytes 0-4/10\r\n").await.response().await;
    assert_eq!(refused.error(), "400 BadRequestError");

    let mut destination =
        server.connect_and_send(request("GET", &format!("/stream/{id}"), "Range: bytes=1-2\r\n")).await;
    let mut source = server.put(&id, "Content-Length: 5\r\n").await;
    source.send("hello").await;
    let download = destination.response().await;
    assert_eq!((download.status, &download.body[..]), (200, &b"hello"[..]));
}

#[tokio::test]
async fn a_promised_length_frames_the_download_of_a_chunked_upload() {
    let server = TestServer::start().await;
    for (promised, body) in [(5, &b"hello"[..]), (0, b"")] {
        let id =
            server.create_with(&format!(r#"{{"download_headers":{{"Content-Length":{promised}}}}}"#)).await;
        let encoded = chunked(body, &[2], "", "");
        let (download, upload) = transfer(&server, &id, CHUNKED, &encoded).await;
        assert_eq!((download.status, upload.status, download.end), (200, 200, End::Whole));
        assert_eq!(download.fields("content-length"), [promised.to_string()]);
        assert!(download.fields("transfer-encoding").is_empty());
        assert_eq!(download.body, body);
    }
}

#[tokio::test]
async fn an_upload_that_declares_another_length_than_promised_takes_no_seat() {
    let server = TestServer::start().await;
    let id = server.create_with(r#"{"download_headers":{"Content-Length":"5"}}"#).await;
    for fields in ["Content-Length: 4\r\n", "Content-Length: 6\r\nExpect: 100-continue\r\n", ""] {
        let refused = server.put(&id, fields).await.response().await;
        assert_eq!(refused.error(), "400 LengthMismatchError", "{fields:?}");
        assert!(refused.message().contains("promised 5 bytes"), "{}", refused.message());
    }
    assert_eq!(server.status(&id).await["state"], "CREATED");
    let (download, _) = transfer(&server, &id, "Content-Length: 5\r\n", b"hello").await;
    assert_eq!(download.body, b"hello");
}

#[tokio::test]
async fn a_taken_seat_and_a_report_come_before_a_wrong_length() {
    let server = TestServer::start().await;
    let promise = r#"{"download_headers":{"Content-Length":"5"}}"#;
    let taken = server.create_with(promise).await;
    let _source = server.put(&taken, "Content-Length: 5\r\n").await;
    server.until(&taken, "SRC_CONNECTED").await;
    let refused = server.put(&taken, "Content-Length: 4\r\n").await.response().await;
    assert_eq!(refused.error(), "429 AlreadyConnectedError");
    let reported = server.create_with(promise).await;
    server.post(&format!("/stream/{reported}/error"), r#"{"http_status":418}"#).await;
    assert_eq!(server.put(&reported, "Content-Length: 4\r\n").await.response().await.status, 418);
    assert_eq!(server.status(&reported).await["state"], "CLIENT_ERROR");
}

#[tokio::test]
async fn a_chunked_upload_that_breaks_its_promise_never_looks_whole() {
    let server = TestServer::start().await;
    for (body, sizes, length) in [
        (&b"hell"[..], &[4][..], "4"),
        (b"hello!", &[6], "more than 5"),
        (b"hello!", &[5], "more than 5"),
        (b"hello!", &[2], "more than 5"),
        (b"", &[1], "0"),
    ] {
        let id = server.create_with(r#"{"download_headers":{"Content-Length":"5"}}"#).await;
        let encoded = chunked(body, sizes, "", "");
        let (download, upload) = transfer(&server, &id, CHUNKED, &encoded).await;
        match download.status {
            502 => assert_eq!(download.error(), "502 StreamSourceError"),
            _ => assert_eq!(download.end, End::Reset, "{length}"),
        }
        assert_eq!(upload.error(), "400 LengthMismatchError", "{length}");
        assert!(upload.message().contains(length), "{}", upload.message());
        server.until(&id, "SRC_ERROR").await;
    }
}

#[tokio::test]
async fn an_http_1_0_client_is_served_on_either_side() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let mut destination = server.connect_and_send(format!("GET /stream/{id} HTTP/1.0\r\n\r\n")).await;
    server.until(&id, "DST_CONNECTED").await;
    let mut source =
        server.connect_and_send(format!("PUT /stream/{id} HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello")).await;
    let download = destination.response().await;
    assert!(download.head.starts_with("HTTP/1.0 200 "), "{}", download.head);
    assert_eq!((download.end, &download.body[..]), (End::Whole, &b"hello"[..]));
    assert_eq!(source.response().await.status, 200);
}

/// Where only the end of the connection frames a download, an abort is a reset, which on some systems discards bytes that the
/// client has not read yet.
#[tokio::test]
async fn a_whole_http_1_0_download_is_not_reset_after_its_end() {
    if is_tls() {
        return;
    }
    let server = TestServer::start().await;
    let id = server.create().await;
    let mut destination = TcpStream::connect(server.address()).await.unwrap();
    let get = format!("GET /stream/{id} HTTP/1.0\r\n\r\n");
    destination.write_all(get.as_bytes()).await.unwrap();
    server.until(&id, "DST_CONNECTED").await;
    let mut source = server.put(&id, CHUNKED).await;
    source.send("5\r\nhello\r\n0\r\n\r\n").await;
    assert_eq!(source.response().await.status, 200);
    let mut received = Vec::new();
    with_timeout(destination.read_to_end(&mut received)).await.unwrap();
    assert!(received.ends_with(b"\r\n\r\nhello"), "{received:?}");
    for _ in 0..20 {
        assert_eq!(server.status(&id).await["state"], "FINISHED");
        assert!(destination.take_error().unwrap().is_none());
    }
}

#[tokio::test]
async fn a_request_pipelined_after_an_upload_is_not_part_of_it() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let mut destination = server.get(&id).await;
    let mut source = server
        .connect_and_send([put_head(&id, "Content-Length: 5\r\n"), "hello".into(), get("/ping")].concat())
        .await;
    assert_eq!(destination.response().await.body, b"hello");
    let upload = source.response().await;
    assert!(upload.status == 200 && upload.closes());
    assert_eq!(source.ending().await, Err(End::Short), "no response to what follows");
}

#[tokio::test]
async fn two_hundred_concurrent_streams_do_not_mix_their_bytes() {
    let server = TestServer::start().await;
    let address = server.address();
    let mut transfers = tokio::task::JoinSet::new();
    for number in 0..200usize {
        let id = server.create().await;
        transfers.spawn(async move {
            let mut body = noise(256 * 1024);
            body.rotate_left(number * 7);
            let mut destination = Client::connect(address).await;
            destination.send(get(&format!("/stream/{id}"))).await;
            let mut source = Client::connect(address).await;
            source.send(put_head(&id, &format!("Content-Length: {}\r\n", body.len()))).await;
            let (download, upload) = tokio::join!(destination.response(), async {
                source.send(&body).await;
                source.response().await
            });
            download.body == body && download.end == End::Whole && upload.status == 200
        });
    }
    assert_eq!(transfers.join_all().await, [true; 200]);
}
