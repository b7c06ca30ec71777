//! A blocking client that sends and reads a few bytes at a time.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::site::PATIENCE;

/// How the end of a body is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length,
    Chunked,
}

pub struct Client {
    stream: BufReader<TcpStream>,
    /// How the download is framed, and the bytes left of it or of its chunk.
    framing: Framing,
    left: usize,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream: BufReader::new(stream), framing: Framing::Length, left: 0 }
    }

    fn send(&self, bytes: &[u8]) {
        self.stream.get_ref().write_all(bytes).unwrap();
    }

    pub fn get(&mut self, id: &str) {
        self.send(format!("GET /stream/{id} HTTP/1.1\r\nHost: test\r\n\r\n").as_bytes());
    }

    /// Sends the head of an upload of `length` bytes.
    pub fn put(&mut self, id: &str, framing: Framing, length: usize) {
        let framing = match framing {
            Framing::Length => format!("Content-Length: {length}"),
            Framing::Chunked => "Transfer-Encoding: chunked".to_owned(),
        };
        self.send(format!("PUT /stream/{id} HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n").as_bytes());
    }

    /// Sends a part of the upload's body.
    pub fn body(&mut self, framing: Framing, bytes: &[u8]) {
        self.send(&framed(framing, bytes));
    }

    /// Sends the end of the upload's body.
    pub fn end(&mut self, framing: Framing) {
        if framing == Framing::Chunked {
            self.send(b"0\r\n\r\n");
        }
    }

    /// Sends `bytes` from another thread, so that this one can read.
    pub fn send_in_background(&self, bytes: Vec<u8>) -> JoinHandle<()> {
        let mut stream = self.stream.get_ref().try_clone().unwrap();
        std::thread::spawn(move || stream.write_all(&bytes).unwrap())
    }

    /// Sends more of the upload from another thread until sending fails, at the latest when the client is dropped.
    pub fn send_in_background_until_refused(&self, framing: Framing) -> JoinHandle<()> {
        let mut stream = self.stream.get_ref().try_clone().unwrap();
        let part = framed(framing, &[b'x'; 1 << 14]);
        std::thread::spawn(move || while stream.write_all(&part).is_ok() {})
    }

    /// Returns the status of the final response, or `None` if the connection ends without one.
    pub fn status(&mut self) -> Option<u16> {
        match self.head() {
            Ok(status) => status,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Like [`Client::status`], but with `period` as timeout.
    pub fn status_within(&mut self, period: Duration) -> io::Result<Option<u16>> {
        self.stream.get_ref().set_read_timeout(Some(period)).unwrap();
        let status = self.head();
        self.stream.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        status
    }

    fn head(&mut self) -> io::Result<Option<u16>> {
        loop {
            let Some(line) = self.line()? else { return Ok(None) };
            let status = line.split(' ').nth(1).unwrap().parse().unwrap();
            self.fields()?;
            if status != 100 {
                return Ok(Some(status));
            }
        }
    }

    fn fields(&mut self) -> io::Result<()> {
        while let Some(line) = self.line()?.filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap();
            match name.to_ascii_lowercase().as_str() {
                "content-length" => self.left = value.parse().unwrap(),
                "transfer-encoding" => self.framing = Framing::Chunked,
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the next line without its CRLF, or `None` at the end of the connection.
    fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        Ok(line.strip_suffix("\r\n").map(str::to_owned))
    }

    /// Returns the next byte of the download, or `None` at its regular end.
    pub fn body_byte(&mut self) -> io::Result<Option<u8>> {
        if self.framing == Framing::Chunked && self.left == 0 {
            let length = self.line()?.ok_or(ErrorKind::UnexpectedEof)?;
            self.left = usize::from_str_radix(&length, 16).unwrap();
        }
        if self.left == 0 {
            return Ok(None);
        }
        let mut byte = [0];
        self.stream.read_exact(&mut byte)?;
        self.left -= 1;
        if self.framing == Framing::Chunked && self.left == 0 {
            self.stream.read_exact(&mut [0; 2])?;
        }
        Ok(Some(byte[0]))
    }
}

impl Drop for Client {
    /// Also ends the threads that send in the background.
    fn drop(&mut self) {
        let _ = self.stream.get_ref().shutdown(Shutdown::Both);
    }
}

fn framed(framing: Framing, bytes: &[u8]) -> Vec<u8> {
    match framing {
        Framing::Length => bytes.to_vec(),
        Framing::Chunked => [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat(),
    }
}
