//! HTTP/2, over TLS or by prior knowledge: one task for a connection and all its streams.
//!
//! Requests are routed as those of HTTP/1. An HTTP/2 stream that its client resets takes its request with it, and so its seat or
//! its half of a transfer; a transfer that fails resets the HTTP/2 stream, which is how HTTP/2 shows a cut.
//!
//! *Bounds.* Heads, concurrent streams, and requests whose answer is not over yet are limited, and so are frames that cost
//! work and move nothing. The body of a request waits in a window of 64 KiB, and the connection's window has room for all
//! of them: a destination that takes nothing stalls its own stream only.

mod io;
mod stream;
mod traffic;
mod upload;

use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use h2::Reason;
use h2::server::Connection;
use rendezvous_codec::head::MAX_HEAD_BYTES;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use self::io::Io;
use self::stream::ConnectionState;
use self::traffic::{Tolerance, Traffic};
use self::upload::Uploads;
use super::connection::{Connection as Client, Shared};
use crate::api::refusal::Refusal;
use crate::metrics::Protocol;

/// Concurrent streams of a connection. RFC 9113 (section 6.5.2) advises no fewer than 100.
const MAX_STREAMS: u32 = 100;
/// Requests of a connection that are being served. More than [`MAX_STREAMS`], because h2 does not count a stream any more that
/// its client has reset or has the answer to, while its request may still wait for an acknowledgement. No further one is
/// accepted meanwhile.
const MAX_REQUESTS: usize = 2 * MAX_STREAMS as usize;
/// Requests that a client may cancel before they are accepted.
const MAX_CANCELLED: usize = MAX_STREAMS as usize;
/// What a client may send of a body that nobody takes, in bytes.
const STREAM_WINDOW: u32 = 64 * 1024 - 1;
/// What a stream may hold of an answer that its client does not take, in bytes.
const SEND_BUFFER: usize = 256 * 1024;
/// h2's budget for DATA frames that it holds: each of fewer than 256 bytes costs what it lacks of that. Enough for 4000 of
/// one byte, of which [`Io`] gives h2 far fewer before [`Uploads::sweep`].
const DATA_FRAME_BUDGET: usize = 1024 * 1024;
/// For the client to read the last answers once the connection was said to end.
const LINGER: Duration = Duration::from_secs(2);

/// Serves the connection, whose preface is the next to be read, until it has ended.
///
/// `refusal`, if any, is the response to all its requests.
pub(super) async fn serve(client: &Client, shared: &Shared, refusal: Option<&Refusal>) {
    client.open.taken_by(Protocol::Http2);
    let (app, draining) = (&shared.app, &shared.draining);
    let traffic = Traffic::new(if client.info.is_proxy { Tolerance::Proxy } else { Tolerance::Client });
    let handshake = h2::server::Builder::new()
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_CANCELLED)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(MAX_STREAMS * STREAM_WINDOW)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .handshake::<_, Bytes>(Io::new(Arc::clone(&client.wire), Arc::clone(&traffic)));
    // Boxed, because the connection would reserve space for it to its end.
    let Ok(Ok(mut connection)) = timeout(app.request_timeout, Box::pin(handshake)).await else { return };
    if refusal.is_some() {
        connection.graceful_shutdown();
    }

    let uploads = Uploads::default();
    let mut requests = FuturesUnordered::new();
    let mut idle = pin!(sleep(app.request_timeout));
    let mut vanished = pin!(client.socket().vanished());
    let (mut drains, mut calmed, mut closes) = (refusal.is_some(), false, refusal.is_some());
    let ended = loop {
        tokio::select! {
            accepted = accept(&mut connection, &traffic, &uploads, requests.len() < MAX_REQUESTS) => match accepted {
                Some(Ok((request, respond))) => {
                    requests.push(guard(stream::serve(client, app, &traffic, &uploads, request, respond, refusal)));
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(()),
            },
            Some(state) = requests.next(), if !requests.is_empty() => {
                idle.as_mut().reset(Instant::now() + match state {
                    ConnectionState::Reusable => app.keep_alive,
                    // The end of the connection tells it, where nobody else uses it.
                    ConnectionState::ClientStillSending => Duration::ZERO,
                });
            }
            () = draining.cancelled(), if !drains => {
                drains = true;
                connection.graceful_shutdown();
            }
            () = traffic.flooded(), if !calmed => {
                calmed = true;
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            }
            // It takes all its streams with it.
            () = &mut vanished => return client.socket().arm_reset(),
            () = &mut idle, if requests.is_empty() => {
                if closes {
                    return;
                }
                closes = true;
                connection.graceful_shutdown();
                idle.as_mut().reset(Instant::now() + LINGER);
            }
        }
    };
    // From this the requests learn that the connection has ended. What is with the kernel may still be delivered, and so may the
    // body of a source that has sent all of it.
    drop(connection);
    traffic.end();
    while requests.next().await.is_some() {}
    match ended {
        Ok(()) => Box::pin(client.socket().linger(LINGER)).await,
        Err(error) => debug!(%error, "connection ended early"),
    }
}

/// Ends a request that panics, and nothing else of its connection: a response that is not sent resets the stream.
async fn guard(request: impl Future<Output = ConnectionState>) -> ConnectionState {
    AssertUnwindSafe(request).catch_unwind().await.unwrap_or(ConnectionState::Reusable)
}

type Accepted = (http::Request<h2::RecvStream>, h2::server::SendResponse<Bytes>);

/// The next request, if one `is_wanted`; drives the connection meanwhile. `None` at the connection's end.
async fn accept(
    connection: &mut Connection<Io, Bytes>,
    traffic: &Traffic,
    uploads: &Uploads,
    is_wanted: bool,
) -> Option<Result<Accepted, h2::Error>> {
    let mut accepting = pin!(async {
        if is_wanted {
            return connection.accept().await;
        }
        poll_fn(|cx| connection.poll_closed(cx)).await.err().map(Err)
    });
    poll_fn(|cx| {
        if traffic.is_turn_over() {
            uploads.sweep();
            traffic.begin_turn();
        }
        accepting.as_mut().poll(cx)
    })
    .await
}
