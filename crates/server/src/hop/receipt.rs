//! The receipt: how the edge of a destination tells the owner that the destination's kernel has acknowledged the whole body.
//!
//! *Invariant.* A receipt is of one exchange, because it is a part of its request. It is sent only after the acknowledgement, and believed only with
//! the number of bytes that the owner has passed on.

use std::future::poll_fn;

use bytes::BytesMut;
use rendezvous_core::transfer::{SourceBody, SourceHalf};

use super::exchange::{Answer, Hop};
use crate::request_body::{RequestBody, SocketBody};

const DELIVERED: &str = "delivered ";
/// The limit on the bytes of a receipt.
const MAX_BYTES: usize = 64;

/// The receipt of a download, not sent yet. Dropping it ends the hop, so the owner takes the destination for gone.
pub(crate) struct Receipt {
    hop: Hop,
    answer: Answer,
    _half: SourceHalf,
}

impl Receipt {
    /// `half` is the source's half of the part of the transfer that passes through this node.
    pub(crate) fn new(hop: Hop, answer: Answer, half: SourceHalf) -> Self {
        Self { hop, answer, _half: half }
    }

    /// Tells the owner that the destination has acknowledged the whole body of this many bytes. Keeps the hop for a later request.
    pub(crate) async fn send(self, bytes: u64) {
        let text = format!("{DELIVERED}{bytes}");
        let chunks = format!("{:x}\r\n{text}\r\n0\r\n\r\n", text.len());
        if self.hop.write(chunks.as_bytes()).await.is_ok() {
            self.hop.release(&self.answer);
        }
    }
}

/// Waits for the receipt of a body of this many bytes, which the edge has been sent. Returns whether it confirms that.
pub(crate) async fn confirms(body: SocketBody, bytes: u64) -> bool {
    let (mut body, mut receipt) = (RequestBody::Socket(body), BytesMut::new());
    while let Some(data) = poll_fn(|cx| body.poll_data(cx)).await {
        match data {
            Ok(data) if receipt.len() + data.len() <= MAX_BYTES => receipt.extend_from_slice(&data),
            _ => return false,
        }
    }
    *receipt == *format!("{DELIVERED}{bytes}").as_bytes()
}
