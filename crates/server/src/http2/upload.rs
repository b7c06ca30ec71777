//! The body of an HTTP/2 request, between h2 and its reader.
//!
//! ```text
//!   h2 ── sweep, behind each poll of h2 ──► Upload ──► relay, or a JSON handler
//! ```
//!
//! The task of the connection alone takes the frames of bodies out of h2, all that have arrived at once. So a reader is woken once for
//! many frames, and h2 holds few: it keeps an entry of about 250 bytes for each DATA frame that was not taken, however small the frame
//! is. It also forgets that a body was complete if the client then resets the HTTP/2 stream or disconnects. So a turn ([`super::traffic`]) has few
//! small frames and at most one end of a body.
//!
//! *Invariant.* The flow-control window is returned to the client only for bytes that the reader has taken.
//!
//! *Concurrency.* An [`Upload`] is shared by the task that reads it and the task of its connection. Its lock is taken before
//! the locks of h2 and of [`Windows`]. A reader never takes that of h2.
//!
//! *Bounds.* The window of the HTTP/2 stream limits the bytes, and [`JOIN_LIMIT`] and [`BACKLOG`] the unused capacity of buffers. What bodies
//! hold that nobody reads yet is reserved in the budget of all connections; a body for which nothing is left is refused.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use h2::RecvStream;
use parking_lot::Mutex;
use rendezvous_core::budget::{Budget, Reservation};
use rendezvous_core::outcome::Fault;

use super::windows::{BodyWindow, MIN_WINDOW, Windows};

/// Frames smaller than this are joined into pieces of at most this size, in bytes.
const JOIN_LIMIT: usize = 4 * 1024;
/// Bytes from which on a body waits for its reader. Its pieces are then copied, because each would keep a read buffer of h2 allocated.
const BACKLOG: usize = 256 * 1024;

/// The bodies of all requests of a connection.
#[derive(Debug)]
pub(super) struct Uploads {
    windows: Arc<Windows>,
    /// For bodies that nobody reads yet.
    memory: Arc<Budget>,
    by_stream: Mutex<HashMap<u32, Weak<Mutex<Incoming>>>>,
}

/// A request body. Clones share it; only one of them may read.
#[derive(Debug, Clone)]
pub(super) struct Upload(Arc<Mutex<Incoming>>);

#[derive(Debug)]
struct Incoming {
    body: RecvStream,
    window: BodyWindow,
    /// Pieces that a sweep has taken, in order. `joined` comes after them.
    swept: VecDeque<Bytes>,
    /// Small frames that may still be joined with the next one.
    joined: BytesMut,
    /// Bytes of `swept` and `joined`.
    held: usize,
    /// The end of the body, once it was received.
    end: Option<Result<(), Fault>>,
    /// Somebody reads it, so that it is about to get shorter.
    is_read: bool,
    /// Bytes that the reader has taken and h2 counts as held.
    unreleased: usize,
    /// The task that waits for more.
    reader: Option<Waker>,
    /// For the pieces that nobody reads yet. `None` once the budget is exhausted.
    memory: Option<Reservation>,
    /// The task that waits until `memory` is `None`.
    waiter: Option<Waker>,
}

impl Uploads {
    /// `memory` is the budget of all connections for bodies that nobody reads yet.
    pub(super) fn new(windows: Arc<Windows>, memory: Arc<Budget>) -> Self {
        Self { windows, memory, by_stream: Mutex::default() }
    }

    /// Adds `body`, to be swept until it is dropped.
    pub(super) fn add(&self, body: RecvStream) -> Upload {
        let stream = body.stream_id().as_u32();
        let mut incoming = Incoming {
            window: self.windows.of_body(stream),
            body,
            swept: VecDeque::new(),
            joined: BytesMut::new(),
            held: 0,
            end: None,
            is_read: false,
            unreleased: 0,
            reader: None,
            memory: Some(self.memory.empty_reservation()),
            waiter: None,
        };
        incoming.sweep();
        let upload = Arc::new(Mutex::new(incoming));
        let by_stream = &mut *self.by_stream.lock();
        if by_stream.len() == by_stream.capacity() {
            by_stream.retain(|_, upload| upload.strong_count() > 0);
        }
        by_stream.insert(stream, Arc::downgrade(&upload));
        Upload(upload)
    }

    /// Takes the frames out of h2 that have arrived for bodies since the last call, as far as h2 has decoded them.
    pub(super) fn sweep_arrived(&self, is_decoded: bool) {
        let arrived = self.windows.take_arrived(is_decoded);
        let by_stream = self.by_stream.lock();
        for upload in arrived.iter().filter_map(|stream| by_stream.get(stream)?.upgrade()) {
            upload.lock().sweep();
        }
    }
}

impl Upload {
    /// Returns how the body ended, if all of it has arrived, or it has failed.
    pub(super) fn end(&self) -> Option<Result<(), Fault>> {
        let incoming = &mut *self.0.lock();
        incoming.sweep();
        incoming.end.clone()
    }

    /// Waits until the memory for bodies that nobody reads yet is exhausted.
    pub(super) async fn exhausted(&self) {
        poll_fn(|cx| {
            let incoming = &mut *self.0.lock();
            if incoming.memory.is_none() {
                return Poll::Ready(());
            }
            incoming.waiter = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Discards the rest of the body, until the client has sent all of it or has reset the HTTP/2 stream.
    pub(super) async fn discard(&mut self) {
        while let Some(Ok(_)) = poll_fn(|cx| self.0.lock().poll_take(cx)).await {}
    }
}

impl Incoming {
    /// Returns the next bytes of the body; `None` at its end.
    fn poll_take(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        self.is_read = true;
        if let Some(data) = self.take_swept() {
            self.unreleased += data.len();
            self.window.taken(data.len());
            return Poll::Ready(Some(Ok(data)));
        }
        if let Some(end) = &self.end {
            return Poll::Ready(end.clone().err().map(Err));
        }
        self.window.awaited();
        if !self.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            self.reader = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Takes the frames out of h2 that have arrived, and wakes the reader.
    fn sweep(&mut self) {
        // Fails only for more than was received, which does not happen, or after the end of the HTTP/2 stream.
        let _ = self.body.flow_control().release_capacity(std::mem::take(&mut self.unreleased));
        // The connection's task sweeps behind each poll of h2, so h2 has nobody to wake.
        let cx = &mut Context::from_waker(Waker::noop());
        let mut has_progress = false;
        while self.end.is_none()
            && let Poll::Ready(taken) = self.body.poll_data(cx)
        {
            has_progress = true;
            match taken {
                Some(Ok(data)) => self.join(data),
                Some(Err(error)) if error.is_library() => {
                    self.end = Some(Err(Fault::SourceBroke(error.to_string())));
                }
                Some(Err(_)) => self.end = Some(Err(Fault::SourceDisconnected)),
                // Trailers are not passed on.
                None => self.end = Some(Ok(())),
            }
        }
        if has_progress {
            if let Some(reader) = self.reader.take() {
                reader.wake();
            }
            if !self.is_read {
                self.reserve();
            }
        }
    }

    /// Reserves memory for the pieces that nobody reads yet. What is more than the smallest window is in the reservation of the window.
    fn reserve(&mut self) {
        let bytes = (self.held as u64).min(MIN_WINDOW.into());
        self.memory.take_if(|memory| memory.resize(bytes).is_err());
        if self.memory.is_none()
            && let Some(waiter) = self.waiter.take()
        {
            waiter.wake();
        }
    }

    fn join(&mut self, data: Bytes) {
        self.held += data.len();
        if self.joined.len() + data.len() > JOIN_LIMIT {
            self.close_joined();
        }
        if data.len() < JOIN_LIMIT {
            self.joined.extend_from_slice(&data);
        } else if self.is_read && self.held < BACKLOG {
            self.swept.push_back(data);
        } else {
            self.swept.push_back(Bytes::copy_from_slice(&data));
        }
    }

    fn close_joined(&mut self) {
        if !self.joined.is_empty() {
            self.swept.push_back(std::mem::take(&mut self.joined).freeze());
        }
    }

    fn take_swept(&mut self) -> Option<Bytes> {
        if self.swept.is_empty() {
            self.close_joined();
        }
        let taken = self.swept.pop_front();
        self.held -= taken.as_ref().map_or(0, Bytes::len);
        if let Some(memory) = self.memory.as_mut().filter(|_| self.held == 0) {
            // It shrinks, which always succeeds.
            let _ = memory.resize(0);
        }
        taken
    }
}

impl Stream for Upload {
    type Item = Result<Bytes, Fault>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Fault>>> {
        self.0.lock().poll_take(cx)
    }
}

#[cfg(test)]
mod tests {
    use h2::client::{self, SendRequest};
    use h2::server;
    use http::Request;
    use tokio::io::{DuplexStream, duplex};
    use tokio::task::JoinSet;

    use super::*;

    type Requests = server::Connection<DuplexStream, Bytes>;

    /// Bytes of a body that comes in one piece.
    const BYTES: usize = 10_000;

    /// With this budget for bodies that nobody reads yet.
    fn uploads(memory: &Arc<Budget>) -> Uploads {
        Uploads::new(Windows::new(100, Budget::new(0)), Arc::clone(memory))
    }

    /// Both ends of an HTTP/2 connection, and the task of the client's.
    async fn connected() -> (SendRequest<Bytes>, Requests, JoinSet<()>) {
        let (client, server) = duplex(1024 * 1024);
        let (client, server) = tokio::join!(client::handshake(client), server::handshake(server));
        let (client, connection) = client.unwrap();
        let mut connections = JoinSet::new();
        connections.spawn(async { drop(connection.await) });
        (client, server.unwrap(), connections)
    }

    fn put() -> Request<()> {
        Request::put("http://localhost/").body(()).unwrap()
    }

    #[tokio::test]
    async fn bodies_that_are_gone_are_forgotten() {
        let uploads = uploads(&Budget::new(0));
        let (mut client, mut requests, _connection) = connected().await;
        for _ in 0..50 {
            let (_response, _) = client.send_request(put(), true).unwrap();
            let (request, _respond) = requests.accept().await.unwrap().unwrap();
            drop(uploads.add(request.into_body()));
        }
        let kept = uploads.by_stream.lock().capacity();
        assert!(kept < 10, "room for {kept} bodies");
    }

    #[tokio::test]
    async fn bytes_that_a_reader_has_taken_count_neither_against_the_window_of_the_library_nor_as_memory() {
        let memory = Budget::new(BYTES as u64);
        let uploads = uploads(&memory);
        let (mut client, mut requests, _connection) = connected().await;
        let (_response, mut send) = client.send_request(put(), false).unwrap();
        send.send_data(Bytes::from(vec![7; BYTES]), true).unwrap();
        let (request, _respond) = requests.accept().await.unwrap().unwrap();
        let mut upload = uploads.add(request.into_body());
        let arrived = poll_fn(|cx| match upload.end() {
            Some(end) => Poll::Ready(end),
            None => requests.poll_closed(cx).map(|_| Ok(())),
        });
        arrived.await.unwrap();
        let used = |upload: &Upload| upload.0.lock().body.flow_control().used_capacity();
        assert_eq!(used(&upload), BYTES);
        assert!(memory.reserve(1).is_err(), "all is held");
        upload.discard().await;
        assert!(memory.reserve(BYTES as u64).is_ok(), "all is given back");
        upload.0.lock().sweep();
        assert_eq!(used(&upload), 0);
    }
}
