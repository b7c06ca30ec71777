//! Passes the body of a source on to the owner, and brings back the outcome.
//!
//! *Invariants.* The body is relayed by the same rules as at the owner: bytes that complete it are held back until its source is known to be
//! there. A body that ends early is never completed on the hop.
//!
//! *Concurrency.* Runs in the source's task. It reads the answer while it writes: a final answer ends the writing.

use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use rendezvous_codec::body::Framing;
use rendezvous_core::outcome::Fault;
use rendezvous_core::transfer::{DestinationHalf, SourceHalf, Transfer};
use tokio::time::timeout;

use super::HopError;
use super::exchange::{Answer, Hop};
use crate::api::App;
use crate::api::record::Record;
use crate::api::refusal::Refusal;
use crate::api::response::{self, Response};
use crate::body_writer::BodyWriter;
use crate::cluster::Cluster;
use crate::request_body::{Offer, Relay};

/// How long the owner may take to learn that the source has failed, before the source is answered.
const FAILURE_GRACE: Duration = Duration::from_secs(1);
/// No size of a chunk, so that the owner takes the body for what it is: broken.
const BROKEN_CHUNK: &[u8] = b"-\r\n";

/// A source whose sides have paired at the owner, and its body.
pub(crate) struct Upload {
    hop: Hop,
    framing: Framing,
    relay: Relay,
    source: SourceHalf,
    half: DestinationHalf,
}

impl Upload {
    /// If the source may have left while it waited, its presence is checked before its body is complete on the hop.
    pub(crate) fn new(cluster: &Cluster, hop: Hop, offer: Offer, source_may_have_left: bool) -> Self {
        let (source, half) = cluster.pass_through();
        let framing = offer.length.map_or(Framing::Chunked, Framing::Length);
        let relay = Relay::new(offer, source_may_have_left, Arc::clone(half.transfer()), pending());
        Self { hop, framing, relay, source, half }
    }

    /// Returns the part of the transfer that passes through this node.
    pub(crate) fn transfer(&self) -> &Arc<Transfer> {
        self.half.transfer()
    }

    /// Passes the body on, and returns the response for the source. `None` if `abandoned` completes first: the source has left in a way that its
    /// body does not show.
    ///
    /// # Errors
    /// [`HopError::OwnerLost`]
    pub(crate) async fn run(
        self,
        app: &App,
        abandoned: impl Future<Output = ()>,
        record: &mut Record,
    ) -> Option<Result<Response, Refusal>> {
        let Self { hop, framing, mut relay, source: _source, half } = self;
        let (transfer, socket) = (Arc::clone(half.transfer()), hop.used().wire().socket());
        let writer = BodyWriter { socket, pipes: app.pipes.as_ref(), watches_source: false };
        let failure = async {
            match writer.move_body(Vec::new(), Some(framing), &mut relay, &transfer).await {
                Ok(()) => socket.disarm_reset(),
                // The owner may have answered before the connection broke.
                Err(Fault::DestinationDisconnected) => {}
                Err(fault) => return fault,
            }
            pending().await
        };
        let answer = tokio::select! {
            // Before the answer: that of a whole body may be there while the last step of writing is not done.
            biased;
            fault = failure => {
                record.set_transfer(&transfer);
                return Some(Ok(fail(hop, framing, fault).await));
            }
            answer = hop.answer() => answer,
            () = socket.unresponsive() => Err(HopError::OwnerLost),
            () = abandoned => {
                // A FIN would wait behind the body, which a destination may hold up.
                socket.arm_reset();
                return None;
            }
        };
        record.set_passed(&transfer);
        Some(finish(hop, answer, framing, half).await.map_err(Refusal::from))
    }
}

/// Takes the owner's answer, which is the outcome of the transfer.
async fn finish(
    hop: Hop,
    answer: Result<Answer, HopError>,
    framing: Framing,
    half: DestinationHalf,
) -> Result<Response, HopError> {
    let answer = answer?;
    let whole = half.transfer().whole_body();
    // A success before the body was passed on would be a defect of the owner. It has an empty body with the head.
    if answer.status.is_success() && whole.is_none() && framing != Framing::NONE {
        return Err(HopError::OwnerLost);
    }
    let is_success = answer.status.is_success();
    let response = hop.finish(answer).await?;
    if let Some(whole) = whole.filter(|_| is_success) {
        half.delivered(whole);
    }
    Ok(response)
}

/// Tells the owner that the source has failed, and returns the response for the source once the owner has settled that.
async fn fail(hop: Hop, framing: Framing, fault: Fault) -> Response {
    let socket = hop.used().wire().socket();
    if framing == Framing::Chunked && matches!(fault, Fault::SourceBroke(_)) {
        // If it fails, the owner knows already.
        let _ = hop.write(BROKEN_CHUNK).await;
    } else {
        socket.shutdown_write().await;
    }
    // After that time the owner takes the reset for it.
    let _ = timeout(FAILURE_GRACE, hop.answer()).await;
    response::source_fault(&fault)
}
