//! Plays every cell of the table of transfers ([`testkit::matrix`]), and compares the responses, the status, and the resources that
//! are left afterwards with what the table expects.
//!
//! `RENDEZVOUS_TRANSPORT=tls` plays the whole table over TLS.

use std::fmt;
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use h2::client::{Builder, ResponseFuture};
use h2::{Reason, RecvStream, SendStream};
use parking_lot::Mutex;
use rendezvous_server::config::{Config, Period, Size};
use serde_json::Value;
use testkit::client::{Client, End, WAIT_TIMEOUT, with_timeout};
use testkit::cluster::TestCluster;
use testkit::matrix::{Answered, Cell, Cut, Error, Event, Expected, Framing, Received, Version, When};
use testkit::server::{TestServer, get, post};
use testkit::transport::is_tls;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::http2::{Http2, request_without_reading, reset_without_reading, send_bytes};
use crate::metrics::{self, Exposition};

/// The size of a body that is read.
const SMALL: usize = 4002;
/// The size of an unread body that the source can send to its end: too large for the destination's buffers, and not for those of
/// the server (see [`Client::connect_with_small_buffers`]).
const HELD: usize = 40_000;
/// The size of an unread body that does not fit into all buffers on the way.
const HUGE: usize = 16 << 20;
/// Bodies consist of letters that neither framing nor hexadecimal numbers contain. The last byte is [`Body::LAST`].
static BODY: LazyLock<Bytes> = LazyLock::new(|| b"GHIJKLMNOPQRSTUVWXY".repeat(HUGE / 19 + 1).into());
/// The flow-control window of an HTTP/2 destination that reads nothing.
const WINDOW: u32 = 1000;

/// A rate limit, in bytes per second, that holds back a part of a small body for some 30 ms.
const PACE: u64 = 50_000;
/// A rate limit, in bytes per second, at which the buffers of a destination that reads nothing are full within a second.
const FAST_PACE: u64 = 2 << 20;
/// The same over hops, with the buffers of three nodes to fill.
const FASTEST_PACE: u64 = 16 << 20;
/// The idle limit in cells that it ends. In the others it is the default of hours, so that a hang fails the test.
const IDLE_LIMIT: Duration = Duration::from_secs(1);
/// The same over hops, which take longer to fill.
const IDLE_LIMIT_OVER_HOPS: Duration = Duration::from_secs(2);

/// Cells played at a time.
const AT_ONCE: usize = 32;
/// The same over hops, where each fills the buffers of three nodes.
const AT_ONCE_OVER_HOPS: usize = 12;
/// The limit of connections per client. A cell has three, and the server may still be closing some of an earlier cell.
const CONNECTIONS: usize = 3 * AT_ONCE + 64;
/// Held by cells that have not yet reached an event that the idle limit ends. Few hold it at a time, so that each reaches the event
/// within that limit.
static UNDER_WAY: Semaphore = Semaphore::const_new(8);

/// Whether a destination that reads nothing of the body is limited by its flow-control window: it reads its connection, and leaves
/// the window used up. Otherwise it does not read its connection and its windows are open, so that all bytes are in its kernel and in
/// the server's.
fn is_held_by_window(cell: Cell) -> bool {
    cell.destination == Version::Http2
        && match cell.event {
            Event::DestinationStallsThenCloses => false,
            Event::DestinationStallsThenResets => cell.when != When::AfterEnd,
            _ => true,
        }
}

/// The body of a cell.
#[derive(Clone, Copy)]
struct Body {
    length: usize,
}

impl Body {
    const LAST: &[u8] = b"Z";

    fn of(cell: Cell) -> Self {
        let length = match cell.when {
            _ if !cell.event.has_unread_body() => SMALL,
            When::AfterEnd if is_held_by_window(cell) => SMALL,
            When::AfterEnd => HELD,
            _ => HUGE,
        };
        Self { length }
    }

    /// The pieces that the source writes, each with the moment after it. An empty piece is the end of an HTTP/2 stream.
    fn pieces(self, cell: Cell) -> Vec<(When, Bytes)> {
        use When::{AfterEnd, AfterFirstByte, AfterLastByte, BeforeLastByte, InEnd, InFirstByte, InLastByte};
        let data = [
            (InFirstByte, AfterFirstByte, BODY.slice(..1)),
            (BeforeLastByte, BeforeLastByte, BODY.slice(1..self.length - 1)),
            (InLastByte, AfterLastByte, Bytes::from_static(Self::LAST)),
        ];
        if cell.source == Version::Http11 && cell.framing != Framing::Length {
            let chunks = data.into_iter().flat_map(|(begun, sent, data)| {
                [
                    (begun, format!("{:x}\r\n", data.len()).into()),
                    (sent, data),
                    (sent, Bytes::from_static(b"\r\n")),
                ]
            });
            let end = [(InEnd, Bytes::from_static(b"0\r\n")), (AfterEnd, Bytes::from_static(b"\r\n"))];
            chunks.chain(end).collect()
        } else {
            let end = (cell.source == Version::Http2).then_some((AfterEnd, Bytes::new()));
            data.into_iter().map(|(_, sent, data)| (sent, data)).chain(end).collect()
        }
    }

    fn begins_with(self, received: &[u8]) -> bool {
        let (middle, last) = received.split_at(received.len().min(self.length - 1));
        BODY.starts_with(middle) && (last.is_empty() || last == Self::LAST)
    }
}

/// A kept connection that creates streams and requests their status.
struct Control(Client);

impl Control {
    async fn connect(server: &TestServer) -> Self {
        Self(server.connect().await)
    }

    async fn create(&mut self, json: &str) -> String {
        self.0.send(post("/stream", json)).await;
        self.0.response().await.stream_id()
    }

    async fn status(&mut self, id: &str) -> Value {
        self.0.send(get(&format!("/stream/{id}/status"))).await;
        self.0.response().await.json()
    }

    /// Returns the first status that `holds`.
    async fn until(&mut self, id: &str, holds: impl FnMut(&Value) -> bool) -> Value {
        self.until_every(Duration::from_millis(1), id, holds).await
    }

    /// As [`Control::until`], with a pause between two requests: the server and the clients need the processor too.
    async fn until_every(
        &mut self,
        pause: Duration,
        id: &str,
        mut holds: impl FnMut(&Value) -> bool,
    ) -> Value {
        let begun = Instant::now();
        loop {
            let status = self.status(id).await;
            if holds(&status) {
                return status;
            }
            assert!(begun.elapsed() < WAIT_TIMEOUT, "the status stays {status}");
            // A status can only be polled.
            sleep(pause).await;
        }
    }

    async fn until_state(&mut self, id: &str, state: &str) {
        self.until(id, |status| status["state"] == state).await;
    }

    /// Waits until no byte moves any more: 20 statuses in a row have the same number of bytes.
    async fn until_full(&mut self, id: &str) {
        const UNCHANGED: usize = 20;
        let (mut before, mut unchanged) = (0, 0);
        self.until(id, |status| {
            let bytes = status["bytes_transferred"].as_u64().unwrap_or_default();
            unchanged = if bytes == before && bytes > 0 { unchanged + 1 } else { 0 };
            before = bytes;
            // On a busy machine, the idle limit may have ended the transfer already.
            unchanged == UNCHANGED || status["active"] == false
        })
        .await;
    }
}

/// The compared parts of a final response. The status is 0 where the connection ended before it.
#[derive(Default)]
struct Response {
    status: u16,
    body: Vec<u8>,
    cut: Option<Cut>,
    /// The response announces the end of its connection (HTTP/1).
    closes: bool,
}

impl Response {
    fn of_http1(response: testkit::client::Response) -> Self {
        let (closes, cut) = (response.closes(), cut_of_http1(response.end));
        Self { status: response.status, closes, cut, body: response.body }
    }

    /// Whether the connection is kept, as it must be after a whole message except in HTTP/1.0.
    fn ends_as(&self, version: Version) -> bool {
        self.closes == (version == Version::Http10)
    }

    fn is(&self, error: &Error) -> bool {
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        self.status == error.status && self.cut.is_none() && is_error(&body, error)
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, body, cut, closes } = self;
        let start = String::from_utf8_lossy(&body[..body.len().min(100)]);
        write!(f, "{status} with {} bytes, cut: {cut:?}, closes: {closes}: {start}", body.len())
    }
}

fn is_error(json: &Value, error: &Error) -> bool {
    let message = json["message"].as_str().unwrap_or_default();
    json["name"] == error.name && message.starts_with(error.message)
}

enum Source {
    Http1(Client),
    Http2 { client: Http2, upload: ResponseFuture, send: SendStream<Bytes> },
    Left,
}

impl Source {
    async fn connect(server: &TestServer, id: &str, cell: Cell, body: Body) -> Self {
        let length = body.length.to_string();
        if cell.source == Version::Http2 {
            let fields = [("content-length", &*length)];
            let fields = if cell.framing == Framing::Length { &fields[..] } else { &[] };
            let client = Http2::connect(server).await;
            let (upload, send) = client.request("PUT", &format!("/stream/{id}"), fields, false).await;
            return Self::Http2 { client, upload, send };
        }
        let version = if cell.source == Version::Http10 { "1.0" } else { "1.1" };
        let field = match cell.framing {
            Framing::Length => format!("Content-Length: {length}"),
            Framing::Chunked | Framing::Promised => "Transfer-Encoding: chunked".to_owned(),
        };
        let head = format!("PUT /stream/{id} HTTP/{version}\r\nHost: test\r\n{field}\r\n\r\n");
        let mut client = if cell.event.has_unread_body() {
            Client::connect_with_small_buffers(server.address()).await
        } else {
            server.connect().await
        };
        client.send(head).await;
        Self::Http1(client)
    }

    /// Sends one of [`Body::pieces`], or as much of it as the server reads.
    async fn send(&mut self, piece: Bytes) {
        match self {
            Self::Http1(client) => drop(client.push(&piece).await),
            Self::Http2 { send, .. } if piece.is_empty() => send.send_data(piece, true).unwrap(),
            Self::Http2 { send, .. } => send_bytes(send, piece).await,
            Self::Left => {}
        }
    }

    async fn act(&mut self, event: Event) {
        match (event, std::mem::replace(self, Self::Left)) {
            (Event::SourceCloses, Self::Http1(client)) => client.close(),
            (Event::SourceCloses, Self::Http2 { client, .. }) => {
                // The library has sent all pieces before this request.
                assert_eq!(client.ask("GET", "/ping").await.status, 200);
                client.close().await;
            }
            (Event::SourceResets, Self::Http1(client)) => client.reset(),
            (Event::SourceResets, Self::Http2 { client, mut send, .. }) => {
                send.send_reset(Reason::CANCEL);
                // The connection stays open.
                assert_eq!(client.ask("GET", "/ping").await.status, 200);
            }
            (Event::SourceHalfCloses, Self::Http1(mut client)) => {
                client.half_close().await;
                *self = Self::Http1(client);
            }
            (Event::SourceBreaksFraming, Self::Http1(mut client)) => {
                client.send("no size\r\n").await;
                *self = Self::Http1(client);
            }
            (Event::SourceBreaksFraming, Self::Http2 { client, mut send, upload }) => {
                // The server may reset the HTTP/2 stream before it has read all of it.
                let _ = send.send_data(Bytes::from_static(&[0; SMALL + 1]), true);
                *self = Self::Http2 { client, upload, send };
            }
            (_, unchanged) => *self = unchanged,
        }
    }

    /// The response, unless the source has left.
    async fn response(self) -> Option<Response> {
        match self {
            Self::Http1(mut client) => Some(Response::of_http1(client.final_response().await)),
            Self::Http2 { upload, client: _client, .. } => {
                let mut response = Download::new(upload);
                response.receive(usize::MAX).await;
                Some(response.response)
            }
            Self::Left => None,
        }
    }
}

enum Destination {
    Http1 {
        client: Client,
        head: Option<String>,
    },
    Http2 {
        client: Http2,
        download: Download,
    },
    /// An HTTP/2 client that does not read its connection.
    Unreading(Client),
    Left,
}

/// The received part of a response over HTTP/2.
struct Download {
    head: Option<ResponseFuture>,
    stream: Option<RecvStream>,
    response: Response,
}

impl Download {
    fn new(head: ResponseFuture) -> Self {
        Self { head: Some(head), stream: None, response: Response::default() }
    }

    /// Receives until `bytes` of the body are there, or up to its end.
    async fn receive(&mut self, bytes: usize) {
        if let Some(head) = self.head.take() {
            match with_timeout(head).await {
                Ok(head) => {
                    self.response.status = head.status().as_u16();
                    self.stream = Some(head.into_body());
                }
                Err(error) => self.response.cut = Some(cut_of_http2(&error)),
            }
        }
        let Some(stream) = &mut self.stream else { return };
        while self.response.body.len() < bytes {
            match with_timeout(stream.data()).await {
                Some(Ok(data)) => {
                    stream.flow_control().release_capacity(data.len()).unwrap();
                    self.response.body.extend_from_slice(&data);
                }
                Some(Err(error)) => return self.response.cut = Some(cut_of_http2(&error)),
                None => return,
            }
        }
    }
}

fn cut_of_http1(end: End) -> Option<Cut> {
    match end {
        End::Whole | End::Closed => None,
        End::Short => Some(Cut::Short),
        End::Reset => Some(Cut::ConnectionReset),
    }
}

fn cut_of_http2(error: &h2::Error) -> Cut {
    error.reason().map_or(Cut::ConnectionReset, |reason| Cut::StreamReset(reason.into()))
}

impl Destination {
    async fn connect(server: &TestServer, control: &mut Control, id: &str, cell: Cell) -> Self {
        let is_unread = cell.event.has_unread_body();
        match cell.destination {
            Version::Http10 | Version::Http11 => {
                let version = if cell.destination == Version::Http10 { "1.0" } else { "1.1" };
                let mut client = if is_unread {
                    Client::connect_with_small_buffers(server.address()).await
                } else {
                    server.connect().await
                };
                client.send(format!("GET /stream/{id} HTTP/{version}\r\nHost: test\r\n\r\n")).await;
                tokio::select! {
                    () = control.until_state(id, "DST_CONNECTED") => {}
                    early = client.head() => panic!("the destination does not wait: {early:?}"),
                }
                Self::Http1 { client, head: None }
            }
            Version::Http2 if is_unread && !is_held_by_window(cell) => {
                let mut client = Client::connect_with_small_buffers(server.address()).await;
                request_without_reading(&mut client, server, &[id]).await;
                Self::Unreading(client)
            }
            Version::Http2 => {
                let mut builder = Builder::new();
                if is_unread {
                    builder.initial_window_size(WINDOW);
                }
                let client = Http2::connect_with(server, &mut builder).await;
                let download = Download::new(client.get(id).await);
                control.until_state(id, "DST_CONNECTED").await;
                Self::Http2 { client, download }
            }
        }
    }

    /// Waits until the destination has `bytes` of the body.
    async fn receive(&mut self, bytes: usize) {
        match self {
            _ if bytes == 0 => {}
            Self::Http1 { client, head } => {
                if head.is_none() {
                    *head = Some(client.head().await.unwrap());
                }
                client.receive(bytes).await;
            }
            Self::Http2 { download, .. } => download.receive(bytes).await,
            Self::Unreading(_) | Self::Left => {}
        }
    }

    /// Receives the response up to its end, and keeps the connection open.
    async fn response(&mut self) -> Option<Response> {
        match self {
            Self::Http1 { client, head } => {
                let head = match head.take() {
                    Some(head) => Ok(head),
                    None => client.head().await,
                };
                Some(match head {
                    Ok(head) => Response::of_http1(client.rest(head).await),
                    Err(end) => Response { cut: cut_of_http1(end), ..Response::default() },
                })
            }
            Self::Http2 { download, .. } => {
                download.receive(usize::MAX).await;
                Some(std::mem::take(&mut download.response))
            }
            Self::Unreading(_) | Self::Left => None,
        }
    }

    async fn act(&mut self, event: Event) {
        let (closes, resets) = match event {
            Event::DestinationCloses | Event::DestinationStallsThenCloses => (true, false),
            Event::DestinationResets | Event::DestinationStallsThenResets => (false, true),
            Event::DestinationHalfCloses => (false, false),
            _ => return,
        };
        match std::mem::replace(self, Self::Left) {
            Self::Http1 { client, .. } if closes => client.close(),
            Self::Http1 { client, .. } if resets => client.reset(),
            Self::Http1 { mut client, head } => {
                client.half_close().await;
                // Keeps the connection, which its drop would close.
                *self = Self::Http1 { client, head };
            }
            Self::Http2 { client, .. } if closes => client.close().await,
            Self::Http2 { client, download } => {
                // The library resets an HTTP/2 stream whose response is dropped.
                drop(download);
                assert_eq!(client.ask("GET", "/ping").await.status, 200);
            }
            Self::Unreading(client) if closes => client.close(),
            Self::Unreading(mut client) => {
                reset_without_reading(&mut client, 1).await;
                // The connection stays open.
                *self = Self::Unreading(client);
            }
            Self::Left => {}
        }
    }
}

/// The servers that the sides connect to.
#[derive(Clone, Copy)]
struct Places<'a> {
    source: &'a TestServer,
    destination: &'a TestServer,
    is_over_hops: bool,
}

impl<'a> Places<'a> {
    fn both(server: &'a TestServer) -> Self {
        Self { source: server, destination: server, is_over_hops: false }
    }
}

/// Plays a cell, and returns the differences from the table.
async fn play(places: Places<'_>, control: &mut Control, cell: Cell) -> Result<(), String> {
    const TRIES: usize = 10;
    for _ in 0..TRIES {
        match play_once(places, control, cell).await {
            Played::InTime(result) => return result,
            Played::TooSlowly => {}
        }
    }
    Err(format!("{cell:?}: the machine was too slow for the idle limit {TRIES} times in a row"))
}

enum Played {
    InTime(Result<(), String>),
    /// The machine did not reach the event in time: the idle limit may have ended the transfer earlier, or a node has learned of the event before
    /// the pairing.
    TooSlowly,
}

async fn play_once(places: Places<'_>, control: &mut Control, cell: Cell) -> Played {
    let body = Body::of(cell);
    let settings = match cell.framing {
        Framing::Promised => format!(r#"{{"download_headers":{{"Content-Length":{}}}}}"#, body.length),
        Framing::Length | Framing::Chunked => String::new(),
    };
    let is_timed = cell.event.lasts_until_idle_limit();
    let under_way = if is_timed { UNDER_WAY.acquire().await.ok() } else { None };
    let id = control.create(&settings).await;
    let mut destination = Destination::connect(places.destination, control, &id, cell).await;
    let started = Instant::now();
    let mut source = Source::connect(places.source, &id, cell, body).await;
    control.until_state(&id, "STREAMING").await;
    let mut downloaded = None;
    let mut elapsed = Duration::ZERO;
    let reached_event = || {
        drop(under_way);
        elapsed = started.elapsed();
    };
    if cell.event.has_unread_body() {
        fill_up(control, &id, cell, body, &mut source, reached_event).await;
    } else {
        downloaded = send_and_receive(cell, body, &mut source, &mut destination).await;
        reached_event();
    }
    let idle_limit = if places.is_over_hops { IDLE_LIMIT_OVER_HOPS } else { IDLE_LIMIT };
    if is_timed && elapsed > idle_limit / 2 {
        return Played::TooSlowly;
    }
    source.act(cell.event).await;
    destination.act(cell.event).await;

    let expected = cell.expected();
    let answered = source.response().await;
    let received = match (downloaded, expected.destination) {
        (Some(downloaded), _) => Some(downloaded),
        (None, Received::Unseen) => None,
        (None, _) => destination.response().await,
    };
    // A source with a response finds the stream ended at once.
    let status = match &answered {
        Some(response) if response.status != 0 => control.status(&id).await,
        _ => control.until(&id, |status| status["active"] == false).await,
    };
    // Over a hop, a source may leave before its node has learned of the pairing. Its body is then not passed on.
    let may_have_left =
        matches!(cell.event, Event::SourceCloses | Event::SourceResets) && cell.when == When::AfterEnd;
    if may_have_left && places.is_over_hops && status["state"] == "SRC_DISCONNECTED" {
        return Played::TooSlowly;
    }
    let wrong = [
        (!is_expected_status(cell, body, &expected, &status)).then(|| format!("the status: {status}")),
        differs_at_source(cell, &expected, &status, answered.as_ref()),
        differs_at_destination(cell, body, &expected, received.as_ref()),
    ];
    let wrong: Vec<_> = wrong.into_iter().flatten().collect();
    let is_right = wrong.is_empty();
    let wrong = format!("{cell:?}\n  expected {expected:?}\n  {}", wrong.join("\n  "));
    Played::InTime(if is_right { Ok(()) } else { Err(wrong) })
}

/// Lets the source send, and the destination receive, all pieces before the event. Returns the response of the destination if it is
/// whole.
async fn send_and_receive(
    cell: Cell,
    body: Body,
    source: &mut Source,
    destination: &mut Destination,
) -> Option<Response> {
    for (when, piece) in body.pieces(cell).into_iter().filter(|(when, _)| *when <= cell.when) {
        if when == When::AfterLastByte && cell.when < When::AfterEnd {
            // The server holds back the byte that completes a promised length, and the bytes that it reads together with it.
            destination.receive(body.length - 1).await;
        }
        source.send(piece).await;
    }
    // A source that has sent all may leave before anything has arrived. A destination that knows the length may leave after the last
    // byte.
    let leaves_early = matches!(cell.event, Event::SourceCloses | Event::SourceHalfCloses);
    let knows_length = cell.framing != Framing::Chunked && cell.expected().destination == Received::Unseen;
    match cell.when {
        When::AfterEnd if leaves_early => None,
        When::AfterEnd if !knows_length => destination.response().await,
        _ => {
            destination.receive(usize::try_from(cell.passed_on(body.length as u64)).unwrap()).await;
            None
        }
    }
}

/// Lets the source send until the buffers of a destination that reads nothing are full, then calls `is_full`. In cells that the idle
/// limit ends, waits for that too.
async fn fill_up(
    control: &mut Control,
    id: &str,
    cell: Cell,
    body: Body,
    source: &mut Source,
    is_full: impl FnOnce(),
) {
    let send = async {
        for (_, piece) in body.pieces(cell).into_iter().filter(|(when, _)| *when <= cell.when) {
            source.send(piece).await;
        }
        // The other branch ends this: the status shows when all is sent.
        pending::<()>().await;
    };
    let fill = async {
        if body.length == HELD {
            control
                .until(id, |status| status["bytes_transferred"] == HELD || status["active"] == false)
                .await;
        } else {
            control.until_full(id).await;
        }
        is_full();
        if cell.event.lasts_until_idle_limit() {
            control.until_every(IDLE_LIMIT / 20, id, |status| status["active"] == false).await;
        }
    };
    tokio::select! {
        () = send => {}
        () = fill => {}
    }
}

/// Compares the final state, its error, and the bytes.
fn is_expected_status(cell: Cell, body: Body, expected: &Expected, status: &Value) -> bool {
    let state = status["state"].as_str().unwrap_or_default();
    let has_error = match expected.error {
        Some(error) if state != "FINISHED" => is_error(&status["error"], &error),
        _ => status["error"].is_null(),
    };
    let bytes = status["bytes_transferred"].as_u64().unwrap_or(u64::MAX);
    let length = body.length as u64;
    let has_bytes = (cell.passed_on(length)..=cell.sent(length)).contains(&bytes);
    status["active"] == false && expected.states.contains(&state) && has_error && has_bytes
}

fn differs_at_source(
    cell: Cell,
    expected: &Expected,
    status: &Value,
    actual: Option<&Response>,
) -> Option<String> {
    let is_finished = status["state"] == "FINISHED";
    let error = match expected.source {
        Answered::Unseen => return None,
        Answered::Ok => None,
        Answered::Error(error) => Some(error),
        Answered::ByState => Some(Error::DESTINATION_LEFT).filter(|_| !is_finished),
    };
    let is_right = actual.is_some_and(|actual| match error {
        None => {
            (actual.status, actual.cut, actual.body.len()) == (200, None, 0) && actual.ends_as(cell.source)
        }
        // A failed transfer closes the HTTP/1 connection.
        Some(error) => actual.is(&error) && (actual.closes || cell.source == Version::Http2),
    });
    (!is_right).then(|| format!("the source: expected {:?}, got {actual:?}", expected.source))
}

fn differs_at_destination(
    cell: Cell,
    body: Body,
    expected: &Expected,
    actual: Option<&Response>,
) -> Option<String> {
    let is_right = match (expected.destination, actual) {
        (Received::Unseen, None) => true,
        // A destination that left after its response has received all of it.
        (Received::Whole | Received::Unseen, Some(actual)) => {
            (actual.status, actual.cut, actual.body.len()) == (200, None, body.length)
                && body.begins_with(&actual.body)
                && actual.ends_as(cell.destination)
        }
        (Received::Cut(form), Some(actual)) => {
            let is_form = match (form, actual.cut) {
                (Cut::ConnectionReset, Some(Cut::Short)) => is_tls(),
                (form, actual) => actual == Some(form),
            };
            let length = body.length as u64;
            let has_length =
                (cell.passed_on(length)..=cell.sent(length)).contains(&(actual.body.len() as u64));
            // The buffers of a destination that reads nothing may end inside a TLS record, which cannot be decrypted.
            let is_nothing = cell.event.has_unread_body() && (actual.status, actual.body.len()) == (0, 0);
            is_form && (is_nothing || actual.status == 200 && has_length && body.begins_with(&actual.body))
        }
        (Received::Error(error), Some(actual)) => actual.is(&error),
        (_, None) => false,
    };
    (!is_right).then(|| format!("the destination: expected {:?}, got {actual:?}", expected.destination))
}

/// Plays `cells`, [`AT_ONCE`] at a time, and asserts that each ends as expected and leaves no resources behind.
async fn assert_as_expected(cells: impl Iterator<Item = Cell>, adjust: impl FnOnce(&mut Config)) {
    let server = TestServer::start_with(|config| {
        with_limits(config);
        adjust(config);
    })
    .await;
    assert_all_as_expected(cells, &server, AT_ONCE, |_| Places::both(&server)).await;
    assert_nothing_is_left(&server).await;
}

fn with_limits(config: &mut Config) {
    config.clients.max_streams = Some(AT_ONCE);
    config.clients.max_connections = Some(CONNECTIONS);
    // A control connection may be idle for a while.
    config.head_timeout = Period::from_secs(60);
}

/// Plays `cells`, `at_once` at a time, with streams of `owner`, and asserts that each ends as expected. `places` says where the sides of a cell
/// connect, by its number.
async fn assert_all_as_expected<'a>(
    cells: impl Iterator<Item = Cell>,
    owner: &TestServer,
    at_once: usize,
    places: impl Fn(usize) -> Places<'a>,
) {
    let cells = Mutex::new(cells.enumerate());
    let next = || cells.lock().next();
    let players = (0..at_once).map(async |_| {
        let mut control = Control::connect(owner).await;
        let mut wrong = Vec::new();
        let mut count = 0;
        while let Some((number, cell)) = next() {
            count += 1;
            let places = places(number);
            let mut played = AssertUnwindSafe(play(places, &mut control, cell)).catch_unwind().await;
            // Over a hop, a source may leave before its node has learned of the pairing, so that it gets no response.
            let is_race = places.is_over_hops && matches!(cell.event, Event::SourceHalfCloses);
            for _ in 0..3 {
                if played.is_err() {
                    control = Control::connect(owner).await;
                }
                if played.is_ok() || !is_race {
                    break;
                }
                played = AssertUnwindSafe(play(places, &mut control, cell)).catch_unwind().await;
            }
            wrong.extend(played.unwrap_or_else(|_| Err(format!("{cell:?}\n  panicked, see above"))).err());
        }
        (count, wrong)
    });
    let (counts, wrong): (Vec<usize>, Vec<_>) = join_all(players).await.into_iter().unzip();
    let wrong = wrong.concat();
    let count: usize = counts.iter().sum();
    assert!(count > 0 && wrong.is_empty(), "{} of {count} cells:\n{}", wrong.len(), wrong.join("\n"));
}

/// Asserts that no active stream, no connection and no pipe is left, and that none counts for the client any more.
async fn assert_nothing_is_left(server: &TestServer) {
    // The scrape itself has a connection.
    metrics::until(server, "open_connections", &[], 1).await;
    let metrics = Exposition::of(server).await;
    for state in ["created", "source_waits", "destination_waits", "streaming"] {
        assert_eq!(metrics.count("streams", &[("state", state)]), 0, "{state}");
    }
    assert_eq!(metrics.count("pipes_in_use", &[]), 0);
    // The server may still be closing the connections of the last scrapes.
    let mut controls = join_all((0..CONNECTIONS - 3).map(|_| Control::connect(server))).await;
    for control in &mut controls {
        control.0.send(get("/ping")).await;
        assert_eq!(control.0.response().await.status, 200);
    }
    for control in &mut controls[..AT_ONCE] {
        control.create("").await;
    }
}

fn is_quick(cell: Cell) -> bool {
    !cell.event.lasts_until_idle_limit()
}

fn pace(rate: u64) -> impl Fn(&mut Config) {
    move |config| config.streams.max_rate = Some(Size::bytes(rate))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transfer_ends_as_the_contract_says() {
    assert_as_expected(Cell::all().filter(|cell| is_quick(*cell) && !cell.paced), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_paced_transfer_ends_as_the_contract_says() {
    let cells = |is_unread| {
        Cell::all()
            .filter(move |cell| is_quick(*cell) && cell.paced && cell.event.has_unread_body() == is_unread)
    };
    tokio::join!(
        assert_as_expected(cells(false), pace(PACE)),
        assert_as_expected(cells(true), pace(FAST_PACE))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transfer_that_stalls_ends_as_the_contract_says() {
    let cells = |paced: bool, is_unread: bool| {
        Cell::all().filter(move |cell| {
            !is_quick(*cell) && cell.paced == paced && cell.event.has_unread_body() == is_unread
        })
    };
    let idle = |config: &mut Config| config.idle_timeout = Period::from_secs(IDLE_LIMIT.as_secs());
    tokio::join!(
        assert_as_expected(cells(false, false), idle),
        assert_as_expected(cells(false, true), idle),
        assert_as_expected(cells(true, false), |config| {
            idle(config);
            pace(PACE)(config);
        }),
        assert_as_expected(cells(true, true), |config| {
            idle(config);
            pace(FAST_PACE)(config);
        }),
    );
}

/// Plays the cells on three nodes, with the sides of all cells at these two. The streams are of node 0.
async fn assert_over_hops(
    cells: impl Iterator<Item = Cell>,
    (source, destination): (usize, usize),
    adjust: impl Fn(&mut Config),
) {
    let cluster = TestCluster::start_with(3, |config| {
        with_limits(config);
        adjust(config);
    })
    .await;
    let places = Places { source: &cluster[source], destination: &cluster[destination], is_over_hops: true };
    assert_all_as_expected(cells, &cluster[0], AT_ONCE_OVER_HOPS, |_| places).await;
}

fn quick_cells() -> impl Iterator<Item = Cell> {
    Cell::all().filter(|cell| is_quick(*cell) && !cell.paced)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transfer_from_another_node_ends_as_the_contract_says() {
    assert_over_hops(quick_cells(), (1, 0), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transfer_to_another_node_ends_as_the_contract_says() {
    assert_over_hops(quick_cells(), (0, 1), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transfer_between_two_sides_of_another_node_ends_as_the_contract_says() {
    assert_over_hops(quick_cells(), (1, 1), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transfer_between_two_other_nodes_ends_as_the_contract_says() {
    assert_over_hops(quick_cells(), (1, 2), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_transfer_between_two_other_nodes_that_stalls_ends_as_the_contract_says() {
    let cells = |is_unread| {
        Cell::all()
            .filter(move |cell| !is_quick(*cell) && !cell.paced && cell.event.has_unread_body() == is_unread)
    };
    let idle = |config: &mut Config| config.idle_timeout = Period::from_secs(IDLE_LIMIT_OVER_HOPS.as_secs());
    tokio::join!(assert_over_hops(cells(false), (1, 2), idle), assert_over_hops(cells(true), (1, 2), idle));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_paced_transfer_between_two_other_nodes_ends_as_the_contract_says() {
    let cells = |is_unread| {
        Cell::all()
            .filter(move |cell| is_quick(*cell) && cell.paced && cell.event.has_unread_body() == is_unread)
    };
    tokio::join!(
        assert_over_hops(cells(false), (1, 2), pace(PACE)),
        assert_over_hops(cells(true), (1, 2), pace(FASTEST_PACE))
    );
}
