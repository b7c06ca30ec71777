//! Sends the response of one HTTP/2 stream.
//!
//! *Invariant.* A generated body that is not complete ends with a reset of the HTTP/2 stream.
//!
//! *Bounds.* One part of a generated body at a time. A response that ends fails if the client takes nothing within the request timeout.

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::HeaderValue;
use http::header::{CONTENT_LENGTH, DATE};
use tokio::time::timeout;

use super::download;
use super::send::{send_all, send_within};
use super::stream::{ConnectionState, Exchange, Session, wait_for_reset};
use super::upload::Upload;
use crate::api::App;
use crate::api::generated::Generated;
use crate::api::message::date;
use crate::api::response::{Body, GeneratedResponse, Response, ResponseHead};
use crate::connection::LINGER;

impl Exchange<'_> {
    /// Sends the response, and completes the HTTP/2 stream.
    pub(super) async fn respond(self, mut response: Response) -> ConnectionState {
        let Self { session, mut respond, upload, mut context, is_head, has_body, .. } = self;
        let Session { connection, app, traffic, .. } = session;
        context.finish(&mut response);
        drop(context);
        let watch = traffic.watch(respond.stream_id().as_u32());
        let Response { head, body } = response;
        let may_have_body = head.may_have_body();
        let mut head = message(head);
        let written = match body {
            Body::Bytes(body) => {
                // For HEAD, an empty body means that the length of the GET's body is not known.
                if may_have_body && !(is_head && body.is_empty()) {
                    declare_length(&mut head, body.len() as u64);
                }
                let body = if is_head { Bytes::new() } else { body };
                write(app, &mut respond, head, body).await
            }
            Body::Download(download) => {
                if let Some(length) = download.relay.length() {
                    declare_length(&mut head, length);
                }
                download::deliver(connection, app, watch, &mut respond, head, *download).await;
                return ConnectionState::Reusable;
            }
        };
        match written {
            Some(send) if has_body => linger(send, upload).await,
            _ => ConnectionState::Reusable,
        }
    }

    /// Sends a response part by part. A client that subscribes to events waits in this future, so that it is small.
    pub(super) async fn generate(mut self, mut response: Box<GeneratedResponse>) -> ConnectionState {
        let place = self.session.places_to_wait.try_acquire();
        if response.body.is_live() && place.is_err() {
            return Box::pin(self.respond_busy()).await;
        }
        self.context.finish_generated(&mut response);
        let Self { session, mut respond, upload, is_head, has_body, .. } = self;
        let GeneratedResponse { head, mut body } = *response;
        let head = message(head);
        let written = if is_head {
            body.sent(0, true);
            respond.send_response(head, true).ok()
        } else {
            write_generated(session.app, &mut respond, head, body).await
        };
        match written {
            Some(send) if has_body => Box::pin(linger(send, upload)).await,
            _ => ConnectionState::Reusable,
        }
    }
}

/// Returns the head as h2 sends it.
fn message(response: ResponseHead) -> http::Response<()> {
    let ResponseHead { status, mut headers, .. } = response;
    if let Ok(date) = HeaderValue::try_from(date()) {
        headers.insert(DATE, date);
    }
    let mut head = http::Response::new(());
    (*head.status_mut(), *head.headers_mut()) = (status, headers);
    head
}

/// Discards the rest of an upload for at most [`LINGER`], and then asks the client to stop (RFC 9113, section 8.1).
async fn linger(mut send: SendStream<Bytes>, mut upload: Upload) -> ConnectionState {
    if timeout(LINGER, upload.discard()).await.is_ok() {
        return ConnectionState::Reusable;
    }
    send.send_reset(Reason::NO_ERROR);
    ConnectionState::ClientStillSending
}

fn declare_length(head: &mut http::Response<()>, length: u64) {
    head.headers_mut().entry(CONTENT_LENGTH).or_insert(length.into());
}

/// Writes a response with a complete body. `None` if the client has left.
async fn write(
    app: &App,
    respond: &mut SendResponse<Bytes>,
    head: http::Response<()>,
    body: Bytes,
) -> Option<SendStream<Bytes>> {
    let mut send = respond.send_response(head, body.is_empty()).ok()?;
    if !body.is_empty() {
        match send_within(&mut send, body, true, app.request_timeout).await {
            Ok(taken) => taken?,
            Err(_) => send.send_reset(Reason::CANCEL),
        }
    }
    Some(send)
}

/// Writes a generated body part by part. `None` if the client has left.
async fn write_generated(
    app: &App,
    respond: &mut SendResponse<Bytes>,
    head: http::Response<()>,
    mut body: Generated,
) -> Option<SendStream<Bytes>> {
    let mut send = respond.send_response(head, false).ok()?;
    loop {
        let part = tokio::select! {
            biased;
            part = body.next_part() => part,
            () = wait_for_reset(|cx| send.poll_reset(cx)) => return None,
        };
        let Ok(part) = part else {
            send.send_reset(Reason::INTERNAL_ERROR);
            return Some(send);
        };
        let (bytes, is_last) = (part.len(), body.is_finished());
        let taken = match body.read_timeout(app.request_timeout) {
            Some(limit) => send_within(&mut send, part, is_last, limit).await,
            None => Ok(send_all(&mut send, part, is_last, || {}).await),
        };
        let Ok(taken) = taken else {
            send.send_reset(Reason::CANCEL);
            return Some(send);
        };
        taken?;
        body.sent(bytes, is_last);
        if is_last {
            return Some(send);
        }
    }
}
