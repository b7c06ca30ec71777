//! Delivers the body of a stream to its destination over HTTP/1.
//!
//! A body of known length is moved by the kernel (splice) if both connections are plain. Any other is written from the source's
//! read buffers, a batch at a time.
//!
//! ```text
//!   head and body written ─┬─ complete ──► acknowledged: delivered ──► kept, or FIN
//!                          └─ aborted ───► RST
//! ```
//!
//! *Invariant.* From the first write that may not be the last until the body is acknowledged, any end of the connection is a reset, even a
//! crash of this process: a truncated body never looks complete.
//!
//! *Concurrency.* It runs in the destination's task, and reads the source's connection in it.
//!
//! *Bounds.* One batch of at most [`MAX_BATCH`] pieces and about [`MAX_BATCH_BYTES`], or one pipe. Both are held only while bytes are
//! relayed, never while a side waits.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::Version;
use rendezvous_codec::body::Framing;
use rendezvous_core::outcome::Fault;
use rendezvous_core::transfer::{Piece, Transfer, WholeBody};
use rendezvous_net::socket::Socket;
use rendezvous_net::splice::{Filled, Pipe, Pipes};
use rendezvous_protocol::Side;
use tokio::time::{Instant, timeout};

use super::ConnectionOutcome;
use super::responder::Responder;
use super::response::{framed, size_line};
use crate::api::message;
use crate::api::response::{Download, ResponseHead};
use crate::request_body::Relay;

/// The rest of a body, in bytes, from which splice is used. Below that it is not worth its system calls.
const MIN_SPLICE: u64 = 64 * 1024;
/// Bytes that a new socket takes in one write: the initial send buffer of Linux.
const MAX_FIRST_WRITE: usize = 16 * 1024;
/// The most pieces of a body in one write.
const MAX_BATCH: usize = 48;
/// Bytes of a body after which a batch is written.
const MAX_BATCH_BYTES: usize = 256 * 1024;
/// How long an abort waits for the acknowledgement of the bytes written so far, before the reset.
const ABORT_GRACE: Duration = Duration::from_secs(1);
/// How long a connection that closes after the response waits for the acknowledgement before its FIN (docs/api.md, section 4).
const FIN_DELAY: Duration = Duration::from_millis(50);

impl Responder<'_> {
    /// Sends the response. The transfer is delivered once the destination's kernel has acknowledged the whole body.
    pub(super) async fn deliver(&self, response: &ResponseHead, download: Download) -> ConnectionOutcome {
        let Download { half, mut relay } = download;
        let (socket, transfer) = (self.connection.socket(), Arc::clone(half.transfer()));
        let framing = match relay.length() {
            Some(length) => Some(Framing::Length(length)),
            None if relay.is_passed_on() => Some(Framing::NONE),
            None => (self.request.version != Version::HTTP_10).then_some(Framing::Chunked),
        };
        let head = message::head(response, self.request.version, framing);
        let delivered = tokio::select! {
            biased;
            delivered = async {
                self.write_body(head, framing, &mut relay, &transfer).await.ok()?;
                self.acknowledged(response.closes, &transfer).await
            } => delivered,
            () = self.aborted(&transfer) => None,
        };
        let Some(body) = delivered else {
            drop(half);
            match transfer.fault() {
                // The destination reads nothing: no grace, so that the kernel frees the send buffer.
                Some(Fault::DestinationDisconnected | Fault::Stalled { side: Side::Destination, .. }) => {
                    socket.arm_reset();
                }
                _ => socket.abort(ABORT_GRACE).await,
            }
            return ConnectionOutcome::Dropped;
        };
        socket.disarm_reset();
        half.delivered(body);
        ConnectionOutcome::after(response.closes)
    }

    /// Writes the head and the body. The transfer fails if the destination leaves meanwhile, even if it only closes its sending side.
    async fn write_body(
        &self,
        head: Vec<u8>,
        framing: Option<Framing>,
        relay: &mut Relay,
        transfer: &Transfer,
    ) -> Result<(), Fault> {
        tokio::select! {
            biased;
            moved = self.move_body(head, framing, relay, transfer) => moved,
            () = self.connection.wire.destination_left() => Err(Fault::DestinationDisconnected),
        }
    }

    async fn move_body(
        &self,
        head: Vec<u8>,
        framing: Option<Framing>,
        relay: &mut Relay,
        transfer: &Transfer,
    ) -> Result<(), Fault> {
        let (socket, pipes) = (self.connection.socket(), self.shared.app.pipes.as_ref());
        let can_splice = |relay: &Relay| {
            let is_worthwhile = relay.in_kernel().is_some_and(|(_, left)| left >= MIN_SPLICE);
            is_worthwhile && framing != Some(Framing::Chunked) && socket.is_plain() && pipes.is_some()
        };
        let mut head = Some(head);
        loop {
            if head.is_none()
                && can_splice(relay)
                && let Some(pipe) = pipes.and_then(Pipes::take)
            {
                splice_body(socket, pipe, relay).await?;
            }
            let batch = Batch::gather(relay, &can_splice).await;
            relay.awaits_destination();
            let is_complete = matches!(batch.end, Some(Ok(())));
            // A transfer that has failed elsewhere must not look complete.
            if let Some(fault) = transfer.fault().filter(|_| is_complete) {
                return Err(fault.clone());
            }
            if head.is_some() && !(is_complete && batch.bytes <= MAX_FIRST_WRITE && framing.is_some()) {
                socket.arm_reset();
            }
            batch.write(socket, head.take().as_deref().unwrap_or_default(), framing).await?;
            transfer.touch();
            if let Some(end) = batch.end {
                return end;
            }
        }
    }

    /// Waits until the destination's kernel has acknowledged the whole body. `None` if the transfer or the connection fails first. If the
    /// connection `closes`, the FIN is sent after [`FIN_DELAY`] even without an acknowledgement.
    async fn acknowledged(&self, closes: bool, transfer: &Transfer) -> Option<WholeBody> {
        let body = transfer.whole_body().filter(|_| transfer.fault().is_none())?;
        let socket = self.connection.socket();
        let written = Instant::now();
        let touch = || transfer.touch();
        let mut acknowledging = pin!(socket.acknowledged_up_to(socket.sent(), touch));
        let is_acknowledged = match timeout(FIN_DELAY, &mut acknowledging).await {
            Ok(is_acknowledged) => is_acknowledged,
            Err(_) if closes => {
                socket.disarm_reset();
                socket.deliver(written, touch).await
            }
            Err(_) => acknowledging.await,
        };
        if is_acknowledged {
            self.shared.app.metrics.delivered(written.elapsed());
        }
        is_acknowledged.then_some(body)
    }

    /// Waits until the transfer fails: elsewhere, because no bytes move, or because the client is unresponsive.
    async fn aborted(&self, transfer: &Transfer) {
        let socket = self.connection.socket();
        tokio::select! {
            _ = transfer.failed() => {}
            fault = transfer.stalled(|| socket.unacknowledged()) => transfer.fail(fault),
            () = socket.unresponsive() => transfer.fail(Fault::DestinationDisconnected),
        }
    }
}

/// Moves the rest of the body through `pipe`, until the body ends or needs a read.
async fn splice_body(destination: &Socket, mut pipe: Pipe, relay: &mut Relay) -> Result<(), Fault> {
    while let Some((source, left)) = relay.in_kernel() {
        let allowed = relay.allowance().await?;
        relay.awaits_source();
        match pipe.fill(source.socket(), left.min(allowed)).await {
            Ok(Filled::Bytes(taken)) => relay.taken_by_kernel(taken as u64),
            Ok(Filled::Unspliceable) => return Ok(()),
            Ok(Filled::End) | Err(_) => return Err(relay.source_disconnected()),
        }
        while pipe.buffered() > 0 {
            let passed = pipe.drain(destination).await.map_err(|_| Fault::DestinationDisconnected)?;
            relay.passed_by_kernel(passed);
        }
        tokio::task::consume_budget().await;
    }
    Ok(())
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
