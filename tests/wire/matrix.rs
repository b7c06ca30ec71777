//! Every way that a transfer can go: {version of the source} × {version of the destination} × {framing} × {paced or not} × {who
//! does what} × {when}, and for each cell what both sides see, the status and the bytes, and that nothing is left behind.
//!
//! Over TLS the whole table runs again with `RENDEZVOUS_TRANSPORT=tls`. [`expected`] is the contract (sections 4 and 6).

use std::fmt;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http_rendezvous::config::{Config, Size};

use crate::client::{Client, End, soon};
use crate::http2::{Answer, Http2, answer, rest, send_all};
use crate::metrics::Exposition;
use crate::server::TestServer;

/// The body, in the pieces that it is sent in: capitals, which no framing has.
const FIRST: &[u8] = b"F";
const MIDDLE: &[u8] = &[b'M'; 4000];
const LAST: &[u8] = b"L";
const LENGTH: usize = FIRST.len() + MIDDLE.len() + LAST.len();
/// A pace in bytes per second that holds back a part of the body, for some 30 ms.
const PACE: u64 = 50_000;
/// The idle limit, where a side stalls. Elsewhere it is that of the default: a hang shows as one.
const STALL: &str = "1s";
/// Cells that run at a time.
const AT_ONCE: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http10,
    Http11,
    Http2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// The source declares its length.
    Length,
    /// Nobody does.
    Chunked,
    /// The maker of the stream does, and not the source.
    Promised,
}

/// What happens, beside a transfer that goes well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Nothing,
    SourceCloses,
    SourceResets,
    SourceHalfCloses,
    SourceBreaksFraming,
    SourceStalls,
    DestinationCloses,
    DestinationResets,
    DestinationHalfCloses,
}

/// How much of the body was passed on when it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
enum When {
    BeforeFirstByte,
    BehindFirstByte,
    BeforeLastByte,
    /// Nothing is missing but the end that the framing asks for.
    BehindLastByte,
    BehindEnd,
}

#[derive(Debug, Clone, Copy)]
struct Cell {
    source: Version,
    destination: Version,
    framing: Framing,
    event: Event,
    when: When,
}

/// What the source gets.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answered {
    Ok,
    Error(&'static str),
    /// 200 where the stream is FINISHED, else 502.
    AsTheState,
    /// It left, or its HTTP/2 stream was reset: there is nothing to compare.
    Unseen,
}

/// What the destination gets.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Received {
    Whole,
    /// At least so many bytes of the body, none that were not sent, and a visible cut.
    Cut(usize),
    Error(&'static str),
    /// It left.
    Unseen,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Expected {
    state: &'static [&'static str],
    source: Answered,
    destination: Received,
}

impl Cell {
    fn all() -> impl Iterator<Item = Self> {
        use Event::*;
        use When::*;
        let sources = [Version::Http10, Version::Http11, Version::Http2];
        let events = [
            Nothing,
            SourceCloses,
            SourceResets,
            SourceHalfCloses,
            SourceBreaksFraming,
            SourceStalls,
            DestinationCloses,
            DestinationResets,
            DestinationHalfCloses,
        ];
        let whens = [BeforeFirstByte, BehindFirstByte, BeforeLastByte, BehindLastByte, BehindEnd];
        let framings = [Framing::Length, Framing::Chunked, Framing::Promised];
        let cells = sources.into_iter().flat_map(move |source| {
            sources.into_iter().flat_map(move |destination| {
                framings.into_iter().flat_map(move |framing| {
                    events.into_iter().flat_map(move |event| {
                        whens.into_iter().map(move |when| Self { source, destination, framing, event, when })
                    })
                })
            })
        });
        cells.filter(|cell| cell.can_be())
    }

    /// Whether there is such a case.
    fn can_be(self) -> bool {
        let Self { source, destination, framing, event, when } = self;
        let frames = source != Version::Http10 || framing == Framing::Length;
        let is_distinct = when != When::BehindLastByte || !self.ends_with_its_last_byte();
        let happens = match event {
            Event::Nothing => when == When::BehindEnd,
            // HTTP/2 has no half-closed connection.
            Event::SourceHalfCloses => source != Version::Http2,
            Event::DestinationHalfCloses => destination != Version::Http2,
            // A body that is whole has been framed, and a length can only be broken over HTTP/2, where it is declared apart
            // from the frames.
            Event::SourceBreaksFraming => {
                let is_breakable = match source {
                    Version::Http10 => false,
                    Version::Http11 => framing != Framing::Length,
                    Version::Http2 => framing == Framing::Length,
                };
                is_breakable && when != When::BehindEnd
            }
            // Who has sent all is not waited for.
            Event::SourceStalls => when != When::BehindEnd,
            _ => true,
        };
        frames && is_distinct && happens
    }

    /// Nothing has to follow the last byte for the server to see the end.
    fn ends_with_its_last_byte(self) -> bool {
        self.framing == Framing::Length
    }

    /// Bytes that are sent before the event.
    fn sent(self) -> usize {
        match self.when {
            When::BeforeFirstByte => 0,
            When::BehindFirstByte => FIRST.len(),
            When::BeforeLastByte => FIRST.len() + MIDDLE.len(),
            When::BehindLastByte | When::BehindEnd => LENGTH,
        }
    }

    /// Bytes that are passed on before the event: what completes a promise is held back to the end.
    fn passed_on(self) -> usize {
        let is_held = self.framing == Framing::Promised && self.when == When::BehindLastByte;
        if is_held { FIRST.len() + MIDDLE.len() } else { self.sent() }
    }
}

/// What the contract promises.
fn expected(cell: Cell) -> Expected {
    let is_whole = cell.when == When::BehindEnd;
    let cut = match cell.passed_on() {
        0 => Received::Error("502 StreamSourceError"),
        passed_on => Received::Cut(passed_on),
    };
    let by_source = |state, source| Expected { state, source, destination: cut.clone() };
    let by_destination = Expected {
        state: &["DST_DISCONNECTED"],
        source: Answered::Error("502 StreamDestinationError"),
        destination: Received::Unseen,
    };
    let finished = |source, destination| Expected { state: &["FINISHED"], source, destination };
    match cell.event {
        Event::Nothing => finished(Answered::Ok, Received::Whole),
        Event::SourceHalfCloses if is_whole => finished(Answered::Ok, Received::Whole),
        Event::SourceCloses | Event::SourceResets if is_whole => finished(Answered::Unseen, Received::Whole),
        Event::DestinationCloses | Event::DestinationHalfCloses if is_whole => {
            finished(Answered::Ok, Received::Unseen)
        }
        // A reset can overtake the acknowledgement of what the client has read.
        Event::DestinationResets if is_whole => Expected {
            state: &["FINISHED", "DST_DISCONNECTED"],
            source: Answered::AsTheState,
            destination: Received::Unseen,
        },
        Event::SourceCloses | Event::SourceResets => by_source(&["SRC_DISCONNECTED"], Answered::Unseen),
        Event::SourceHalfCloses => by_source(&["SRC_DISCONNECTED"], Answered::Error("400 BadRequestError")),
        Event::SourceBreaksFraming if cell.source == Version::Http2 => {
            by_source(&["SRC_ERROR", "SRC_DISCONNECTED"], Answered::Unseen)
        }
        Event::SourceBreaksFraming => by_source(&["SRC_ERROR"], Answered::Error("400 BadRequestError")),
        Event::SourceStalls => by_source(&["SRC_ERROR"], Answered::Error("502 StreamSourceError")),
        Event::DestinationCloses | Event::DestinationResets | Event::DestinationHalfCloses => by_destination,
    }
}

enum Source {
    Http1(Client, Framing),
    Http2 { client: Http2, upload: ResponseFuture, send: SendStream<Bytes> },
    Gone,
}

impl Source {
    async fn connect(server: &TestServer, id: &str, cell: Cell) -> Self {
        let length = LENGTH.to_string();
        match (cell.source, cell.framing) {
            (Version::Http2, framing) => {
                let fields = [("content-length", &*length)];
                let fields = if framing == Framing::Length { &fields[..] } else { &[] };
                let client = Http2::connect(server).await;
                let (upload, send) = client.request("PUT", &format!("/stream/{id}"), fields, false).await;
                Self::Http2 { client, upload, send }
            }
            (version, framing) => {
                let version = if version == Version::Http10 { "1.0" } else { "1.1" };
                let field = match framing {
                    Framing::Length => format!("Content-Length: {length}"),
                    Framing::Chunked | Framing::Promised => "Transfer-Encoding: chunked".to_owned(),
                };
                let head = format!("PUT /stream/{id} HTTP/{version}\r\nHost: localhost\r\n{field}\r\n\r\n");
                Self::Http1(server.say(head).await, framing)
            }
        }
    }

    async fn send(&mut self, data: &[u8]) {
        match self {
            Self::Http1(client, Framing::Length) => client.send(data).await,
            Self::Http1(client, _) => {
                client.send([format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()).await;
            }
            Self::Http2 { send, .. } => send_all(send, data, false).await,
            Self::Gone => {}
        }
    }

    async fn end(&mut self) {
        match self {
            Self::Http1(client, Framing::Chunked | Framing::Promised) => client.send("0\r\n\r\n").await,
            Self::Http2 { send, .. } => send.send_data(Bytes::new(), true).unwrap(),
            Self::Http1(_, Framing::Length) | Self::Gone => {}
        }
    }

    async fn do_what(&mut self, event: Event) {
        match (event, std::mem::replace(self, Self::Gone)) {
            (Event::SourceCloses, Self::Http1(client, _)) => client.close(),
            (Event::SourceCloses, Self::Http2 { client, .. }) => {
                // What the library was given to send goes out before this.
                assert_eq!(client.ask("GET", "/ping").await.status, 200);
                client.close().await;
            }
            (Event::SourceResets, Self::Http1(client, _)) => client.reset(),
            (Event::SourceResets, Self::Http2 { client, mut send, .. }) => {
                send.send_reset(Reason::CANCEL);
                // The connection goes on.
                assert_eq!(client.ask("GET", "/ping").await.status, 200);
            }
            (Event::SourceHalfCloses, Self::Http1(mut client, framing)) => {
                client.half_close().await;
                *self = Self::Http1(client, framing);
            }
            (Event::SourceBreaksFraming, Self::Http1(mut client, framing)) => {
                client.send("no size\r\n").await;
                *self = Self::Http1(client, framing);
            }
            (Event::SourceBreaksFraming, Self::Http2 { client, mut send, upload }) => {
                // The server may reset the stream before it has taken all of it.
                let _ = send.send_data(Bytes::from_static(&[0; LENGTH + 1]), true);
                *self = Self::Http2 { client, upload, send };
            }
            (_, unchanged) => *self = unchanged,
        }
    }

    async fn answer(self) -> Answered {
        match self {
            Self::Http1(mut client, _) => {
                let seen = client.response().await;
                if seen.status == 200 { Answered::Ok } else { Answered::Error(seen.error().leak()) }
            }
            Self::Http2 { upload, .. } => match soon(upload).await {
                Ok(response) => match rest(response).await {
                    seen if seen.status == 200 && seen.cut.is_none() => Answered::Ok,
                    seen => Answered::Error(seen.error().leak()),
                },
                Err(_) => Answered::Unseen,
            },
            Self::Gone => Answered::Unseen,
        }
    }
}

enum Destination {
    Http1(Client),
    Http2(Http2, ResponseFuture),
    Gone,
}

impl Destination {
    async fn connect(server: &TestServer, id: &str, version: Version) -> Self {
        let get = |version: &str| format!("GET /stream/{id} HTTP/{version}\r\nHost: localhost\r\n\r\n");
        match version {
            Version::Http10 => Self::Http1(server.say(get("1.0")).await),
            Version::Http11 => Self::Http1(server.say(get("1.1")).await),
            Version::Http2 => {
                let client = Http2::connect(server).await;
                let download = client.get(id).await;
                Self::Http2(client, download)
            }
        }
    }

    /// Leaves as `event` says, once it has received all that was passed on.
    async fn do_what(&mut self, event: Event, passed_on: usize) {
        let leaves = [Event::DestinationCloses, Event::DestinationResets, Event::DestinationHalfCloses];
        if !leaves.contains(&event) {
            return;
        }
        match std::mem::replace(self, Self::Gone) {
            Self::Http1(mut client) => {
                if passed_on > 0 {
                    client.head().await.unwrap();
                    client.body_of(passed_on).await;
                }
                match event {
                    Event::DestinationCloses => client.close(),
                    Event::DestinationResets => client.reset(),
                    _ => {
                        client.half_close().await;
                        // To be dropped would be a close.
                        *self = Self::Http1(client);
                    }
                }
            }
            Self::Http2(client, download) => {
                let mut body = None;
                if passed_on > 0 {
                    body = Some(receive(soon(download).await.unwrap().into_body(), passed_on).await);
                }
                if event == Event::DestinationCloses {
                    client.close().await;
                } else {
                    // The library resets a stream that nobody reads.
                    drop(body);
                    assert_eq!(client.ask("GET", "/ping").await.status, 200);
                }
            }
            Self::Gone => {}
        }
    }

    async fn received(self) -> (u16, Vec<u8>, bool, Option<String>) {
        match self {
            Self::Http1(mut client) => {
                let seen = client.response().await;
                let is_whole = matches!(seen.end, End::Whole | End::Closed);
                let error = (seen.status != 200).then(|| seen.error());
                (seen.status, seen.body, is_whole, error)
            }
            Self::Http2(_client, download) => {
                let seen: Answer = answer(download).await;
                let error = (seen.status != 200).then(|| seen.error());
                (seen.status.as_u16(), seen.body, seen.cut.is_none(), error)
            }
            Self::Gone => (0, Vec::new(), false, None),
        }
    }
}

/// Receives so many bytes, and no end.
async fn receive(mut body: RecvStream, bytes: usize) -> RecvStream {
    let mut received = 0;
    while received < bytes {
        let data = soon(body.data()).await.unwrap().unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        received += data.len();
    }
    body
}

/// Plays a cell, and returns what is not as it should be.
async fn play(server: &TestServer, cell: Cell) -> Result<(), String> {
    let expected = expected(cell);
    let made = if cell.framing == Framing::Promised {
        format!(r#"{{"download_headers":{{"Content-Length":{LENGTH}}}}}"#)
    } else {
        String::new()
    };
    let id = server.create_with(&made).await;
    let mut destination = Destination::connect(server, &id, cell.destination).await;
    server.until(&id, "DST_CONNECTED").await;
    let mut source = Source::connect(server, &id, cell).await;
    server.until(&id, "STREAMING").await;

    let pieces =
        [(FIRST, When::BehindFirstByte), (MIDDLE, When::BeforeLastByte), (LAST, When::BehindLastByte)];
    for (piece, when) in pieces {
        if cell.when == When::BehindLastByte && when == When::BehindLastByte {
            // What comes together with the byte that fulfils a promise is held back with it.
            server.until_passed_on(&id, LENGTH - LAST.len()).await;
        }
        if cell.when >= when {
            source.send(piece).await;
        }
    }
    // A source that closes behind its whole body is not waited for: also where the pace holds its bytes back.
    let hurries = cell.when == When::BehindEnd && cell.event == Event::SourceCloses;
    if cell.when == When::BehindEnd {
        source.end().await;
    }
    if !hurries {
        server.until_passed_on(&id, cell.passed_on()).await;
    }
    source.do_what(cell.event).await;
    destination.do_what(cell.event, cell.passed_on()).await;

    let mut wrong = Vec::new();
    let mut differ = |what: &dyn fmt::Debug, seen: &dyn fmt::Debug| {
        wrong.push(format!("expected {what:?}, seen {seen:?}"));
    };
    let answered = source.answer().await;
    let body = [FIRST, MIDDLE, LAST].concat();
    let (status, received, is_whole, error) = match expected.destination {
        Received::Unseen => (0, Vec::new(), false, None),
        _ => destination.received().await,
    };
    let is_right = match &expected.destination {
        Received::Unseen => true,
        Received::Whole => (status, is_whole, &received) == (200, true, &body),
        Received::Error(name) => error.as_deref() == Some(*name),
        // A reset takes what the client has not read.
        Received::Cut(_) => status == 200 && !is_whole && body.starts_with(&received),
    };
    if !is_right {
        differ(&expected.destination, &(status, received.len(), is_whole, error));
    }
    let status = server.until_ended(&id).await;
    if !expected.state.contains(&status["state"].as_str().unwrap()) {
        differ(&expected.state, &status);
    }
    let is_answered = match expected.source {
        Answered::Unseen => true,
        Answered::AsTheState if status["state"] == "FINISHED" => answered == Answered::Ok,
        Answered::AsTheState => answered == Answered::Error("502 StreamDestinationError"),
        _ => answered == expected.source,
    };
    if !is_answered {
        differ(&expected.source, &answered);
    }
    let passed_on = status["bytes_transferred"].as_u64().unwrap();
    if passed_on < cell.passed_on() as u64 || passed_on > LENGTH as u64 {
        differ(&cell.passed_on(), &passed_on);
    }
    if wrong.is_empty() { Ok(()) } else { Err(format!("{cell:?}: {}", wrong.join("; "))) }
}

/// Plays all of `cells`, some at a time, with no more streams at a time than that.
async fn hold(cells: impl Iterator<Item = Cell>, adjust: impl FnOnce(&mut Config)) {
    let server = TestServer::start_with(|config| {
        config.clients.max_streams = Some(AT_ONCE);
        adjust(config);
    })
    .await;
    let cells: Vec<_> = cells.collect();
    let count = cells.len();
    let played = stream::iter(cells).map(|cell| play(&server, cell)).buffer_unordered(AT_ONCE);
    let wrong: Vec<_> = played.filter_map(async |played| played.err()).collect().await;
    assert!(wrong.is_empty(), "{} of {count} cells:\n{}", wrong.len(), wrong.join("\n"));

    // Nothing is left: no side, and no place of the streams that the client may have.
    let told = Exposition::of(&server).await;
    for state in ["created", "source_waits", "destination_waits", "streaming"] {
        assert_eq!(told.count("streams", &[("state", state)]), 0, "{state}");
    }
    for _ in 0..AT_ONCE {
        server.create().await;
    }
}

fn stalls(cell: Cell) -> bool {
    cell.event == Event::SourceStalls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transfer_ends_as_the_contract_says() {
    hold(Cell::all().filter(|cell| !stalls(*cell)), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_paced_transfer_ends_as_the_contract_says() {
    let pace = |config: &mut Config| config.streams.max_rate = Some(Size::bytes(PACE));
    hold(Cell::all().filter(|cell| !stalls(*cell)), pace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_source_that_stalls_ends_its_transfer() {
    for pace in [None, Some(Size::bytes(PACE))] {
        let adjust = |config: &mut Config| {
            config.idle_timeout = STALL.parse().unwrap();
            config.streams.max_rate = pace;
        };
        hold(Cell::all().filter(|cell| stalls(*cell)), adjust).await;
    }
}
