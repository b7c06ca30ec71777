//! The receiving half of a client: as much HTTP/1.1 as it needs to detect incomplete messages.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::net::TcpStream;

use anyhow::bail;
use rustix::net::{RecvFlags, recv};

/// The size of the read-ahead buffer. It is small, because payload in it is copied.
const READ_AHEAD: usize = 4 * 1024;
/// Bytes of payload discarded at a time.
const WINDOW: usize = 1 << 20;

/// How the end of the message is known.
enum Framing {
    /// The bytes left of the body.
    Length(u64),
    /// The bytes left of this chunk. At 0, the size line of the next chunk follows.
    Chunk(u64),
    /// The message ends with the connection.
    UntilClose,
}

/// The receiving half of a connection.
pub(crate) struct Incoming {
    reader: BufReader<TcpStream>,
    framing: Framing,
    /// Never written to. Its length limits how many bytes the kernel discards at a time.
    window: Vec<u8>,
}

impl Incoming {
    /// A connection whose bytes are the payload, or the response whose head [`Incoming::head`] reads.
    pub(crate) fn new(stream: TcpStream) -> Self {
        let reader = BufReader::with_capacity(READ_AHEAD, stream);
        Self { reader, framing: Framing::UntilClose, window: Vec::new() }
    }

    /// Reads the head of the final response, and returns its status.
    pub(crate) fn head(&mut self) -> io::Result<u16> {
        loop {
            let first = self.line()?;
            let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
            let status = status.ok_or_else(|| malformed("status line", &first))?;
            self.fields()?;
            if status >= 200 {
                return Ok(status);
            }
        }
    }

    fn fields(&mut self) -> io::Result<()> {
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok(());
            }
            let (name, value) = line.split_once(':').ok_or_else(|| malformed("field", &line))?;
            if name.eq_ignore_ascii_case("content-length") {
                let length = value.trim().parse().map_err(|_| malformed("field", &line))?;
                self.framing = Framing::Length(length);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                self.framing = Framing::Chunk(0);
            }
        }
    }

    /// Reads a line, and returns it without its CRLF.
    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(malformed("line", &line)),
        }
    }

    /// Discards up to `limit` bytes of payload. `Ok(0)` is the regular end of the message.
    ///
    /// With `MSG_TRUNC` the kernel drops them without a copy, which leaves more of the CPU to the server.
    pub(crate) fn discard(&mut self, limit: u64) -> io::Result<u64> {
        let room = self.room()?.min(limit);
        let count = if self.reader.buffer().is_empty() && room > READ_AHEAD as u64 {
            self.window.resize(WINDOW, 0);
            let window = self.window.get_mut(..to_usize(room).min(WINDOW)).unwrap_or_default();
            recv(self.reader.get_ref(), window, RecvFlags::TRUNC)?.1
        } else if room > 0 {
            let count = self.reader.fill_buf()?.len().min(to_usize(room));
            self.reader.consume(count);
            count
        } else {
            return Ok(0);
        };
        self.consumed(count)?;
        Ok(count as u64)
    }

    /// How many bytes of payload may be read now; 0 at the end of the message.
    fn room(&mut self) -> io::Result<u64> {
        if let Framing::Chunk(0) = self.framing {
            let line = self.line()?;
            let size = u64::from_str_radix(&line, 16).map_err(|_| malformed("chunk size", &line))?;
            self.framing = Framing::Chunk(size);
            if size == 0 {
                self.framing = Framing::Length(0);
                while !self.line()?.is_empty() {}
            }
        }
        Ok(match self.framing {
            Framing::Length(left) | Framing::Chunk(left) => left,
            Framing::UntilClose => u64::MAX,
        })
    }

    /// Accounts for `count` bytes of payload that were read, where at least one was expected.
    fn consumed(&mut self, count: usize) -> io::Result<()> {
        match &mut self.framing {
            Framing::UntilClose => return Ok(()),
            Framing::Length(left) | Framing::Chunk(left) if count > 0 => *left -= count as u64,
            Framing::Length(_) | Framing::Chunk(_) => return Err(ErrorKind::UnexpectedEof.into()),
        }
        if let Framing::Chunk(0) = self.framing {
            let line = self.line()?;
            return if line.is_empty() { Ok(()) } else { Err(malformed("end of a chunk", &line)) };
        }
        Ok(())
    }
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = to_usize(self.room()?).min(buffer.len());
        if room == 0 {
            return Ok(0);
        }
        let count = self.reader.read(buffer.get_mut(..room).unwrap_or_default())?;
        self.consumed(count)?;
        Ok(count)
    }
}

/// Reads a head, which must have this status.
pub(crate) fn expect(incoming: &mut Incoming, status: u16) -> anyhow::Result<()> {
    let actual = incoming.head()?;
    if actual != status {
        bail!("{actual} {}", io::read_to_string(incoming)?);
    }
    Ok(())
}

/// The body of a response, which must have this status.
pub(crate) fn response(incoming: &mut Incoming, status: u16) -> anyhow::Result<String> {
    expect(incoming, status)?;
    Ok(io::read_to_string(incoming)?)
}

fn to_usize(count: u64) -> usize {
    count.try_into().unwrap_or(usize::MAX)
}

fn malformed(what: &str, text: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("malformed {what}: {text:?}"))
}
