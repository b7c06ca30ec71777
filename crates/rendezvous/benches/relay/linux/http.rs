//! The reading half of a client: just enough HTTP/1.1 that no cut message passes for a whole one.

use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::net::TcpStream;

use anyhow::bail;
use rustix::net::{RecvFlags, recv};

/// Read ahead at a time. Small, because payload that is read ahead is copied.
const READ_AHEAD: usize = 4 * 1024;
/// Payload thrown away at a time.
const WINDOW: usize = 1 << 20;

/// How the end of the message is known.
enum Framing {
    /// So many bytes are to come.
    Length(u64),
    /// So many bytes of this chunk are to come; at 0, the size of the next.
    Chunk(u64),
    /// By the end of the connection.
    UntilClose,
}

/// What comes in on a connection.
pub(crate) struct Incoming {
    reader: BufReader<TcpStream>,
    framing: Framing,
    /// Where nothing is written, but whose length is how much the kernel may throw away.
    window: Vec<u8>,
}

impl Incoming {
    /// Bytes until the end of the connection, or an answer whose head is still to be read.
    pub(crate) fn new(stream: TcpStream) -> Self {
        let reader = BufReader::with_capacity(READ_AHEAD, stream);
        Self { reader, framing: Framing::UntilClose, window: Vec::new() }
    }

    /// Reads the head of the final answer, and returns its status.
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

    /// A line without its CRLF.
    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line)?;
        match line.strip_suffix("\r\n") {
            Some(line) => Ok(line.to_owned()),
            None => Err(malformed("line", &line)),
        }
    }

    /// Throws away up to `limit` bytes of payload; `Ok(0)` is the proper end of the message.
    ///
    /// `MSG_TRUNC` has the kernel drop them without a copy, so that the client takes less of the CPU that the
    /// server needs.
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
        self.took(count)?;
        Ok(count as u64)
    }

    /// How much payload may be taken now; 0 at the end of the message.
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

    /// Accounts for payload that was taken, where some was to come.
    fn took(&mut self, count: usize) -> io::Result<()> {
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
        self.took(count)?;
        Ok(count)
    }
}

/// Reads a head that is to have this status.
pub(crate) fn expect(incoming: &mut Incoming, status: u16) -> anyhow::Result<()> {
    let given = incoming.head()?;
    if given != status {
        bail!("{given} {}", io::read_to_string(incoming)?);
    }
    Ok(())
}

/// The text of an answer that is to have this status.
pub(crate) fn answer(incoming: &mut Incoming, status: u16) -> anyhow::Result<String> {
    expect(incoming, status)?;
    Ok(io::read_to_string(incoming)?)
}

fn to_usize(count: u64) -> usize {
    count.try_into().unwrap_or(usize::MAX)
}

fn malformed(what: &str, text: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("no {what}: {text:?}"))
}
