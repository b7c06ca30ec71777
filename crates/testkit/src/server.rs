//! A server in the runtime of the test, on a port that the kernel chooses.
//!
//! Each test has its own server. A watchdog thread aborts the process if a test takes longer than three times [`WAIT_TIMEOUT`], because
//! a timeout of tokio does not fire if the clock is paused or the runtime is blocked.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rendezvous_protocol::Tag;
use rendezvous_server::config::{Config, DataPath};
use rendezvous_server::internal::NodeConfig;
use rendezvous_server::{ListenerKind, Server};
use serde_json::Value;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use crate::client::{Client, Response, WAIT_TIMEOUT};
use crate::transport::{CERTIFICATE, is_tls};

/// Aborts a test that hangs. It uses the system's clock, because tokio's may be paused.
struct Watchdog {
    _alive: std::sync::mpsc::Sender<()>,
}

impl Watchdog {
    fn start() -> Self {
        let (alive, ended) = std::sync::mpsc::channel();
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        std::thread::spawn(move || {
            if ended.recv_timeout(3 * WAIT_TIMEOUT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{test} hangs");
                std::process::abort();
            }
        });
        Self { _alive: alive }
    }
}

/// Returns whether the whole test suite runs with copied bodies instead of splice(2) (`RENDEZVOUS_DATA_PATH=copy`).
pub fn is_copied() -> bool {
    std::env::var("RENDEZVOUS_DATA_PATH").as_deref() == Ok("copy")
}

/// A running server. Dropping it starts a graceful shutdown; its tasks end with the runtime of the test at the latest.
pub struct TestServer {
    address: SocketAddr,
    plain_address: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    reload: Arc<Notify>,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<()>,
    _watchdog: Watchdog,
}

impl TestServer {
    /// Starts a server with the default configuration.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts a server with a configuration changed by `adjust`.
    ///
    /// Before that, the port is 0, and the data path and TLS are those of the test run ([`is_copied`], [`is_tls`]).
    pub async fn start_with(adjust: impl FnOnce(&mut Config)) -> Self {
        Self::run(Server::bind(configuration(adjust), Vec::new()).await.unwrap())
    }

    /// Starts a node of a cluster. Returns its tag too.
    pub async fn start_node(adjust: impl FnOnce(&mut Config), node: NodeConfig) -> (Self, Tag) {
        let server = Server::bind_node(configuration(adjust), node).await.unwrap();
        let tag = server.tag();
        (Self::run(server), tag)
    }

    fn run(server: Server) -> Self {
        let mut address = server.address(ListenerKind::Main).unwrap();
        if address.ip().is_unspecified() {
            address.set_ip(Ipv4Addr::LOCALHOST.into());
        }
        let plain_address = server.address(ListenerKind::Plain);
        let admin = server.address(ListenerKind::Admin);
        let reload = server.reload();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(server.run(async { drop(stopped.await) }));
        let watchdog = Watchdog::start();
        Self { address, plain_address, admin, reload, stop: Some(stop), running, _watchdog: watchdog }
    }

    /// Returns the address of the main listener.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the address of the additional plain listener. Panics if there is none.
    pub fn plain_address(&self) -> SocketAddr {
        self.plain_address.unwrap()
    }

    /// Makes the server reload its TLS files, as SIGHUP does.
    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// Starts a graceful shutdown, and waits until the server drains.
    pub async fn stop(&mut self) {
        drop(self.stop.take());
        while self.ready().await.status == 200 {}
    }

    /// Returns the response to `GET /readyz`, from the admin listener if there is one.
    pub async fn ready(&self) -> Response {
        if self.admin.is_some() {
            self.ask_admin(get("/readyz")).await
        } else {
            self.ask(get("/readyz")).await
        }
    }

    /// Shuts the server down, and waits for its end.
    pub async fn ended(self) {
        drop(self.stop);
        self.running.await.unwrap();
    }

    /// Ends the server at once, without a shutdown.
    pub fn kill(&mut self) {
        self.running.abort();
    }

    /// Connects to the main listener.
    pub async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }

    /// Connects and sends `bytes`.
    pub async fn connect_and_send(&self, bytes: impl AsRef<[u8]>) -> Client {
        let mut client = self.connect().await;
        client.send(bytes).await;
        client
    }

    /// Connects, sends a request and returns the response.
    pub async fn ask(&self, bytes: impl AsRef<[u8]>) -> Response {
        self.connect_and_send(bytes).await.response().await
    }

    /// Connects to the admin listener. Panics if there is none.
    pub async fn connect_admin(&self) -> Client {
        Client::connect_plain(self.admin.unwrap()).await
    }

    /// Like [`TestServer::ask`], to the admin listener.
    pub async fn ask_admin(&self, bytes: impl AsRef<[u8]>) -> Response {
        let mut client = self.connect_admin().await;
        client.send(bytes).await;
        client.response().await
    }

    /// Sends a `POST` with this body and returns the response.
    pub async fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Response {
        self.ask(post(path, body)).await
    }

    /// Creates a stream with the default settings and returns its id.
    pub async fn create(&self) -> String {
        self.create_with("").await
    }

    /// Creates a stream by a `POST /stream` with this body, and returns its id.
    pub async fn create_with(&self, body: &str) -> String {
        self.create_response(body).await["stream"].as_str().unwrap().to_owned()
    }

    /// Creates a stream by a `POST /stream` with this body, and returns the JSON of the response.
    pub async fn create_response(&self, body: &str) -> Value {
        let response = self.post("/stream", body).await;
        assert_eq!(response.status, 201, "{response:?}");
        response.json()
    }

    /// Connects as a destination and returns the connection.
    pub async fn get(&self, id: &str) -> Client {
        self.connect_and_send(get(&format!("/stream/{id}"))).await
    }

    /// Connects as a source, and sends the head of the request but no body. `fields` are lines that end in CRLF.
    pub async fn put(&self, id: &str, fields: &str) -> Client {
        self.connect_and_send(put_head(id, fields)).await
    }

    /// Returns the status object of a stream.
    pub async fn status(&self, id: &str) -> Value {
        self.status_at(&format!("/stream/{id}/status")).await
    }

    /// Returns the status object at this request target, which may have a token.
    pub async fn status_at(&self, target: &str) -> Value {
        self.ask(get(target)).await.json()
    }

    /// Waits until the stream is in `state`, and returns its status object.
    pub async fn until(&self, id: &str, state: &str) -> Value {
        self.until_at(&format!("/stream/{id}/status"), state).await
    }

    /// Waits until exactly this many bytes of the body are passed on.
    pub async fn until_passed_on(&self, id: &str, bytes: usize) {
        let passed_on = async { while self.status(id).await["bytes_transferred"] != bytes {} };
        let in_time = tokio::time::timeout(WAIT_TIMEOUT, passed_on).await.is_ok();
        assert!(in_time, "{bytes} bytes are not passed on: {}", self.status(id).await);
    }

    /// Waits until the server has forgotten the stream.
    pub async fn until_forgotten(&self, id: &str) {
        let target = format!("/stream/{id}/status");
        let forgotten = async { while self.ask(get(&target)).await.status != 404 {} };
        tokio::time::timeout(WAIT_TIMEOUT, forgotten).await.unwrap();
    }

    /// Like [`TestServer::until`], with the request target of the status, which may have a token.
    pub async fn until_at(&self, target: &str, state: &str) -> Value {
        let reached = async {
            loop {
                let status = self.status_at(target).await;
                if status["state"] == state {
                    return status;
                }
            }
        };
        let Ok(status) = tokio::time::timeout(WAIT_TIMEOUT, reached).await else {
            panic!("{} is not {state}", self.status_at(target).await);
        };
        status
    }
}

/// Returns the configuration of a server of this test run, changed by `adjust`.
fn configuration(adjust: impl FnOnce(&mut Config)) -> Config {
    let data_path = if is_copied() { DataPath::Copy } else { DataPath::Splice };
    let tls = is_tls().then(|| CERTIFICATE.files());
    let mut config = Config { port: 0, data_path, tls, ..Config::default() };
    adjust(&mut config);
    config
}

/// Returns a `GET` request.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}

/// Returns a `POST` request with this body.
pub fn post(path: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// Returns the head of a `PUT` request of a source. `fields` are lines that end in CRLF.
pub fn put_head(id: &str, fields: &str) -> String {
    format!("PUT /stream/{id} HTTP/1.1\r\nHost: test\r\n{fields}\r\n")
}
