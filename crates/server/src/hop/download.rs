//! Brings the body of a stream from its owner to a destination of this node.
//!
//! The body passes through as a transfer whose source is the hop: the same code frames, paces, delivers and cuts it as for a stream of this node.

use std::future::Future;
use std::sync::Arc;

use http::StatusCode;
use rendezvous_core::outcome::Fault;

use super::HopError;
use super::exchange::{Answer, Hop, Reply};
use super::receipt::Receipt;
use crate::api::record::Record;
use crate::api::refusal::Refusal;
use crate::api::response::{Body, Download, Response, ResponseHead};
use crate::cluster::Cluster;
use crate::request_body::{Offer, Relay};

/// The end of a receipt's body, for an answer that needs no receipt.
const NO_RECEIPT: &[u8] = b"0\r\n\r\n";

/// Waits for the response of the owner, and for the first byte of the body, or its end. `departure` resolves when the destination has
/// disconnected. Returns `None` if it has.
///
/// # Errors
/// [`HopError::OwnerLost`] if the owner is lost before the head of the response.
pub(crate) async fn respond(
    cluster: &Cluster,
    reply: Reply,
    departure: impl Future<Output = ()> + Send + 'static,
    record: &mut Record,
) -> Result<Option<Response>, Refusal> {
    let mut departure = Box::pin(departure);
    let (hop, answer) = match reply {
        Reply::Final(hop, answer) => {
            // The sides have not paired.
            return refused(hop, answer).await.map(Some).map_err(|_| HopError::OwnerUnreachable.into());
        }
        Reply::Paired(hop) => tokio::select! {
            biased;
            answer = hop.answer() => { let answer = answer?; (hop, answer) }
            () = &mut departure => return Ok(None),
        },
    };
    if answer.status != StatusCode::OK {
        return Ok(Some(refused(hop, answer).await?));
    }
    begin(cluster, hop, answer, departure, record).await
}

/// Returns a response without a transfer. The owner reads the rest of the request before the next one.
async fn refused(hop: Hop, answer: Answer) -> Result<Response, HopError> {
    // A failure shows when the connection is used again.
    let _ = hop.write(NO_RECEIPT).await;
    hop.finish(answer).await
}

async fn begin(
    cluster: &Cluster,
    hop: Hop,
    mut answer: Answer,
    departure: impl Future<Output = ()> + Send + 'static,
    record: &mut Record,
) -> Result<Option<Response>, Refusal> {
    let (source, mut half) = cluster.pass_through();
    let transfer = Arc::clone(half.transfer());
    let offer = Offer { body: hop.body(), length: answer.framing.length(), headers: None };
    let mut relay = Relay::new(offer, false, Arc::clone(&transfer), departure);
    if let Err(fault) = relay.first().await {
        record.set_transfer(&transfer);
        return if fault == Fault::DestinationDisconnected {
            Ok(None)
        } else {
            Err(HopError::OwnerLost.into())
        };
    }
    record.log_at_end_of(&mut half);
    let (headers, spellings) = (std::mem::take(&mut answer.headers), answer.spellings.take());
    let head = ResponseHead { headers, spellings, ..ResponseHead::default() };
    let download = Download { half, relay, receipt: Some(Receipt::new(hop, answer, source)) };
    Ok(Some(Response { head, body: Body::Download(Box::new(download)) }))
}
