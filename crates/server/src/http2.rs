//! The HTTP/2 driver: one task for a connection and all its HTTP/2 streams, over TLS or with prior knowledge.
//!
//! Requests are routed like those of HTTP/1.
//!
//! *Invariants.* When a client resets an HTTP/2 stream, its request ends, and with it the seat or the half of the transfer. A transfer that
//! fails resets the HTTP/2 stream of its destination, which thereby detects a truncated body.
//!
//! *Concurrency.* The task of the connection drives h2 and polls the futures of all its requests.
//!
//! *Bounds.* There are limits on the size of heads, concurrent HTTP/2 streams, requests whose response is not complete, and idle frames
//! ([`traffic`]). The body of a request waits in a window of 64 KiB, and has a larger one while it is passed on over a distance
//! ([`windows`]). The window of the connection has space for all of them, so a stalled destination stalls only one.

mod download;
mod io;
mod passing;
mod response;
mod send;
mod stream;
mod traffic;
mod upload;
mod windows;

use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use h2::PingPong;
use h2::server::Handshake;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use self::io::Io;
use self::stream::{ConnectionState, Session};
use self::traffic::{Tolerance, Traffic};
use self::upload::Uploads;
use self::windows::Windows;
use super::connection::{Connection, LINGER, Shared};
use crate::api::App;
use crate::api::refusal::Refusal;
use crate::metrics::Protocol;

/// Requests of a connection that are served at a time, for each concurrent HTTP/2 stream. h2 stops counting an HTTP/2 stream that its client
/// has reset or whose response was sent, while its request may still wait for an acknowledgement.
const REQUESTS_PER_STREAM: usize = 2;
/// Bytes of a response that an HTTP/2 stream may buffer while its client does not read them.
const SEND_BUFFER: usize = 256 * 1024;
/// h2's budget for buffered DATA frames: a frame of fewer than 256 bytes costs the difference. Enough for 4000 frames of
/// one byte; [`Io`] gives h2 far fewer before each [`Uploads::sweep_arrived`].
const DATA_FRAME_BUDGET: usize = 1024 * 1024;

/// Serves the connection until it ends. Its preface must still be in the read-ahead buffer. A `refusal` is the response to every request.
pub(super) async fn serve(connection: &Connection, shared: &Shared, refusal: Option<&Refusal>) {
    connection.open.set_protocol(Protocol::Http2);
    let (app, draining) = (&shared.app, &shared.draining);
    let windows = Windows::new(app.max_streams_per_connection, Arc::clone(&app.upload_memory));
    let session = begin(connection, app, &windows);
    let traffic = &session.traffic;
    // Boxed, because it is needed only here and the future of the connection would reserve space for it.
    let Some((mut h2, ping_pong)) = Box::pin(handshake(&session, &windows)).await else { return };
    if refusal.is_some() {
        h2.graceful_shutdown();
    }

    let max_requests = REQUESTS_PER_STREAM * app.max_streams_per_connection as usize;
    let mut requests = FuturesUnordered::new();
    let mut measuring = pin!(windows.measure(ping_pong, || traffic.expect_pong()));
    let mut idle = pin!(sleep(app.request_timeout));
    let mut unresponsive = pin!(connection.socket().unresponsive());
    let (mut is_draining, mut is_violated, mut is_closing) = (refusal.is_some(), false, refusal.is_some());
    let ended = loop {
        tokio::select! {
            accepted = accept(&mut h2, &session, &windows, requests.len() < max_requests) => match accepted {
                Some(Ok((request, respond))) => {
                    requests.push(guard(stream::serve(&session, request, respond, refusal)));
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(()),
            },
            Some(state) = requests.next(), if !requests.is_empty() => {
                idle.as_mut().reset(Instant::now() + state.idle_limit(app.keep_alive));
            }
            () = draining.cancelled(), if !is_draining => {
                is_draining = true;
                h2.graceful_shutdown();
            }
            reason = traffic.violated(), if !is_violated => {
                is_violated = true;
                h2.abrupt_shutdown(reason);
            }
            never = &mut measuring => match never {},
            // The return drops all requests of the connection.
            () = &mut unresponsive => return connection.socket().arm_reset(),
            () = &mut idle, if requests.is_empty() => {
                if is_closing {
                    return;
                }
                is_closing = true;
                h2.graceful_shutdown();
                idle.as_mut().reset(Instant::now() + LINGER);
            }
        }
    };
    // These end the waits of the requests, but not those for the acknowledgement of bytes in the kernel, nor the delivery of a body that
    // has arrived whole.
    drop(h2);
    traffic.end();
    while requests.next().await.is_some() {}
    finish(connection, ended).await;
}

/// Closes a connection that h2 has ended.
async fn finish(connection: &Connection, ended: Result<(), h2::Error>) {
    match ended {
        Ok(()) => Box::pin(connection.socket().linger(LINGER)).await,
        Err(error) => debug!(%error, "HTTP/2 connection failed"),
    }
}

/// Creates what all requests of the connection share.
fn begin<'a>(connection: &'a Connection, app: &'a App, windows: &Arc<Windows>) -> Session<'a> {
    let tolerance = if connection.info.is_proxy { Tolerance::Proxy } else { Tolerance::Client };
    Session {
        connection,
        app,
        traffic: Traffic::new(tolerance, Arc::clone(windows)),
        uploads: Uploads::new(Arc::clone(windows), Arc::clone(&app.upload_memory)),
        // One is left for a side that another one waits for.
        places_to_wait: Semaphore::new(app.max_streams_per_connection as usize - 1),
    }
}

/// Performs the handshake. `None` if it fails, or takes longer than the request timeout.
async fn handshake(
    session: &Session<'_>,
    windows: &Arc<Windows>,
) -> Option<(h2::server::Connection<Io, Bytes>, PingPong)> {
    let mut h2 = timeout(session.app.request_timeout, begin_handshake(session, windows)).await.ok()?.ok()?;
    let ping_pong = h2.ping_pong()?;
    Some((h2, ping_pong))
}

/// Configures h2 and begins the handshake.
fn begin_handshake(session: &Session<'_>, windows: &Arc<Windows>) -> Handshake<Io, Bytes> {
    let max_streams = session.app.max_streams_per_connection;
    let wire = Arc::clone(&session.connection.wire);
    h2::server::Builder::new()
        .max_concurrent_streams(max_streams)
        // As many requests may be reset before they are accepted; at least the default of h2.
        .max_pending_accept_reset_streams((max_streams as usize).max(20))
        .initial_window_size(windows::UNLIMITED)
        .initial_connection_window_size(windows::UNLIMITED)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .max_header_list_size(u32::try_from(session.app.max_head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(SEND_BUFFER)
        .handshake(Io::new(wire, Arc::clone(&session.traffic), Arc::clone(windows)))
}

/// Limits a panic to its request. Its HTTP/2 stream is then reset, because no response was sent.
async fn guard(request: impl Future<Output = ConnectionState>) -> ConnectionState {
    AssertUnwindSafe(request).catch_unwind().await.unwrap_or(ConnectionState::Reusable)
}

type AcceptedRequest = (http::Request<h2::RecvStream>, h2::server::SendResponse<Bytes>);

/// Drives the connection, and returns the next request if one `is_wanted`. `None` at the end of the connection.
async fn accept(
    h2: &mut h2::server::Connection<Io, Bytes>,
    session: &Session<'_>,
    windows: &Windows,
    is_wanted: bool,
) -> Option<Result<AcceptedRequest, h2::Error>> {
    let mut accepting = pin!(async {
        if is_wanted {
            return h2.accept().await;
        }
        poll_fn(|cx| h2.poll_closed(cx)).await.err().map(Err)
    });
    poll_fn(|cx| {
        windows.set_writer(cx.waker());
        session.traffic.begin_turn();
        let accepted = accepting.as_mut().poll(cx);
        session.uploads.sweep_arrived(session.traffic.is_decoded());
        accepted
    })
    .await
}
