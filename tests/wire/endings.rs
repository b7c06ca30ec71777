//! Who leaves × when × framing: what both sides see, and the final state.

use crate::client::{Client, End, Response};
use crate::http2::Http2;
use crate::server::{TestServer, get, put_head};

/// How the body is framed on both sides.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Framing {
    Length,
    Chunked,
    /// A chunked upload to an HTTP/1.0 client: only the connection's end frames the download.
    UntilClose,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum How {
    Fin,
    Rst,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum When {
    /// Paired, and no byte was sent.
    BeforeFirstByte,
    /// The first half was received.
    MidBody,
}

const FRAMINGS: [Framing; 3] = [Framing::Length, Framing::Chunked, Framing::UntilClose];
const HALF: &[u8] = b"the first half ";
const OTHER_HALF: &[u8] = b"and the second";

impl Framing {
    fn fields(self) -> String {
        match self {
            Self::Length => format!("Content-Length: {}\r\n", HALF.len() + OTHER_HALF.len()),
            Self::Chunked | Self::UntilClose => "Transfer-Encoding: chunked\r\n".into(),
        }
    }

    fn encode(self, data: &[u8]) -> Vec<u8> {
        match self {
            Self::Length => data.to_vec(),
            Self::Chunked | Self::UntilClose => {
                [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
            }
        }
    }

    fn end(self) -> &'static [u8] {
        match self {
            Self::Length => b"",
            Self::Chunked | Self::UntilClose => b"0\r\n\r\n",
        }
    }

    fn get(self, id: &str) -> String {
        match self {
            Self::UntilClose => format!("GET /stream/{id} HTTP/1.0\r\n\r\n"),
            Self::Length | Self::Chunked => get(&format!("/stream/{id}")),
        }
    }

    /// How a whole download ends.
    fn whole(self) -> End {
        if self == Self::UntilClose { End::Closed } else { End::Whole }
    }
}

struct Pair {
    server: TestServer,
    id: String,
    source: Client,
    destination: Client,
    /// The download's head, where the first half was received.
    head: Option<String>,
}

impl Pair {
    async fn new(framing: Framing, when: When) -> Self {
        let server = TestServer::start().await;
        let id = server.create().await;
        let mut destination = server.say(framing.get(&id)).await;
        server.until(&id, "DST_CONNECTED").await;
        let mut source = server.say(put_head(&id, &framing.fields())).await;
        server.until(&id, "STREAMING").await;
        let mut head = None;
        if when == When::MidBody {
            source.send(framing.encode(HALF)).await;
            head = Some(destination.head().await.unwrap());
            let passed_on = |status: &serde_json::Value| status["bytes_transferred"] == HALF.len();
            while !passed_on(&server.status(&id).await) {}
        }
        Self { server, id, source, destination, head }
    }

    async fn download(destination: &mut Client, head: Option<String>) -> Response {
        match head {
            Some(head) => destination.rest(head).await,
            None => destination.response().await,
        }
    }
}

fn leave(client: Client, how: How) {
    match how {
        How::Fin => client.close(),
        How::Rst => client.reset(),
    }
}

#[tokio::test]
async fn a_whole_transfer_looks_whole_on_both_sides() {
    for framing in FRAMINGS {
        for when in [When::BeforeFirstByte, When::MidBody] {
            let Pair { server, id, mut source, mut destination, head } = Pair::new(framing, when).await;
            if when == When::BeforeFirstByte {
                source.send(framing.encode(HALF)).await;
            }
            source.send(framing.encode(OTHER_HALF)).await;
            source.send(framing.end()).await;

            let download = Pair::download(&mut destination, head).await;
            assert_eq!((download.status, download.end), (200, framing.whole()), "{framing:?} {when:?}");
            assert_eq!(download.body, [HALF, OTHER_HALF].concat(), "{framing:?} {when:?}");
            let upload = source.response().await;
            assert_eq!((upload.status, upload.end, upload.body.len()), (200, End::Whole, 0), "{framing:?}");
            assert!(upload.closes() && download.closes());
            let status = server.status(&id).await;
            assert_eq!(status["state"], "FINISHED", "the PUT's 200 comes after the end of the stream");
            assert_eq!(status["bytes_transferred"], HALF.len() + OTHER_HALF.len());
        }
    }
}

#[tokio::test]
async fn a_source_that_leaves_leaves_the_download_visibly_incomplete() {
    for framing in FRAMINGS {
        for when in [When::BeforeFirstByte, When::MidBody] {
            for how in [How::Fin, How::Rst] {
                let case = format!("{framing:?} {when:?} {how:?}");
                let Pair { server, id, source, mut destination, head } = Pair::new(framing, when).await;
                leave(source, how);
                let download = Pair::download(&mut destination, head).await;
                match (when, framing) {
                    (When::BeforeFirstByte, _) => {
                        assert_eq!(download.error(), "502 StreamSourceError", "{case}");
                        assert_eq!(download.message(), "Stream source closed unexpectedly");
                    }
                    (When::MidBody, Framing::UntilClose) => assert_eq!(download.end, End::Reset, "{case}"),
                    (When::MidBody, _) => {
                        assert_eq!((download.end, &download.body[..]), (End::Short, HALF), "{case}");
                    }
                }
                let status = server.until(&id, "SRC_DISCONNECTED").await;
                assert_eq!(status["active"], false);
                assert_eq!(status["error"]["name"], "StreamSourceError");
            }
        }
    }
}

#[tokio::test]
async fn a_destination_that_leaves_is_told_to_the_source_at_once() {
    for framing in FRAMINGS {
        for when in [When::BeforeFirstByte, When::MidBody] {
            for how in [How::Fin, How::Rst] {
                let case = format!("{framing:?} {when:?} {how:?}");
                let Pair { server, id, mut source, destination, .. } = Pair::new(framing, when).await;
                leave(destination, how);
                // The source is silent, and yet learns it.
                let upload = source.response().await;
                assert_eq!(upload.error(), "502 StreamDestinationError", "{case}");
                assert_eq!(upload.message(), "Stream destination closed unexpectedly");
                assert!(upload.closes());
                let status = server.until(&id, "DST_DISCONNECTED").await;
                assert_eq!(status["error"]["name"], "StreamDestinationError");
            }
        }
    }
}

#[tokio::test]
async fn a_source_may_close_its_sending_side_behind_a_whole_body() {
    for framing in FRAMINGS {
        let Pair { mut source, mut destination, head, .. } = Pair::new(framing, When::MidBody).await;
        source.send(framing.encode(OTHER_HALF)).await;
        source.send(framing.end()).await;
        source.half_close().await;
        let download = Pair::download(&mut destination, head).await;
        assert_eq!(
            (download.end, download.body),
            (framing.whole(), [HALF, OTHER_HALF].concat()),
            "{framing:?}"
        );
        assert_eq!(source.response().await.status, 200, "{framing:?}");
    }
}

#[tokio::test]
async fn a_source_that_half_closes_inside_its_body_is_told_and_the_download_is_incomplete() {
    for framing in FRAMINGS {
        let Pair { server, id, mut source, mut destination, head } = Pair::new(framing, When::MidBody).await;
        source.half_close().await;
        let download = Pair::download(&mut destination, head).await;
        assert!(matches!(download.end, End::Short | End::Reset), "{framing:?} {download:?}");
        assert_eq!(source.response().await.error(), "400 BadRequestError", "{framing:?}");
        server.until(&id, "SRC_DISCONNECTED").await;
    }
}

#[tokio::test]
async fn a_source_that_is_gone_after_its_last_byte_spoils_nothing() {
    for framing in FRAMINGS {
        let Pair { server, id, mut source, mut destination, head } = Pair::new(framing, When::MidBody).await;
        source.send(framing.encode(OTHER_HALF)).await;
        source.send(framing.end()).await;
        let download = Pair::download(&mut destination, head).await;
        source.reset();
        assert_eq!(
            (download.end, download.body),
            (framing.whole(), [HALF, OTHER_HALF].concat()),
            "{framing:?}"
        );
        server.until(&id, "FINISHED").await;
    }
}

#[tokio::test]
async fn a_source_that_breaks_its_chunks_is_told_and_the_download_is_incomplete() {
    for broken in ["zz\r\nabc\r\n", "5\r\nabcdefgh\r\n", "-1\r\n", "11111111111111111\r\n"] {
        for when in [When::BeforeFirstByte, When::MidBody] {
            let Pair { server, id, mut source, mut destination, head } =
                Pair::new(Framing::Chunked, when).await;
            source.send(broken).await;
            let download = Pair::download(&mut destination, head).await;
            match download.status {
                502 => assert_eq!(download.error(), "502 StreamSourceError"),
                _ => assert_eq!(download.end, End::Short, "{broken:?} {when:?}"),
            }
            let upload = source.response().await;
            assert_eq!(upload.error(), "400 BadRequestError", "{broken:?}");
            assert!(upload.closes());
            let status = server.until(&id, "SRC_ERROR").await;
            assert_eq!(status["error"]["name"], "StreamSourceError");
        }
    }
}

/// Larger than all the buffers between the two sides.
const HUGE: usize = 64 << 20;

#[tokio::test]
async fn a_502_is_readable_by_a_source_that_still_pushes() {
    for how in [How::Fin, How::Rst] {
        let server = TestServer::start().await;
        let id = server.create().await;
        let mut destination = server.get(&id).await;
        let mut source = server.put(&id, &format!("Content-Length: {HUGE}\r\n")).await;
        source.send(HALF).await;
        destination.head().await.unwrap();
        leave(destination, how);
        source.push(&vec![7; 8 << 20]).await;
        assert_eq!(source.response().await.error(), "502 StreamDestinationError", "{how:?}");
    }
}

#[tokio::test]
async fn a_destination_that_resets_with_bytes_in_flight_gives_no_200() {
    for fields in ["Content-Length: 1048576\r\n", "Transfer-Encoding: chunked\r\n"] {
        let server = TestServer::start().await;
        let id = server.create().await;
        let mut destination = Client::connect_narrow(server.address()).await;
        destination.send(get(&format!("/stream/{id}"))).await;
        server.until(&id, "DST_CONNECTED").await;
        let mut source = server.put(&id, fields).await;
        let body = vec![7; 1 << 20];
        if fields.contains("chunked") {
            source.send([&b"100000\r\n"[..], &body, b"\r\n0\r\n\r\n"].concat()).await;
        } else {
            source.send(&body).await;
        }
        // The server has taken it all; the destination's kernel has not.
        while server.status(&id).await["bytes_transferred"] != body.len() {}
        destination.reset();
        assert_eq!(source.response().await.error(), "502 StreamDestinationError", "{fields:?}");
        server.until(&id, "DST_DISCONNECTED").await;
    }
}

#[tokio::test]
async fn a_stalled_destination_stalls_the_source() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let mut destination = Client::connect_narrow(server.address()).await;
    destination.send(get(&format!("/stream/{id}"))).await;
    let body: Vec<u8> = (0..251).cycle().take(HUGE).collect();
    let mut source = server.put(&id, &format!("Content-Length: {HUGE}\r\n")).await;
    let pushed = async {
        assert_eq!(source.push(&body).await, HUGE);
        source.response().await
    };
    let stalled = async {
        // Nothing moves any more once two looks in a row, each behind a whole exchange, show the same.
        let mut seen = 0;
        for _ in 0..200 {
            let status = server.status(&id).await;
            seen = status["bytes_transferred"].as_u64().unwrap();
            assert_eq!(status["active"], true);
        }
        assert!(seen < HUGE as u64 / 2, "{seen} bytes were taken for a destination that reads nothing");
        destination.response().await
    };
    let (upload, download) = tokio::join!(pushed, stalled);
    assert_eq!((upload.status, download.end), (200, End::Whole));
    assert!(download.body == body, "the bytes differ");
}

#[tokio::test]
async fn a_destination_that_does_not_take_what_there_is_is_the_side_that_stalls() {
    let server = TestServer::start_with(|config| config.idle_timeout = "500ms".parse().unwrap()).await;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1000);
    let http2 = Http2::connect_with(&server, &mut builder).await;
    let mut http1 = Client::connect_cramped(server.address()).await;
    // More than the destination takes of it; then the source, too, is silent.
    for (over_http2, length) in [(true, 4000), (false, 250_000)] {
        let id = server.create().await;
        let mut download = None;
        if over_http2 {
            download = Some(http2.get(&id).await);
        } else {
            http1.send(get(&format!("/stream/{id}"))).await;
        }
        server.until(&id, "DST_CONNECTED").await;
        let mut source = server.put(&id, "Transfer-Encoding: chunked\r\n").await;
        source.send(Framing::Chunked.encode(&vec![7; length])).await;
        assert_eq!(source.response().await.error(), "502 StreamDestinationError", "HTTP/2: {over_http2}");
        server.until(&id, "DST_ERROR").await;
        drop(download);
    }
}
