//! Tests of a socket against a second socket of this process.

use std::io::Read;

use rustix::net::sockopt;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Notify;
use tokio::task::consume_budget;
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::options::KEEPALIVE_PROBES;
use super::*;

#[tokio::test]
async fn a_task_without_budget_still_reads_what_is_available() {
    let (socket, mut client) = secure_pair().await;
    client.write_all(b"hello").await.unwrap();
    socket.tcp.stream().readable().await.unwrap();
    while has_budget_remaining() {
        consume_budget().await;
    }
    let mut read = BytesMut::with_capacity(16);
    assert_eq!(socket.try_read(&mut read).unwrap(), 5);
}

#[tokio::test]
async fn a_connection_is_quiet_until_its_peer_sends_bytes_or_ends_it() {
    let (socket, mut client) = plain_pair(65_536).await;
    assert!(socket.is_quiet());
    client.write_all(b"a").await.unwrap();
    socket.tcp.stream().readable().await.unwrap();
    assert_eq!((socket.is_quiet(), socket.has_unread()), (false, true));
    socket.try_read(&mut BytesMut::with_capacity(1)).unwrap();
    assert!(socket.is_quiet());
    drop(client);
    assert_eq!(socket.departed().await, Departure::Closed);
    assert_eq!((socket.is_quiet(), socket.has_unread()), (false, false));
}

#[tokio::test]
async fn bytes_in_flight_are_not_delivered_when_the_error_of_a_reset_was_consumed() {
    let (socket, client) = plain_pair(65_536).await;
    // More than the client's receive buffer holds.
    while socket.unacknowledged() == 0 {
        socket.try_write(&vec![7; 100_000]);
    }
    client.set_zero_linger().unwrap();
    drop(client);
    assert!(sockopt::socket_error(socket.tcp.stream()).unwrap().is_err(), "the error is consumed");
    assert_eq!(socket.departed().await, Departure::Reset);
    assert!(!timeout(Duration::from_secs(5), socket.acknowledged_up_to(socket.sent(), || {})).await.unwrap());
}

#[tokio::test]
async fn bytes_behind_a_mark_are_not_missing_before_it() {
    let (socket, _client) = plain_pair(4096).await;
    socket.try_write(&[7; 1000]);
    let mark = socket.sent();
    assert!(socket.acknowledged_up_to(mark, || {}).await);
    // More than the client's receive buffer and the server's send buffer hold.
    let much = vec![7; 16_000_000];
    let mut much = [IoSlice::new(&much)];
    timeout(Duration::from_millis(200), socket.write_all(&mut much)).await.expect_err("nobody reads");
    assert!(socket.is_acknowledged(mark), "these bytes were acknowledged before");
    assert!(!socket.is_acknowledged(socket.sent()), "the client's window is closed");
}

#[tokio::test]
async fn a_delivery_tells_whenever_bytes_were_acknowledged() {
    let (socket, mut client) = plain_pair(4096).await;
    let much = vec![7; 16_000_000];
    let mut much = [IoSlice::new(&much)];
    timeout(Duration::from_millis(200), socket.write_all(&mut much)).await.expect_err("nobody reads");
    let half = usize::try_from(socket.sent()).unwrap() / 2;
    let progress = Notify::new();
    let reading = async {
        client.read_exact(&mut vec![0; half]).await.unwrap();
        progress.notified().await;
        client.read_to_end(&mut Vec::new()).await.unwrap();
    };
    let delivering = socket.deliver(Instant::now(), || progress.notify_one());
    let both = async { tokio::join!(delivering, reading).0 };
    assert!(timeout(Duration::from_secs(10), both).await.expect("some bytes were acknowledged"));
}

#[tokio::test]
async fn a_reset_is_not_read_as_the_end_of_what_was_sent() {
    let (socket, client) = plain_pair(4096).await;
    client.set_zero_linger().unwrap();
    drop(client);
    let error = poll_fn(|cx| socket.poll_read_buf(cx, &mut BytesMut::new())).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn what_a_peer_has_acknowledged_is_delivered_though_it_left_without_close_notify() {
    let (socket, mut client) = secure_pair().await;
    socket.try_write(b"hello");
    client.read_exact(&mut [0; 5]).await.unwrap();
    drop(client);
    assert_eq!(socket.departed().await, Departure::Closed);
    assert!(socket.deliver(Instant::now(), || {}).await);
}

#[tokio::test]
async fn the_end_of_what_is_sent_over_tls_is_a_close_notify_and_a_fin() {
    let (socket, mut client) = secure_pair().await;
    assert!(socket.shutdown_write().await);
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "close_notify");
    let fin = timeout(Duration::from_secs(5), client.get_mut().0.read_u8());
    assert_eq!(fin.await.expect("a FIN").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn an_aborted_message_ends_in_a_way_that_no_client_takes_for_an_end() {
    let (plain, mut client) = plain_pair(65_536).await;
    assert_eq!(end_of_aborted(plain, &mut client).await, io::ErrorKind::ConnectionReset);

    let (secure, mut client) = secure_pair().await;
    // A record that cannot be decrypted.
    assert_eq!(end_of_aborted(secure, &mut client).await, io::ErrorKind::InvalidData);
}

/// Writes some bytes and aborts. Returns the error that a client sees which has read them.
async fn end_of_aborted(socket: Socket, client: &mut (impl AsyncRead + Unpin)) -> io::ErrorKind {
    let aborting = async {
        socket.try_write(b"hello");
        socket.abort(Duration::from_secs(5)).await;
        drop(socket);
    };
    let reading = async {
        client.read_exact(&mut [0; 5]).await.unwrap();
        client.read_u8().await.unwrap_err().kind()
    };
    tokio::join!(aborting, reading).1
}

#[tokio::test]
async fn both_ends_of_a_tls_connection_have_the_same_binding_and_no_other_connection_has_it() {
    let (first, first_client) = secure_pair().await;
    let (second, _second_client) = secure_pair().await;
    let mut by_client = [0; 32];
    let exporter = first_client.get_ref().1;
    by_client = exporter.export_keying_material(by_client, b"EXPORTER-Channel-Binding", None).unwrap();
    assert_eq!(first.channel_binding().unwrap(), Some(by_client));
    assert_ne!(second.channel_binding().unwrap(), Some(by_client));
    assert_eq!(plain_pair(4096).await.0.channel_binding().unwrap(), None);
}

#[tokio::test]
async fn a_read_that_leaves_room_is_the_last_until_more_bytes_come_and_none_is_missed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let socket = Socket::without_urgent_data(listener.accept().await.unwrap().0, Duration::from_mins(1));
    let mut read = BytesMut::with_capacity(1 << 20);
    for sent in 1..100 {
        client.write_all(b"hello").await.unwrap();
        while read.len() < 5 * sent {
            assert_ne!(poll_fn(|cx| socket.poll_read_buf(cx, &mut read)).await.unwrap(), 0);
            assert!(poll_once(|cx| socket.tcp.stream().poll_read_ready(cx)).is_pending());
        }
    }
    client.write_all(b"bye").await.unwrap();
    drop(client);
    while poll_fn(|cx| socket.poll_read_buf(cx, &mut read)).await.unwrap() > 0 {}
    assert!(read.ends_with(b"hellobye"));
}

/// Both ends of a plain connection. The client's kernel holds about as many bytes that it has not read.
async fn plain_pair(client_buffer: u32) -> (Socket, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpSocket::new_v4().unwrap();
    client.set_recv_buffer_size(client_buffer).unwrap();
    let client = client.connect(listener.local_addr().unwrap()).await.unwrap();
    (Socket::new(listener.accept().await.unwrap().0, Duration::from_mins(1)), client)
}

/// Both ends of a TLS connection.
async fn secure_pair() -> (Socket, TlsStream<TcpStream>) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let server = ServerConfig::builder().with_no_client_auth();
    let server = server.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let accepted = listener.accept().await.unwrap().0;
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let name = ServerName::try_from("localhost").unwrap();
    let (accepted, connected) = tokio::join!(
        Socket::secure(accepted, Duration::from_mins(1), &acceptor),
        TlsConnector::from(Arc::new(client)).connect(name, connected)
    );
    (accepted.unwrap(), connected.unwrap())
}

/// Both ends of a connection that was accepted by a listener with this peer timeout.
fn pair(limit: Duration) -> (std::net::TcpStream, std::net::TcpStream) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    set_peer_timeout(&listener, limit).unwrap();
    let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, client)
}

#[test]
fn accepted_connections_inherit_the_peer_timeout() {
    for (limit, idle, interval) in [(3, 1, 1), (5, 2, 1), (120, 60, 15), (43_200, 21_600, 5_400)] {
        let (accepted, _client) = pair(Duration::from_secs(limit));
        assert!(sockopt::socket_keepalive(&accepted).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&accepted).unwrap(), Duration::from_secs(idle));
        assert_eq!(sockopt::tcp_keepintvl(&accepted).unwrap(), Duration::from_secs(interval));
        assert_eq!(sockopt::tcp_keepcnt(&accepted).unwrap(), KEEPALIVE_PROBES);
        assert_eq!(u64::from(sockopt::tcp_user_timeout(&accepted).unwrap()), limit * 1000);
    }
}

#[tokio::test(start_paused = true)]
async fn the_user_timeout_is_off_while_the_window_of_the_peer_is_closed_and_only_then() {
    let limit = Duration::from_secs(3);
    let (accepted, mut client) = pair(limit);
    accepted.set_nonblocking(true).unwrap();
    let socket = Socket::new(TcpStream::from_std(accepted).unwrap(), limit);
    let stream = socket.tcp.stream();
    let is_limited = || sockopt::tcp_user_timeout(stream).unwrap() == 3000;
    // With a paused clock this bounds the number of checks, not the time.
    let bound = Duration::from_mins(10);
    let mut written = 0;
    let filled = async {
        while is_limited() {
            written += stream.try_write(&[7; 8192]).unwrap_or(0);
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = socket.unresponsive() => panic!("the peer answers"),
        filled = timeout(bound, filled) => filled.unwrap(),
    }
    client.read_exact(&mut vec![0; written]).unwrap();
    let emptied = async {
        while !is_limited() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = socket.unresponsive() => panic!("the peer answers"),
        emptied = timeout(bound, emptied) => emptied.unwrap(),
    }
}
