//! An HTTP/1 client over a raw socket that can not take a cut message for a whole one.

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use serde_json::Value;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::server::PATIENCE;
use crate::transport::{CERTIFICATE, Transport, is_tls};

/// How a message ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As its framing says.
    Whole,
    /// By a FIN where nothing else frames it.
    Closed,
    /// By a FIN before its end.
    Short,
    /// By an RST before its end.
    Reset,
}

#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    pub end: End,
}

impl Response {
    pub fn fields(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    pub fn closes(&self) -> bool {
        self.fields("connection") == ["close"]
    }

    pub fn json(&self) -> Value {
        assert_eq!(self.end, End::Whole, "{self:?}");
        assert_eq!(self.fields("content-type"), ["application/json"], "{self:?}");
        serde_json::from_slice(&self.body).unwrap()
    }

    /// `status name`, of an error answer.
    pub fn error(&self) -> String {
        format!("{} {}", self.status, self.json()["name"].as_str().unwrap())
    }

    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap().to_owned()
    }
}

pub struct Client {
    stream: Transport,
    input: Vec<u8>,
    /// The connection ended, and TLS did not say that it was to.
    truncated: bool,
}

enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

impl Client {
    /// Over TLS where the whole suite runs so.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::begin(TcpStream::connect(address).await.unwrap()).await
    }

    /// Never over TLS.
    pub async fn connect_plainly(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(Transport::Plain(stream))
    }

    /// A client whose kernel takes little that the client does not read.
    pub async fn connect_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self::begin(socket.connect(address).await.unwrap()).await
    }

    /// A client whose kernel holds a few KiB each way, and lets that of the server hold some 150 KiB for it: small segments keep
    /// Linux from giving the server's socket megabytes.
    pub async fn connect_cramped(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.set_send_buffer_size(4096).unwrap();
        SockRef::from(&socket).set_tcp_mss(1400).unwrap();
        Self::begin(socket.connect(address).await.unwrap()).await
    }

    /// A client at another address of this machine.
    pub async fn connect_from(client: &str, address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{client}:0").parse().unwrap()).unwrap();
        Self::begin(socket.connect(address).await.unwrap()).await
    }

    pub async fn begin(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        if is_tls() {
            // A server that refuses connections closes them in mid-handshake.
            let secure = soon(CERTIFICATE.secure(stream, &["http/1.1"])).await.unwrap();
            Self::over(Transport::Tls(Box::new(secure)))
        } else {
            Self::over(Transport::Plain(stream))
        }
    }

    pub fn over(stream: Transport) -> Self {
        Self { stream, input: Vec::new(), truncated: false }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        soon(self.stream.write_all(bytes.as_ref())).await.unwrap();
        soon(self.stream.flush()).await.unwrap();
    }

    /// As [`Client::send`], and marks the last byte that goes out as urgent data (tcp(7)). Only for little.
    pub async fn send_urgently(&mut self, bytes: impl AsRef<[u8]>) {
        soon(self.stream.write_urgently(bytes.as_ref())).await.unwrap();
    }

    /// Sends until all is sent or the server does not let it; returns how much went out.
    pub async fn push(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.write(&bytes[sent..]).await {
                Ok(count) => sent += count,
                Err(_) => return sent,
            }
        }
        // Whether it went out shows in what comes of it.
        let _ = self.stream.flush().await;
        sent
    }

    /// Says that it sends no more, and may still read.
    pub async fn half_close(&mut self) {
        soon(self.stream.shutdown()).await.unwrap();
    }

    /// Leaves by FIN.
    pub fn close(self) {
        drop(self.stream);
    }

    /// Leaves by RST.
    pub fn reset(self) {
        self.stream.tcp().set_zero_linger().unwrap();
        drop(self.stream);
    }

    /// Reads once; false at the end.
    async fn fill(&mut self) -> Result<(), End> {
        match soon(self.stream.read_buf(&mut self.input)).await {
            Ok(0) => Err(End::Short),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.truncated = true;
                Err(End::Short)
            }
            Err(_) => Err(End::Reset),
        }
    }

    /// Reads a head, interim ones too; how the connection ended if there is none.
    pub async fn head(&mut self) -> Result<String, End> {
        loop {
            if let Some(end) = find(&self.input, b"\r\n\r\n") {
                let head = self.input.drain(..end + 4).collect();
                return Ok(String::from_utf8(head).unwrap());
            }
            self.fill().await?;
        }
    }

    /// Reads until `bytes` of the body have come, and leaves them to be read. Only for a body that is not
    /// chunked.
    pub async fn body_bytes(&mut self, bytes: usize) -> Vec<u8> {
        while self.input.len() < bytes {
            self.fill().await.unwrap();
        }
        self.input[..bytes].to_vec()
    }

    /// Waits until so many bytes of a body of letters from `G` to `Z` have come, however it is framed, or the connection has
    /// ended. They stay to be read.
    pub async fn receive(&mut self, bytes: usize) {
        let count = |input: &[u8]| input.iter().filter(|byte| (b'G'..=b'Z').contains(byte)).count();
        while count(&self.input) < bytes && self.fill().await.is_ok() {}
    }

    /// The final response, behind interim ones that a client which has closed its sending side may get.
    pub async fn final_response(&mut self) -> Response {
        loop {
            let head = self.head().await.unwrap();
            if !head.starts_with("HTTP/1.1 100 ") {
                return self.rest(head).await;
            }
        }
    }

    pub async fn response(&mut self) -> Response {
        let head = self.head().await.unwrap();
        self.rest(head).await
    }

    /// The rest of the response whose head was read.
    pub async fn rest(&mut self, head: String) -> Response {
        let status = head[9..12].parse().unwrap();
        let mut response = Response { status, head, body: Vec::new(), end: End::Whole };
        let framing =
            match (response.fields("content-length")[..].first(), response.fields("transfer-encoding")) {
                (Some(length), chunked) if chunked.is_empty() => Framing::Length(length.parse().unwrap()),
                (None, chunked) if chunked == ["chunked"] => Framing::Chunked,
                (None, chunked) if chunked.is_empty() && status == 204 => Framing::Length(0),
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
            "TLS calls the end of a cut message a good one: {response:?}"
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

    /// What the connection does when nothing more is to come: `None` while it stays open and silent.
    pub async fn ending(&mut self) -> Result<(), End> {
        self.fill().await
    }
}

/// Where `what` begins in `bytes`.
pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Nothing in a test may hang.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("this hangs")
}
