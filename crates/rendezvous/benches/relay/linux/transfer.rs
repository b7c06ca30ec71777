//! A transfer: its sending side, its receiving side, and its end.

use std::io::{self, BufWriter, Write};
use std::mem;
use std::net::{Shutdown, TcpStream};
use std::thread;

use anyhow::{Context, bail, ensure};

use super::http::{Incoming, expect, response};

/// The size in bytes up to which a body fits into the sockets' buffers, so that one thread can drive both sides.
const SMALL: u64 = 64 * 1024;

/// The body of the uploads of a workload: a number of pieces, each sent by one write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body {
    pub(crate) piece: usize,
    pub(crate) pieces: usize,
    /// Each piece is a chunk. Otherwise the upload has a `Content-Length`.
    pub(crate) chunked: bool,
}

impl Body {
    pub(crate) fn bytes(&self) -> u64 {
        self.piece as u64 * self.pieces as u64
    }
}

/// How the end of an upload is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length,
    Chunks,
    /// The upload ends with the connection, and has no response.
    Close,
}

/// The sending side.
pub(crate) struct Upload {
    /// Holds the head back until the first piece, so that a small upload is a single segment.
    writer: BufWriter<TcpStream>,
    framing: Framing,
    /// The encoded piece.
    piece: Vec<u8>,
    pieces_left: usize,
}

impl Upload {
    pub(crate) fn new(stream: TcpStream, framing: Framing, body: &Body) -> Self {
        let mut piece = vec![b'x'; body.piece];
        if framing == Framing::Chunks {
            piece = [format!("{:x}\r\n", body.piece).as_bytes(), &piece, b"\r\n"].concat();
        }
        Self { writer: BufWriter::new(stream), framing, piece, pieces_left: body.pieces }
    }

    /// Takes a head, to be sent with the first piece.
    pub(crate) fn hold(&mut self, head: &str) -> io::Result<()> {
        self.writer.write_all(head.as_bytes())
    }

    pub(crate) fn send_piece(&mut self) -> io::Result<()> {
        self.pieces_left = self.pieces_left.saturating_sub(1);
        self.writer.write_all(&self.piece)?;
        self.writer.flush()
    }

    /// Sends the rest of the body and its end.
    fn send_rest(&mut self) -> io::Result<()> {
        while self.pieces_left > 0 {
            self.send_piece()?;
        }
        match self.framing {
            Framing::Length => Ok(()),
            Framing::Chunks => self.writer.write_all(b"0\r\n\r\n").and_then(|()| self.writer.flush()),
            Framing::Close => self.writer.get_ref().shutdown(Shutdown::Write),
        }
    }

    /// Waits for the response, which must be 200.
    fn finish(self) -> anyhow::Result<()> {
        if self.framing != Framing::Close {
            response(&mut Incoming::new(self.writer.into_inner()?), 200).context("the response to PUT")?;
        }
        Ok(())
    }
}

/// The receiving side.
pub(crate) struct Download {
    incoming: Incoming,
    /// Whether the head, which arrives with the first byte, was not read yet.
    head_is_due: bool,
    bytes_left: u64,
}

impl Download {
    /// Returns a download that is the body of a response with status 200.
    pub(crate) fn of_response(stream: TcpStream, body: &Body) -> Self {
        Self { incoming: Incoming::new(stream), head_is_due: true, bytes_left: body.bytes() }
    }

    /// Returns a download that is all bytes of a connection.
    pub(crate) fn of_connection(stream: TcpStream, body: &Body) -> Self {
        Self { incoming: Incoming::new(stream), head_is_due: false, bytes_left: body.bytes() }
    }

    /// Receives `bytes` bytes of payload.
    pub(crate) fn take(&mut self, bytes: u64) -> anyhow::Result<()> {
        if mem::take(&mut self.head_is_due) {
            expect(&mut self.incoming, 200).context("the response to GET")?;
        }
        let until = self.bytes_left.saturating_sub(bytes);
        while self.bytes_left > until {
            let missing = || format!("{} bytes of the download are missing", self.bytes_left);
            let count = self.incoming.discard(self.bytes_left - until).with_context(missing)?;
            ensure!(count > 0, missing());
            self.bytes_left -= count;
        }
        Ok(())
    }

    /// Receives the rest, up to the end of the message.
    fn take_rest(&mut self) -> anyhow::Result<()> {
        self.take(self.bytes_left)?;
        ensure!(self.incoming.discard(1)? == 0, "the download is longer than the upload");
        Ok(())
    }
}

/// Finishes a transfer, and checks that every byte arrives, that the framing is right, and that the sender gets 200.
pub(crate) fn finish((mut upload, mut download): (Upload, Download)) -> anyhow::Result<()> {
    if download.bytes_left <= SMALL {
        upload.send_rest()?;
        download.take_rest()?;
    } else {
        thread::scope(|scope| {
            let received = scope.spawn(|| download.take_rest());
            let sent = upload.send_rest();
            received.join().unwrap_or_else(|_| bail!("the receiver panicked"))?;
            sent.context("the upload")
        })?;
    }
    upload.finish()
}
