//! Sends bytes of a body on one HTTP/2 stream.

use std::future::poll_fn;

use bytes::Bytes;
use h2::SendStream;

/// Sends `data` as flow control allows, and calls `on_progress` after each piece. `None` if the HTTP/2 stream or the connection has
/// ended.
pub(super) async fn send_all(
    send: &mut SendStream<Bytes>,
    mut data: Bytes,
    is_last: bool,
    on_progress: impl Fn(),
) -> Option<()> {
    if data.is_empty() {
        return if is_last { send.send_data(data, true).ok() } else { Some(()) };
    }
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let capacity = poll_fn(|cx| send.poll_capacity(cx)).await?.ok()?;
        let piece = data.split_to(capacity.min(data.len()));
        if !piece.is_empty() {
            send.send_data(piece, is_last && data.is_empty()).ok()?;
            on_progress();
        }
    }
    Some(())
}
