//! An HTTP/2 client that tells a whole response from one that was cut.

use std::future::poll_fn;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode};
use serde_json::Value;
use testkit::client::with_timeout;
use testkit::server::TestServer;
use testkit::transport::{CERTIFICATE, is_tls};
use tokio::net::TcpStream;

/// A client connection.
pub(crate) struct Http2 {
    pub(super) send: SendRequest<Bytes>,
    pub(super) driver: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

/// A response, read to its end.
#[derive(Debug)]
pub(crate) struct Http2Response {
    pub status: StatusCode,
    pub(super) headers: HeaderMap,
    pub body: Vec<u8>,
    /// How the HTTP/2 stream was aborted, if it was.
    pub cut: Option<Cut>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Reset(Reason),
    Lost,
}

impl Http2 {
    pub(crate) async fn connect(server: &TestServer) -> Self {
        Self::connect_with(server, &mut h2::client::Builder::new()).await
    }

    pub(crate) async fn connect_with(server: &TestServer, builder: &mut h2::client::Builder) -> Self {
        Self::over(TcpStream::connect(server.address()).await.unwrap(), builder).await
    }

    /// Uses a TCP connection, over TLS if [`is_tls`].
    pub(crate) async fn over(stream: TcpStream, builder: &mut h2::client::Builder) -> Self {
        stream.set_nodelay(true).unwrap();
        if is_tls() {
            let stream = CERTIFICATE.secure(stream, &["h2"]).await.unwrap();
            Self::begin(builder.handshake(stream).await.unwrap())
        } else {
            Self::begin(builder.handshake(stream).await.unwrap())
        }
    }

    pub(super) fn begin<T>((send, connection): (SendRequest<Bytes>, h2::client::Connection<T, Bytes>)) -> Self
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        Self { send, driver: tokio::spawn(connection) }
    }

    /// Sends a head, and returns the future response and the sender of the body.
    pub(crate) async fn request(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        ends: bool,
    ) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        self.request_to(&format!("http://test{path}"), method, fields, ends).await
    }

    /// As [`Http2::request`], with the authority in `uri`.
    pub(crate) async fn request_to(
        &self,
        uri: &str,
        method: &str,
        fields: &[(&str, &str)],
        ends: bool,
    ) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut send = with_timeout(self.send.clone().ready()).await.unwrap();
        send.send_request(request.body(()).unwrap(), ends).unwrap()
    }

    pub(crate) async fn ask(&self, method: &str, path: &str) -> Http2Response {
        let (future, _) = self.request(method, path, &[], true).await;
        response(future).await
    }

    pub(crate) async fn create(&self) -> String {
        self.ask("POST", "/stream").await.json()["stream"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn get(&self, id: &str) -> h2::client::ResponseFuture {
        self.request("GET", &format!("/stream/{id}"), &[], true).await.0
    }

    /// Closes the connection, even with requests under way.
    pub(crate) async fn close(self) {
        self.driver.abort();
        // The end of the task drops the connection, which closes it.
        let _ = self.driver.await;
    }

    pub(crate) async fn put(&self, id: &str) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
        self.request("PUT", &format!("/stream/{id}"), &[], false).await
    }
}

impl Http2Response {
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.cut, None, "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Returns the value of a field, if there is one.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(crate) fn error(&self) -> String {
        format!("{} {}", self.status.as_u16(), self.json()["name"].as_str().unwrap())
    }
}

pub(crate) async fn response(future: h2::client::ResponseFuture) -> Http2Response {
    rest(with_timeout(future).await.unwrap()).await
}

/// Reads the body.
pub(crate) async fn rest(response: Response<RecvStream>) -> Http2Response {
    let (parts, mut stream) = response.into_parts();
    let mut response =
        Http2Response { status: parts.status, headers: parts.headers, body: Vec::new(), cut: None };
    while let Some(data) = with_timeout(stream.data()).await {
        match data {
            Ok(data) => {
                stream.flow_control().release_capacity(data.len()).unwrap();
                response.body.extend_from_slice(&data);
            }
            Err(error) => {
                response.cut = Some(error.reason().map_or(Cut::Lost, Cut::Reset));
                break;
            }
        }
    }
    response
}

/// Sends all bytes within the flow-control window.
pub(crate) async fn send_all(send: &mut SendStream<Bytes>, bytes: &[u8], ends: bool) {
    send_bytes(send, Bytes::copy_from_slice(bytes)).await;
    if ends {
        send.send_data(Bytes::new(), true).unwrap();
    }
}

pub(crate) async fn send_bytes(send: &mut SendStream<Bytes>, mut data: Bytes) {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let room = with_timeout(poll_fn(|cx| send.poll_capacity(cx))).await.unwrap().unwrap();
        send.send_data(data.split_to(room.min(data.len())), false).unwrap();
    }
}
