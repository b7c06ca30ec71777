//! Sends bytes of a body on one HTTP/2 stream.

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::SendStream;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

/// Sends `data` as flow control allows, and calls `on_progress` after each piece. `None` if the HTTP/2 stream or the connection has
/// ended.
pub(super) async fn send_all(
    send: &mut SendStream<Bytes>,
    mut data: Bytes,
    is_last: bool,
    on_progress: impl Fn(),
) -> Option<()> {
    if data.is_empty() {
        return send_empty(send, is_last);
    }
    while !data.is_empty() {
        send_piece(send, &mut data, is_last).await?;
        on_progress();
    }
    Some(())
}

/// Like [`send_all`], for a client that must take something within each `limit`.
///
/// # Errors
/// If it takes nothing.
pub(super) async fn send_within(
    send: &mut SendStream<Bytes>,
    mut data: Bytes,
    is_last: bool,
    limit: Duration,
) -> Result<Option<()>, Elapsed> {
    if data.is_empty() {
        return Ok(send_empty(send, is_last));
    }
    while !data.is_empty() {
        if timeout(limit, send_piece(send, &mut data, is_last)).await?.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(()))
}

fn send_empty(send: &mut SendStream<Bytes>, is_last: bool) -> Option<()> {
    if is_last { send.send_data(Bytes::new(), true).ok() } else { Some(()) }
}

/// Sends what flow control allows of `data`, which is not empty.
async fn send_piece(send: &mut SendStream<Bytes>, data: &mut Bytes, is_last: bool) -> Option<()> {
    send.reserve_capacity(data.len());
    let capacity = poll_fn(|cx| send.poll_capacity(cx)).await?.ok()?;
    let piece = data.split_to(capacity.min(data.len()));
    if !piece.is_empty() {
        send.send_data(piece, is_last && data.is_empty()).ok()?;
    }
    Some(())
}
