//! Responds to one request over HTTP/1, and leaves its connection ready for the next one.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::io::IoSlice;
use std::pin::pin;
use std::sync::Arc;

use futures_util::FutureExt;
use rendezvous_core::outcome::SeatError;
use rendezvous_core::transfer::{SourceBody, SourceHalf, Transfer};
use tokio::time::timeout;
use tracing::debug;

use super::{ConnectionOutcome, Request};
use crate::api::connection::Audience;
use crate::api::json_body::{self, BodyError, JsonBody};
use crate::api::refusal::Refusal;
use crate::api::response::{Body, GeneratedResponse, Later, Response, ResponseHead};
use crate::api::{JsonRoute, RequestContext, transfer};
use crate::connection::{Connection, Shared};
use crate::request_body::{Pairing, RequestBody, SocketBody};
use crate::wire::CONTINUE;

/// Sends the response to one request.
pub(super) struct Responder<'a> {
    pub(super) connection: &'a Connection,
    pub(super) shared: &'a Shared,
    pub(super) request: Request,
}

impl Responder<'_> {
    /// Responds to a source, after its transfer if its side has paired.
    pub(super) async fn respond_to_source(
        &self,
        mut context: RequestContext,
        paired: Result<SourceHalf, SeatError>,
    ) -> ConnectionOutcome {
        let response = match paired {
            Ok(half) => {
                if self.is_hop() && self.connection.wire.input().lock().is_between_requests() {
                    // No read of an empty body says that the sides have paired. A connection that has broken is noticed next.
                    let _ = self.connection.socket().write_all(&mut [IoSlice::new(CONTINUE)]).await;
                }
                let transfer = Arc::clone(half.transfer());
                tokio::select! {
                    biased;
                    response = transfer::source_response(half, &mut context.record) => response,
                    never = self.release_at_reset(&transfer) => match never {},
                }
            }
            Err(refusal) if self.is_moved(&refusal) => return Self::route_again(context),
            Err(refusal) => context.refuse(&self.shared.app, refusal),
        };
        self.respond(context, response).await
    }

    /// Whether a side that waited here should wait at another node now. Another node tells its client itself.
    fn is_moved(&self, refusal: &SeatError) -> bool {
        *refusal == SeatError::Moved && !self.is_hop()
    }

    /// Routes the request again.
    pub(super) fn route_again(mut context: RequestContext) -> ConnectionOutcome {
        context.record.cancel();
        ConnectionOutcome::RoutedAgain
    }

    /// Frees the path of a transfer whose source resets its connection while the destination holds the body up. Never completes.
    async fn release_at_reset(&self, transfer: &Transfer) -> Infallible {
        if transfer.occupies_path() {
            self.connection.socket().reset_by_peer().await;
            transfer.release();
        }
        pending().await
    }

    /// Responds to a destination, with the body if the sides have paired.
    pub(super) async fn respond_to_destination(
        &self,
        mut context: RequestContext,
        paired: Result<Pairing, SeatError>,
    ) -> ConnectionOutcome {
        let response = match paired {
            Ok(pairing) => {
                let wire = Arc::clone(&self.connection.wire);
                let departure = async move { wire.destination_left().await };
                let response = transfer::destination_response(pairing, departure, &mut context.record);
                if self.is_hop() { self.behind_100(response).await } else { response.await }
            }
            Err(refusal) if self.is_moved(&refusal) => return Self::route_again(context),
            Err(refusal) => Some(context.refuse(&self.shared.app, refusal)),
        };
        match response {
            Some(response) => self.respond(context, response).await,
            None => ConnectionOutcome::Dropped,
        }
    }

    /// Says by a 100 that the sides have paired: in one write with the response if that is there already, else before it.
    async fn behind_100(&self, response: impl Future<Output = Option<Response>>) -> Option<Response> {
        let mut response = pin!(response);
        if let Some(ready) = response.as_mut().now_or_never() {
            return ready.map(|response| {
                let head = ResponseHead { says_paired: true, ..response.head };
                Response { head, ..response }
            });
        }
        // A connection that has broken is noticed next.
        let _ = self.connection.socket().write_all(&mut [IoSlice::new(CONTINUE)]).await;
        response.await
    }

    /// Responds after a wait, unless the client leaves meanwhile.
    pub(super) async fn respond_later(
        &self,
        mut context: RequestContext,
        response: impl Future<Output = Result<Later, Refusal>>,
    ) -> ConnectionOutcome {
        let response = tokio::select! {
            biased;
            response = response => response,
            () = self.connection.wire.destination_left() => return ConnectionOutcome::Closed,
        };
        match context.response_after_wait(&self.shared.app, response) {
            Later::Response(response) => self.respond(context, response).await,
            Later::Generated(response) => self.generate(context, Box::new(response)).await,
        }
    }

    /// Responds to a request with a JSON body, after reading that.
    pub(super) async fn respond_to_json(
        &self,
        mut context: RequestContext,
        route: JsonRoute,
    ) -> ConnectionOutcome {
        let read = self.read_json().await;
        let response = context.json_response(&self.shared.app, route, read).await;
        self.respond(context, response).await
    }

    /// Sends a response, and makes the connection ready for the next request if it is kept.
    pub(super) async fn respond(
        &self,
        mut context: RequestContext,
        mut response: Response,
    ) -> ConnectionOutcome {
        context.finish(&mut response);
        drop(context);
        let Response { mut head, body } = response;
        head.closes |= self.must_close();
        let outcome = match body {
            Body::Bytes(body) => self.write(&head, &body).await,
            Body::Download(download) => self.deliver(&head, *download).await,
        };
        match outcome {
            ConnectionOutcome::Kept => self.discard_body().await,
            _ => outcome,
        }
    }

    /// Sends a response part by part. A client that subscribes to events waits in this future, so that it is small.
    pub(super) async fn generate(
        &self,
        mut context: RequestContext,
        mut response: Box<GeneratedResponse>,
    ) -> ConnectionOutcome {
        context.finish_generated(&mut response);
        drop(context);
        response.head.closes |= self.must_close();
        match self.write_generated(response).await {
            ConnectionOutcome::Kept => Box::pin(self.discard_body()).await,
            outcome => outcome,
        }
    }

    /// Whether the connection closes after the response, whatever that is.
    fn must_close(&self) -> bool {
        self.cannot_go_on() || self.request.closes || self.shared.draining.is_cancelled()
    }

    /// Whether the connection cannot take another request: too much of the body has not arrived, or bytes follow an upload. Those
    /// may be excess bytes of the upload or a smuggled request, and the server cannot tell which.
    fn cannot_go_on(&self) -> bool {
        let mut input = self.connection.wire.input().lock();
        let is_at_end = input.is_between_requests()
            || input.is_body_unread() && (self.request.has_small_body() || self.has_receipt());
        let has_upload = self.request.is_upload && self.request.length != Some(0);
        !is_at_end || has_upload && input.has_trailing_bytes(self.connection.socket())
    }

    async fn read_json(&self) -> Result<JsonBody, BodyError> {
        let app = &self.shared.app;
        let mut body = RequestBody::Socket(self.body());
        json_body::read(&mut body, self.request.length, app.request_timeout, &app.metadata_memory).await
    }

    /// Discards a small body that the response did not need, so that the connection can be reused. Closes the connection if the body does not
    /// arrive in time.
    async fn discard_body(&self) -> ConnectionOutcome {
        let is_between_requests = || self.connection.wire.input().lock().is_between_requests();
        if !is_between_requests() {
            let mut body = RequestBody::Socket(self.body());
            let reading = async { while let Some(Ok(_)) = poll_fn(|cx| body.poll_data(cx)).await {} };
            if timeout(self.shared.app.request_timeout, reading).await.is_err() {
                debug!("the rest of a small request body did not arrive in time");
            }
        }
        if is_between_requests() { ConnectionOutcome::Kept } else { ConnectionOutcome::Closed }
    }

    pub(super) fn body(&self) -> SocketBody {
        // Before a receipt, the 100 says that the sides have paired.
        let expects_continue = self.request.expects_continue && !self.has_receipt();
        SocketBody::small(Arc::clone(&self.connection.wire), expects_continue)
    }

    /// Whether another node passes on the request.
    pub(super) fn is_hop(&self) -> bool {
        self.connection.info.listener.audience == Audience::Nodes
    }

    /// Whether the body of the request is the receipt of a download.
    fn has_receipt(&self) -> bool {
        self.is_hop() && !self.request.is_upload && self.request.expects_continue
    }
}
