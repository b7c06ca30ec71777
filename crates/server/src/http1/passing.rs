//! Sides whose stream another node has: waits there, and passes the body through.

use std::future::pending;
use std::sync::Arc;

use super::ConnectionOutcome;
use super::responder::Responder;
use crate::api::RequestContext;
use crate::api::refusal::Refusal;
use crate::hop::HopError;
use crate::hop::download;
use crate::hop::exchange::Reply;
use crate::hop::pass::{PassedSource, WaitingReply};
use crate::hop::upload::Upload;

impl Responder<'_> {
    /// Waits for the destination, and passes the body of the source on.
    pub(super) async fn pass_source(
        &self,
        mut context: RequestContext,
        PassedSource { reply, offer, is_path }: PassedSource,
    ) -> ConnectionOutcome {
        let (wire, app) = (&self.connection.wire, &self.shared.app);
        let reply = tokio::select! {
            biased;
            reply = reply => reply,
            () = wire.source_left() => return ConnectionOutcome::Closed,
        };
        let response = match (reply, &app.cluster) {
            (Err(Refusal::Hop(HopError::Misdirected)), Some(cluster)) => {
                cluster.membership.read_again().await;
                return Self::route_again(context);
            }
            (Ok(Reply::Final(hop, answer)), _) => {
                hop.finish(answer).await.map_err(|_| HopError::OwnerUnreachable.into())
            }
            // The drop of the hop tells the owner.
            (Ok(Reply::Paired(_)), _) if wire.source_has_left() => return ConnectionOutcome::Closed,
            (Ok(Reply::Paired(hop)), Some(cluster)) => {
                let upload = Upload::new(cluster, hop, offer, wire.source_may_have_left());
                let abandoned = async {
                    // The owner frees the path then.
                    if is_path {
                        self.connection.socket().reset_by_peer().await;
                    } else {
                        pending::<()>().await;
                    }
                };
                match upload.run(app, abandoned, &mut context.record).await {
                    Some(response) => response,
                    None => return ConnectionOutcome::Dropped,
                }
            }
            (Ok(Reply::Paired(_)), None) => Err(Refusal::Internal),
            (Err(refusal), _) => Err(refusal),
        };
        let response = response.unwrap_or_else(|refusal| context.refuse(app, refusal));
        self.respond(context, response).await
    }

    /// Waits for the source, and brings the body to the destination.
    pub(super) async fn pass_destination(
        &self,
        mut context: RequestContext,
        reply: WaitingReply,
    ) -> ConnectionOutcome {
        let (wire, app) = (&self.connection.wire, &self.shared.app);
        let reply = tokio::select! {
            biased;
            reply = reply => reply,
            () = wire.destination_left() => return ConnectionOutcome::Closed,
        };
        let response = match (reply, &app.cluster) {
            (Err(Refusal::Hop(HopError::Misdirected)), Some(cluster)) => {
                cluster.membership.read_again().await;
                return Self::route_again(context);
            }
            (Ok(reply), Some(cluster)) => {
                let wire = Arc::clone(wire);
                let departure = async move { wire.destination_left().await };
                download::respond(cluster, reply, departure, &mut context.record).await
            }
            (Ok(_), None) => Err(Refusal::Internal),
            (Err(refusal), _) => Err(refusal),
        };
        match response.unwrap_or_else(|refusal| Some(context.refuse(app, refusal))) {
            Some(response) => self.respond(context, response).await,
            None => ConnectionOutcome::Dropped,
        }
    }
}
