//! Sides whose stream another node has: waits there, and passes the body through.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use super::stream::{ConnectionState, Exchange, abandoned, wait_for_reset};
use crate::api::refusal::Refusal;
use crate::hop::HopError;
use crate::hop::download;
use crate::hop::exchange::Reply;
use crate::hop::pass::{PassedSide, PassedSource};
use crate::hop::upload::Upload;

/// How long another node may take to pair a side that has no place to wait here.
const PAIRING: Duration = Duration::from_secs(1);

impl Exchange<'_> {
    /// Waits for the destination, and passes the body of the source on.
    pub(super) async fn pass_source(mut self, passed: PassedSource) -> ConnectionState {
        let PassedSource { mut side, offer, .. } = passed;
        let Some(reply) = self.wait(&mut side.reply, PAIRING).await else { return ConnectionState::Reusable };
        let response = match reply {
            Err(Refusal::Hop(HopError::Misdirected)) => return self.route_again().await,
            Ok(Reply::Final(hop, answer)) => {
                hop.finish(answer).await.map_err(|_| HopError::OwnerUnreachable.into())
            }
            Ok(Reply::Paired(hop)) => {
                self.send_continue();
                let passing = Upload::new(&side.cluster, hop, offer, false);
                let transfer = Arc::clone(passing.transfer());
                let app = self.session.app;
                let Exchange { respond, upload, context, .. } = &mut self;
                let abandoned = abandoned(respond, upload, &transfer);
                match passing.run(app, abandoned, &mut context.record).await {
                    Some(response) => response,
                    None => return ConnectionState::Reusable,
                }
            }
            Err(refusal) => Err(refusal),
        };
        let response = response.unwrap_or_else(|refusal| self.refuse(refusal));
        self.respond(response).await
    }

    /// Waits for the source, and brings the body to the destination.
    pub(super) async fn pass_destination(mut self, mut side: PassedSide) -> ConnectionState {
        let Some(reply) = self.wait(&mut side.reply, PAIRING).await else { return ConnectionState::Reusable };
        let response = match reply {
            Err(Refusal::Hop(HopError::Misdirected)) => return self.route_again().await,
            Ok(reply) => {
                let Exchange { respond, context, .. } = &mut self;
                tokio::select! {
                    biased;
                    // The departure is `pending`: if the destination leaves, the other branch drops this one.
                    response = download::respond(&side.cluster, reply, pending(), &mut context.record) => response,
                    () = wait_for_reset(|cx| respond.poll_reset(cx)) => Ok(None),
                }
            }
            Err(refusal) => Err(refusal),
        };
        match response.unwrap_or_else(|refusal| Some(self.refuse(refusal))) {
            Some(response) => self.respond(response).await,
            None => ConnectionState::Reusable,
        }
    }
}
