//! A transfer: its sending side, its receiving side, and their common end.

use std::io::{self, BufWriter, Write};
use std::mem;
use std::net::{Shutdown, TcpStream};
use std::thread;

use anyhow::{Context, bail, ensure};

use super::http::{Incoming, answer, expect};

/// What is left of a body, up to here, fits into the sockets' buffers: one thread can drive both sides.
const SMALL: u64 = 64 * 1024;

/// What every upload of a workload carries: so many pieces, each written at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body {
    pub(crate) piece: usize,
    pub(crate) pieces: usize,
    /// Each piece is a chunk; otherwise the length is announced.
    pub(crate) chunked: bool,
}

impl Body {
    pub(crate) fn bytes(&self) -> u64 {
        self.piece as u64 * self.pieces as u64
    }
}

/// How the end of an upload is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length,
    Chunks,
    /// By the connection's. There is no answer either.
    Close,
}

/// The sending side.
pub(crate) struct Upload {
    /// Holds the head back until the first piece, so that a small upload is a single segment.
    writer: BufWriter<TcpStream>,
    framing: Framing,
    /// As it is on the wire.
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

    /// Takes a head, to go out with the first piece.
    pub(crate) fn hold(&mut self, head: &str) -> io::Result<()> {
        self.writer.write_all(head.as_bytes())
    }

    pub(crate) fn send_piece(&mut self) -> io::Result<()> {
        self.pieces_left = self.pieces_left.saturating_sub(1);
        self.writer.write_all(&self.piece)?;
        self.writer.flush()
    }

    /// Sends what is left, and the end.
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

    /// Waits for the answer, which is to be 200.
    fn finish(self) -> anyhow::Result<()> {
        if self.framing != Framing::Close {
            answer(&mut Incoming::new(self.writer.into_inner()?), 200).context("the PUT's answer")?;
        }
        Ok(())
    }
}

/// The receiving side.
pub(crate) struct Download {
    incoming: Incoming,
    /// It comes with the first byte.
    head_is_due: bool,
    bytes_left: u64,
}

impl Download {
    /// Comes as the body of an answer, 200.
    pub(crate) fn of_answer(stream: TcpStream, body: &Body) -> Self {
        Self { incoming: Incoming::new(stream), head_is_due: true, bytes_left: body.bytes() }
    }

    /// Is all that comes on the connection.
    pub(crate) fn of_connection(stream: TcpStream, body: &Body) -> Self {
        Self { incoming: Incoming::new(stream), head_is_due: false, bytes_left: body.bytes() }
    }

    /// Takes so many bytes of payload.
    pub(crate) fn take(&mut self, bytes: u64) -> anyhow::Result<()> {
        if mem::take(&mut self.head_is_due) {
            expect(&mut self.incoming, 200).context("the GET's answer")?;
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

    /// Takes what is left, up to the message's end.
    fn take_rest(&mut self) -> anyhow::Result<()> {
        self.take(self.bytes_left)?;
        ensure!(self.incoming.discard(1)? == 0, "the download is longer than the upload");
        Ok(())
    }
}

/// Brings a transfer to its end: every byte has come, framed as it should be, and the sender was told 200.
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
