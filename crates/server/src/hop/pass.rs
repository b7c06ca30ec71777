//! Passes a request on to the node that has its stream.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::StatusCode;
use rendezvous_codec::body::Framing;
use rendezvous_core::outcome::SeatError;
use rendezvous_protocol::StreamName;

use super::HopError;
use super::exchange::{Hop, Reply};
use super::request::HopRequest;
use crate::api::generated::Generated;
use crate::api::refusal::Refusal;
use crate::api::response::{GeneratedResponse, Later, Response, ResponseHead};
use crate::cluster::{Cluster, Place};
use crate::request_body::Offer;

/// How often a request looks for the owner of its stream while the nodes do not agree.
pub(crate) const TRIES: usize = 3;

/// A side whose stream another node has.
pub(crate) struct PassedSide {
    pub(crate) cluster: Arc<Cluster>,
    /// Completes when the sides have paired, with the final response, or when the drain of this node has ended.
    pub(crate) reply: BoxFuture<'static, Result<Reply, Refusal>>,
}

/// A source whose stream another node has.
pub(crate) struct PassedSource {
    pub(crate) side: PassedSide,
    pub(crate) offer: Offer,
    pub(crate) is_path: bool,
}

impl PassedSide {
    /// Sends the request of a side to the owner of its stream, once `reply` is polled. [`HopError::Misdirected`]: route it again.
    pub(crate) fn new(cluster: &Arc<Cluster>, name: StreamName, request: HopRequest) -> Self {
        let (cluster, asked) = (Arc::clone(cluster), Arc::clone(cluster));
        let reply = async move {
            let answered = tokio::select! {
                biased;
                answered = ask(&asked, &name, &request) => answered,
                () = asked.leaving.cancelled() => Err(SeatError::ShuttingDown.into()),
            };
            if matches!(answered, Err(Refusal::Hop(HopError::Misdirected))) {
                asked.membership.read_again().await;
            }
            answered
        };
        Self { cluster, reply: reply.boxed() }
    }
}

/// Sends a request to the owner of a stream.
///
/// # Errors
/// [`HopError::Misdirected`] if that is another node by now: look again.
async fn ask(cluster: &Cluster, name: &StreamName, request: &HopRequest) -> Result<Reply, Refusal> {
    let Place::There(peer, list) = cluster.locate(name).await? else {
        return Err(HopError::Misdirected.into());
    };
    match Hop::begin(&cluster.peers, &peer, request, list).await? {
        Reply::Final(_, answer) if answer.status == StatusCode::MISDIRECTED_REQUEST => {
            Err(HopError::Misdirected.into())
        }
        reply => Ok(reply),
    }
}

/// Sends an error report to the owner of a stream.
///
/// # Errors
/// As [`exchange`].
pub(crate) async fn report(
    cluster: &Arc<Cluster>,
    name: StreamName,
    request: HopRequest,
) -> Result<Response, Refusal> {
    match exchange(Arc::clone(cluster), name, request).await? {
        Later::Response(response) => Ok(response),
        Later::Generated(_) => Err(HopError::OwnerUnreachable.into()),
    }
}

/// Lets another node create a stream: the first that can be reached.
///
/// # Errors
/// [`SeatError::ShuttingDown`] if none can.
pub(crate) async fn create(cluster: &Cluster, request: &HopRequest) -> Result<Response, Refusal> {
    for node in cluster.membership.others() {
        let peer = cluster.peers.peer(node);
        if let Ok(Reply::Final(hop, answer)) = Hop::begin(&cluster.peers, &peer, request, 0).await
            && answer.status != StatusCode::SERVICE_UNAVAILABLE
            && let Ok(response) = hop.finish(answer).await
        {
            return Ok(response);
        }
    }
    Err(SeatError::ShuttingDown.into())
}

/// Sends a request that takes no seat to the owner of a stream, and waits for the response.
///
/// # Errors
/// Those of [`PassedSide::reply`], and [`HopError::OwnerUnreachable`] if the owner is lost, or the nodes do not agree who that is. [`HopError::NoRoom`] if as many
/// clients as may watch streams of other nodes.
pub(crate) async fn exchange(
    cluster: Arc<Cluster>,
    name: StreamName,
    request: HopRequest,
) -> Result<Later, Refusal> {
    let place = cluster.peers.place_to_watch()?;
    for _ in 0..TRIES {
        match ask(&cluster, &name, &request).await {
            Err(Refusal::Hop(HopError::Misdirected)) => cluster.membership.read_again().await,
            Ok(Reply::Final(hop, answer)) if answer.framing == Framing::Chunked => {
                let (headers, spellings) = (answer.headers.clone(), answer.spellings.clone());
                let head = ResponseHead {
                    status: answer.status,
                    headers,
                    spellings,
                    closes: true,
                    says_paired: false,
                };
                return Ok(Later::Generated(GeneratedResponse { head, body: Generated::hop(hop, place) }));
            }
            Ok(Reply::Final(hop, answer)) => {
                let response = hop.finish(answer).await.map_err(|_| HopError::OwnerUnreachable)?;
                return Ok(Later::Response(response));
            }
            Ok(Reply::Paired(_)) => return Err(HopError::OwnerUnreachable.into()),
            Err(refusal) => return Err(refusal),
        }
    }
    Err(HopError::OwnerUnreachable.into())
}
