//! Responses over HTTP/2: their fields in order, and their bodies. The frames are not recorded, because the h2 library determines
//! them.

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use testkit::client::with_timeout;
use testkit::server::TestServer;
use tokio::net::TcpStream;

use crate::assert_recorded;
use crate::redact::show;

struct Connection {
    send: SendRequest<Bytes>,
    seen: String,
}

impl Connection {
    async fn open(server: &TestServer) -> Self {
        let stream = TcpStream::connect(server.address()).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self { send, seen: String::new() }
    }

    /// Sends a request, with a body if there is one, and records it.
    async fn ask(&mut self, method: &str, path: &str, body: Option<&'static str>) -> ResponseFuture {
        self.seen += &show(">", format!("{method} {path}\n{}", body.unwrap_or_default()).as_bytes());
        let request = Request::builder().method(method).uri(format!("http://test{path}")).body(()).unwrap();
        let mut send = with_timeout(self.send.clone().ready()).await.unwrap();
        let (response, mut stream) = send.send_request(request, body.is_none()).unwrap();
        if let Some(body) = body {
            stream.send_data(Bytes::from_static(body.as_bytes()), true).unwrap();
        }
        response
    }

    /// Receives a response, and records it.
    async fn receive(&mut self, response: ResponseFuture) -> Vec<u8> {
        let (parts, mut stream) = with_timeout(response).await.unwrap().into_parts();
        let fields =
            parts.headers.iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap()));
        let fields = fields.collect::<Vec<_>>().concat();
        let head = format!(":status: {}\r\n{fields}\r\n", parts.status.as_u16());
        self.seen += &show("<", head.as_bytes());
        let mut body = Vec::new();
        while let Some(data) = with_timeout(stream.data()).await {
            body.extend(data.unwrap());
        }
        self.seen += &show("<", &body);
        body
    }

    async fn exchange(&mut self, method: &str, path: &str, body: Option<&'static str>) -> Vec<u8> {
        let response = self.ask(method, path, body).await;
        let body = self.receive(response).await;
        self.seen += "\n";
        body
    }

    async fn create(&mut self, body: Option<&'static str>) -> String {
        let created: serde_json::Value =
            serde_json::from_slice(&self.exchange("POST", "/stream", body).await).unwrap();
        created["stream"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn http2() {
    let server = TestServer::start_with(|config| config.tls = None).await;
    let mut connection = Connection::open(&server).await;
    let id = connection
        .create(Some(r#"{"download_headers":{"X-Down":"1"},"upload_headers":{"X-Up":[2,true]}}"#))
        .await;
    for (method, path) in [
        ("GET", "/ping".to_owned()),
        ("HEAD", "/ping".to_owned()),
        ("GET", "/nothing".to_owned()),
        ("GET", "/openapi.json".to_owned()),
        ("HEAD", format!("/stream/{id}")),
        ("GET", format!("/stream/{id}/status")),
        ("GET", "/stream".to_owned()),
        ("GET", "/stream/unknown".to_owned()),
    ] {
        connection.exchange(method, &path, None).await;
    }
    let path = format!("/stream/{id}");
    let download = connection.ask("GET", &path, None).await;
    let upload = connection.ask("PUT", &path, Some("hello")).await;
    connection.receive(download).await;
    connection.receive(upload).await;
    connection.exchange("POST", &format!("{path}/error"), Some("{}")).await;

    let path = format!("/stream/{}", connection.create(None).await);
    let first = connection.ask("GET", &path, None).await;
    server.until(path.rsplit('/').next().unwrap(), "DST_CONNECTED").await;
    connection.exchange("GET", &path, None).await;
    connection.exchange("POST", &format!("{path}/error"), Some(r#"{"http_status":418,"name":"N"}"#)).await;
    connection.receive(first).await;
    assert_recorded("http2", &connection.seen);
}
