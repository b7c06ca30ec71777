//! A client that reads whatever it is told.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::net::sockopt;

use super::answers::Answer;
use super::requests::requests;

/// How the server has ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Fin,
    Reset,
}

pub(super) struct Client {
    /// `None` once it has left.
    stream: Option<TcpStream>,
    said: Vec<u8>,
    /// So many of these the kernel has taken.
    sent: usize,
    heard: Vec<u8>,
    end: Option<End>,
    half_closes: bool,
    news: bool,
}

impl Client {
    pub(super) fn connect(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream.set_nodelay(true).unwrap();
        let (said, heard) = (Vec::new(), Vec::new());
        Self { stream: Some(stream), said, sent: 0, heard, end: None, half_closes: false, news: false }
    }

    pub(super) fn said(&self) -> &[u8] {
        &self.said
    }

    pub(super) fn answers(&self) -> Vec<Answer> {
        Answer::read(&self.heard, self.end, &requests(&self.said))
    }

    pub(super) fn end(&self) -> Option<End> {
        self.end
    }

    /// Whether something was heard since this was asked last.
    pub(super) fn has_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    pub(super) fn say(&mut self, bytes: &[u8]) {
        self.said.extend(bytes);
        self.send();
    }

    pub(super) fn half_close(&mut self) {
        self.half_closes = true;
        self.send();
    }

    /// Leaves by FIN.
    pub(super) fn close(&mut self) {
        self.stream = None;
    }

    /// Leaves by RST.
    pub(super) fn reset(&mut self) {
        if let Some(stream) = self.stream.take() {
            sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        }
    }

    /// Goes on with what it says, and reads what there is. True where there was something.
    pub(super) fn turn(&mut self) -> bool {
        let sent = self.send();
        let heard = self.read();
        if let Some(stream) = &self.stream {
            // What has come is acknowledged now, and not when the kernel thinks fit.
            let _ = sockopt::set_tcp_quickack(stream, true);
        }
        self.news |= heard;
        sent || heard
    }

    fn send(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let before = self.sent;
        while self.sent < self.said.len() {
            match stream.write(&self.said[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The server has closed already: what it answered is what counts.
                Err(_) => self.sent = self.said.len(),
            }
        }
        if std::mem::take(&mut self.half_closes) {
            if self.sent == self.said.len() {
                let _ = stream.shutdown(Shutdown::Write);
            } else {
                self.half_closes = true;
            }
        }
        self.sent > before
    }

    fn read(&mut self) -> bool {
        let (Some(stream), None) = (&mut self.stream, self.end) else { return false };
        let before = self.heard.len();
        let mut buffer = [0; 16 * 1024];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => self.end = Some(End::Fin),
                Ok(count) => {
                    self.heard.extend(&buffer[..count]);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.end = Some(End::Reset),
            }
            return self.heard.len() > before || self.end.is_some();
        }
    }
}
