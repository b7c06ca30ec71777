//! A server in the test's own runtime, on a port of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rendezvous_server::config::{Config, DataPath};
use rendezvous_server::{ListenerKind, Server};
use serde_json::Value;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use crate::client::{Client, Response};
use crate::transport::{CERTIFICATE, is_tls};

/// Longer than anything may take that is not waited for on purpose.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Ends a test that hangs, by the clock on the wall: a paused clock would wait with it.
struct Watchdog {
    _alive: std::sync::mpsc::Sender<()>,
}

impl Watchdog {
    fn start() -> Self {
        let (alive, ended) = std::sync::mpsc::channel();
        let test = std::thread::current().name().unwrap_or_default().to_owned();
        std::thread::spawn(move || {
            if ended.recv_timeout(3 * PATIENCE) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                eprintln!("{test} hangs");
                std::process::abort();
            }
        });
        Self { _alive: alive }
    }
}

/// Whether all bodies are copied, by the variable that the program knows: the whole suite runs with either data path.
pub fn is_copied() -> bool {
    std::env::var("RENDEZVOUS_DATA_PATH").as_deref() == Ok("copy")
}

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
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(adjust: impl FnOnce(&mut Config)) -> Self {
        let data_path = if is_copied() { DataPath::Copy } else { DataPath::Splice };
        let tls = is_tls().then(|| CERTIFICATE.files());
        // The names by which the tests ask.
        let mut config = Config { port: 0, data_path, tls, ..Config::default() };
        adjust(&mut config);
        let server = Server::bind(config, Vec::new()).await.unwrap();
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

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn plain_address(&self) -> SocketAddr {
        self.plain_address.unwrap()
    }

    pub fn reload(&self) {
        self.reload.notify_one();
    }

    /// Asks the server to end, and waits until it drains.
    pub async fn stop(&mut self) {
        drop(self.stop.take());
        while self.ready().await.status == 200 {}
    }

    /// What it says of whether it is ready.
    pub async fn ready(&self) -> Response {
        if self.admin.is_some() {
            self.ask_admin(get("/readyz")).await
        } else {
            self.ask(get("/readyz")).await
        }
    }

    /// Waits until it has ended.
    pub async fn ended(self) {
        drop(self.stop);
        self.running.await.unwrap();
    }

    pub async fn connect(&self) -> Client {
        Client::connect(self.address).await
    }

    /// A connection that has said `bytes`.
    pub async fn say(&self, bytes: impl AsRef<[u8]>) -> Client {
        let mut client = self.connect().await;
        client.send(bytes).await;
        client
    }

    /// The answer to a request of a connection of its own.
    pub async fn ask(&self, bytes: impl AsRef<[u8]>) -> Response {
        self.say(bytes).await.response().await
    }

    /// A connection to the operators' listener.
    pub async fn connect_admin(&self) -> Client {
        Client::connect_plainly(self.admin.unwrap()).await
    }

    /// The answer of the operators' listener.
    pub async fn ask_admin(&self, bytes: impl AsRef<[u8]>) -> Response {
        let mut client = self.connect_admin().await;
        client.send(bytes).await;
        client.response().await
    }

    pub async fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Response {
        self.ask(post(path, body)).await
    }

    pub async fn create(&self) -> String {
        self.create_with("").await
    }

    pub async fn create_with(&self, body: &str) -> String {
        self.make(body).await["stream"].as_str().unwrap().to_owned()
    }

    /// The whole answer to who makes a stream.
    pub async fn make(&self, body: &str) -> Value {
        let response = self.post("/stream", body).await;
        assert_eq!(response.status, 201, "{response:?}");
        response.json()
    }

    pub async fn get(&self, id: &str) -> Client {
        self.say(get(&format!("/stream/{id}"))).await
    }

    /// A PUT that says its head and nothing of its body.
    pub async fn put(&self, id: &str, fields: &str) -> Client {
        self.say(put_head(id, fields)).await
    }

    pub async fn status(&self, id: &str) -> Value {
        self.status_at(&format!("/stream/{id}/status")).await
    }

    /// What this target, with a token or without one, says of its stream.
    pub async fn status_at(&self, target: &str) -> Value {
        self.ask(get(target)).await.json()
    }

    /// Waits until the stream is in `state`, and returns its status.
    pub async fn until(&self, id: &str, state: &str) -> Value {
        self.until_at(&format!("/stream/{id}/status"), state).await
    }

    /// Waits until so many bytes of the body are passed on.
    pub async fn until_passed_on(&self, id: &str, bytes: usize) {
        let passed_on = async { while self.status(id).await["bytes_transferred"] != bytes {} };
        let in_time = tokio::time::timeout(PATIENCE, passed_on).await.is_ok();
        assert!(in_time, "{bytes} bytes are not passed on: {}", self.status(id).await);
    }

    /// Waits until the stream is forgotten.
    pub async fn until_gone(&self, id: &str) {
        let target = format!("/stream/{id}/status");
        let gone = async { while self.ask(get(&target)).await.status != 404 {} };
        tokio::time::timeout(PATIENCE, gone).await.unwrap();
    }

    pub async fn until_at(&self, target: &str, state: &str) -> Value {
        let reached = async {
            loop {
                let status = self.status_at(target).await;
                if status["state"] == state {
                    return status;
                }
            }
        };
        let Ok(status) = tokio::time::timeout(PATIENCE, reached).await else {
            panic!("{} is not {state}", self.status_at(target).await);
        };
        status
    }
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")
}

pub fn post(path: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

pub fn put_head(id: &str, fields: &str) -> String {
    format!("PUT /stream/{id} HTTP/1.1\r\nHost: test\r\n{fields}\r\n")
}
