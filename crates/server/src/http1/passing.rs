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
use crate::hop::pass::{PassedSide, PassedSource};
use crate::hop::upload::Upload;

impl Responder<'_> {
    /// Waits for the destination, and passes the body of the source on.
    pub(super) async fn pass_source(
        &self,
        mut context: RequestContext,
        PassedSource { mut side, offer, is_path }: PassedSource,
    ) -> ConnectionOutcome {
        let (wire, app) = (&self.connection.wire, &self.shared.app);
        let reply = tokio::select! {
            biased;
            reply = &mut side.reply => reply,
            () = wire.source_left() => return ConnectionOutcome::Closed,
        };
        let response = match reply {
            Err(Refusal::Hop(HopError::Misdirected)) => return Self::route_again(context),
            Ok(Reply::Final(hop, answer)) => {
                hop.finish(answer).await.map_err(|_| HopError::OwnerUnreachable.into())
            }
            Ok(Reply::Paired(hop)) => {
                let may_have_left = wire.source_may_have_left();
                if may_have_left && wire.source_has_left() {
                    // The drop of the hop tells the owner.
                    return ConnectionOutcome::Closed;
                }
                let upload = Upload::new(&side.cluster, hop, offer, may_have_left);
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
            Err(refusal) => Err(refusal),
        };
        let response = response.unwrap_or_else(|refusal| context.refuse(app, refusal));
        self.respond(context, response).await
    }

    /// Waits for the source, and brings the body to the destination.
    pub(super) async fn pass_destination(
        &self,
        mut context: RequestContext,
        mut side: PassedSide,
    ) -> ConnectionOutcome {
        let (wire, app) = (&self.connection.wire, &self.shared.app);
        let reply = tokio::select! {
            biased;
            reply = &mut side.reply => reply,
            () = wire.destination_left() => return ConnectionOutcome::Closed,
        };
        let response = match reply {
            Err(Refusal::Hop(HopError::Misdirected)) => return Self::route_again(context),
            Ok(reply) => {
                let wire = Arc::clone(wire);
                let departure = async move { wire.destination_left().await };
                download::respond(&side.cluster, reply, departure, &mut context.record).await
            }
            Err(refusal) => Err(refusal),
        };
        match response.unwrap_or_else(|refusal| Some(context.refuse(app, refusal))) {
            Some(response) => self.respond(context, response).await,
            None => ConnectionOutcome::Dropped,
        }
    }
}
