//! Delivers the body of a stream to its destination over HTTP/2.
//!
//! *Invariant.* The HTTP/2 stream ends with `END_STREAM` only after the whole body, and with a reset otherwise. The transfer is delivered
//! only once the client's kernel has acknowledged the last frame.
//!
//! *Concurrency.* It runs in the destination's task. The source's task may fail the transfer at any time, which resets the HTTP/2 stream.
//!
//! *Bounds.* One piece of the body, and h2's send buffer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use rendezvous_core::outcome::Fault;
use rendezvous_core::transfer::{Judged, Piece, Transfer, WholeBody};
use rendezvous_net::socket::Socket;
use rendezvous_protocol::Side;
use tokio::time::Instant;

use super::send::send_all;
use super::stream::wait_for_reset;
use super::traffic::ResponseWatch;
use crate::api::App;
use crate::api::response::Download;
use crate::connection::Connection;
use crate::request_body::Relay;

/// Small pieces that are available are joined up to this many bytes: the frame size that every receiver accepts (RFC 9113, section 4.2).
const JOIN_LIMIT: usize = 16 * 1024;

/// Sends the response. The transfer is delivered once the destination's kernel has acknowledged the last frame.
pub(super) async fn deliver(
    connection: &Connection,
    app: &App,
    mut watch: ResponseWatch,
    respond: &mut SendResponse<Bytes>,
    head: http::Response<()>,
    download: Download,
) {
    let Download { half, relay, receipt } = download;
    // The drop of `half` reports that the destination has left.
    let Ok(mut send) = respond.send_response(head, false) else { return };
    let transfer = Arc::clone(half.transfer());
    let progress = Progress::new(connection.socket(), &transfer);
    let delivered = tokio::select! {
        biased;
        delivered = send_body(app, &progress, &mut watch, &mut send, relay, receipt.is_some()) => delivered,
        () = progress.aborted(receipt.is_some()) => None,
    };
    let Some(body) = delivered else {
        let is_stalled = matches!(transfer.fault(), Some(Fault::Stalled { side: Side::Destination, .. }));
        if let Some(receipt) = receipt.filter(|_| is_stalled) {
            receipt.refuse().await;
        }
        // The drop of `half` reports that the destination has left, unless the transfer has failed already.
        return send.send_reset(Reason::INTERNAL_ERROR);
    };
    half.delivered(body);
    if let Some(receipt) = receipt {
        receipt.send(transfer.bytes()).await;
    }
}

/// What shows that the bytes of one HTTP/2 stream move.
struct Progress<'a> {
    socket: &'a Socket,
    transfer: &'a Transfer,
    /// The bytes of the connection in the kernel when h2 took the last ones of this stream. Later ones may belong to other streams, and prove nothing
    /// about this one.
    sent: AtomicU64,
}

impl<'a> Progress<'a> {
    fn new(socket: &'a Socket, transfer: &'a Transfer) -> Self {
        Self { socket, transfer, sent: AtomicU64::new(socket.sent()) }
    }

    /// Notes that h2 has taken some bytes.
    fn note(&self) {
        self.sent.store(self.socket.sent(), Ordering::Relaxed);
        self.transfer.touch();
    }

    /// Waits until the transfer fails elsewhere, or no bytes move. The connection's task detects an unresponsive client.
    async fn aborted(&self, is_passed_on: bool) {
        // The owner judges the source.
        let judged = if is_passed_on { Judged::Destination } else { Judged::Both };
        let unacknowledged = || self.socket.unacknowledged_of(self.sent.load(Ordering::Relaxed));
        tokio::select! {
            _ = self.transfer.failed() => {}
            fault = self.transfer.stalled(judged, unacknowledged) => self.transfer.fail(fault),
        }
    }
}

/// Sends the body. Returns the proof that it was whole once the destination's kernel has acknowledged all of it.
async fn send_body(
    app: &App,
    progress: &Progress<'_>,
    watch: &mut ResponseWatch,
    send: &mut SendStream<Bytes>,
    mut relay: Relay,
    is_hop: bool,
) -> Option<WholeBody> {
    let transfer = progress.transfer;
    loop {
        let next = tokio::select! {
            biased;
            next = gather(&mut relay) => next,
            () = wait_for_reset(|cx| send.poll_reset(cx)) => return None,
        };
        let next = next?;
        // END_STREAM is sent with the bytes that complete a declared length: a client that counts them may leave at once.
        let is_last = matches!(next, Piece::Last(_));
        transfer.awaits_destination();
        let sending = send_all(send, next.into_data(), is_last, || progress.note());
        tokio::select! {
            biased;
            taken = sending => taken?,
            // The source is a hop, which says what the owner has decided.
            () = relay.source_lost(), if is_hop => {
                relay.source_disconnected();
                return None;
            }
        }
        if is_last {
            break;
        }
    }
    let written = Instant::now();
    if !acknowledged(app, progress.socket, watch, || transfer.touch()).await {
        return None;
    }
    app.metrics.delivered(written.elapsed());
    transfer.whole_body()
}

/// Waits for the next piece, and joins small pieces that are available without waiting, because even a small frame costs its receiver work.
/// `None` if the transfer has failed.
async fn gather(relay: &mut Relay) -> Option<Piece> {
    let mut next = relay.next().await.ok()?;
    let mut joined = BytesMut::new();
    loop {
        match next {
            Piece::Last(data) if joined.is_empty() => return Some(Piece::Last(data)),
            Piece::Last(data) => {
                joined.extend_from_slice(&data);
                return Some(Piece::Last(joined.freeze()));
            }
            Piece::Data(data) if joined.is_empty() && data.len() >= JOIN_LIMIT => {
                return Some(Piece::Data(data));
            }
            Piece::Data(data) => joined.extend_from_slice(&data),
        }
        let following = if joined.len() < JOIN_LIMIT { relay.next().now_or_never() } else { None };
        // A fault is returned again by the next call, after the bytes before it were sent.
        let Some(Ok(following)) = following else { return Some(Piece::Data(joined.freeze())) };
        next = following;
    }
}

/// Waits until the client's kernel has acknowledged the last frame. Returns false if the client resets the HTTP/2 stream before that frame
/// was sent, or the connection ends and nothing more is acknowledged within the peer timeout.
async fn acknowledged(app: &App, socket: &Socket, watch: &mut ResponseWatch, on_progress: impl Fn()) -> bool {
    let Some(sent) = watch.in_kernel().await else { return false };
    tokio::select! {
        biased;
        acknowledged = socket.acknowledged_up_to(sent, on_progress) => acknowledged,
        // The client's reset carried the acknowledgement of everything that its kernel had received before.
        () = watch.given_up(app.peer_timeout) => socket.is_acknowledged(sent),
    }
}
