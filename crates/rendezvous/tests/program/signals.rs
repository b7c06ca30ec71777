//! Signals: the drain, and the end without one.

use std::io::{ErrorKind, Read, Write};

use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::process::Signal;

use crate::{Program, curl, until, until_state};

#[test]
fn a_signal_drains_the_server_and_a_second_one_ends_it_at_once() {
    for signal in [Signal::INT, Signal::TERM] {
        for again in [false, true] {
            let mut program = Program::start(&[]);
            let stream = program.create();
            let path = stream.strip_prefix(&program.base).unwrap();
            let mut destination = program.send(&format!("GET {path} HTTP/1.0\r\n\r\n"));
            until_state(&stream, "DST_CONNECTED");
            let mut source = program.send(&format!(
                "PUT {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
            ));
            until(&stream, |status| status["bytes_transferred"] == 5);
            program.process.signal(signal);
            let ready = format!("{}/readyz", program.base);
            while curl(&[&ready]).output().unwrap().status.success() {}

            let mut download = Vec::new();
            if again {
                program.process.signal(signal);
                let end = destination.read_to_end(&mut download);
                assert_eq!(
                    end.unwrap_err().kind(),
                    ErrorKind::ConnectionReset,
                    "a cut download does not look whole"
                );
                assert_eq!(program.process.wait().code(), Some(1));
            } else {
                source.write_all(b"0\r\n\r\n").unwrap();
                destination.read_to_end(&mut download).unwrap();
                assert!(download.ends_with(b"hello"));
                let mut upload = String::new();
                source.read_to_string(&mut upload).unwrap();
                assert!(upload.starts_with("HTTP/1.1 200 "), "{upload}");
                assert_eq!(program.process.wait().code(), Some(0));
            }
        }
    }
}

#[test]
fn a_server_that_is_killed_resets_its_downloads() {
    for (version, body) in [
        ("1.0", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        ("1.1", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
        ("1.1", "Content-Length: 10\r\n\r\nhello"),
    ] {
        let mut program = Program::start(&[]);
        let stream = program.create();
        let path = stream.strip_prefix(&program.base).unwrap();
        let mut download = program.send(&format!("GET {path} HTTP/{version}\r\nHost: localhost\r\n\r\n"));
        until_state(&stream, "DST_CONNECTED");
        let _source = program.send(&format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\n{body}"));
        until(&stream, |status| status["bytes_transferred"] == 5);
        program.process.signal(Signal::KILL);
        program.process.wait();
        let end = download.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
        assert_eq!(end, Err(ErrorKind::ConnectionReset), "HTTP/{version}, {body:?}");
    }
}

#[test]
fn a_server_that_is_killed_within_its_only_write_of_a_body_resets_the_download() {
    let mut program = Program::start(&[]);
    let stream = program.create();
    let path = stream.strip_prefix(&program.base).unwrap();
    let body = "x".repeat(200_000);
    let _source = program.send(&format!(
        "PUT {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    ));
    until_state(&stream, "SRC_CONNECTED");
    let mut download = program.connect();
    set_socket_recv_buffer_size(&download, 4096).unwrap();
    download.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
    until(&stream, |status| status["bytes_transferred"] == 200_000);
    program.process.signal(Signal::KILL);
    program.process.wait();
    let end = download.read_to_end(&mut Vec::new()).map_err(|error| error.kind());
    assert_eq!(end, Err(ErrorKind::ConnectionReset));
}
