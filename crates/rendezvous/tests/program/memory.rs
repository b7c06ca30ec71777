//! The memory that the server needs for its clients, measured as resident memory.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::{Program, until_state};

/// A frame of an HTTP/2 stream (RFC 9113, section 4.1). It is encoded here because no library would send such frames.
fn frame(stream: u8, kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let flags = if kind == HEADERS { END_HEADERS } else { 0 };
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const UNKNOWN: u8 = 0xbe;
const END_HEADERS: u8 = 4;

/// Returns the head of an upload to `path`.
fn head(path: &str) -> Vec<u8> {
    let fields = [(":method", "PUT"), (":scheme", "http"), (":authority", "localhost"), (":path", path)];
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let fields = fields.into_iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat());
    frame(1, HEADERS, &fields.collect::<Vec<_>>())
}

/// Waits until the server has read everything that was sent.
fn until_all_is_read(stream: &mut TcpStream) {
    const PAYLOAD: &[u8; 8] = b"all read";
    stream.write_all(&frame(0, PING, PAYLOAD)).unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(PAYLOAD) {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        seen.extend(byte);
    }
}

/// Unknown frames arrive in the same buffers as the DATA frames of a waiting body, and must not be kept with them.
#[test]
fn frames_between_those_of_a_waiting_upload_cost_no_memory() {
    const UPLOADS: u64 = 20;
    let program = Program::start(&["--log-level", "warn"]);
    let between = frame(1, UNKNOWN, &[0; 16_000]);
    let body: Vec<u8> = (0..200).flat_map(|_| [&frame(1, DATA, &[7; 300])[..], &between].concat()).collect();
    let upload = || {
        let stream = program.create();
        let mut source = program.connect();
        let path = stream.splitn(4, '/').nth(3).unwrap();
        source.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        source.write_all(&[frame(0, SETTINGS, &[]), head(&format!("/{path}"))].concat()).unwrap();
        until_state(&stream, "SRC_CONNECTED");
        source.write_all(&body).unwrap();
        until_all_is_read(&mut source);
        source
    };
    // The first one also allocates memory that all share.
    let _first = upload();
    let before = program.resident_kib();
    let _uploads: Vec<_> = (0..UPLOADS).map(|_| upload()).collect();
    let each = program.resident_kib().saturating_sub(before) / UPLOADS;
    assert!(each < 400, "a waiting upload of 60 000 bytes needs {each} KiB");
}

/// Creates a stream over a persistent connection, and returns its path.
fn create_by(control: &mut TcpStream) -> String {
    const LENGTH: usize = "{\"stream\":\"00000000-0000-0000-0000-000000000000\"}".len();
    control.write_all(b"POST /stream HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut seen = Vec::new();
    let body = loop {
        let mut bytes = [0; 1024];
        let count = control.read(&mut bytes).unwrap();
        seen.extend(&bytes[..count]);
        let head = seen.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4);
        if let Some(body) = head.and_then(|head| seen.get(head..head + LENGTH)) {
            break String::from_utf8_lossy(body).into_owned();
        }
    };
    format!("/stream/{}", body.split('"').nth(3).unwrap())
}

/// Measures all memory for a waiting side: the stream, the connection, its task and the request. A large limit on heads costs nothing.
fn waiting_side_kib(head: &str, fields: &str, is_at_path: bool) -> f64 {
    const SIDES: u32 = 2000;
    let program = Program::start(&["--log-level", "warn", "--ttl", "10m", "--max-head-bytes", "1m"]);
    let mut control = program.connect();
    let mut made = 0;
    let mut wait_for = |count: u32| -> Vec<TcpStream> {
        let request = |target| format!("{head} {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
        let mut target = || {
            made += 1;
            // As long as the target of a stream.
            if is_at_path { format!("/p/{made:040}") } else { create_by(&mut control) }
        };
        (0..count).map(|_| program.send(&request(target()))).collect()
    };
    // The first ones also allocate memory that all share.
    let _first = wait_for(200);
    let before = program.resident_kib();
    let _sides = wait_for(SIDES);
    f64::from(u32::try_from(program.resident_kib() - before).unwrap()) / f64::from(SIDES)
}

#[test]
fn a_side_that_waits_needs_little_memory_and_at_a_path_no_more() {
    for (head, fields, limit) in [("GET", "", 2.6), ("PUT", "Content-Length: 5\r\n", 3.8)] {
        let stream = waiting_side_kib(head, fields, false);
        let path = waiting_side_kib(head, fields, true);
        assert!(stream < limit, "a {head} that waits needs {stream:.2} KiB");
        assert!(path < stream + 0.1, "at a path {path:.3} KiB, and {stream:.3} over a stream");
    }
}
