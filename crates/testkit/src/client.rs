//! A raw HTTP/1 client that distinguishes a complete message from a cut one.
//!
//! It sends exactly the bytes it is given, and panics if a response is not valid HTTP/1. Each wait is bounded by [`WAIT_TIMEOUT`].

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::transport::{CERTIFICATE, Transport, is_tls};

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// At the end that its framing declares.
    Whole,
    /// By a FIN, which is the only framing of the message.
    Closed,
    /// By a FIN before its end.
    Short,
    /// By an RST before its end, or over TLS without `close_notify`.
    Reset,
}

/// A response.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The status line and the fields, with the empty line.
    pub head: String,
    /// The body, without chunk framing. Incomplete unless `end` is [`End::Whole`] or [`End::Closed`].
    pub body: Vec<u8>,
    /// How the message ended.
    pub end: End,
}

impl Response {
    /// Returns the values of the fields with this name, in order. Case does not matter.
    pub fn fields(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    /// Returns whether the response has `Connection: close`.
    pub fn closes(&self) -> bool {
        self.fields("connection") == ["close"]
    }

    /// Returns the JSON body of a complete response.
    pub fn json(&self) -> Value {
        assert_eq!(self.end, End::Whole, "{self:?}");
        assert_eq!(self.fields("content-type"), ["application/json"], "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Returns the status and the name of an error response, as in `404 BadRouteError`.
    pub fn error(&self) -> String {
        format!("{} {}", self.status, self.json()["name"].as_str().unwrap())
    }

    /// Returns the message of an error response.
    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap().to_owned()
    }
}

/// A connection of an HTTP/1 client.
pub struct Client {
    stream: Transport,
    /// Received bytes that are not part of a returned response yet.
    input: Vec<u8>,
    /// Whether a TLS connection ended without `close_notify`.
    truncated: bool,
}

enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Client {
    /// Connects, over TLS if the test run uses it ([`is_tls`]).
    pub async fn connect(address: SocketAddr) -> Self {
        Self::begin(TcpStream::connect(address).await.unwrap()).await
    }

    /// Connects over plain TCP.
    pub async fn connect_plain(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(Transport::Plain(stream))
    }

    /// Connects with a small receive buffer (4 KiB requested), which fills soon if the client does not read.
    pub async fn connect_with_small_receive_buffer(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self::begin(socket.connect(address).await.unwrap()).await
    }

    /// Connects with socket buffers of a few KiB in each direction. The server's kernel then buffers some 150 KiB for this connection: with
    /// small segments, Linux does not grow the buffer of the server's socket to megabytes.
    pub async fn connect_with_small_buffers(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.set_send_buffer_size(4096).unwrap();
        SockRef::from(&socket).set_tcp_mss(1400).unwrap();
        Self::begin(socket.connect(address).await.unwrap()).await
    }

    /// Connects from another address of this machine, such as `127.0.0.2`.
    pub async fn connect_from(client: &str, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{client}:0").parse().unwrap()).unwrap();
        Self::begin(socket.connect(address).await.unwrap()).await
    }

    /// Uses a TCP connection, over TLS if [`is_tls`].
    pub async fn begin(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        if is_tls() {
            // A server that refuses connections closes them during the handshake.
            let secure = with_timeout(CERTIFICATE.secure(stream, &["http/1.1"])).await.unwrap();
            Self::over(Transport::Tls(Box::new(secure)))
        } else {
            Self::over(Transport::Plain(stream))
        }
    }

    /// Uses a transport that is connected already.
    pub fn over(stream: Transport) -> Self {
        Self { stream, input: Vec::new(), truncated: false }
    }

    /// Sends all bytes. Panics if the server does not read them in time.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        with_timeout(self.stream.write_all(bytes.as_ref())).await.unwrap();
        with_timeout(self.stream.flush()).await.unwrap();
    }

    /// Like [`Client::send`], but marks the last byte as urgent data (tcp(7)). Only for a few bytes, which must fit into the send buffer.
    pub async fn send_urgent(&mut self, bytes: impl AsRef<[u8]>) {
        with_timeout(self.stream.write_urgent(bytes.as_ref())).await.unwrap();
    }

    /// Sends until everything is sent or the connection fails. Returns the number of bytes sent.
    pub async fn push(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.write(&bytes[sent..]).await {
                Ok(count) => sent += count,
                Err(_) => return sent,
            }
        }
        // A failure shows in the response.
        let _ = self.stream.flush().await;
        sent
    }

    /// Closes the sending side of the connection. The client may still read.
    pub async fn half_close(&mut self) {
        with_timeout(self.stream.shutdown()).await.unwrap();
    }

    /// Closes the connection with FIN.
    pub fn close(self) {
        drop(self.stream);
    }

    /// Closes the connection with RST.
    pub fn reset(self) {
        self.stream.tcp().set_zero_linger().unwrap();
        drop(self.stream);
    }

    /// Reads once into `input`. At the end of the connection, returns how it ended.
    async fn fill(&mut self) -> Result<(), End> {
        match with_timeout(self.stream.read_buf(&mut self.input)).await {
            Ok(0) => Err(End::Short),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.truncated = true;
                Err(End::Short)
            }
            Err(_) => Err(End::Reset),
        }
    }

    /// Reads a head, which may be that of an interim response. If the connection ends before that, returns how it ended.
    pub async fn head(&mut self) -> Result<String, End> {
        loop {
            if let Some(end) = find(&self.input, b"\r\n\r\n") {
                let head = self.input.drain(..end + 4).collect();
                return Ok(String::from_utf8(head).unwrap());
            }
            self.fill().await?;
        }
    }

    /// Waits for this many bytes of the body, and returns them without consuming them. Only for a body that is not chunked.
    pub async fn body_bytes(&mut self, bytes: usize) -> Vec<u8> {
        while self.input.len() < bytes {
            self.fill().await.unwrap();
        }
        self.input[..bytes].to_vec()
    }

    /// Reads this many bytes, of any protocol. If the connection ends before that, returns how it ended.
    pub async fn take_bytes(&mut self, bytes: usize) -> Result<Vec<u8>, End> {
        while self.input.len() < bytes {
            self.fill().await?;
        }
        Ok(self.input.drain(..bytes).collect())
    }

    /// Waits for this many bytes of the body, or the end of the connection, without consuming them. The body may be chunked, but
    /// must consist of letters from `G` to `Z`, which no chunk size contains.
    pub async fn receive(&mut self, bytes: usize) {
        let count = |input: &[u8]| input.iter().filter(|byte| (b'G'..=b'Z').contains(byte)).count();
        while count(&self.input) < bytes && self.fill().await.is_ok() {}
    }

    /// Reads the final response and skips interim ones, which a client that has half-closed may get.
    pub async fn final_response(&mut self) -> Response {
        loop {
            let head = self.head().await.unwrap();
            if !head.starts_with("HTTP/1.1 100 ") {
                return self.rest(head).await;
            }
        }
    }

    /// Reads a response.
    pub async fn response(&mut self) -> Response {
        let head = self.head().await.unwrap();
        self.rest(head).await
    }

    /// Reads the rest of a response after its head.
    pub async fn rest(&mut self, head: String) -> Response {
        let status = head[9..12].parse().unwrap();
        let mut response = Response { status, head, body: Vec::new(), end: End::Whole };
        let framing =
            match (response.fields("content-length")[..].first(), response.fields("transfer-encoding")) {
                (Some(length), chunked) if chunked.is_empty() => Framing::Length(length.parse().unwrap()),
                (None, chunked) if chunked == ["chunked"] => Framing::Chunked,
                (None, chunked) if chunked.is_empty() && matches!(status, 204 | 304) => Framing::Length(0),
                (None, chunked) if chunked.is_empty() => Framing::UntilClose,
                _ => panic!("ambiguous framing: {response:?}"),
            };
        response.end = match framing {
            Framing::Length(length) => self.take(length, &mut response.body).await,
            Framing::Chunked => self.chunks(&mut response.body).await,
            Framing::UntilClose => match self.take(usize::MAX, &mut response.body).await {
                End::Short if self.truncated => End::Reset,
                End::Short => End::Closed,
                end => end,
            },
        };
        let is_tls = matches!(self.stream, Transport::Tls(_));
        assert!(
            response.end != End::Short || self.truncated || !is_tls,
            "close_notify after an incomplete message: {response:?}"
        );
        response
    }

    async fn take(&mut self, mut length: usize, body: &mut Vec<u8>) -> End {
        loop {
            let here = self.input.len().min(length);
            body.extend(self.input.drain(..here));
            length -= here;
            if length == 0 {
                return End::Whole;
            }
            if let Err(end) = self.fill().await {
                return end;
            }
        }
    }

    async fn chunks(&mut self, body: &mut Vec<u8>) -> End {
        loop {
            let line_end = loop {
                match find(&self.input, b"\r\n") {
                    Some(end) => break end,
                    None => {
                        if let Err(end) = self.fill().await {
                            return end;
                        }
                    }
                }
            };
            let line: Vec<u8> = self.input.drain(..line_end + 2).collect();
            let size = usize::from_str_radix(std::str::from_utf8(&line[..line_end]).unwrap(), 16).unwrap();
            let mut chunk = Vec::new();
            match self.take(size + 2, &mut chunk).await {
                End::Whole => {}
                end => {
                    chunk.truncate(size);
                    body.extend(chunk);
                    return end;
                }
            }
            assert_eq!(chunk.split_off(size), b"\r\n");
            body.extend(chunk);
            if size == 0 {
                return End::Whole;
            }
        }
    }

    /// Waits for the end of the connection and returns it. Returns `Ok` if the server sends more instead.
    pub async fn ending(&mut self) -> Result<(), End> {
        self.fill().await
    }
}

/// Returns the position at which `pattern` begins in `bytes`.
pub fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

/// The timeout of every wait, longer than any operation takes on a busy machine.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// Awaits `future` for at most [`WAIT_TIMEOUT`], then panics.
pub async fn with_timeout<T>(future: impl Future<Output = T>) -> T {
    timeout(WAIT_TIMEOUT, future).await.expect("this hangs")
}
