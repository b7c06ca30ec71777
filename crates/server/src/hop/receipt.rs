//! The receipt: how the edge of a destination tells the owner that the destination's kernel has acknowledged the whole body.
//!
//! *Invariant.* A receipt is of one exchange, because it is a part of its request. It is sent only after the acknowledgement, and believed only with
//! the number of bytes that the owner has passed on.

use std::future::poll_fn;
use std::sync::Arc;

use bytes::BytesMut;
use rendezvous_core::transfer::{SourceBody, SourceHalf};

use super::exchange::{Answer, Hop};
use crate::request_body::{RequestBody, SocketBody};
use crate::wire::Wire;

const DELIVERED: &str = "delivered ";
const STALLED: &[u8] = b"failed stalled";
/// The limit on the bytes of a receipt.
const MAX_BYTES: usize = 64;
/// Those with the framing of one chunk, and some more.
const MAX_MESSAGE: usize = 2 * MAX_BYTES;

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
        if self.hop.write(&chunks(format!("{DELIVERED}{bytes}").as_bytes())).await.is_ok() {
            self.hop.release(&self.answer);
        }
    }

    /// Tells the owner that the destination has stood still for the idle limit, as far as it reads that before the end of the hop.
    pub(crate) async fn refuse(self) {
        let _ = self.hop.write(&chunks(STALLED)).await;
    }
}

/// Returns the whole body that has this text.
fn chunks(text: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", text.len()).as_bytes(), text, b"\r\n0\r\n\r\n"].concat()
}

/// What the edge of a destination says at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The destination has acknowledged the whole body.
    Delivered,
    /// The destination has stood still for the idle limit.
    Stalled,
    /// The destination has left, or the edge is lost.
    Gone,
}

/// Waits on the edge's connection for the receipt of a body of this many bytes.
pub(crate) async fn read(wire: &Arc<Wire>, bytes: u64) -> Verdict {
    let body = SocketBody::with_reads_of(MAX_MESSAGE, Arc::clone(wire));
    let (mut body, mut receipt) = (RequestBody::Socket(body), BytesMut::new());
    while let Some(data) = poll_fn(|cx| body.poll_data(cx)).await {
        match data {
            Ok(data) if receipt.len() + data.len() <= MAX_BYTES => receipt.extend_from_slice(&data),
            _ => return Verdict::Gone,
        }
    }
    if *receipt == *format!("{DELIVERED}{bytes}").as_bytes() {
        Verdict::Delivered
    } else if *receipt == *STALLED {
        Verdict::Stalled
    } else {
        Verdict::Gone
    }
}
