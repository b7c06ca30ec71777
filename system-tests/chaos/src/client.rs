//! The clients: each does one errand, one side of one transfer, and tells what it saw.
//!
//! What a client saw is a [`View`]. None of the clients can take a cut message for a whole one: each says *whole* only where the
//! message has the end that its framing asks for.

mod curl;
mod http1;
mod http2;

use std::collections::VecDeque;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use parking_lot::Mutex;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

pub(crate) use self::http1::Asker;
use crate::body::Body;
use crate::log::Log;
use crate::plan::{Act, Framing, Manner, Moment, Party, Program, Side, Step};

/// Beside its buffer, a kernel may hold what was on the way.
const ON_THE_WAY: u64 = 128 << 10;

/// What one client saw of its side of the transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// Its side.
    pub(crate) side: Side,
    /// The final answer, where its head came.
    pub(crate) answer: Option<Answer>,
    /// How it ended.
    pub(crate) ending: Ending,
    /// Body bytes that it has sent, or got.
    pub(crate) bytes: u64,
    /// Of a source: all of its message is with the kernel. Of a destination: nothing.
    pub(crate) sent_whole: bool,
    /// Of a destination: the offset of the first byte that is not the source's.
    pub(crate) wrong_at: Option<u64>,
    /// Something came behind the message that was to be the last.
    pub(crate) has_surplus: bool,
    /// Bytes that its kernel could have taken without its knowledge, where that is bounded.
    pub(crate) room: Option<u64>,
    /// Interim answers.
    pub(crate) interims: u32,
}

/// The head of a final answer, and what its body says if it is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// The `name` of the error, or nothing.
    pub(crate) name: String,
}

/// How a client's connection, or stream, ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The answer was whole, as its framing tells.
    Whole,
    /// The answer began, and was cut.
    Cut(String),
    /// There was none.
    NoAnswer(String),
    /// The client did not wait for the end.
    Left(Manner),
    /// What came was no HTTP.
    Malformed(String),
    /// No answer in the time that its plan needs, and then some.
    Hung,
}

impl View {
    /// Of a client that has seen nothing yet.
    #[must_use]
    pub(crate) fn new(side: Side) -> Self {
        Self {
            side,
            answer: None,
            ending: Ending::Hung,
            bytes: 0,
            sent_whole: false,
            wrong_at: None,
            has_surplus: false,
            room: None,
            interims: 0,
        }
    }

    /// The status of the final answer.
    #[must_use]
    pub(crate) fn status(&self) -> Option<u16> {
        self.answer.as_ref().map(|answer| answer.status)
    }

    /// The client did not stay to the end.
    #[must_use]
    pub(crate) fn left(&self) -> bool {
        matches!(self.ending, Ending::Left(_))
    }

    /// A whole answer with this status.
    #[must_use]
    pub(crate) fn is_whole(&self, status: u16) -> bool {
        self.ending == Ending::Whole && self.status() == Some(status)
    }

    fn answered(&mut self, status: u16, error: &[u8]) {
        #[derive(Deserialize)]
        struct Error {
            name: String,
        }
        let name = serde_json::from_slice(error).map_or_else(|_| String::new(), |error: Error| error.name);
        self.answer = Some(Answer { status, name });
    }

    fn got(&mut self, body: &Body, bytes: &[u8]) {
        if self.wrong_at.is_none() {
            self.wrong_at = body.first_wrong(self.bytes, bytes);
        }
        self.bytes += bytes.len() as u64;
    }
}

/// One side of one transfer, to be done by one client.
pub(crate) struct Errand {
    /// The stream's path.
    pub(crate) path: String,
    /// Its side.
    pub(crate) side: Side,
    /// How it behaves.
    pub(crate) party: Party,
    /// How an upload is framed.
    pub(crate) framing: Framing,
    /// What it sends, or is to get.
    pub(crate) body: Body,
    /// What it does beside.
    pub(crate) steps: Vec<Step>,
    /// Tells it that it waits.
    pub(crate) waits: Arc<Notify>,
    /// How much the destination of the transfer has got.
    pub(crate) progress: watch::Sender<u64>,
    /// Both sides have their seats, or the stream has ended.
    pub(crate) paired: watch::Sender<bool>,
    /// Connections that stay open after their HTTP/2 stream was reset, until the transfer has ended.
    pub(crate) kept: Kept,
    /// Where it tells what it does.
    pub(crate) log: Log,
}

/// Tasks of connections that are kept open. They end when the last clone is dropped.
pub(crate) type Kept = Arc<Mutex<JoinSet<()>>>;

/// Does the errand. The view has what was seen so far, even if this future is dropped.
pub(crate) async fn run(errand: Errand, dial: &Dial, view: &mut View) {
    match (errand.party.program, errand.party.transport.is_h2()) {
        (Program::Curl, _) => Box::pin(curl::run(errand, dial, view)).await,
        (Program::Own, false) => Box::pin(http1::run(errand, dial, view)).await,
        (Program::Own, true) => Box::pin(http2::run(errand, dial, view)).await,
    }
}

/// Counts interim answers: the reader of a connection adds, its writer waits for the first.
#[derive(Debug, Default)]
struct Interims(watch::Sender<u32>);

impl Interims {
    fn came(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    fn count(&self) -> u32 {
        *self.0.borrow()
    }

    /// Waits for a 100 if the source expects one.
    async fn until_continue(&self, errand: &Errand) {
        if errand.party.expects.is_some() {
            // Fails only without a sender, which is `self`.
            let _ = self.0.subscribe().wait_for(|count| *count > 0).await;
            errand.log.note(errand.side, "gets its 100");
        }
    }
}

/// Waits until the destination has so many bytes.
async fn until_received(errand: &Errand, offset: u64) {
    // Fails only without a sender, which the errand holds.
    let _ = errand.progress.subscribe().wait_for(|bytes| *bytes >= offset).await;
}

/// Waits until both sides have their seats.
async fn until_paired(errand: &Errand) {
    // Fails only without a sender, which the errand holds.
    let _ = errand.paired.subscribe().wait_for(|paired| *paired).await;
}

/// What is left of the steps of an errand.
struct Script {
    steps: VecDeque<Step>,
    waits: Arc<Notify>,
    side: Side,
    log: Log,
}

impl Script {
    fn new(errand: &Errand) -> Self {
        Self {
            steps: errand.steps.iter().copied().collect(),
            waits: Arc::clone(&errand.waits),
            side: errand.side,
            log: errand.log.clone(),
        }
    }

    /// The next offset at which there is something to do.
    fn next_offset(&self) -> Option<u64> {
        match self.steps.front()?.moment {
            Moment::Body(offset) | Moment::InChunk(offset) => Some(offset),
            Moment::End | Moment::Waiting | Moment::After(_) => None,
        }
    }

    /// The next piece of a body of which so many bytes have been sent: no more than there is to send before something is to be done.
    fn piece(&self, body: &Body, sent: u64, most: usize) -> Vec<u8> {
        let next = self.next_offset().filter(|offset| *offset > sent);
        let before = next.and_then(|offset| usize::try_from(offset - sent).ok()).unwrap_or(usize::MAX);
        body.piece(sent, most.min(before))
    }

    /// What is to be done now that so many bytes have passed.
    fn due(&mut self, bytes: u64) -> Option<Act> {
        self.due_if(|moment| matches!(moment, Moment::Body(offset) if offset <= bytes))
    }

    /// What is to be done behind the size line of the chunk that begins with this byte.
    fn due_in_chunk(&mut self, bytes: u64) -> Option<Act> {
        self.due_if(|moment| moment == Moment::InChunk(bytes))
    }

    /// What is to be done behind the whole message.
    fn due_at_end(&mut self) -> Option<Act> {
        self.due_if(|moment| moment == Moment::End)
    }

    fn due_if(&mut self, is_now: impl Fn(Moment) -> bool) -> Option<Act> {
        let step = *self.steps.front().filter(|step| is_now(step.moment))?;
        self.steps.pop_front();
        self.log.note(self.side, step.to_string());
        Some(step.act)
    }

    /// Waits for the moment to leave that no byte tells.
    fn departure(&self) -> impl Future<Output = Manner> + use<> {
        let (step, waits) = (self.steps.front().copied(), Arc::clone(&self.waits));
        let (side, log) = (self.side, self.log.clone());
        async move {
            let Some(Step { moment, act: Act::Leave(manner) }) = step else { return pending().await };
            match moment {
                Moment::Waiting => waits.notified().await,
                Moment::After(time) => sleep(time).await,
                Moment::Body(_) | Moment::InChunk(_) | Moment::End => pending().await,
            }
            log.note(side, format!("leaves ({manner:?})"));
            manner
        }
    }
}

/// Where a server, or a proxy in front of it, listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entrance {
    /// Without TLS.
    pub(crate) plain: SocketAddr,
    /// With TLS.
    pub(crate) tls: SocketAddr,
}

/// How to reach a server.
#[derive(Debug, Clone)]
pub(crate) struct Dial {
    /// The server itself.
    pub(crate) server: Entrance,
    /// The proxy in front of it, if there is one.
    pub(crate) proxy: Option<Entrance>,
    /// What trusts its certificate, for HTTP/1 and for HTTP/2.
    pub(crate) trust: [Arc<ClientConfig>; 2],
    /// The certificate.
    pub(crate) certificate: PathBuf,
}

impl Dial {
    /// The address that `party` connects to.
    fn address(&self, party: &Party) -> SocketAddr {
        let entrance = self.proxy.filter(|_| party.proxy.is_some()).unwrap_or(self.server);
        if party.transport.is_tls() { entrance.tls } else { entrance.plain }
    }

    /// Connects as `party` does.
    ///
    /// # Errors
    /// There is no server, or it does not shake hands.
    async fn connect(&self, party: &Party) -> io::Result<Connection> {
        let socket = TcpSocket::new_v4()?;
        if let Some(room) = party.receive_buffer {
            socket.set_recv_buffer_size(u32::try_from(room).unwrap_or(u32::MAX))?;
        }
        let address = self.address(party);
        let tcp = socket.connect(address).await?;
        tcp.set_nodelay(true)?;
        let switches = Switches::default();
        if !party.transport.is_tls() {
            return Ok(Connection { stream: Stream::Plain(tcp), switches });
        }
        let [http1, http2] = &self.trust;
        let trust = if party.transport.is_h2() { http2 } else { http1 };
        let name = ServerName::from(address.ip());
        let stream = TlsConnector::from(Arc::clone(trust)).connect(name, tcp).await?;
        Ok(Connection { stream: Stream::Tls(Box::new(stream)), switches })
    }
}

/// The switches of a connection, shared with the client that uses it.
#[derive(Debug, Clone, Default)]
struct Switches(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    /// It closes with RST.
    resets: AtomicBool,
    /// It reads nothing more.
    is_deaf: AtomicBool,
    /// It neither reads nor writes (HTTP/2).
    is_frozen: AtomicBool,
}

impl Switches {
    fn leave_by(&self, manner: Manner) {
        self.0.resets.store(manner == Manner::Reset, Ordering::Relaxed);
    }

    fn stop_reading(&self) {
        self.0.is_deaf.store(true, Ordering::Relaxed);
    }

    fn freeze(&self, is_frozen: bool) {
        self.0.is_frozen.store(is_frozen, Ordering::Relaxed);
    }

    fn is_frozen(&self) -> bool {
        self.0.is_frozen.load(Ordering::Relaxed)
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection, which closes with FIN or RST.
struct Connection {
    stream: Stream,
    switches: Switches,
}

impl Connection {
    fn switches(&self) -> Switches {
        self.switches.clone()
    }

    fn tcp(&self) -> &TcpStream {
        match &self.stream {
            Stream::Plain(tcp) => tcp,
            Stream::Tls(tls) => tls.get_ref().0,
        }
    }

    /// Bytes that the kernel may take of what nobody reads, where that was bounded. What a proxy takes is not.
    fn room(&self, party: &Party) -> Option<u64> {
        if party.proxy.is_some() {
            return None;
        }
        party.receive_buffer?;
        let buffer = rustix::net::sockopt::socket_recv_buffer_size(self.tcp()).ok()?;
        Some(buffer as u64 + ON_THE_WAY)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.switches.0.resets.load(Ordering::Relaxed) {
            // Fails only on a connection that is broken already.
            let _ = self.tcp().set_zero_linger();
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.switches.0.is_deaf.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
