//! Frames made by hand, because the library of the client controls the order in which it sends frames.

use rendezvous_server::internal::HTTP2_PREFACE;
use testkit::client::Client;
use testkit::server::TestServer;

/// A frame of an HTTP/2 stream, or of the connection where `stream` is 0 (RFC 9113, section 4.1).
pub(crate) fn frame(stream: u32, kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub(crate) const DATA: u8 = 0;
const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(super) const CANCEL: [u8; 4] = [0, 0, 0, 8];
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;

/// A request's head.
pub(crate) fn head(stream: u32, flags: u8, method: &str, path: &str) -> Vec<u8> {
    let fields = [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path)];
    let fields = fields.into_iter().flat_map(|(name, value)| {
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        [vec![0], text(name), text(value)].concat()
    });
    frame(stream, HEADERS, END_HEADERS | flags, &fields.collect::<Vec<_>>())
}

/// Lets `client` request `ids` on the HTTP/2 streams 1, 3, … with the largest windows that HTTP/2 allows. The client reads
/// nothing afterwards.
pub(crate) async fn request_without_reading(client: &mut Client, server: &TestServer, ids: &[&str]) {
    let window = (i32::MAX as u32).to_be_bytes();
    let settings = [&[0, 4][..], &window].concat();
    let increment = (i32::MAX as u32 - 65_535).to_be_bytes();
    let begin = [frame(0, SETTINGS, 0, &settings), frame(0, WINDOW_UPDATE, 0, &increment)].concat();
    client.send([HTTP2_PREFACE, &begin].concat()).await;
    for (stream, id) in [1, 3].into_iter().zip(ids) {
        client.send(head(stream, END_STREAM, "GET", &format!("/stream/{id}"))).await;
        server.until(id, "DST_CONNECTED").await;
    }
}

/// Lets a client of [`request_without_reading`] reset one of its HTTP/2 streams.
pub(crate) async fn reset_without_reading(client: &mut Client, stream: u32) {
    client.send(frame(stream, RST_STREAM, 0, &CANCEL)).await;
}

/// Waits until the server has read all bytes that this client has sent. The client must not read anything else.
pub(crate) async fn until_all_is_read(client: &mut Client) {
    const PAYLOAD: &[u8; 8] = b"all read";
    client.send(frame(0, PING, 0, PAYLOAD)).await;
    let mut bytes = 0;
    while !client.body_bytes(bytes).await.ends_with(PAYLOAD) {
        bytes += 1;
    }
}
