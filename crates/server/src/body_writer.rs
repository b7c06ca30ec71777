//! Writes the body of a transfer to an HTTP/1 connection: that of a destination, or of the node that has the stream.
//!
//! A body of known length is moved by the kernel (splice) if both connections are plain. Any other is written from the source's
//! read buffers, a batch at a time.
//!
//! *Bounds.* One batch of at most [`MAX_BATCH`] pieces and about [`MAX_BATCH_BYTES`], or one pipe. Both are held only while bytes are
//! relayed, never while a side waits.

use std::io::IoSlice;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use rendezvous_codec::body::Framing;
use rendezvous_core::outcome::Fault;
use rendezvous_core::transfer::{Piece, Transfer};
use rendezvous_net::socket::Socket;
use rendezvous_net::splice::{Filled, Pipe, Pipes};

use crate::request_body::Relay;

/// The rest of a body, in bytes, from which splice is used. Below that it is not worth its system calls.
const MIN_SPLICE: u64 = 64 * 1024;
/// Bytes that a new socket takes in one write: the initial send buffer of Linux.
const MAX_FIRST_WRITE: usize = 16 * 1024;
/// The most pieces of a body in one write.
const MAX_BATCH: usize = 48;
/// Bytes of a body after which a batch is written.
const MAX_BATCH_BYTES: usize = 256 * 1024;

/// Where a body is written to.
pub(crate) struct BodyWriter<'a> {
    /// The connection.
    pub(crate) socket: &'a Socket,
    /// `None` if all bodies are copied.
    pub(crate) pipes: Option<&'a Arc<Pipes>>,
    /// Whether a source that leaves while a write waits ends the transfer at once. Between nodes it says what the owner has decided.
    pub(crate) watches_source: bool,
}

impl BodyWriter<'_> {
    /// Writes `head`, unless that is empty, and the body. Unless one write completes it, any end of the process meanwhile is a reset.
    ///
    /// # Errors
    /// The fault that ends the transfer.
    pub(crate) async fn move_body(
        &self,
        head: Vec<u8>,
        framing: Option<Framing>,
        relay: &mut Relay,
        transfer: &Transfer,
    ) -> Result<(), Fault> {
        let can_splice = |relay: &Relay| {
            let is_worthwhile = relay.in_kernel().is_some_and(|(_, left)| left >= MIN_SPLICE);
            let is_framed = framing == Some(Framing::Chunked);
            is_worthwhile && !is_framed && self.socket.is_plain() && self.pipes.is_some()
        };
        let mut head = Some(head).filter(|head| !head.is_empty());
        let mut is_begun = false;
        loop {
            if head.is_none()
                && can_splice(relay)
                && let Some(pipe) = self.pipes.and_then(Pipes::take)
            {
                if !mem::replace(&mut is_begun, true) {
                    self.socket.arm_reset();
                }
                self.splice_body(pipe, relay).await?;
            }
            let batch = Batch::gather(relay, &can_splice).await;
            relay.awaits_destination();
            let is_complete = matches!(batch.end, Some(Ok(())));
            // A transfer that has failed elsewhere must not look complete.
            if let Some(fault) = transfer.fault().filter(|_| is_complete) {
                return Err(fault.clone());
            }
            let is_one_write = is_complete && batch.bytes <= MAX_FIRST_WRITE && framing.is_some();
            if !mem::replace(&mut is_begun, true) && !is_one_write {
                self.socket.arm_reset();
            }
            let head = head.take().unwrap_or_default();
            self.while_source_stays(relay, batch.write(self.socket, &head, framing)).await?;
            transfer.touch();
            if let Some(end) = batch.end {
                return end;
            }
        }
    }

    /// Moves the rest of the body through `pipe`, until the body ends or needs a read.
    async fn splice_body(&self, mut pipe: Pipe, relay: &mut Relay) -> Result<(), Fault> {
        while let Some((source, left)) = relay.in_kernel() {
            let allowed = relay.allowance().await?;
            relay.awaits_source();
            match pipe.fill(source.socket(), left.min(allowed)).await {
                Ok(Filled::Bytes(taken)) => relay.taken_by_kernel(taken as u64),
                Ok(Filled::Unspliceable) => return Ok(()),
                Ok(Filled::End) | Err(_) => return Err(relay.source_disconnected()),
            }
            while pipe.buffered() > 0 {
                let drained =
                    pipe.drain(self.socket).map(|passed| passed.map_err(|_| Fault::DestinationDisconnected));
                let passed = self.while_source_stays(relay, drained).await?;
                relay.passed_by_kernel(passed);
            }
            tokio::task::consume_budget().await;
        }
        Ok(())
    }

    /// Waits for a write, unless the source leaves meanwhile and that is watched.
    async fn while_source_stays<T>(
        &self,
        relay: &mut Relay,
        writing: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        if !self.watches_source {
            return writing.await;
        }
        tokio::select! {
            biased;
            written = writing => written,
            () = relay.source_lost() => Err(relay.source_disconnected()),
        }
    }
}

/// Pieces of a body for one write.
struct Batch {
    pieces: Vec<Bytes>,
    bytes: usize,
    /// Set if the body ends after these pieces.
    end: Option<Result<(), Fault>>,
}

impl Batch {
    /// Waits for the next piece, and adds the pieces that are available without waiting, until splice can move the rest.
    async fn gather(relay: &mut Relay, can_splice: &impl Fn(&Relay) -> bool) -> Self {
        let mut batch = Self { pieces: Vec::new(), bytes: 0, end: None };
        batch.add(relay.next().await);
        while batch.end.is_none()
            && batch.pieces.len() < MAX_BATCH
            && batch.bytes < MAX_BATCH_BYTES
            && !can_splice(relay)
        {
            let Some(next) = relay.next().now_or_never() else { break };
            batch.add(next);
        }
        batch
    }

    fn add(&mut self, next: Result<Piece, Fault>) {
        let data = match next {
            Ok(Piece::Data(data)) => data,
            Ok(Piece::Last(data)) => {
                self.end = Some(Ok(()));
                data
            }
            Err(fault) => {
                self.end = Some(Err(fault));
                return;
            }
        };
        self.bytes += data.len();
        self.pieces.push(data);
    }

    /// Writes `head` and the batch, in one system call if the kernel takes all of it.
    async fn write(&self, socket: &Socket, head: &[u8], framing: Option<Framing>) -> Result<(), Fault> {
        let size_line = size_line(self.bytes);
        let pieces = self.pieces.iter().map(|piece| &**piece);
        let mut buffers = framed(head, &size_line, pieces, framing, matches!(self.end, Some(Ok(()))));
        let written = socket.write_all(&mut buffers).await;
        written.map_err(|_| Fault::DestinationDisconnected)
    }
}

/// The line before a chunk of `bytes` bytes (RFC 9112, section 7.1).
pub(crate) fn size_line(bytes: usize) -> String {
    format!("{bytes:x}\r\n")
}

/// Returns the buffers to write: `head`, then `pieces` as one chunk if the framing is chunked, then the end of the body if `is_last`.
pub(crate) fn framed<'a>(
    head: &'a [u8],
    size_line: &'a str,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    framing: Option<Framing>,
    is_last: bool,
) -> Vec<IoSlice<'a>> {
    let is_chunked = framing == Some(Framing::Chunked);
    let mut pieces = pieces.into_iter().filter(|piece| !piece.is_empty()).map(IoSlice::new).peekable();
    let has_data = pieces.peek().is_some();
    let mut buffers = vec![IoSlice::new(head)];
    if is_chunked && has_data {
        buffers.push(IoSlice::new(size_line.as_bytes()));
    }
    buffers.extend(pieces);
    if is_chunked && has_data {
        buffers.push(IoSlice::new(b"\r\n"));
    }
    if is_chunked && is_last {
        buffers.push(IoSlice::new(b"0\r\n\r\n"));
    }
    buffers
}
