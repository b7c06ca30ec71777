//! Transfers without encryption, with a relay or a peer that does not do its part.

use std::io::{Cursor, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use rendezvous_client::destination;
use rendezvous_client::plain::{DownloadEnding, PlainSendEnding, download, send_plain};
use rendezvous_client::relay::{Relay, Unusable};
use rendezvous_client::source::{self, Source};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes, unless it hangs.
const HANGS: Duration = Duration::from_secs(30);

const CREATED: &[u8] =
    b"HTTP/1.1 201 Created\r\nConnection: close\r\nContent-Length: 16\r\n\r\n{\"stream\":\"abc\"}";

/// Reads the head of a request and returns its method.
fn method_of(client: &mut TcpStream) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap().split(' ').next().unwrap().to_owned()
}

/// A relay that treats each connection like this, with the method of its first request. It ends with the test.
fn relay(mut serve: impl FnMut(&str, &mut TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut kept = Vec::new();
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let method = method_of(&mut client);
            serve(&method, &mut client);
            kept.push(client);
        }
    });
    address
}

/// A relay that creates a stream, and answers an upload before it has read anything of it.
fn relay_that_answers_uploads(answer: &'static [u8]) -> SocketAddr {
    relay(move |method, client| client.write_all(if method == "POST" { CREATED } else { answer }).unwrap())
}

async fn send(source: Box<dyn Source>, address: SocketAddr) -> PlainSendEnding {
    let relay = Relay { url: format!("http://{address}").parse().unwrap(), token: None };
    let sending = send_plain(source, relay, CancellationToken::new(), |_| {});
    timeout(HANGS, sending).await.unwrap()
}

#[tokio::test]
async fn a_download_in_which_nothing_moves_is_given_up() {
    for begun in ["", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"] {
        let address = relay(move |_, client| client.write_all(begun.as_bytes()).unwrap());
        let url = format!("http://{address}/stream/abc").parse().unwrap();
        let (give_up, into) = (Duration::from_millis(300), destination::handed(std::io::sink()));
        let downloading = download(url, None, give_up, into, CancellationToken::new(), |_| {});
        let ending = timeout(HANGS, downloading).await.unwrap();
        match ending {
            DownloadEnding::NoPeer { .. } => assert_eq!(begun, ""),
            DownloadEnding::Cut { bytes: 3, .. } => assert_ne!(begun, ""),
            other => panic!("{other:?} after {begun:?}"),
        }
    }
}

#[tokio::test]
async fn a_sender_whose_receiver_is_gone_does_not_wait_for_its_silent_pipe() {
    let address = relay_that_answers_uploads(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n");
    let (reader, _writer) = std::io::pipe().unwrap();
    let ending = send(source::pipe(reader, None, 0), address).await;
    assert!(matches!(ending, PlainSendEnding::Cut { .. }), "{ending:?}");
}

#[tokio::test]
async fn an_answer_before_all_is_sent_is_no_delivery() {
    let address = relay_that_answers_uploads(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let data = Cursor::new(vec![7; 64 << 20]);
    let ending = send(source::pipe(data, None, 0), address).await;
    assert!(matches!(ending, PlainSendEnding::Cut { .. }), "{ending:?}");
}

#[tokio::test]
async fn a_relay_cannot_fill_the_memory_of_a_sender_by_an_endless_answer() {
    const ENDLESS: usize = 64 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (report, served) = tokio::sync::oneshot::channel();
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        method_of(&mut client);
        client.write_all(b"HTTP/1.1 201 Created\r\n\r\n").unwrap();
        let mut sent = 0;
        while sent < ENDLESS && client.write_all(&[b' '; 16_384]).is_ok() {
            sent += 16_384;
        }
        report.send(sent).unwrap();
    });
    let ending = send(source::pipe(Cursor::new(b"x"), None, 0), address).await;
    assert!(matches!(ending, PlainSendEnding::Unusable(Unusable::NoRelay { .. })), "{ending:?}");
    assert!(served.await.unwrap() < ENDLESS, "all of it was read");
}
