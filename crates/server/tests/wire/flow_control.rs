//! Flow control of uploads over HTTP/2 (docs/api.md, section 8), and how many requests of a connection may wait.

use std::collections::HashMap;
use std::time::Duration;

use rendezvous_server::config::Size;
use rendezvous_server::internal::HTTP2_PREFACE;
use socket2::SockRef;
use testkit::client::{Client, End, with_timeout};
use testkit::messages::pattern;
use testkit::server::{TestServer, get};
use tokio::net::TcpSocket;

use crate::http2::{
    ACK, DATA, END_STREAM, GOAWAY, Http2, PADDED, PING, SETTINGS, WINDOW_UPDATE, frame, head, response,
    send_all, until_all_is_read,
};

/// The window of an upload that waits.
const WAITING: usize = 65_535;
/// The largest window.
const LARGEST: usize = 8 << 20;
/// The largest DATA frame without a setting of the server.
const LARGEST_FRAME: usize = 16 * 1024;
/// The limit on a test that loops until the server has done something.
const WITHIN: Duration = Duration::from_mins(1);

/// A client of HTTP/2 that reads and writes single frames.
struct Frames {
    client: Client,
    /// The settings of the server.
    settings: HashMap<u16, usize>,
    /// What the client may send on each HTTP/2 stream.
    windows: HashMap<u32, usize>,
}

/// A frame of the server.
struct Received {
    stream: u32,
    kind: u8,
    flags: u8,
    payload: Vec<u8>,
}

impl Frames {
    async fn connect(server: &TestServer) -> Self {
        Self::begin(server.connect().await, &[]).await
    }

    /// Begins HTTP/2 with the settings in `settings`.
    async fn begin(mut client: Client, settings: &[u8]) -> Self {
        client.send([HTTP2_PREFACE, &frame(0, SETTINGS, 0, settings)].concat()).await;
        let mut frames = Self { client, settings: HashMap::new(), windows: HashMap::new() };
        while frames.settings.is_empty() {
            frames.next().await.unwrap();
        }
        frames.client.send(frame(0, SETTINGS, ACK, &[])).await;
        frames
    }

    /// Reads the next frame of the server, and follows its settings and windows.
    async fn next(&mut self) -> Result<Received, End> {
        let header = self.client.take_bytes(9).await?;
        let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
        let stream = u32::from_be_bytes(header[5..9].try_into().unwrap());
        let payload = self.client.take_bytes(length).await?;
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap()) as usize;
        match header[3] {
            SETTINGS => {
                for setting in payload.chunks(6) {
                    self.settings.insert(u16::from_be_bytes([setting[0], setting[1]]), number(&setting[2..]));
                }
            }
            WINDOW_UPDATE if stream != 0 => *self.windows.get_mut(&stream).unwrap() += number(&payload),
            _ => {}
        }
        Ok(Received { stream, kind: header[3], flags: header[4], payload })
    }

    /// Begins an upload.
    async fn put(&mut self, stream: u32, id: &str) {
        self.windows.insert(stream, self.settings[&4]);
        self.client.send(head(stream, 0, "PUT", &format!("/stream/{id}"))).await;
    }

    /// Sends as much of a body as its window allows. Returns how much that was.
    async fn fill(&mut self, stream: u32) -> usize {
        let window = std::mem::take(self.windows.get_mut(&stream).unwrap());
        for piece in vec![b'x'; window].chunks(LARGEST_FRAME) {
            self.client.send(frame(stream, DATA, 0, piece)).await;
        }
        window
    }

    /// Returns the error code of the GOAWAY with which the server ends the connection.
    async fn goaway(&mut self) -> u8 {
        loop {
            let received = self.next().await.unwrap();
            if received.kind == GOAWAY {
                return received.payload[7];
            }
        }
    }
}

/// Reads a download in a task of its own. Returns the length of its body.
fn read_all(mut destination: Client) -> tokio::task::JoinHandle<usize> {
    tokio::spawn(async move { destination.response().await.body.len() })
}

#[tokio::test]
async fn the_window_of_an_upload_grows_to_8_mib_while_it_is_what_limits_it_and_not_further() {
    let server = TestServer::start().await;
    let id = server.create().await;
    let destination = read_all(server.get(&id).await);
    let mut source = Frames::connect(&server).await;
    source.put(1, &id).await;
    server.until(&id, "STREAMING").await;
    let (mut sent, mut size) = (source.fill(1).await, WAITING);
    assert_eq!(sent, WAITING);
    let growing = async {
        while size < LARGEST {
            let received = source.next().await.unwrap();
            if received.kind == PING && received.flags & ACK == 0 {
                // Far away.
                tokio::time::sleep(Duration::from_millis(500)).await;
                source.client.send(frame(0, PING, ACK, &received.payload)).await;
            }
            let granted = source.fill(1).await;
            sent += granted;
            // Without growth, at most half of a window or 256 KiB is granted at once.
            if granted > size {
                size *= 4;
            }
        }
    };
    tokio::time::timeout(WITHIN, growing).await.unwrap();
    while source.windows[&1] < LARGEST - (256 << 10) {
        source.next().await.unwrap();
    }
    source.client.send(frame(0, PING, 0, b"the last")).await;
    while source.next().await.unwrap().payload != b"the last" {}
    assert!(source.windows[&1] <= LARGEST, "{}", source.windows[&1]);
    source.client.send(frame(1, DATA, END_STREAM, &[])).await;
    assert_eq!(with_timeout(destination).await.unwrap(), sent);
}

#[tokio::test]
async fn an_upload_that_waits_has_a_window_of_64_kib_and_one_byte_more_ends_the_connection() {
    const FLOW_CONTROL_ERROR: u8 = 3;
    for excess in [frame(1, DATA, 0, b"x"), frame(1, DATA, PADDED, &[0])] {
        let server = TestServer::start().await;
        let id = server.create().await;
        let mut source = Frames::connect(&server).await;
        assert_eq!((source.settings[&4], source.settings[&3]), (WAITING, 100));
        source.put(1, &id).await;
        assert_eq!(source.fill(1).await, WAITING);
        until_all_is_read(&mut source.client).await;
        assert_eq!(server.status(&id).await["state"], "SRC_CONNECTED");
        source.client.send(excess).await;
        assert_eq!(source.goaway().await, FLOW_CONTROL_ERROR);
        server.until(&id, "CREATED").await;
    }
}

#[tokio::test]
async fn padding_does_not_use_a_window_up() {
    // Without memory for a larger window.
    let server = TestServer::start_with(|config| config.max_http2_body_bytes = Size::bytes(1)).await;
    let id = server.create().await;
    let destination = read_all(server.get(&id).await);
    let mut source = Frames::connect(&server).await;
    source.put(1, &id).await;
    let padded = [&[255, b'x'][..], &[0; 255]].concat();
    let mut sent = 0;
    // Several windows, mostly of padding.
    while sent < 4 * WAITING / padded.len() {
        while source.windows[&1] < padded.len() {
            source.next().await.unwrap();
        }
        *source.windows.get_mut(&1).unwrap() -= padded.len();
        source.client.send(frame(1, DATA, PADDED, &padded)).await;
        sent += 1;
    }
    source.client.send(frame(1, DATA, END_STREAM, &[])).await;
    assert_eq!(with_timeout(destination).await.unwrap(), sent);
}

#[tokio::test]
async fn uploads_and_downloads_share_a_connection_without_a_wrong_byte() {
    // With small buffers of the kernels and large windows, the server writes parts of frames.
    for (has_small_buffers, length) in [(false, 4 << 20), (true, 1 << 20)] {
        let server = TestServer::start().await;
        let socket = TcpSocket::new_v4().unwrap();
        if has_small_buffers {
            socket.set_recv_buffer_size(4096).unwrap();
            SockRef::from(&socket).set_tcp_mss(1400).unwrap();
        }
        let stream = socket.connect(server.address()).await.unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 24).initial_connection_window_size(1 << 28);
        let client = Http2::over(stream, &mut builder).await;
        let body = pattern(length);
        let mut transfers = Vec::new();
        for _ in 0..8 {
            let id = server.create().await;
            let download = client.get(&id).await;
            let (upload, mut send) = client.put(&id).await;
            let body = body.clone();
            transfers.push(tokio::spawn(async move {
                let (seen, ()) = tokio::join!(response(download), send_all(&mut send, &body, true));
                assert_eq!(seen.cut, None);
                assert!(seen.body == body);
                assert_eq!(response(upload).await.status, 200);
            }));
        }
        for transfer in transfers {
            tokio::time::timeout(WITHIN, transfer).await.unwrap().unwrap();
        }
    }
}

/// While a download fills the connection, h2 cannot write the answer to the PING, and does not decode what comes after it.
#[tokio::test]
async fn a_body_behind_a_ping_arrives_though_a_download_blocks_the_connection() {
    let server = TestServer::start().await;
    let [stalled, id] = [server.create().await, server.create().await];
    let largest_window = [0, 4, 0x7f, 0xff, 0xff, 0xff];
    let client = Client::connect_with_small_buffers(server.address()).await;
    let mut client = Frames::begin(client, &largest_window).await;
    client.client.send(frame(0, WINDOW_UPDATE, 0, &(1_u32 << 30).to_be_bytes())).await;
    client.client.send(head(1, END_STREAM, "GET", &format!("/stream/{stalled}"))).await;
    let mut source = server.put(&stalled, "Content-Length: 67108864\r\n").await;
    let filling = tokio::spawn(async move { source.push(&vec![7; 64 << 20]).await });
    let (mut before, mut now) = (0, 1);
    while before != now || now == 0 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        before =
            std::mem::replace(&mut now, server.status(&stalled).await["bytes_transferred"].as_u64().unwrap());
    }

    let mut destination = server.get(&id).await;
    client.put(3, &id).await;
    server.until(&id, "STREAMING").await;
    client.client.send([frame(0, PING, 0, b"blocking"), frame(3, DATA, END_STREAM, b"body")].concat()).await;
    let answered = async { while client.next().await.unwrap().stream != 3 {} };
    let (download, ()) = with_timeout(async { tokio::join!(destination.response(), answered) }).await;
    assert_eq!(download.body, b"body");
    filling.abort();
}

#[tokio::test]
async fn uploads_that_wait_do_not_stop_one_that_is_passed_on() {
    let server = TestServer::start().await;
    let client = Http2::connect(&server).await;
    let mut waiting = Vec::new();
    for _ in 0..98 {
        let (upload, mut send) = client.put(&client.create().await).await;
        send_all(&mut send, &pattern(WAITING), false).await;
        waiting.push((upload, send));
    }
    let id = server.create().await;
    let mut destination = server.get(&id).await;
    let (upload, mut send) = client.put(&id).await;
    let body = pattern(16 << 20);
    let (seen, ()) = tokio::join!(destination.response(), send_all(&mut send, &body, true));
    assert!(seen.body == body);
    assert_eq!(response(upload).await.status, 200);
}

#[tokio::test]
async fn a_source_that_waits_gets_503_when_no_memory_is_left_and_its_seat_is_free() {
    let server = TestServer::start_with(|config| config.max_http2_body_bytes = Size::bytes(100_000)).await;
    let client = Http2::connect(&server).await;
    let [kept, refused] = [client.create().await, client.create().await];
    let body = pattern(WAITING);
    let (kept_upload, mut kept_send) = client.put(&kept).await;
    send_all(&mut kept_send, &body, false).await;
    server.until(&kept, "SRC_CONNECTED").await;
    // The first body is held by now: a request on the same connection was answered behind it.
    client.ask("GET", "/ping").await;

    let (upload, mut send) = client.put(&refused).await;
    send_all(&mut send, &body, false).await;
    let answer = response(upload).await;
    assert_eq!(answer.error(), "503 ServerBusyError");
    assert!(answer.json()["message"].as_str().unwrap().contains("--max-http2-body-bytes"));
    assert_eq!(server.status(&refused).await["state"], "CREATED");

    // What was read takes no memory any more.
    let mut destination = server.get(&kept).await;
    server.until_passed_on(&kept, body.len()).await;
    let (upload, mut send) = client.put(&refused).await;
    send_all(&mut send, &body, true).await;
    server.until(&refused, "SRC_CONNECTED").await;
    client.ask("GET", "/ping").await;
    assert!(server.get(&refused).await.response().await.body == body);
    assert_eq!(response(upload).await.status, 200);
    send_all(&mut kept_send, b"", true).await;
    assert!(destination.response().await.body == body);
    assert_eq!(response(kept_upload).await.status, 200);
}

#[tokio::test]
async fn the_last_request_of_a_connection_may_not_wait_so_that_it_can_be_the_other_side() {
    let server =
        TestServer::start_with(|config| config.max_streams_per_connection = "4".parse().unwrap()).await;
    let client = Http2::connect(&server).await;
    let (mut ids, mut waiting) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let id = server.create().await;
        waiting.push(client.get(&id).await);
        server.until(&id, "DST_CONNECTED").await;
        ids.push(id);
    }
    let other = server.create().await;
    for method in ["GET", "PUT"] {
        let (refused, _send) =
            client.request(method, &format!("/stream/{other}"), &[], method == "GET").await;
        let answer = response(refused).await;
        assert_eq!(answer.error(), "503 ServerBusyError", "{method}");
        assert!(answer.json()["message"].as_str().unwrap().contains("--max-streams-per-connection"));
        assert_eq!(server.status(&other).await["state"], "CREATED", "{method}");
    }
    for (id, download) in ids.iter().zip(waiting) {
        let (upload, mut send) = client.put(id).await;
        send_all(&mut send, b"body", true).await;
        assert_eq!(response(download).await.body, b"body");
        assert_eq!(response(upload).await.status, 200);
    }
    assert_eq!(server.ask(get("/ping")).await.status, 200);
}
