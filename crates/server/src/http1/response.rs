//! Writes the responses whose body the server generates.
//!
//! *Invariant.* A generated body that is not complete ends with a reset.
//!
//! *Bounds.* One part of a generated body at a time. A write of a body that ends fails if the client reads nothing for the request timeout. Of one
//! that does not, the kernel holds [`LIVE_SEND_BUFFER`].

use std::io::{self, IoSlice};

use http::{Method, Version};
use rendezvous_codec::body::Framing;

use super::ConnectionOutcome;
use super::responder::Responder;
use crate::api::generated::Generated;
use crate::api::message;
use crate::api::response::{GeneratedResponse, ResponseHead};
use crate::body_writer::{framed, size_line};

/// The bytes that the kernel holds at most for a client that reads a live body slowly. Linux doubles them for its own use.
const LIVE_SEND_BUFFER: usize = 32 * 1024;

impl Responder<'_> {
    /// Writes a response with a complete body.
    pub(super) async fn write(&self, response: &ResponseHead, body: &[u8]) -> ConnectionOutcome {
        let (socket, request) = (self.connection.socket(), &self.request);
        let is_head = request.method == Method::HEAD;
        // For HEAD, an empty body means that the length of the GET's body is not known.
        let has_length = response.may_have_body() && !(is_head && body.is_empty());
        let framing = has_length.then_some(Framing::Length(body.len() as u64));
        let head = message::head(response, request.version, framing);
        let body = if is_head { &[][..] } else { body };
        let mut buffers = [IoSlice::new(&head), IoSlice::new(body)];
        let limit = self.shared.app.request_timeout;
        if socket.write_within(&mut buffers, response.closes, limit).await.is_err() {
            // The client reads nothing: the reset lets the kernel free the send buffer.
            socket.arm_reset();
            return ConnectionOutcome::Dropped;
        }
        ConnectionOutcome::after(response.closes)
    }

    /// Writes a generated body part by part, as long as the client stays.
    pub(super) async fn write_generated(&self, response: Box<GeneratedResponse>) -> ConnectionOutcome {
        let GeneratedResponse { head: response, mut body } = *response;
        let (socket, request) = (self.connection.socket(), &self.request);
        if request.method == Method::HEAD {
            body.sent(0, true);
            return Box::pin(self.write(&response, &[])).await;
        }
        let framing = (request.version != Version::HTTP_10).then_some(Framing::Chunked);
        let mut head = message::head(&response, request.version, framing);
        // A subscriber stays for long, and needs nothing else of it.
        let closes = response.closes;
        drop(response);
        if body.is_live() {
            socket.limit_send_buffer(LIVE_SEND_BUFFER);
        }
        socket.arm_reset();
        loop {
            let part = tokio::select! {
                biased;
                part = body.next_part() => part,
                () = self.connection.wire.destination_left() => return ConnectionOutcome::Dropped,
            };
            let Ok(part) = part else { return ConnectionOutcome::Dropped };
            let is_last = body.is_finished();
            let size_line = size_line(part.len());
            let mut buffers = framed(&head, &size_line, [&*part], framing, is_last);
            let written = tokio::select! {
                biased;
                written = self.write_part(&mut buffers, is_last && closes, &body) => written,
                () = socket.unresponsive() => return ConnectionOutcome::Dropped,
            };
            if written.is_err() {
                return ConnectionOutcome::Dropped;
            }
            body.sent(part.len(), is_last);
            if is_last {
                socket.disarm_reset();
                return ConnectionOutcome::after(closes);
            }
            head = Vec::new();
        }
    }

    async fn write_part(
        &self,
        buffers: &mut [IoSlice<'_>],
        closes: bool,
        body: &Generated,
    ) -> io::Result<()> {
        match body.read_timeout(self.shared.app.request_timeout) {
            Some(limit) => self.connection.socket().write_within(buffers, closes, limit).await,
            None => self.connection.socket().write_all(buffers).await,
        }
    }
}
