//! Delivers the body of a stream to its destination over HTTP/1.
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
//! *Bounds.* Those of [`BodyWriter`].

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Version;
use rendezvous_codec::body::Framing;
use rendezvous_core::outcome::Fault;
use rendezvous_core::transfer::{Judged, Transfer, WholeBody};
use rendezvous_protocol::Side;
use tokio::time::{Instant, timeout};

use super::ConnectionOutcome;
use super::responder::Responder;
use crate::api::message;
use crate::api::response::{Download, ResponseHead};
use crate::body_writer::BodyWriter;
use crate::hop::receipt::{self, Verdict};
use crate::request_body::Relay;

/// How long an abort waits for the acknowledgement of the bytes written so far, before the reset.
const ABORT_GRACE: Duration = Duration::from_secs(1);
/// How long the owner reads what the node of a destination has sent before it ended the hop.
const VERDICT_GRACE: Duration = Duration::from_millis(100);
/// How long a connection that closes after the response waits for the acknowledgement before its FIN (docs/api.md, section 4).
const FIN_DELAY: Duration = Duration::from_millis(50);

impl Responder<'_> {
    /// Sends the response. The transfer is delivered once the destination's kernel has acknowledged the whole body.
    pub(super) async fn deliver(&self, response: &ResponseHead, download: Download) -> ConnectionOutcome {
        let Download { half, mut relay, receipt } = download;
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
                self.write_body(head, framing, &mut relay, &transfer, receipt.is_some()).await.ok()?;
                self.acknowledged(response.closes, &transfer).await
            } => delivered,
            () = self.aborted(&transfer, receipt.is_some()) => None,
        };
        let Some(body) = delivered else {
            self.take_verdict(&transfer).await;
            drop(half);
            let is_stalled = matches!(transfer.fault(), Some(Fault::Stalled { side: Side::Destination, .. }));
            if let Some(receipt) = receipt.filter(|_| is_stalled) {
                receipt.refuse().await;
            }
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
        if let Some(receipt) = receipt {
            receipt.send(transfer.bytes()).await;
        }
        ConnectionOutcome::after(response.closes)
    }

    /// Writes the head and the body. The transfer fails if the destination leaves meanwhile, even if it only closes its sending side.
    async fn write_body(
        &self,
        head: Vec<u8>,
        framing: Option<Framing>,
        relay: &mut Relay,
        transfer: &Transfer,
        is_hop: bool,
    ) -> Result<(), Fault> {
        let (socket, pipes) = (self.connection.socket(), self.shared.app.pipes.as_ref());
        let writer = BodyWriter { socket, pipes, watches_source: is_hop };
        tokio::select! {
            biased;
            moved = writer.move_body(head, framing, relay, transfer) => moved,
            () = self.connection.wire.destination_left() => Err(Fault::DestinationDisconnected),
        }
    }

    /// Waits until the destination's kernel has acknowledged the whole body. `None` if the transfer or the connection fails first. If the
    /// connection `closes`, the FIN is sent after [`FIN_DELAY`] even without an acknowledgement.
    async fn acknowledged(&self, closes: bool, transfer: &Transfer) -> Option<WholeBody> {
        let body = transfer.whole_body().filter(|_| transfer.fault().is_none())?;
        if self.is_hop() {
            return match receipt::read(&self.connection.wire, transfer.bytes()).await {
                Verdict::Delivered => Some(body),
                Verdict::Stalled => {
                    transfer.fail(transfer.destination_stalled());
                    None
                }
                Verdict::Gone => None,
            };
        }
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

    /// Looks why the node of a destination has ended the hop within the body.
    async fn take_verdict(&self, transfer: &Transfer) {
        if self.is_hop() && transfer.fault().is_none() && transfer.whole_body().is_none() {
            let verdict =
                timeout(VERDICT_GRACE, receipt::read(&self.connection.wire, transfer.bytes())).await;
            if verdict == Ok(Verdict::Stalled) {
                transfer.fail(transfer.destination_stalled());
            }
        }
    }

    /// Waits until the transfer fails: elsewhere, because no bytes move, or because the client is unresponsive.
    async fn aborted(&self, transfer: &Transfer, is_passed_on: bool) {
        let socket = self.connection.socket();
        // Each node judges the side that is its own: only there it shows whether bytes move.
        let judged = match (self.is_hop(), is_passed_on) {
            (true, _) => Judged::Source,
            (false, true) => Judged::Destination,
            (false, false) => Judged::Both,
        };
        tokio::select! {
            _ = transfer.failed() => {}
            fault = transfer.stalled(judged, || socket.unacknowledged() as u64) => transfer.fail(fault),
            () = socket.unresponsive() => transfer.fail(Fault::DestinationDisconnected),
        }
    }
}
