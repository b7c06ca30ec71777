//! The delivery of a stream's body to its destination.
//!
//! A body whose length is known, from and to a plain connection, is moved by the kernel; any other is written from the
//! source's own buffers, a batch at a time. Buffers and pipes are held only while relaying, never while waiting.
//!
//! ```text
//!   head and body written ─┬─ whole ──► acknowledged: delivered ──► kept, or FIN
//!                          └─ cut ────► RST
//! ```
//!
//! *Invariant.* From the first write that may not be the last until the body is acknowledged, any end of the connection is a reset, also that by the
//! death of this process: a part of a body never ends like a whole one.

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

use super::response::{framed, size_line};
use super::{ConnectionOutcome, Responder};
use crate::api::message;
use crate::api::response::{Download, ResponseHead};
use crate::request_body::Relay;

/// Below this many bytes a splice is not worth its system calls.
const SPLICE_FROM: u64 = 64 * 1024;
/// Bytes that a fresh socket takes in one write: the smallest send buffer that Linux begins with.
const SMALL: usize = 16 * 1024;
/// Pieces of a body that are written at a time.
const MAX_BATCH: usize = 48;
/// Bytes of a body that are gathered before they are written.
const MAX_BATCH_BYTES: usize = 256 * 1024;
/// How long a reset waits for the acknowledgement of what was written before the cut.
const UNTIL_RESET: Duration = Duration::from_secs(1);
/// How long a connection that closes waits for the acknowledgement before its FIN (contract, section 4).
const UNTIL_FIN: Duration = Duration::from_millis(50);

impl Responder<'_> {
    /// Sends the download, and settles its transfer by the destination's acknowledgement.
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
            () = self.cut(&transfer) => None,
        };
        let Some(body) = delivered else {
            drop(half);
            match transfer.fault() {
                // It takes nothing: the kernel is not to hold the rest for it.
                Some(Fault::DestinationDisconnected | Fault::Stalled { side: Side::Destination, .. }) => {
                    socket.arm_reset();
                }
                _ => socket.cut(UNTIL_RESET).await,
            }
            return ConnectionOutcome::Dropped;
        };
        socket.disarm_reset();
        half.delivered(body);
        ConnectionOutcome::behind(response)
    }

    /// Writes the head and the body. A destination that leaves meanwhile, or only closes its sending side, cuts the transfer.
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
        let by_kernel = |relay: &Relay| {
            let is_worth_it = relay.in_kernel().is_some_and(|(_, left)| left >= SPLICE_FROM);
            is_worth_it && framing != Some(Framing::Chunked) && socket.is_plain() && pipes.is_some()
        };
        let mut head = Some(head);
        loop {
            if head.is_none()
                && by_kernel(relay)
                && let Some(pipe) = pipes.and_then(Pipes::take)
            {
                splice_body(socket, pipe, relay).await?;
            }
            let batch = Batch::gather(relay, &by_kernel).await?;
            relay.awaits_destination();
            let is_whole = matches!(batch.end, Some(Ok(())));
            // What has failed elsewhere is not to look whole.
            if let Some(fault) = transfer.fault().filter(|_| is_whole) {
                return Err(fault.clone());
            }
            if head.is_some() && !(is_whole && batch.bytes <= SMALL && framing.is_some()) {
                socket.arm_reset();
            }
            batch.write(socket, head.take().as_deref().unwrap_or_default(), framing).await?;
            transfer.touch();
            if let Some(end) = batch.end {
                return end;
            }
        }
    }

    /// Waits until the destination's kernel has acknowledged the whole body; `None` where it has not all of it. Where the connection
    /// `closes`, FIN follows the acknowledgement, but for a client that is in no hurry to acknowledge.
    async fn acknowledged(&self, closes: bool, transfer: &Transfer) -> Option<WholeBody> {
        let body = transfer.whole_body().filter(|_| transfer.fault().is_none())?;
        let socket = self.connection.socket();
        let written = Instant::now();
        let touch = || transfer.touch();
        let mut acknowledging = pin!(socket.delivered_to(socket.sent(), touch));
        let is_acknowledged = match timeout(UNTIL_FIN, &mut acknowledging).await {
            Ok(is_acknowledged) => is_acknowledged,
            Err(_) if closes => {
                socket.disarm_reset();
                socket.deliver(touch).await
            }
            Err(_) => acknowledging.await,
        };
        if is_acknowledged {
            self.shared.app.metrics.delivered(written.elapsed());
        }
        is_acknowledged.then_some(body)
    }

    /// Waits until the transfer has failed elsewhere, stands still, or is one to a client that has vanished.
    async fn cut(&self, transfer: &Transfer) {
        let socket = self.connection.socket();
        tokio::select! {
            _ = transfer.failed() => {}
            fault = transfer.stalled(|| socket.unacknowledged()) => transfer.fail(fault),
            () = socket.vanished() => transfer.fail(Fault::DestinationDisconnected),
        }
    }
}

/// Moves what is left of the body through `pipe`, as far as that goes.
async fn splice_body(destination: &Socket, mut pipe: Pipe, relay: &mut Relay) -> Result<(), Fault> {
    while let Some((source, left)) = relay.in_kernel() {
        let allowed = relay.allowance().await?;
        relay.awaits_source();
        match pipe.fill(source.socket(), left.min(allowed)).await {
            Ok(Filled::Bytes(taken)) => relay.taken_by_kernel(taken as u64),
            Ok(Filled::Unspliceable) => return Ok(()),
            Ok(Filled::End) | Err(_) => return Err(relay.source_disconnected()),
        }
        while pipe.held() > 0 {
            let passed = pipe.drain(destination).await.map_err(|_| Fault::DestinationDisconnected)?;
            relay.passed_by_kernel(passed);
        }
        tokio::task::consume_budget().await;
    }
    Ok(())
}

/// Pieces of a body that are there to be written.
struct Batch {
    pieces: Vec<Bytes>,
    bytes: usize,
    /// The body has ended behind them, well or not.
    end: Option<Result<(), Fault>>,
}

impl Batch {
    /// Waits for the next piece, and adds what is there already behind it, up to where the kernel can go on.
    async fn gather(relay: &mut Relay, by_kernel: &impl Fn(&Relay) -> bool) -> Result<Self, Fault> {
        let mut batch = Self { pieces: Vec::new(), bytes: 0, end: None };
        batch.add(relay.next().await);
        while batch.end.is_none()
            && batch.pieces.len() < MAX_BATCH
            && batch.bytes < MAX_BATCH_BYTES
            && !by_kernel(relay)
        {
            let Some(next) = relay.next().now_or_never() else { break };
            batch.add(next);
        }
        Ok(batch)
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

    /// Writes the batch behind `head`, in one go if the kernel takes it.
    async fn write(&self, socket: &Socket, head: &[u8], framing: Option<Framing>) -> Result<(), Fault> {
        let size_line = size_line(self.bytes);
        let pieces = self.pieces.iter().map(|piece| &**piece);
        let mut buffers = framed(head, &size_line, pieces, framing, matches!(self.end, Some(Ok(()))));
        let written = socket.write_all(&mut buffers).await;
        written.map_err(|_| Fault::DestinationDisconnected)
    }
}
