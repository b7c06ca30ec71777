//! The client of a contender: how it connects, and how two sides pair.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType};
use serde_json::Value;

use super::http::{Incoming, response};
use super::transfer::{Body, Download, Framing, Upload};

/// The timeout of each read and write.
const IO_TIMEOUT: Duration = Duration::from_mins(1);

/// How two sides pair through a contender.
pub(crate) enum Protocol {
    /// POST creates a stream, whose path both sides use.
    Rendezvous,
    /// Both sides use any path.
    Piping,
    /// No HTTP: the contender connects to this listener, and sends the bytes there.
    Tcp(TcpListener),
}

/// Connects to a contender.
pub(crate) struct Client {
    pub(crate) address: SocketAddrV4,
    pub(crate) protocol: Protocol,
}

impl Client {
    /// Connects both sides of a transfer, the receiver first.
    pub(crate) fn pair(&self, body: &Body) -> anyhow::Result<(Upload, Download)> {
        if let Protocol::Tcp(listener) = &self.protocol {
            let upload = Upload::new(self.connect()?, Framing::Close, body);
            let (stream, _) = listener.accept().context("no connection from the floor")?;
            return Ok((upload, Download::of_connection(configured(stream)?, body)));
        }
        let path = self.new_path()?;
        let download = self.download(&path, body)?;
        Ok((self.upload(&path, body)?, download))
    }

    /// Returns a path that no other transfer uses.
    pub(crate) fn new_path(&self) -> anyhow::Result<String> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        if !matches!(self.protocol, Protocol::Rendezvous) {
            return Ok(format!("/{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        }
        let mut stream = self.connect()?;
        stream.write_all(self.head("POST", "/stream", "Content-Length: 0\r\n").as_bytes())?;
        let created: Value = serde_json::from_str(&response(&mut Incoming::new(stream), 201)?)?;
        let id =
            created.get("stream").and_then(Value::as_str).context("no id in the response to POST /stream")?;
        Ok(format!("/stream/{id}"))
    }

    /// Connects the receiving side and sends its request.
    pub(crate) fn download(&self, path: &str, body: &Body) -> anyhow::Result<Download> {
        let mut stream = self.connect()?;
        stream.write_all(self.head("GET", path, "").as_bytes())?;
        Ok(Download::of_response(stream, body))
    }

    /// Connects the sending side. Its head is sent with its first piece.
    pub(crate) fn upload(&self, path: &str, body: &Body) -> anyhow::Result<Upload> {
        let (framing, field) = if body.chunked {
            (Framing::Chunks, "Transfer-Encoding: chunked\r\n".to_owned())
        } else {
            (Framing::Length, format!("Content-Length: {}\r\n", body.bytes()))
        };
        let mut upload = Upload::new(self.connect()?, framing, body);
        upload.hold(&self.head("PUT", path, &field))?;
        Ok(upload)
    }

    fn head(&self, method: &str, path: &str, field: &str) -> String {
        format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{field}Connection: close\r\n\r\n", self.address)
    }

    /// Connects from one of 250 addresses in turn. A single address would run out of ports within seconds, because each port
    /// stays in TIME-WAIT for a minute.
    fn connect(&self) -> anyhow::Result<TcpStream> {
        static TURN: AtomicU8 = AtomicU8::new(0);
        let source = Ipv4Addr::new(127, 0, 0, 2 + TURN.fetch_add(1, Ordering::Relaxed) % 250);
        let socket = net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        net::bind(&socket, &SocketAddrV4::new(source, 0))?;
        let connected = net::connect(&socket, &self.address);
        connected.with_context(|| format!("cannot connect to {}", self.address))?;
        Ok(configured(TcpStream::from(socket))?)
    }
}

/// Sets the options of a connection.
fn configured(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(IO_TIMEOUT))?;
    stream.set_write_timeout(Some(IO_TIMEOUT))?;
    Ok(stream)
}
