//! The writing of a response whose body is there.

use std::io::IoSlice;

use http::{Method, StatusCode};
use rendezvous_codec::body::Framing;

use super::{ConnectionOutcome, Responder};
use crate::api::message;
use crate::api::response::ResponseHead;

impl Responder<'_> {
    /// Writes a response whose body is there. Its client may take nothing of it for as long as a request may take.
    pub(super) async fn write(&self, response: &ResponseHead, body: &[u8]) -> ConnectionOutcome {
        let (socket, request) = (self.connection.socket(), &self.request);
        let is_head = request.method == Method::HEAD;
        // A HEAD without a body to tell the length of says nothing of the GET's.
        let has_length = response.status != StatusCode::NO_CONTENT && !(is_head && body.is_empty());
        let framing = has_length.then_some(Framing::Length(body.len() as u64));
        let head = message::head(response, request.version, framing);
        let body = if is_head { &[][..] } else { body };
        let mut buffers = [IoSlice::new(&head), IoSlice::new(body)];
        match socket.write_within(&mut buffers, response.closes, self.shared.app.request_timeout).await {
            Ok(()) if response.closes => ConnectionOutcome::Closed,
            Ok(()) => ConnectionOutcome::Kept,
            Err(_) => {
                // The kernel is not to hold the rest of the response for a client that takes nothing.
                socket.arm_reset();
                ConnectionOutcome::Dropped
            }
        }
    }
}
