//! A strict HTTP/1 client: a message is whole only if its framing says so.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow::{self, Break, Continue};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::{
    Connection, Dial, Ending, Errand, Interims, Script, Switches, View, until_paired, until_received,
};
use crate::plan::{Act, Framing, Manner, Side};

/// The longest head of a response.
const MAX_HEAD: usize = 16 << 10;
/// Bytes that are not HTTP, in place of a chunk's size.
const NONSENSE: &[u8] = b"zz\r\nno chunk\r\n";

/// Runs the errand on a connection of its own.
pub(super) async fn run(errand: Errand, dial: &Dial, view: &mut View) {
    let script = Script::new(&errand);
    let departure = script.departure();
    let connected = async {
        let connection = dial.connect(&errand.party).await?;
        errand.log.note(errand.side, format!("connected from {}", connection.tcp().local_addr()?.port()));
        io::Result::Ok(connection)
    };
    tokio::pin!(departure);
    let connection = tokio::select! {
        connected = connected => connected,
        manner = &mut departure => {
            view.ending = Ending::Left(manner);
            return;
        }
    };
    let connection = match connection {
        Ok(connection) => connection,
        Err(error) => {
            view.ending = Ending::NoAnswer(format!("no connection: {error}"));
            return;
        }
    };
    view.room = connection.room(&errand.party);
    let switches = connection.switches();
    let left = match errand.side {
        Side::Source => send(&errand, connection, script, view, departure).await,
        Side::Destination => tokio::select! {
            biased;
            left = receive(&errand, connection, script, view, &switches) => left,
            manner = leaving(departure, &switches) => Some(manner),
        },
    };
    if let Some(manner) = left {
        view.ending = Ending::Left(manner);
    }
}

/// Sets how the connection closes, before it is dropped.
async fn leaving(departure: impl Future<Output = Manner>, switches: &Switches) -> Manner {
    let manner = departure.await;
    switches.leave_by(manner);
    manner
}

/// The bytes that a source has given to its kernel.
#[derive(Debug, Default)]
struct Sent {
    bytes: u64,
    whole: bool,
}

/// `Some` if it left.
async fn send(
    errand: &Errand,
    connection: Connection,
    script: Script,
    view: &mut View,
    departure: impl Future<Output = Manner>,
) -> Option<Manner> {
    let switches = connection.switches();
    let (read, write) = split(connection);
    let mut sent = Sent::default();
    let interims = Interims::default();
    let left = tokio::select! {
        biased;
        () = read_answer(Incoming::new(read, errand.party.piece), view, &interims) => None,
        manner = leaving(upload(errand, write, script, &interims, &mut sent), &switches) => Some(manner),
        manner = leaving(departure, &switches) => Some(manner),
    };
    view.bytes = sent.bytes;
    view.sent_whole = sent.whole;
    view.interims = interims.count();
    left
}

/// Sends until the departure. The reader notices a broken connection.
async fn upload(
    errand: &Errand,
    write: impl AsyncWrite + Unpin,
    mut script: Script,
    interims: &Interims,
    sent: &mut Sent,
) -> Manner {
    match try_upload(errand, write, &mut script, interims, sent).await {
        Ok(Some(manner)) => manner,
        Ok(None) => pending().await,
        Err(error) => {
            errand.log.note(errand.side, format!("can not send: {error}"));
            pending().await
        }
    }
}

async fn try_upload(
    errand: &Errand,
    mut write: impl AsyncWrite + Unpin,
    script: &mut Script,
    interims: &Interims,
    sent: &mut Sent,
) -> io::Result<Option<Manner>> {
    let Errand { body, framing, .. } = errand;
    let length = match framing {
        Framing::Length => format!("Content-Length: {}", body.size),
        Framing::Chunked => "Transfer-Encoding: chunked".to_owned(),
    };
    let expect = errand.party.expects.map_or_else(String::new, |value| format!("Expect: {value}\r\n"));
    let version = version(errand);
    let head = format!("PUT {} HTTP/{version}\r\nHost: localhost\r\n{expect}{length}\r\n\r\n", errand.path);
    write.write_all(head.as_bytes()).await?;
    write.flush().await?;
    interims.until_continue(errand).await;
    loop {
        sent.whole = *framing == Framing::Length && sent.bytes == body.size;
        while let Some(act) = script.due(sent.bytes) {
            if let Break(left) = perform(act, errand, &mut write).await? {
                return Ok(left);
            }
        }
        let piece = script.piece(body, sent.bytes, errand.party.piece);
        if *framing == Framing::Chunked {
            write.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
            while let Some(act) = script.due_in_chunk(sent.bytes) {
                write.flush().await?;
                if let Break(left) = perform(act, errand, &mut write).await? {
                    return Ok(left);
                }
            }
        }
        write.write_all(&piece).await?;
        if *framing == Framing::Chunked {
            write.write_all(b"\r\n").await?;
        }
        write.flush().await?;
        if piece.is_empty() {
            break;
        }
        sent.bytes += piece.len() as u64;
    }
    sent.whole = true;
    errand.log.note(errand.side, "has sent its whole message");
    while let Some(act) = script.due_at_end() {
        if let Break(left) = perform(act, errand, &mut write).await? {
            return Ok(left);
        }
    }
    Ok(None)
}

/// Takes the due steps of a source. `Break` if it sends nothing more, with the way in which it leaves, if it does.
async fn perform(
    act: Act,
    errand: &Errand,
    write: &mut (impl AsyncWrite + Unpin),
) -> io::Result<ControlFlow<Option<Manner>>> {
    match act {
        Act::Leave(manner) => return Ok(Break(Some(manner))),
        Act::HalfClose => {
            write.shutdown().await?;
            return Ok(Break(None));
        }
        Act::Break => {
            write.write_all(NONSENSE).await?;
            write.flush().await?;
            return Ok(Break(None));
        }
        Act::Stall(time) => sleep(time).await,
        Act::Await(offset) => until_received(errand, offset).await,
        Act::AwaitPair => until_paired(errand).await,
        // Only destinations have this step.
        Act::StopReading | Act::Withhold(_) => {}
    }
    Ok(Continue(()))
}

fn version(errand: &Errand) -> &'static str {
    if errand.party.is_old { "1.0" } else { "1.1" }
}

/// `Some` if it left.
async fn receive(
    errand: &Errand,
    connection: Connection,
    mut script: Script,
    view: &mut View,
    switches: &Switches,
) -> Option<Manner> {
    let (read, mut write) = split(connection);
    let version = version(errand);
    let request = format!("GET {} HTTP/{version}\r\nHost: localhost\r\n\r\n", errand.path);
    let asked = async {
        write.write_all(request.as_bytes()).await?;
        write.flush().await
    };
    if let Err(error) = asked.await {
        view.ending = Ending::NoAnswer(format!("can not ask: {error}"));
        return None;
    }
    let mut incoming = Incoming::new(read, errand.party.piece);
    if let Some(manner) = act(errand, &mut write, || script.due(view.bytes)).await {
        switches.leave_by(manner);
        return Some(manner);
    }
    let interims = Interims::default();
    let head = incoming.head(&interims).await;
    view.interims = interims.count();
    let head = match head {
        Ok(head) => head,
        Err(ending) => {
            view.ending = ending;
            return None;
        }
    };
    if head.status != 200 {
        incoming.finish_small(head, view).await;
        return None;
    }
    view.answered(200, b"");
    let mut framing = head.framing;
    loop {
        match incoming.next(&mut framing).await {
            Ok(Some(bytes)) => {
                view.got(&errand.body, &bytes);
                errand.progress.send_replace(view.bytes);
                if let Some(manner) = act(errand, &mut write, || script.due(view.bytes)).await {
                    switches.leave_by(manner);
                    return Some(manner);
                }
            }
            Ok(None) => break,
            Err(ending) => {
                view.ending = ending;
                return None;
            }
        }
    }
    if let Some(manner) = act(errand, &mut write, || script.due_at_end()).await {
        switches.leave_by(manner);
        return Some(manner);
    }
    incoming.finish(head.closes, view).await;
    None
}

/// Takes the due steps of a destination. `Some` if it leaves.
async fn act(
    errand: &Errand,
    write: &mut (impl AsyncWrite + Unpin),
    mut due: impl FnMut() -> Option<Act>,
) -> Option<Manner> {
    while let Some(act) = due() {
        match act {
            Act::Leave(manner) => return Some(manner),
            Act::Stall(time) | Act::Withhold(time) => sleep(time).await,
            Act::AwaitPair => until_paired(errand).await,
            // A destination has nothing more to send.
            Act::HalfClose | Act::Break => drop(write.shutdown().await),
            Act::Await(_) | Act::StopReading => {}
        }
    }
    None
}

async fn read_answer(mut incoming: Incoming<impl AsyncRead + Unpin>, view: &mut View, interims: &Interims) {
    match incoming.head(interims).await {
        Ok(head) => incoming.finish_small(head, view).await,
        Err(ending) => view.ending = ending,
    }
}

/// The input of a connection.
struct Incoming<R> {
    read: R,
    buffer: BytesMut,
    piece: usize,
}

#[derive(Debug, Clone, Copy)]
struct Head {
    status: u16,
    framing: BodyFraming,
    closes: bool,
}

/// The framing of a body and the progress in it.
#[derive(Debug, Clone, Copy)]
enum BodyFraming {
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
    fn new(read: R, piece: usize) -> Self {
        Self { read, buffer: BytesMut::new(), piece }
    }

    /// Reads more bytes. 0 is a good end of the connection.
    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(self.piece);
        let mut room = bytes::BufMut::limit(&mut self.buffer, self.piece);
        self.read.read_buf(&mut room).await
    }

    /// Reads the head of the final response.
    async fn head(&mut self, interims: &Interims) -> Result<Head, Ending> {
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
    async fn next(&mut self, framing: &mut BodyFraming) -> Result<Option<Bytes>, Ending> {
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
    async fn small(&mut self, head: Head) -> Result<Vec<u8>, Ending> {
        let mut framing = head.framing;
        let mut body = Vec::new();
        while let Some(bytes) = self.next(&mut framing).await? {
            body.extend_from_slice(&bytes);
        }
        Ok(body)
    }

    async fn finish_small(&mut self, head: Head, view: &mut View) {
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
    async fn finish(&mut self, closes: bool, view: &mut View) {
        view.ending = Ending::Whole;
        view.has_surplus = !self.buffer.is_empty();
        while closes && !view.has_surplus && matches!(self.fill().await, Ok(1..)) {
            view.has_surplus = true;
        }
    }
}

/// Sends requests other than transfers, without TLS and on the same connection while it lasts.
pub(crate) struct Asker {
    address: SocketAddr,
    connection: Option<(TcpStream, Instant)>,
}

impl Asker {
    /// A client of the server at `address`.
    #[must_use]
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, connection: None }
    }

    /// The status and the body of the response.
    ///
    /// # Errors
    /// There is no response.
    pub(crate) async fn ask(&mut self, method: &str, path: &str, body: &str) -> io::Result<(u16, Vec<u8>)> {
        // The server closes idle connections.
        let fresh = self.connection.take().filter(|(_, used)| used.elapsed().as_secs() < 2);
        let mut stream = match fresh {
            Some((stream, _)) => stream,
            None => TcpStream::connect(self.address).await?,
        };
        stream.set_nodelay(true)?;
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n{body}");
        stream.write_all(request.as_bytes()).await?;
        let mut incoming = Incoming::new(&mut stream, 64 << 10);
        let failed = |ending| io::Error::other(format!("{ending:?}"));
        let head = incoming.head(&Interims::default()).await.map_err(failed)?;
        let body = incoming.small(head).await.map_err(failed)?;
        if !head.closes {
            self.connection = Some((stream, Instant::now()));
        }
        Ok((head.status, body))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> View {
        let mut view = View::new(Side::Source);
        read_answer(Incoming::new(bytes, 3), &mut view, &Interims::default()).await;
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
