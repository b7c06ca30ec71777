//! Tests of a socket against a second socket of this process.

use std::io::Read;

use rustix::net::sockopt;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::consume_budget;
use tokio::task::coop::has_budget_remaining;
use tokio::time::sleep;
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
async fn bytes_in_flight_are_not_delivered_when_the_error_of_a_reset_was_consumed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let socket = Socket::new(listener.accept().await.unwrap().0, Duration::from_mins(1));
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
