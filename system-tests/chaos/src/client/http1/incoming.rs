//! A strict reader of HTTP/1 responses: a message is whole only if its framing says so.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::client::{Ending, Interims, View};

/// The longest head of a response.
const MAX_HEAD: usize = 16 << 10;

/// The input of a connection.
pub(super) struct Incoming<R> {
    read: R,
    buffer: BytesMut,
    piece: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) framing: BodyFraming,
    pub(super) closes: bool,
}

/// The framing of a body and the progress in it.
#[derive(Debug, Clone, Copy)]
pub(super) enum BodyFraming {
    /// It ends after this number of bytes more.
    Length(u64),
    /// The size of a chunk comes next.
    ChunkSize,
    /// This number of bytes of a chunk comes next, then its line end.
    Chunk(u64),
    /// It ends with the connection.
    UntilClose,
}

impl<R: AsyncRead + Unpin> Incoming<R> {
    pub(super) fn new(read: R, piece: usize) -> Self {
        Self { read, buffer: BytesMut::new(), piece }
    }

    /// Reads more bytes. 0 is a good end of the connection.
    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(self.piece);
        let mut room = bytes::BufMut::limit(&mut self.buffer, self.piece);
        self.read.read_buf(&mut room).await
    }

    /// Reads a whole response.
    pub(super) async fn answer(mut self, view: &mut View, interims: &Interims) {
        match self.head(interims).await {
            Ok(head) => self.finish_small(head, view).await,
            Err(ending) => view.ending = ending,
        }
    }

    /// Reads the head of the final response.
    pub(super) async fn head(&mut self, interims: &Interims) -> Result<Head, Ending> {
        loop {
            if let Some(head) = self.parse_head()? {
                if (100..200).contains(&head.status) {
                    interims.came();
                    continue;
                }
                return Ok(head);
            }
            match self.fill().await {
                Ok(1..) => {}
                Ok(0) if self.buffer.is_empty() => return Err(Ending::NoAnswer("closed".into())),
                Ok(0) => return Err(Ending::Cut("inside the head".into())),
                Err(error) => return Err(Ending::NoAnswer(error.to_string())),
            }
        }
    }

    fn parse_head(&mut self) -> Result<Option<Head>, Ending> {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut fields);
        let length = match response.parse(&self.buffer) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if self.buffer.len() < MAX_HEAD => return Ok(None),
            Ok(httparse::Status::Partial) => {
                return Err(Ending::Malformed("a head that does not end".into()));
            }
            Err(error) => return Err(Ending::Malformed(error.to_string())),
        };
        let status = response.code.unwrap_or_default();
        let value = |name: &str| {
            let field = response.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(field.value).ok().map(str::trim)
        };
        let framing = match (value("content-length"), value("transfer-encoding")) {
            (Some(_), Some(_)) => return Err(Ending::Malformed("two framings".into())),
            (Some(length), None) => BodyFraming::Length(
                length.parse().map_err(|_| Ending::Malformed(format!("length {length}")))?,
            ),
            (None, Some(_)) => BodyFraming::ChunkSize,
            (None, None) if status < 200 => BodyFraming::Length(0),
            (None, None) => BodyFraming::UntilClose,
        };
        let closes = value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        self.buffer.advance(length);
        Ok(Some(Head { status, framing, closes }))
    }

    /// The next piece of the body. `None` at its proper end.
    pub(super) async fn next(&mut self, framing: &mut BodyFraming) -> Result<Option<Bytes>, Ending> {
        loop {
            match *framing {
                BodyFraming::Length(0) => return Ok(None),
                BodyFraming::Length(left) => {
                    if let Some(bytes) = self.take(left) {
                        *framing = BodyFraming::Length(left - bytes.len() as u64);
                        return Ok(Some(bytes));
                    }
                }
                BodyFraming::Chunk(left) if left > 2 => {
                    if let Some(bytes) = self.take(left - 2) {
                        *framing = BodyFraming::Chunk(left - bytes.len() as u64);
                        return Ok(Some(bytes));
                    }
                }
                BodyFraming::Chunk(_) => {
                    if let Some(line) = self.line()? {
                        if !line.is_empty() {
                            return Err(Ending::Malformed("a chunk that goes on".into()));
                        }
                        *framing = BodyFraming::ChunkSize;
                        continue;
                    }
                }
                BodyFraming::ChunkSize => {
                    if let Some(line) = self.line()? {
                        let size = std::str::from_utf8(&line)
                            .ok()
                            .and_then(|size| u64::from_str_radix(size, 16).ok());
                        let size =
                            size.ok_or_else(|| Ending::Malformed(format!("a chunk of size {line:?}")))?;
                        if size > 0 {
                            *framing = BodyFraming::Chunk(size + 2);
                            continue;
                        }
                        // The server sends no trailers, so this line is the last.
                        let is_last = self.last_line().await?;
                        return if is_last { Ok(None) } else { Err(Ending::Malformed("trailers".into())) };
                    }
                }
                BodyFraming::UntilClose => {
                    if let Some(bytes) = self.take(u64::MAX) {
                        return Ok(Some(bytes));
                    }
                }
            }
            match self.fill().await {
                Ok(1..) => {}
                Ok(0) if matches!(framing, BodyFraming::UntilClose) => return Ok(None),
                Ok(0) => return Err(Ending::Cut("closed".into())),
                Err(error) => return Err(Ending::Cut(error.to_string())),
            }
        }
    }

    /// At most `most` of the buffered bytes.
    fn take(&mut self, most: u64) -> Option<Bytes> {
        let count = self.buffer.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        (count > 0).then(|| self.buffer.split_to(count).freeze())
    }

    /// A buffered line without its end.
    fn line(&mut self) -> Result<Option<Bytes>, Ending> {
        let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") else {
            return if self.buffer.len() > 64 {
                Err(Ending::Malformed("no line end".into()))
            } else {
                Ok(None)
            };
        };
        let line = self.buffer.split_to(end).freeze();
        self.buffer.advance(2);
        Ok(Some(line))
    }

    /// Whether the line after the last chunk is empty.
    async fn last_line(&mut self) -> Result<bool, Ending> {
        loop {
            if let Some(line) = self.line()? {
                return Ok(line.is_empty());
            }
            match self.fill().await {
                Ok(1..) => {}
                Ok(_) => return Err(Ending::Cut("inside the last chunk".into())),
                Err(error) => return Err(Ending::Cut(error.to_string())),
            }
        }
    }

    /// Reads a whole body into memory.
    pub(super) async fn small(&mut self, head: Head) -> Result<Vec<u8>, Ending> {
        let mut framing = head.framing;
        let mut body = Vec::new();
        while let Some(bytes) = self.next(&mut framing).await? {
            body.extend_from_slice(&bytes);
        }
        Ok(body)
    }

    pub(super) async fn finish_small(&mut self, head: Head, view: &mut View) {
        match self.small(head).await {
            Ok(body) => {
                view.answered(head.status, &body);
                self.finish(head.closes, view).await;
            }
            Err(ending) => {
                view.answered(head.status, b"");
                view.ending = ending;
            }
        }
    }

    /// After a whole message: checks for further bytes, and for the end of a connection that the head announced.
    pub(super) async fn finish(&mut self, closes: bool, view: &mut View) {
        view.ending = Ending::Whole;
        view.has_surplus = !self.buffer.is_empty();
        while closes && !view.has_surplus && matches!(self.fill().await, Ok(1..)) {
            view.has_surplus = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Side;

    async fn read(bytes: &[u8]) -> View {
        let mut view = View::new(Side::Source);
        Incoming::new(bytes, 3).answer(&mut view, &Interims::default()).await;
        view
    }

    #[tokio::test]
    async fn a_message_is_whole_only_with_the_end_that_its_framing_asks_for() {
        for (message, is_whole) in [
            (&b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"[..], true),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi", false),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", true),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r", false),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", false),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhix\r\n0\r\n\r\n", false),
            (b"HTTP/1.0 200 OK\r\n\r\nhi", true),
            (b"HTTP/1.1 200 OK\r\nContent-", false),
            (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true),
            (b"HTTP/1.1 100 Continue\r\n\r\n", false),
            (b"", false),
        ] {
            let view = read(message).await;
            assert_eq!(
                view.ending == Ending::Whole,
                is_whole,
                "{}: {view:?}",
                String::from_utf8_lossy(message)
            );
        }
    }

    #[tokio::test]
    async fn what_comes_behind_the_last_message_is_seen() {
        let answer =
            &b"HTTP/1.1 502 Bad\r\nConnection: close\r\nContent-Length: 12\r\n\r\n{\"name\":\"E\"}"[..];
        let view = read(answer).await;
        assert_eq!((view.status(), view.has_surplus), (Some(502), false));
        assert_eq!(view.answer.map(|answer| answer.name).as_deref(), Some("E"));
        assert!(read(&[answer, answer].concat()[..]).await.has_surplus);
    }
}
