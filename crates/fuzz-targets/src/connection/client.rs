//! A nonblocking client that reads everything it receives.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::net::sockopt;

use super::requests::{Request, requests};
use super::responses::{End, Response};

pub(super) struct Client {
    /// `None` after the client has left.
    stream: Option<TcpStream>,
    output: Vec<u8>,
    /// The bytes of `output` that the kernel has accepted.
    written: usize,
    input: Vec<u8>,
    end: Option<End>,
    half_closes: bool,
    new_input: bool,
}

impl Client {
    pub(super) fn connect(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream.set_nodelay(true).unwrap();
        let (output, input) = (Vec::new(), Vec::new());
        Self {
            stream: Some(stream),
            output,
            written: 0,
            input,
            end: None,
            half_closes: false,
            new_input: false,
        }
    }

    pub(super) fn output(&self) -> &[u8] {
        &self.output
    }

    pub(super) fn responses(&self) -> Vec<Response> {
        Response::read(&self.input, self.end, &requests(&self.output))
    }

    /// The requests that have their final response, with it.
    pub(super) fn exchanges(&self) -> Vec<(Request, Response)> {
        let finals = self.responses().into_iter().filter(|response| response.status() >= 200);
        requests(&self.output).into_iter().zip(finals).collect()
    }

    pub(super) fn end(&self) -> Option<End> {
        self.end
    }

    /// Whether the client has received anything since the last call.
    pub(super) fn has_new_input(&mut self) -> bool {
        std::mem::take(&mut self.new_input)
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.output.extend(bytes);
        self.flush();
    }

    pub(super) fn half_close(&mut self) {
        self.half_closes = true;
        self.flush();
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

    /// Writes and reads as much as the kernel allows. Returns whether any bytes moved.
    pub(super) fn turn(&mut self) -> bool {
        let has_written = self.flush();
        let has_read = self.read();
        if let Some(stream) = &self.stream {
            // The kernel acknowledges received bytes at once instead of after its delay.
            let _ = sockopt::set_tcp_quickack(stream, true);
        }
        self.new_input |= has_read;
        has_written || has_read
    }

    fn flush(&mut self) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        let before = self.written;
        while self.written < self.output.len() {
            match stream.write(&self.output[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // The server has closed already. Its response is what the target compares.
                Err(_) => self.written = self.output.len(),
            }
        }
        if std::mem::take(&mut self.half_closes) {
            if self.written == self.output.len() {
                let _ = stream.shutdown(Shutdown::Write);
            } else {
                self.half_closes = true;
            }
        }
        self.written > before
    }

    fn read(&mut self) -> bool {
        let (Some(stream), None) = (&mut self.stream, self.end) else { return false };
        let before = self.input.len();
        let mut buffer = [0; 16 * 1024];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => self.end = Some(End::Fin),
                Ok(count) => {
                    self.input.extend(&buffer[..count]);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.end = Some(End::Reset),
            }
            return self.input.len() > before || self.end.is_some();
        }
    }
}
