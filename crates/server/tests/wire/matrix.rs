//! Plays every cell of the table of transfers ([`testkit::matrix`]), and compares what both sides see, the status, and what is
//! left afterwards with what the table expects.
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
use testkit::client::{Client, End, soon};
use testkit::matrix::{Answered, Cell, Cut, Error, Event, Expected, Framing, Received, Version, When};
use testkit::server::{PATIENCE, TestServer, get, post};
use testkit::transport::is_tls;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::http2::{Http2, ask_deafly, reset_deafly, send_bytes};
use crate::metrics::{self, Exposition};

/// The size of a body that is read.
const SMALL: usize = 4002;
/// The size of an unread body that the source can send to its end: too large for the destination's buffers, and not for those of
/// the server (see [`Client::connect_cramped`]).
const HELD: usize = 40_000;
/// The size of an unread body that is too large for all buffers on the way.
const HUGE: usize = 16 << 20;
/// Bodies are of letters that neither framing nor hexadecimal numbers contain. The last byte is [`Body::LAST`].
static BODY: LazyLock<Bytes> = LazyLock::new(|| b"GHIJKLMNOPQRSTUVWXY".repeat(HUGE / 19 + 1).into());
/// The flow-control window of an HTTP/2 destination that reads nothing.
const WINDOW: u32 = 1000;

/// A pace, in bytes per second, that holds back a part of a small body for some 30 ms.
const PACE: u64 = 50_000;
/// A pace that fills the buffers of a destination that reads nothing in a moment.
const FAST_PACE: u64 = 2 << 20;
/// The idle limit where it ends the transfer. Elsewhere it is the default of hours, so that a hang fails the test.
const IDLE_LIMIT: Duration = Duration::from_secs(1);

/// Cells played at a time.
const AT_ONCE: usize = 32;
/// Connections that their client may have. A cell has three, and the server may still be closing some of an earlier one.
const CONNECTIONS: usize = 3 * AT_ONCE + 64;
/// Held by cells that are on their way to an event that the idle limit ends: few, so that each gets there in time.
static UNDER_WAY: Semaphore = Semaphore::const_new(8);

/// Whether a destination that reads nothing reads its connection, and leaves its window used up. Else it does not read the
/// connection, and its windows are open: all is then with its kernel and with that of the server.
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

    /// What the source writes, and which moment comes behind it. An empty piece is the end of an HTTP/2 stream.
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

/// A kept connection that makes streams and asks for their status.
struct Control(Client);

impl Control {
    async fn connect(server: &TestServer) -> Self {
        Self(server.connect().await)
    }

    async fn create(&mut self, json: &str) -> String {
        self.0.send(post("/stream", json)).await;
        let made = self.0.response().await;
        made.json()["stream"].as_str().unwrap_or_else(|| panic!("{made:?}")).to_owned()
    }

    async fn status(&mut self, id: &str) -> Value {
        self.0.send(get(&format!("/stream/{id}/status"))).await;
        self.0.response().await.json()
    }

    /// Returns the first status that `holds`.
    async fn until(&mut self, id: &str, holds: impl FnMut(&Value) -> bool) -> Value {
        self.until_every(Duration::from_millis(1), id, holds).await
    }

    /// As [`Control::until`], with so much time between two looks: what is looked at needs the processor too.
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
            assert!(begun.elapsed() < PATIENCE, "it stays so: {status}");
            // Between two looks, and for nothing else: a status is no event that could be waited for.
            sleep(pause).await;
        }
    }

    async fn until_state(&mut self, id: &str, state: &str) {
        self.until(id, |status| status["state"] == state).await;
    }

    /// Waits until no byte moves any more: so many responses in a row say the same.
    async fn until_full(&mut self, id: &str) {
        const LOOKS: usize = 20;
        let (mut seen, mut looks) = (0, 0);
        self.until(id, |status| {
            let bytes = status["bytes_transferred"].as_u64().unwrap_or_default();
            looks = if bytes == seen && bytes > 0 { looks + 1 } else { 0 };
            seen = bytes;
            // On a busy machine, the idle limit may have ended it already.
            looks == LOOKS || status["active"] == false
        })
        .await;
    }
}

/// A final response, as far as it is compared. Its status is 0 where there was none before the cut.
#[derive(Default)]
struct Response {
    status: u16,
    body: Vec<u8>,
    cut: Option<Cut>,
    /// It announces the end of its connection (HTTP/1).
    closes: bool,
}

impl Response {
    fn of_http1(seen: testkit::client::Response) -> Self {
        Self { status: seen.status, closes: seen.closes(), cut: cut_of_http1(seen.end), body: seen.body }
    }

    /// A connection is kept behind a whole message, except in HTTP/1.0.
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
        let begin = String::from_utf8_lossy(&body[..body.len().min(100)]);
        write!(f, "{status} with {} bytes, cut: {cut:?}, closes: {closes}: {begin}", body.len())
    }
}

fn is_error(json: &Value, error: &Error) -> bool {
    let message = json["message"].as_str().unwrap_or_default();
    json["name"] == error.name && message.starts_with(error.message)
}

enum Source {
    Http1(Client),
    Http2 { client: Http2, upload: ResponseFuture, send: SendStream<Bytes> },
    Gone,
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
            Client::connect_cramped(server.address()).await
        } else {
            server.connect().await
        };
        client.send(head).await;
        Self::Http1(client)
    }

    /// Sends one of [`Body::pieces`], or as much of it as the server takes.
    async fn send(&mut self, piece: Bytes) {
        match self {
            Self::Http1(client) => drop(client.push(&piece).await),
            Self::Http2 { send, .. } if piece.is_empty() => send.send_data(piece, true).unwrap(),
            Self::Http2 { send, .. } => send_bytes(send, piece).await,
            Self::Gone => {}
        }
    }

    async fn act(&mut self, event: Event) {
        match (event, std::mem::replace(self, Self::Gone)) {
            (Event::SourceCloses, Self::Http1(client)) => client.close(),
            (Event::SourceCloses, Self::Http2 { client, .. }) => {
                // What the library was given to send goes out before this.
                assert_eq!(client.ask("GET", "/ping").await.status, 200);
                client.close().await;
            }
            (Event::SourceResets, Self::Http1(client)) => client.reset(),
            (Event::SourceResets, Self::Http2 { client, mut send, .. }) => {
                send.send_reset(Reason::CANCEL);
                // The connection goes on.
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
                // The server may reset the stream before it has taken all of it.
                let _ = send.send_data(Bytes::from_static(&[0; SMALL + 1]), true);
                *self = Self::Http2 { client, upload, send };
            }
            (_, unchanged) => *self = unchanged,
        }
    }

    /// The response, where there is one to compare.
    async fn response(self) -> Option<Response> {
        match self {
            Self::Http1(mut client) => Some(Response::of_http1(client.final_response().await)),
            Self::Http2 { upload, client: _client, .. } => {
                let mut answer = Download::new(upload);
                answer.receive(usize::MAX).await;
                Some(answer.response)
            }
            Self::Gone => None,
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
    Deaf(Client),
    Gone,
}

/// What an HTTP/2 client has received.
struct Download {
    head: Option<ResponseFuture>,
    stream: Option<RecvStream>,
    response: Response,
}

impl Download {
    fn new(head: ResponseFuture) -> Self {
        Self { head: Some(head), stream: None, response: Response::default() }
    }

    /// Receives so many bytes, or up to the end.
    async fn receive(&mut self, bytes: usize) {
        if let Some(head) = self.head.take() {
            match soon(head).await {
                Ok(head) => {
                    self.response.status = head.status().as_u16();
                    self.stream = Some(head.into_body());
                }
                Err(error) => self.response.cut = Some(cut_of_http2(&error)),
            }
        }
        let Some(stream) = &mut self.stream else { return };
        while self.response.body.len() < bytes {
            match soon(stream.data()).await {
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
                    Client::connect_cramped(server.address()).await
                } else {
                    server.connect().await
                };
                client.send(format!("GET /stream/{id} HTTP/{version}\r\nHost: test\r\n\r\n")).await;
                control.until_state(id, "DST_CONNECTED").await;
                Self::Http1 { client, head: None }
            }
            Version::Http2 if is_unread && !is_held_by_window(cell) => {
                let mut client = Client::connect_cramped(server.address()).await;
                ask_deafly(&mut client, server, &[id]).await;
                Self::Deaf(client)
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

    /// Waits until the destination has so many bytes of the body.
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
            Self::Deaf(_) | Self::Gone => {}
        }
    }

    /// Receives the response up to its end. The client does not leave.
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
            Self::Deaf(_) | Self::Gone => None,
        }
    }

    async fn act(&mut self, event: Event) {
        let (closes, resets) = match event {
            Event::DestinationCloses | Event::DestinationStallsThenCloses => (true, false),
            Event::DestinationResets | Event::DestinationStallsThenResets => (false, true),
            Event::DestinationHalfCloses => (false, false),
            _ => return,
        };
        match std::mem::replace(self, Self::Gone) {
            Self::Http1 { client, .. } if closes => client.close(),
            Self::Http1 { client, .. } if resets => client.reset(),
            Self::Http1 { mut client, head } => {
                client.half_close().await;
                // To drop it would close it.
                *self = Self::Http1 { client, head };
            }
            Self::Http2 { client, .. } if closes => client.close().await,
            Self::Http2 { client, download } => {
                // The library resets a stream that nobody reads.
                drop(download);
                assert_eq!(client.ask("GET", "/ping").await.status, 200);
            }
            Self::Deaf(client) if closes => client.close(),
            Self::Deaf(mut client) => {
                reset_deafly(&mut client, 1).await;
                // Its connection stays open.
                *self = Self::Deaf(client);
            }
            Self::Gone => {}
        }
    }
}

/// Plays a cell, and returns what differs from the table.
async fn play(server: &TestServer, control: &mut Control, cell: Cell) -> Result<(), String> {
    const TRIES: usize = 10;
    for _ in 0..TRIES {
        match play_once(server, control, cell).await {
            Played::InTime(result) => return result,
            Played::TooSlowly => {}
        }
    }
    Err(format!("{cell:?}: {TRIES} times in a row, the machine was too slow for the idle limit"))
}

enum Played {
    InTime(Result<(), String>),
    /// The machine did not get to the event well within the idle limit, which may have ended the transfer before.
    TooSlowly,
}

async fn play_once(server: &TestServer, control: &mut Control, cell: Cell) -> Played {
    let body = Body::of(cell);
    let made = match cell.framing {
        Framing::Promised => format!(r#"{{"download_headers":{{"Content-Length":{}}}}}"#, body.length),
        Framing::Length | Framing::Chunked => String::new(),
    };
    let is_timed = cell.event.lasts_until_idle_limit();
    let under_way = if is_timed { UNDER_WAY.acquire().await.ok() } else { None };
    let id = control.create(&made).await;
    let mut destination = Destination::connect(server, control, &id, cell).await;
    let started = Instant::now();
    let mut source = Source::connect(server, &id, cell, body).await;
    control.until_state(&id, "STREAMING").await;
    let mut downloaded = None;
    let mut elapsed = Duration::ZERO;
    let is_there = || {
        drop(under_way);
        elapsed = started.elapsed();
    };
    if cell.event.has_unread_body() {
        fill_up(control, &id, cell, body, &mut source, is_there).await;
    } else {
        downloaded = send_and_receive(cell, body, &mut source, &mut destination).await;
        is_there();
    }
    if is_timed && elapsed > IDLE_LIMIT / 2 {
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
    // Whoever is told how it ended finds it so.
    let status = match &answered {
        Some(response) if response.status != 0 => control.status(&id).await,
        _ => control.until(&id, |status| status["active"] == false).await,
    };
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

/// Lets the source send, and the destination receive, what comes before the event. Returns the whole response where the
/// destination has received it.
async fn send_and_receive(
    cell: Cell,
    body: Body,
    source: &mut Source,
    destination: &mut Destination,
) -> Option<Response> {
    for (when, piece) in body.pieces(cell).into_iter().filter(|(when, _)| *when <= cell.when) {
        if when == When::AfterLastByte && cell.when < When::AfterEnd {
            // A byte that completes a promised length is held back, and with it what the server reads together with it.
            destination.receive(body.length - 1).await;
        }
        source.send(piece).await;
    }
    // A source that has sent all may leave before anything has arrived. A destination that knows the length may leave with the last
    // byte.
    let source_hurries = matches!(cell.event, Event::SourceCloses | Event::SourceHalfCloses);
    let knows_length = cell.framing != Framing::Chunked && cell.expected().destination == Received::Unseen;
    match cell.when {
        When::AfterEnd if source_hurries => None,
        When::AfterEnd if !knows_length => destination.response().await,
        _ => {
            destination.receive(usize::try_from(cell.passed_on(body.length as u64)).unwrap()).await;
            None
        }
    }
}

/// Lets the source send until the buffers of a destination that reads nothing are full, which calls `is_full`, and on until the
/// idle limit where that ends it.
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
        // Whether all was sent shows in the status.
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

/// The final state, its error, and the bytes.
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
    seen: Option<&Response>,
) -> Option<String> {
    let is_finished = status["state"] == "FINISHED";
    let error = match expected.source {
        Answered::Unseen => return None,
        Answered::Ok => None,
        Answered::Error(error) => Some(error),
        Answered::ByState => Some(Error::DESTINATION_LEFT).filter(|_| !is_finished),
    };
    let is_right = seen.is_some_and(|seen| match error {
        None => (seen.status, seen.cut, seen.body.len()) == (200, None, 0) && seen.ends_as(cell.source),
        // A transfer that failed ends the connection of HTTP/1.
        Some(error) => seen.is(&error) && (seen.closes || cell.source == Version::Http2),
    });
    (!is_right).then(|| format!("the source: expected {:?}, seen {seen:?}", expected.source))
}

fn differs_at_destination(
    cell: Cell,
    body: Body,
    expected: &Expected,
    seen: Option<&Response>,
) -> Option<String> {
    let is_right = match (expected.destination, seen) {
        // What it received whole before it left.
        (Received::Unseen, None) => true,
        (Received::Whole | Received::Unseen, Some(seen)) => {
            (seen.status, seen.cut, seen.body.len()) == (200, None, body.length)
                && body.begins_with(&seen.body)
                && seen.ends_as(cell.destination)
        }
        (Received::Cut(form), Some(seen)) => {
            let is_form = match (form, seen.cut) {
                (Cut::ConnectionReset, Some(Cut::Short)) => is_tls(),
                (form, seen) => seen == Some(form),
            };
            let length = body.length as u64;
            let has_length = (cell.passed_on(length)..=cell.sent(length)).contains(&(seen.body.len() as u64));
            // The buffers of a destination that reads nothing may hold a part of a TLS record, which nobody can read.
            let is_nothing = cell.event.has_unread_body() && (seen.status, seen.body.len()) == (0, 0);
            is_form && (is_nothing || seen.status == 200 && has_length && body.begins_with(&seen.body))
        }
        (Received::Error(error), Some(seen)) => seen.is(&error),
        (_, None) => false,
    };
    (!is_right).then(|| format!("the destination: expected {:?}, seen {seen:?}", expected.destination))
}

/// Plays `cells`, some at a time, and checks that nothing of them is left.
async fn hold(cells: impl Iterator<Item = Cell>, adjust: impl FnOnce(&mut Config)) {
    let server = TestServer::start_with(|config| {
        config.clients.max_streams = Some(AT_ONCE);
        config.clients.max_connections = Some(CONNECTIONS);
        // A control may have nothing to ask for a while.
        config.head_timeout = Period::from_secs(60);
        adjust(config);
    })
    .await;
    let cells = Mutex::new(cells);
    let next = || cells.lock().next();
    let players = (0..AT_ONCE).map(async |_| {
        let mut control = Control::connect(&server).await;
        let mut wrong = Vec::new();
        let mut count = 0;
        while let Some(cell) = next() {
            count += 1;
            let played = AssertUnwindSafe(play(&server, &mut control, cell)).catch_unwind().await;
            if played.is_err() {
                control = Control::connect(&server).await;
            }
            wrong.extend(played.unwrap_or_else(|_| Err(format!("{cell:?}\n  panicked, see above"))).err());
        }
        (count, wrong)
    });
    let (counts, wrong): (Vec<usize>, Vec<_>) = join_all(players).await.into_iter().unzip();
    let wrong = wrong.concat();
    let count: usize = counts.iter().sum();
    assert!(count > 0 && wrong.is_empty(), "{} of {count} cells:\n{}", wrong.len(), wrong.join("\n"));
    nothing_is_left(&server).await;
}

/// No side, no connection, no pipe, and no place of the client's.
async fn nothing_is_left(server: &TestServer) {
    // The scrape has a connection of its own.
    metrics::until(server, "open_connections", &[], 1).await;
    let told = Exposition::of(server).await;
    for state in ["created", "source_waits", "destination_waits", "streaming"] {
        assert_eq!(told.count("streams", &[("state", state)]), 0, "{state}");
    }
    assert_eq!(told.count("pipes_in_use", &[]), 0);
    // The server may still be closing the last scrapes' connections.
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
    hold(Cell::all().filter(|cell| is_quick(*cell) && !cell.paced), |_| {}).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_paced_transfer_ends_as_the_contract_says() {
    let cells = |is_unread| {
        Cell::all()
            .filter(move |cell| is_quick(*cell) && cell.paced && cell.event.has_unread_body() == is_unread)
    };
    tokio::join!(hold(cells(false), pace(PACE)), hold(cells(true), pace(FAST_PACE)));
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
        hold(cells(false, false), idle),
        hold(cells(false, true), idle),
        hold(cells(true, false), |config| {
            idle(config);
            pace(PACE)(config);
        }),
        hold(cells(true, true), |config| {
            idle(config);
            pace(FAST_PACE)(config);
        }),
    );
}
