//! The fast lane: a plain `PUT` or `GET` of a stream, or a `POST` that makes one, without hyper between the sockets.
//!
//! It decides nothing. The head has passed the same scanner, and the same handlers answer; the lane only reads the request
//! and writes the answer by itself. Whatever is not in the plainest form goes to hyper, which is given the same bytes.
//!
//! A body whose length is known and whose source is in this lane too is moved by the kernel; any other is written from the
//! source's own buffers, a batch at a time. Buffers and pipes are held only while relaying, never while waiting.

use std::future::poll_fn;
use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::OptionFuture;
use http::header::CONNECTION;
use http::response::Parts;
use http::{Method, Version};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Body;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::http::message::{self, BodyFraming};
use crate::http::peer::Peer;
use crate::http::reply::{self, Reply};
use crate::http::route::Route;
use crate::http::{App, Asks, Departed, PlainRequest, answer_plain, passed_headers};
use crate::metrics::Lane;
use crate::outcome::Fault;
use crate::relay::{Offer, Piece, Relay, SocketBody, SourceBody};
use crate::splice::{Filled, Pipe, Pipes};
use crate::wire::head::{Fields, Framing, Head, with_fields};
use crate::wire::inbound::Peek;

/// Below this many bytes a splice is not worth its system calls.
const SPLICE_FROM: u64 = 64 * 1024;
/// Pieces of a body that are written at a time.
const MAX_BATCH: usize = 48;
/// Bytes of a body that are gathered before they are written.
const MAX_BATCH_BYTES: usize = 256 * 1024;

/// What became of a connection's next request.
pub(super) enum Next {
    /// It was answered, and the connection goes on.
    Request,
    /// hyper is to take the connection from here; nothing of the request is lost.
    Hyper,
    /// It is HTTP/2 from here; nothing of it is lost.
    Http2,
    /// It was answered, and the answer was the last; `whole` where it was written to its end.
    Closed {
        /// The answer was written to its end.
        whole: bool,
    },
    /// The client has closed the connection, or left it.
    Gone,
}

/// A request for this lane.
struct Plain {
    /// Boxed: a waiting side does not reserve space for its request.
    request: Box<PlainRequest>,
    /// The client wants the connection closed behind the answer.
    closes: bool,
}

/// Serves the connection's next request, if it is one for this lane. While it `drains`, a connection that has been served
/// is closed, and only a fresh one is still to say what it wants.
pub(super) async fn serve(
    peer: &Arc<Peer>,
    app: &App,
    pipes: &Arc<Pipes>,
    draining: &CancellationToken,
    is_fresh: bool,
) -> Next {
    let Plain { request, closes } = match read_request(peer, app, (!is_fresh).then_some(draining)).await {
        Ok(request) => request,
        Err(next) => return next,
    };
    // Chained and boxed: a waiting side reserves no space for its response and for what writes it.
    let respond = |answered: Result<Reply, Departed>| {
        Box::pin(respond(peer, app, pipes, closes || draining.is_cancelled(), answered))
    };
    answer_plain(app, peer, request).then(respond).await
}

/// Waits for the next request, or until `given_up`.
async fn read_request(peer: &Peer, app: &App, given_up: Option<&CancellationToken>) -> Result<Plain, Next> {
    let (head, bytes) = peek(peer, given_up).await?;
    let request = with_fields(&bytes, |fields| plain(peer, app, head, fields)).ok_or(Next::Hyper)?;
    peer.wire().inbound().lock().take_head();
    peer.taken_by(Lane::Fast);
    Ok(request)
}

/// Waits for the next request and leaves it where it is; what else may come is told as an error.
pub(super) async fn peek(peer: &Peer, given_up: Option<&CancellationToken>) -> Result<(Head, Bytes), Next> {
    let wire = peer.wire();
    let given_up = OptionFuture::from(given_up.map(CancellationToken::cancelled));
    let peeked = tokio::select! {
        biased;
        peeked = poll_fn(|cx| wire.inbound().lock().poll_peek(wire.socket(), cx)) => peeked,
        Some(()) = given_up => return Err(Next::Gone),
    };
    match peeked {
        Ok(Peek::Head(head, bytes)) => Ok((head, bytes)),
        Ok(Peek::Refused) => Err(Next::Hyper),
        Ok(Peek::Http2) => Err(Next::Http2),
        Ok(Peek::End) | Err(_) => Err(Next::Gone),
    }
}

/// Writes the answer, if there is one, as the connection's last where it `closes`.
async fn respond(
    peer: &Peer,
    app: &App,
    pipes: &Arc<Pipes>,
    closes: bool,
    answered: Result<Reply, Departed>,
) -> Next {
    let Ok(mut reply) = answered else { return Next::Gone };
    if closes {
        reply::close(&mut reply);
    }
    let (parts, body) = reply.into_parts();
    match body {
        Either::Left(body) => write_small(peer, app, &parts, body).await,
        Either::Right(relay) => Next::Closed { whole: stream(peer, pipes, &parts, relay).await },
    }
}

/// The request, if it is in the plainest form.
fn plain(peer: &Peer, app: &App, head: Head, fields: &Fields<'_, '_>) -> Option<Plain> {
    if app.cors.is_on() && fields.has("origin") {
        return None;
    }
    let method = Method::from_bytes(fields.method.as_bytes()).ok()?;
    let has_body = head.framing != Framing::Empty || fields.has("expect");
    let route =
        Route::parse(&method, fields.target).filter(|route| app.access.serves(peer.entrance(), route))?;
    let permitted = app.permit(peer, &route, fields).map_err(Box::new);
    let asks = match route {
        Route::Create if !has_body => Asks::Create,
        Route::Destination(id) if !has_body => Asks::Destination(id),
        Route::Source(id) if !fields.has("content-range") => {
            Asks::Source(id, Box::new(offer(peer, head, fields)))
        }
        _ => return None,
    };
    let version = if head.is_http11 { Version::HTTP_11 } else { Version::HTTP_10 };
    let mut closes = false;
    for value in fields.all("connection") {
        // hyper does not read such a value.
        if !value.is_ascii() {
            return None;
        }
        let mut tokens = value.split(|byte| *byte == b',');
        closes |= tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"close"));
    }
    let client = app.client(peer, fields.all("forwarded"), fields.all("x-forwarded-for"));
    Some(Plain { request: Box::new(PlainRequest { version, client, asks, permitted }), closes })
}

fn offer(peer: &Peer, head: Head, fields: &Fields<'_, '_>) -> Offer {
    let length = match head.framing {
        Framing::Empty => Some(0),
        Framing::Length(length) => Some(length),
        Framing::Chunked => None,
    };
    let headers = passed_headers(|name| fields.all(name.as_str()).collect());
    let body = SocketBody::new(Arc::clone(peer.wire()), head.framing, head.expects_continue);
    Offer { body: SourceBody::Socket(body), length, headers }
}

async fn write_small(peer: &Peer, app: &App, parts: &Parts, body: Full<Bytes>) -> Next {
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let head = message::head(parts, BodyFraming::Length(body.len() as u64));
    let mut buffers = [IoSlice::new(&head), IoSlice::new(&body)];
    let is_last = parts.headers.contains_key(CONNECTION);
    let write = async {
        if is_last {
            peer.socket().write_last(&mut buffers).await
        } else {
            peer.socket().write_all(&mut buffers).await
        }
    };
    match timeout(app.request_timeout, write).await {
        Ok(Ok(())) if is_last => Next::Closed { whole: true },
        Ok(Ok(())) => Next::Request,
        Ok(Err(_)) => Next::Gone,
        Err(_) => {
            // The kernel is not to hold the rest of the answer for it.
            peer.socket().arm_reset();
            Next::Gone
        }
    }
}

/// Writes a stream to the destination. True where all of it was written.
async fn stream(peer: &Peer, pipes: &Arc<Pipes>, parts: &Parts, mut relay: Relay) -> bool {
    let framing = match relay.length() {
        _ if relay.is_end_stream() => BodyFraming::Length(0),
        Some(length) => BodyFraming::Length(length),
        None if parts.version == Version::HTTP_10 => BodyFraming::UntilClose,
        None => BodyFraming::Chunked,
    };
    let head = message::head(parts, framing);
    tokio::select! {
        biased;
        moved = move_body(peer, pipes, head, framing, &mut relay) => moved.is_ok(),
        () = peer.cut() => false,
        () = peer.wire().destination_left() => false,
    }
}

async fn move_body(
    peer: &Peer,
    pipes: &Arc<Pipes>,
    head: Vec<u8>,
    framing: BodyFraming,
    relay: &mut Relay,
) -> Result<(), Fault> {
    let by_kernel = |relay: &Relay| {
        let worth_it = relay.in_kernel().is_some_and(|(_, left)| left >= SPLICE_FROM);
        worth_it && framing != BodyFraming::Chunked && peer.socket().is_plain()
    };
    let mut head = Some(head);
    loop {
        if head.is_none()
            && by_kernel(relay)
            && let Some(pipe) = pipes.take()
        {
            splice_body(peer, pipe, relay).await?;
        }
        let batch = Batch::gather(relay, &by_kernel).await?;
        relay.awaits_destination();
        batch.write(peer, head.take().as_deref().unwrap_or_default(), framing).await?;
        match batch.end {
            None => {}
            Some(end) => return end,
        }
    }
}

/// Moves what is left of the body through `pipe`, as far as that goes.
async fn splice_body(peer: &Peer, mut pipe: Pipe, relay: &mut Relay) -> Result<(), Fault> {
    while let Some((source, left)) = relay.in_kernel() {
        let allowed = relay.allowance().await?;
        relay.awaits_source();
        match pipe.fill(source.socket(), left.min(allowed)).await {
            Ok(Filled::Bytes(taken)) => relay.taken_by_kernel(taken as u64),
            Ok(Filled::Unspliceable) => return Ok(()),
            Ok(Filled::End) | Err(_) => return Err(relay.source_gone()),
        }
        while pipe.held() > 0 {
            let passed = pipe.drain(peer.socket()).await.map_err(|_| Fault::DestinationDisconnected)?;
            relay.passed_by_kernel(passed);
        }
        tokio::task::consume_budget().await;
    }
    Ok(())
}

/// Pieces of a body that are there to be written.
struct Batch {
    pieces: Vec<Bytes>,
    bytes: usize,
    /// The body has ended behind them, well or not.
    end: Option<Result<(), Fault>>,
}

impl Batch {
    /// Waits for the next piece, and adds what is there already behind it, up to where the kernel can go on.
    async fn gather(relay: &mut Relay, by_kernel: &impl Fn(&Relay) -> bool) -> Result<Self, Fault> {
        let mut batch = Self { pieces: Vec::new(), bytes: 0, end: None };
        batch.add(relay.next().await);
        while batch.end.is_none()
            && batch.pieces.len() < MAX_BATCH
            && batch.bytes < MAX_BATCH_BYTES
            && !by_kernel(relay)
        {
            let Some(next) = relay.next().now_or_never() else { break };
            batch.add(next);
        }
        Ok(batch)
    }

    fn add(&mut self, next: Result<Piece, Fault>) {
        let data = match next {
            Ok(Piece::Data(data)) => data,
            Ok(Piece::Last(data)) => {
                self.end = Some(Ok(()));
                data
            }
            Err(fault) => {
                self.end = Some(Err(fault));
                return;
            }
        };
        self.bytes += data.len();
        self.pieces.push(data);
    }

    /// Writes the batch behind `head`, in one go if the kernel takes it.
    async fn write(&self, peer: &Peer, head: &[u8], framing: BodyFraming) -> Result<(), Fault> {
        let chunked = framing == BodyFraming::Chunked;
        let size_line = format!("{:x}\r\n", self.bytes);
        let last_chunk = matches!(self.end, Some(Ok(())));
        let mut buffers = Vec::with_capacity(self.pieces.len() + 4);
        buffers.push(IoSlice::new(head));
        if chunked && self.bytes > 0 {
            buffers.push(IoSlice::new(size_line.as_bytes()));
        }
        buffers.extend(self.pieces.iter().map(|piece| IoSlice::new(piece)));
        if chunked && self.bytes > 0 {
            buffers.push(IoSlice::new(b"\r\n"));
        }
        if chunked && last_chunk {
            buffers.push(IoSlice::new(b"0\r\n\r\n"));
        }
        let written = peer.socket().write_all(&mut buffers).await;
        written.map_err(|_| Fault::DestinationDisconnected)?;
        if let Some(transfer) = peer.receiving() {
            transfer.touch();
        }
        Ok(())
    }
}
