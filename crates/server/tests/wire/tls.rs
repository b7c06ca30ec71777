//! TLS: handshakes, ALPN, reloaded certificates, and `close_notify` after whole transfers only.

use std::fs;

use testkit::client::{Client, End, with_timeout};
use testkit::messages::CHUNKED;
use testkit::server::{TestServer, get, put_head};
use testkit::transport::{Certificate, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

struct SecureServer {
    server: TestServer,
    certificate: Certificate,
}

impl SecureServer {
    async fn start() -> Self {
        let certificate = Certificate::new();
        let files = certificate.files();
        let server = TestServer::start_with(|config| config.tls = Some(files)).await;
        Self { server, certificate }
    }

    async fn connect(&self) -> Client {
        let stream = self.certificate.connect(self.server.address(), &["http/1.1"]).await.unwrap();
        Client::over(Transport::Tls(Box::new(stream)))
    }

    async fn connect_and_send(&self, bytes: impl AsRef<[u8]>) -> Client {
        let mut client = self.connect().await;
        client.send(bytes).await;
        client
    }

    async fn create(&self) -> String {
        let request = "POST /stream HTTP/1.1\r\nHost: localhost\r\n\r\n";
        self.connect_and_send(request).await.response().await.stream_id()
    }
}

#[tokio::test]
async fn the_protocol_is_chosen_from_what_the_client_offers() {
    let secure = SecureServer::start().await;
    for (offered, chosen) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1", "h2"], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&["http/1.0"], Some("http/1.0")),
        (&[], None),
    ] {
        let stream = secure.certificate.connect(secure.server.address(), offered).await.unwrap();
        let actual = stream.get_ref().1.alpn_protocol().map(String::from_utf8_lossy);
        assert_eq!(actual.as_deref(), chosen, "{offered:?}");
    }
    assert!(secure.certificate.connect(secure.server.address(), &["nonsense"]).await.is_err());
}

#[tokio::test]
async fn plain_http_on_the_tls_port_gets_400_with_advice() {
    let secure = SecureServer::start().await;
    let mut client = Client::connect_plain(secure.server.address()).await;
    client.send(get("/ping")).await;
    let response = client.response().await;
    assert_eq!(response.error(), "400 BadRequestError");
    assert_eq!(response.message(), "This port speaks HTTPS: use https:// in place of http://");
    assert!(response.closes());
}

#[tokio::test]
async fn a_client_with_a_broken_handshake_is_disconnected() {
    let secure = SecureServer::start().await;
    let mut stream = TcpStream::connect(secure.server.address()).await.unwrap();
    stream.write_all(&[22, 3, 1, 0, 5, 0, 0, 0, 0, 0]).await.unwrap();
    let mut rest = Vec::new();
    // The server sends an alert, and closes.
    let _ = with_timeout(stream.read_to_end(&mut rest)).await;
    assert!(rest.len() < 64, "{rest:?}");
    assert_eq!(secure.connect_and_send(get("/ping")).await.response().await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_has_the_head_timeout() {
    let secure = SecureServer::start().await;
    for start in [&b""[..], &[22, 3, 1]] {
        let mut stream = TcpStream::connect(secure.server.address()).await.unwrap();
        stream.write_all(start).await.unwrap();
        let begun = tokio::time::Instant::now();
        let mut rest = Vec::new();
        let _ = with_timeout(stream.read_to_end(&mut rest)).await;
        assert_eq!((rest, begun.elapsed().as_secs()), (Vec::new(), 10));
    }
}

#[tokio::test]
async fn a_whole_download_ends_with_close_notify_and_an_aborted_one_without() {
    let secure = SecureServer::start().await;
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        for whole in [true, false] {
            let id = secure.create().await;
            let mut destination =
                secure.connect_and_send(format!("GET /stream/{id} {version}\r\nHost: a\r\n\r\n")).await;
            let mut source = secure.connect_and_send(put_head(&id, CHUNKED)).await;
            source.send("5\r\nhello\r\n").await;
            let head = destination.head().await.unwrap();
            if whole {
                source.send("0\r\n\r\n").await;
            } else {
                source.close();
            }
            // The client asserts that no incomplete message ends with close_notify.
            let end = destination.rest(head).await.end;
            let expected: &[End] = match (whole, version) {
                (true, "HTTP/1.1") => &[End::Whole],
                (true, _) => &[End::Closed],
                (false, _) => &[End::Short, End::Reset],
            };
            assert!(expected.contains(&end), "{version}, whole: {whole}: {end:?}");
        }
    }
}

#[tokio::test]
async fn a_destination_that_closes_after_the_last_byte_has_received_it() {
    let secure = SecureServer::start().await;
    for _ in 0..20 {
        let id = secure.create().await;
        let mut destination = secure.connect_and_send(get(&format!("/stream/{id}"))).await;
        let mut source = secure.connect_and_send(put_head(&id, "Content-Length: 5\r\n")).await;
        source.send("hello").await;
        destination.head().await.unwrap();
        assert_eq!(destination.body_bytes(5).await, b"hello");
        destination.close();
        assert_eq!(source.response().await.status, 200);
    }
}

#[tokio::test]
async fn a_new_certificate_serves_new_connections_and_does_not_affect_transfers() {
    let secure = SecureServer::start().await;
    let id = secure.create().await;
    let mut destination = secure.connect_and_send(get(&format!("/stream/{id}"))).await;
    let mut source = secure.connect_and_send(put_head(&id, "Content-Length: 10\r\n")).await;
    source.send("hello").await;
    let head = destination.head().await.unwrap();

    let fresh = Certificate::new();
    replace(&secure.certificate, &fresh);
    secure.server.reload();
    until(async || fresh.connect(secure.server.address(), &[]).await.is_ok()).await;
    assert!(secure.certificate.connect(secure.server.address(), &[]).await.is_err());

    source.send("world").await;
    let download = destination.rest(head).await;
    assert_eq!((download.end, &download.body[..]), (End::Whole, &b"helloworld"[..]));
    assert_eq!(source.response().await.status, 200);

    // A key that does not match its certificate is refused, and the server keeps the current pair.
    fs::copy(Certificate::new().files().key, secure.certificate.files().key).unwrap();
    secure.server.reload();
    fs::write(secure.certificate.files().certificate, "nonsense").unwrap();
    secure.server.reload();
    for _ in 0..10 {
        tokio::task::yield_now().await;
        fresh.connect(secure.server.address(), &[]).await.unwrap();
    }
}

#[tokio::test]
async fn a_changed_certificate_is_loaded_without_a_signal() {
    let secure = SecureServer::start().await;
    let fresh = Certificate::new();
    replace(&secure.certificate, &fresh);
    until(async || fresh.connect(secure.server.address(), &[]).await.is_ok()).await;
}

#[tokio::test]
async fn a_plain_port_next_to_the_tls_port_serves_the_same_streams() {
    let certificate = Certificate::new();
    let files = certificate.files();
    let server = TestServer::start_with(|config| {
        config.tls = Some(files);
        config.plain_port = Some(0);
    })
    .await;
    let plainly = async |bytes: String| {
        let mut client = Client::connect_plain(server.plain_address()).await;
        client.send(bytes).await;
        client
    };
    let securely = async |bytes: String| {
        let stream = certificate.connect(server.address(), &[]).await.unwrap();
        let mut client = Client::over(Transport::Tls(Box::new(stream)));
        client.send(bytes).await;
        client
    };
    let body = "x".repeat(1_000_000);
    for secure_source in [true, false] {
        let id =
            plainly("POST /stream HTTP/1.1\r\nHost: a\r\n\r\n".into()).await.response().await.stream_id();
        let get = get(&format!("/stream/{id}"));
        let put = put_head(&id, &format!("Content-Length: {}\r\n", body.len()));
        let (mut destination, mut source) = if secure_source {
            (plainly(get).await, securely(put).await)
        } else {
            (securely(get).await, plainly(put).await)
        };
        let (_, download) = tokio::join!(source.push(body.as_bytes()), destination.response());
        assert_eq!((download.end, download.body.len()), (End::Whole, body.len()));
        assert_eq!(source.response().await.status, 200);
    }
}

/// The server discards the body of a refused upload for a while, which must not block one of its threads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discarded_uploads_block_no_other_connection() {
    let secure = SecureServer::start().await;
    let body = "x".repeat(4 << 20);
    let mut uploads = JoinSet::new();
    for _ in 0..4 {
        let mut source = secure.connect_and_send(put_head("unknown", "Content-Length: 1000000000\r\n")).await;
        let body = body.clone();
        // Sends until the server closes the connection.
        uploads.spawn(async move { while source.push(body.as_bytes()).await == body.len() {} });
    }
    with_timeout(uploads.join_all()).await;
    assert_eq!(secure.connect_and_send(get("/ping")).await.response().await.status, 200);
}

/// Replaces the files of `old` by those of `fresh`.
fn replace(old: &Certificate, fresh: &Certificate) {
    fs::copy(fresh.files().key, old.files().key).unwrap();
    fs::copy(fresh.files().certificate, old.files().certificate).unwrap();
}

async fn until(holds: impl AsyncFn() -> bool) {
    with_timeout(async { while !holds().await {} }).await;
}
