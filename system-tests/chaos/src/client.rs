//! The clients: each runs one errand, which is one side of one transfer, and returns what it observed.
//!
//! The observations of a client are a [`View`]. No client takes a cut message for a whole one: a message is whole only if it has the end
//! that its framing demands.

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

/// Bytes in flight, which a kernel may accept beyond its buffer.
const ON_THE_WAY: u64 = 128 << 10;

/// The observations of one client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    /// Its side.
    pub(crate) side: Side,
    /// The final response, if its head arrived.
    pub(crate) answer: Option<Answer>,
    /// How its connection or HTTP/2 stream ended.
    pub(crate) ending: Ending,
    /// The body bytes that it has sent or received.
    pub(crate) bytes: u64,
    /// Of a source: whether the kernel has its whole message.
    pub(crate) sent_whole: bool,
    /// Of a destination: the offset of the first wrong byte.
    pub(crate) wrong_at: Option<u64>,
    /// Whether bytes followed the last message.
    pub(crate) has_surplus: bool,
    /// The bound on the bytes that its kernel could accept without its knowledge, if any.
    pub(crate) room: Option<u64>,
    /// The number of interim responses.
    pub(crate) interims: u32,
}

/// The head of a final response, and the error in its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// The `name` of the error, or an empty string.
    pub(crate) name: String,
}

/// How the connection or HTTP/2 stream of a client ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The response was whole according to its framing.
    Whole,
    /// The response began and was cut.
    Cut(String),
    /// There was no response.
    NoAnswer(String),
    /// The client left before the end.
    Left(Manner),
    /// The received bytes were not HTTP.
    Malformed(String),
    /// There was no response long after the end of its plan.
    Hung,
}

impl View {
    /// The view of a client without observations.
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

    /// The status of the final response.
    #[must_use]
    pub(crate) fn status(&self) -> Option<u16> {
        self.answer.as_ref().map(|answer| answer.status)
    }

    /// Whether the client left before the end.
    #[must_use]
    pub(crate) fn left(&self) -> bool {
        matches!(self.ending, Ending::Left(_))
    }

    /// Whether the response was whole and had this status.
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

/// One side of one transfer, for one client.
pub(crate) struct Errand {
    /// The stream's path.
    pub(crate) path: String,
    /// Its side.
    pub(crate) side: Side,
    /// How it behaves.
    pub(crate) party: Party,
    /// How an upload is framed.
    pub(crate) framing: Framing,
    /// The body that it sends or must receive.
    pub(crate) body: Body,
    /// Its steps.
    pub(crate) steps: Vec<Step>,
    /// Notifies it that it waits.
    pub(crate) waits: Arc<Notify>,
    /// The bytes that the destination of the transfer has received.
    pub(crate) progress: watch::Sender<u64>,
    /// Whether both sides have their seats, or the stream has ended.
    pub(crate) paired: watch::Sender<bool>,
    /// Connections that stay open after the reset of their HTTP/2 stream, until the transfer has ended.
    pub(crate) kept: Kept,
    /// The transcript that it writes to.
    pub(crate) log: Log,
}

/// Tasks of open connections. They end when the last clone is dropped.
pub(crate) type Kept = Arc<Mutex<JoinSet<()>>>;

/// Runs the errand. `view` has the observations so far, even if this future is dropped.
pub(crate) async fn run(errand: Errand, dial: &Dial, view: &mut View) {
    match (errand.party.program, errand.party.transport.is_h2()) {
        (Program::Curl, _) => Box::pin(curl::run(errand, dial, view)).await,
        (Program::Own, false) => Box::pin(http1::run(errand, dial, view)).await,
        (Program::Own, true) => Box::pin(http2::run(errand, dial, view)).await,
    }
}

/// Counts interim responses: the reader of a connection adds, and its writer waits for the first.
#[derive(Debug, Default)]
struct Interims(watch::Sender<u32>);

impl Interims {
    fn came(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    fn count(&self) -> u32 {
        *self.0.borrow()
    }

    /// Waits for 100 if the source expects it.
    async fn until_continue(&self, errand: &Errand) {
        if errand.party.expects.is_some() {
            // Fails only without a sender, which is `self`.
            let _ = self.0.subscribe().wait_for(|count| *count > 0).await;
            errand.log.note(errand.side, "gets its 100");
        }
    }
}

/// Waits until the destination has this number of bytes.
async fn until_received(errand: &Errand, offset: u64) {
    // Fails only without a sender, which the errand holds.
    let _ = errand.progress.subscribe().wait_for(|bytes| *bytes >= offset).await;
}

/// Waits until both sides have their seats.
async fn until_paired(errand: &Errand) {
    // Fails only without a sender, which the errand holds.
    let _ = errand.paired.subscribe().wait_for(|paired| *paired).await;
}

/// The remaining steps of an errand.
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

    /// The offset of the next step.
    fn next_offset(&self) -> Option<u64> {
        match self.steps.front()?.moment {
            Moment::Body(offset) | Moment::InChunk(offset) => Some(offset),
            Moment::End | Moment::Waiting | Moment::After(_) => None,
        }
    }

    /// The next piece of a body of which `sent` bytes are sent. It ends before the next step.
    fn piece(&self, body: &Body, sent: u64, most: usize) -> Vec<u8> {
        let next = self.next_offset().filter(|offset| *offset > sent);
        let before = next.and_then(|offset| usize::try_from(offset - sent).ok()).unwrap_or(usize::MAX);
        body.piece(sent, most.min(before))
    }

    /// The step that is due after this number of bytes.
    fn due(&mut self, bytes: u64) -> Option<Act> {
        self.due_if(|moment| matches!(moment, Moment::Body(offset) if offset <= bytes))
    }

    /// The step that is due after the size line of the chunk that begins with this byte.
    fn due_in_chunk(&mut self, bytes: u64) -> Option<Act> {
        self.due_if(|moment| moment == Moment::InChunk(bytes))
    }

    /// The step that is due after the whole message.
    fn due_at_end(&mut self) -> Option<Act> {
        self.due_if(|moment| moment == Moment::End)
    }

    fn due_if(&mut self, is_now: impl Fn(Moment) -> bool) -> Option<Act> {
        let step = *self.steps.front().filter(|step| is_now(step.moment))?;
        self.steps.pop_front();
        self.log.note(self.side, step.to_string());
        Some(step.act)
    }

    /// Waits for a departure that does not depend on bytes.
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

/// The addresses of a server, or of a proxy in front of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    /// Without TLS.
    pub(crate) plain: SocketAddr,
    /// With TLS.
    pub(crate) tls: SocketAddr,
}

/// Connects clients to a server.
#[derive(Debug, Clone)]
pub(crate) struct Dial {
    /// The server itself.
    pub(crate) server: Addresses,
    /// The proxy in front of it, if there is one.
    pub(crate) proxy: Option<Addresses>,
    /// TLS configurations that trust its certificate, for HTTP/1 and for HTTP/2.
    pub(crate) trust: [Arc<ClientConfig>; 2],
    /// The certificate.
    pub(crate) certificate: PathBuf,
}

impl Dial {
    /// The address that `party` connects to.
    fn address(&self, party: &Party) -> SocketAddr {
        let addresses = self.proxy.filter(|_| party.proxy.is_some()).unwrap_or(self.server);
        if party.transport.is_tls() { addresses.tls } else { addresses.plain }
    }

    /// Connects as `party` does.
    ///
    /// # Errors
    /// There is no server, or the handshake fails.
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
    /// Whether it closes by RST.
    resets: AtomicBool,
    /// Whether it reads nothing more.
    is_deaf: AtomicBool,
    /// Whether it neither reads nor writes (HTTP/2).
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

/// A connection, which closes by FIN or RST.
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

    /// The bound on the unread bytes that the kernel accepts, if any. There is none for bytes that a proxy accepts.
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
            // Fails only on a broken connection.
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
