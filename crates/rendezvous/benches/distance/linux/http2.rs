//! The HTTP/2 client. It is never the limit: its windows are large, it reads at once, and its sources always have data.

use std::future::poll_fn;

use anyhow::{Context, ensure};
use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::header::CONTENT_LENGTH;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::side::{Amount, PIECE};

/// The receive windows, in bytes.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 128 << 20;
/// What the library takes of a source before it has written it, in bytes.
const SEND_BUFFER: usize = 1 << 20;

/// Begins HTTP/2. The connection ends with its last request.
pub(crate) async fn handshake(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> anyhow::Result<SendRequest<Bytes>> {
    let mut builder = Builder::new();
    builder.initial_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    builder.max_send_buffer_size(SEND_BUFFER);
    let (requests, connection) = builder.handshake(socket).await?;
    // Its failures are those of its requests.
    tokio::spawn(connection);
    Ok(requests)
}

/// Uploads, and returns the size of the body when the response is there, which must be a success.
pub(crate) async fn put(requests: SendRequest<Bytes>, path: &str, amount: Amount) -> anyhow::Result<u64> {
    let mut request = request("PUT", path)?;
    if let Amount::Exactly(bytes) = amount {
        request.headers_mut().insert(CONTENT_LENGTH, bytes.into());
    }
    let (response, mut body) = requests.ready().await?.send_request(request, false)?;
    let sent = match amount {
        Amount::Exactly(bytes) => {
            let mut left = bytes;
            while left > 0 {
                left -= send_piece(&mut body, left).await?;
            }
            bytes
        }
        Amount::Within(duration, bytes) => {
            let (mut sent, until) = (0, Instant::now() + duration);
            while sent < bytes && Instant::now() < until {
                sent += send_piece(&mut body, bytes - sent).await?;
            }
            sent
        }
    };
    body.send_data(Bytes::new(), true)?;
    success(response).await?;
    Ok(sent)
}

/// An upload that has not ended. Dropping it resets it.
pub(crate) type Unfinished = (ResponseFuture, SendStream<Bytes>);

/// Begins an upload, and sends as much as a window has room for whose upload waits.
pub(crate) async fn fill(requests: SendRequest<Bytes>, path: &str) -> anyhow::Result<Unfinished> {
    const WINDOW: u64 = 65_535;
    let (response, mut body) = requests.ready().await?.send_request(request("PUT", path)?, false)?;
    let mut left = WINDOW;
    while left > 0 {
        left -= send_piece(&mut body, left).await?;
    }
    Ok((response, body))
}

/// Sends as much of a piece as the window has room for, at most `limit` bytes.
async fn send_piece(body: &mut SendStream<Bytes>, limit: u64) -> anyhow::Result<u64> {
    let wanted = PIECE.len().min(usize::try_from(limit).unwrap_or(usize::MAX));
    body.reserve_capacity(wanted);
    let capacity = poll_fn(|cx| body.poll_capacity(cx)).await.context("the upload was reset")??;
    let count = capacity.min(wanted);
    body.send_data(PIECE.slice(..count), false)?;
    Ok(count as u64)
}

/// Sends the head of a GET.
pub(crate) async fn get(requests: SendRequest<Bytes>, path: &str) -> anyhow::Result<ResponseFuture> {
    Ok(requests.ready().await?.send_request(request("GET", path)?, true)?.0)
}

/// Receives the body to its end, and returns its size.
pub(crate) async fn discard(response: ResponseFuture) -> anyhow::Result<u64> {
    let mut body = success(response).await?.into_body();
    let mut size = 0;
    while let Some(data) = body.data().await {
        let count = data?.len();
        body.flow_control().release_capacity(count)?;
        size += count as u64;
    }
    Ok(size)
}

async fn success(response: ResponseFuture) -> anyhow::Result<Response<RecvStream>> {
    let response = response.await?;
    ensure!(response.status().is_success(), "{}", response.status());
    Ok(response)
}

fn request(method: &str, path: &str) -> anyhow::Result<Request<()>> {
    Ok(Request::builder().method(method).uri(format!("https://localhost{path}")).body(())?)
}
