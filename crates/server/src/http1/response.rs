//! Writes the responses whose body the server generates, and frames bodies for [`super::download`].
//!
//! *Invariant.* A listing that is not complete ends with a reset.
//!
//! *Bounds.* One part of a listing at a time. A write fails if the client reads nothing for the request timeout.

use std::io::IoSlice;

use bytes::Bytes;
use http::{Method, StatusCode, Version};
use rendezvous_codec::body::Framing;

use super::{ConnectionOutcome, Responder};
use crate::api::listing::Listing;
use crate::api::message;
use crate::api::response::ResponseHead;

impl Responder<'_> {
    /// Writes a response with a complete body.
    pub(super) async fn write(&self, response: &ResponseHead, body: &[u8]) -> ConnectionOutcome {
        let (socket, request) = (self.connection.socket(), &self.request);
        let is_head = request.method == Method::HEAD;
        // For HEAD, an empty body means that the length of the GET's body is not known.
        let has_length = response.status != StatusCode::NO_CONTENT && !(is_head && body.is_empty());
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
        ConnectionOutcome::after(response)
    }

    /// Writes a listing part by part.
    pub(super) async fn write_listing(
        &self,
        response: &ResponseHead,
        first: Bytes,
        mut rest: Listing,
    ) -> ConnectionOutcome {
        let (socket, request) = (self.connection.socket(), &self.request);
        let framing = (request.version != Version::HTTP_10).then_some(Framing::Chunked);
        let mut head = message::head(response, request.version, framing);
        let mut next = if request.method == Method::HEAD { None } else { Some(Ok(first)) };
        socket.arm_reset();
        loop {
            let is_last = next.is_none() || rest.is_finished();
            let Ok(part) = next.take().transpose().map(Option::unwrap_or_default) else {
                return ConnectionOutcome::Dropped;
            };
            let framing = framing.filter(|_| !part.is_empty());
            let size_line = size_line(part.len());
            let mut buffers = framed(&head, &size_line, [&*part], framing, is_last);
            let limit = self.shared.app.request_timeout;
            if socket.write_within(&mut buffers, is_last && response.closes, limit).await.is_err() {
                return ConnectionOutcome::Dropped;
            }
            rest.sent(part.len(), is_last);
            if is_last {
                socket.disarm_reset();
                return ConnectionOutcome::after(response);
            }
            head.clear();
            next = Some(rest.next_part().await);
        }
    }
}

/// The line before a chunk of `bytes` bytes (RFC 9112, section 7.1).
pub(super) fn size_line(bytes: usize) -> String {
    format!("{bytes:x}\r\n")
}

/// Returns the buffers to write: `head`, then `pieces` as one chunk if the framing is chunked, then the end of the body if `is_last`.
pub(super) fn framed<'a>(
    head: &'a [u8],
    size_line: &'a str,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    framing: Option<Framing>,
    is_last: bool,
) -> Vec<IoSlice<'a>> {
    let is_chunked = framing == Some(Framing::Chunked);
    let mut pieces = pieces.into_iter().filter(|piece| !piece.is_empty()).map(IoSlice::new).peekable();
    let has_data = pieces.peek().is_some();
    let mut buffers = vec![IoSlice::new(head)];
    if is_chunked && has_data {
        buffers.push(IoSlice::new(size_line.as_bytes()));
    }
    buffers.extend(pieces);
    if is_chunked && has_data {
        buffers.push(IoSlice::new(b"\r\n"));
    }
    if is_chunked && is_last {
        buffers.push(IoSlice::new(b"0\r\n\r\n"));
    }
    buffers
}
