//! HTTP/2 by the h2 crate: a connection for each side.

use std::future::{pending, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request};
use tokio::time::{sleep, timeout};

use super::{Dial, Ending, Errand, Script, View};
use crate::plan::{Act, Framing, Manner, Side};

/// For the last frames to go out.
const LAST_FRAMES: Duration = Duration::from_secs(2);

/// Does the errand over a connection of its own.
pub(super) async fn run(errand: Errand, dial: &Dial) -> View {
    let mut view = View::new(errand.side);
    let script = Script::new(&errand);
    let mut departure = pin!(script.departure());
    let connecting = async {
        let connection = dial.connect(&errand.party).await.map_err(|error| error.to_string())?;
        let (resets, room) = (connection.resets(), connection.room(&errand.party));
        let shaking = Builder::new()
            .initial_window_size(errand.party.window)
            .initial_connection_window_size(errand.party.window.max(65_535))
            .handshake::<_, Bytes>(connection);
        let (requests, connection) = shaking.await.map_err(|error| error.to_string())?;
        Ok::<_, String>((requests, connection, resets, room))
    };
    let connected = tokio::select! {
        connected = connecting => connected,
        manner = &mut departure => {
            view.ending = Ending::Left(manner);
            return view;
        }
    };
    let (requests, connection, resets, room) = match connected {
        Ok(connected) => connected,
        Err(error) => {
            view.ending = Ending::NoAnswer(format!("no connection: {error}"));
            return view;
        }
    };
    view.room = room;
    let frozen = AtomicBool::new(false);
    errand.log.note(errand.side, "connected");
    let mut connection = Some(Box::pin(connection));
    let left = {
        let mut exchange = pin!(exchange(&errand, requests, script, &mut view, &frozen, departure));
        // The exchange first: it may stop the connection, which then neither reads nor writes.
        poll_fn(|cx| {
            if let Poll::Ready(left) = exchange.as_mut().poll(cx) {
                return Poll::Ready(left);
            }
            if let Some(alive) = connection.as_mut().filter(|_| !frozen.load(Ordering::Relaxed))
                && alive.as_mut().poll(cx).is_ready()
            {
                // From this its streams learn that it has ended.
                connection = None;
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await
    };
    if view.bytes > 0 {
        // The library may have read as much ahead.
        view.room = view.room.map(|room| room + u64::from(errand.party.window));
    }
    if let Some(manner) = left {
        resets.leave_by(manner);
        view.ending = Ending::Left(manner);
        connection = connection.filter(|_| manner == Manner::ResetStream);
    }
    if let Some(connection) = connection {
        // Whether they went out, the server's answers show.
        let _ = timeout(LAST_FRAMES, connection).await;
    }
    view
}

/// `Some` where it left.
async fn exchange(
    errand: &Errand,
    mut requests: SendRequest<Bytes>,
    mut script: Script,
    view: &mut View,
    frozen: &AtomicBool,
    departure: impl Future<Output = Manner>,
) -> Option<Manner> {
    let (answer, mut send) = match ask(errand, &mut requests).await {
        Ok(asked) => asked,
        Err(error) => {
            view.ending = Ending::NoAnswer(error.to_string());
            return None;
        }
    };
    let left = match errand.side {
        Side::Source => {
            let (mut bytes, mut whole) = (0, false);
            let left = tokio::select! {
                biased;
                () = answered(answer, view) => None,
                manner = upload(errand, &mut send, &mut script, &mut bytes, &mut whole) => Some(manner),
                manner = departure => Some(manner),
            };
            (view.bytes, view.sent_whole) = (bytes, whole);
            left
        }
        Side::Destination => tokio::select! {
            biased;
            left = receive(errand, answer, &mut script, view, frozen) => left,
            manner = departure => Some(manner),
        },
    };
    if left == Some(Manner::ResetStream) {
        send.send_reset(Reason::CANCEL);
    }
    left
}

async fn ask(
    errand: &Errand,
    requests: &mut SendRequest<Bytes>,
) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
    poll_fn(|cx| requests.poll_ready(cx)).await?;
    let (method, is_whole) = match errand.side {
        Side::Source => (Method::PUT, false),
        Side::Destination => (Method::GET, true),
    };
    let mut request = Request::new(());
    *request.method_mut() = method;
    *request.uri_mut() = format!("http://localhost{}", errand.path).parse().unwrap_or_default();
    if errand.side == Side::Source && errand.framing == Framing::Length {
        request.headers_mut().insert(http::header::CONTENT_LENGTH, errand.body.size.into());
    }
    requests.send_request(request, is_whole)
}

/// Sends until it is to leave; a stream that breaks is the reader's to see.
async fn upload(
    errand: &Errand,
    send: &mut SendStream<Bytes>,
    script: &mut Script,
    bytes: &mut u64,
    whole: &mut bool,
) -> Manner {
    let body = &errand.body;
    loop {
        // As in HTTP/1: a declared length is an end of its own.
        *whole = errand.framing == Framing::Length && *bytes == body.size;
        while let Some(act) = script.due(*bytes) {
            match act {
                Act::Leave(manner) => return manner,
                Act::Stall(time) => sleep(time).await,
                Act::HalfClose | Act::Break => {}
            }
        }
        let is_last = *bytes == body.size;
        let most = script.next_offset().map_or(u64::MAX, |offset| offset - *bytes);
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(errand.party.piece);
        let mut piece = Bytes::from(body.piece(*bytes, most));
        while !piece.is_empty() {
            send.reserve_capacity(piece.len());
            let Some(Ok(room)) = poll_fn(|cx| send.poll_capacity(cx)).await else { return pending().await };
            let now = piece.split_to(room.min(piece.len()));
            *bytes += now.len() as u64;
            if send.send_data(now, false).is_err() {
                return pending().await;
            }
        }
        if is_last {
            *whole = send.send_data(Bytes::new(), true).is_ok();
            return pending().await;
        }
    }
}

async fn answered(answer: ResponseFuture, view: &mut View) {
    match answer.await {
        Ok(response) => {
            let status = response.status().as_u16();
            small(status, response.into_body(), view).await;
        }
        Err(error) => view.ending = Ending::NoAnswer(error.to_string()),
    }
}

async fn small(status: u16, mut body: RecvStream, view: &mut View) {
    let mut whole = Vec::new();
    while let Some(data) = body.data().await {
        match data {
            Ok(data) => {
                // What is given back is no more than what came.
                let _ = body.flow_control().release_capacity(data.len());
                whole.extend_from_slice(&data);
            }
            Err(error) => {
                view.answered(status, b"");
                view.ending = Ending::Cut(error.to_string());
                return;
            }
        }
    }
    view.answered(status, &whole);
    view.ending = Ending::Whole;
}

/// `Some` where it left.
async fn receive(
    errand: &Errand,
    answer: ResponseFuture,
    script: &mut Script,
    view: &mut View,
    frozen: &AtomicBool,
) -> Option<Manner> {
    if script.next_offset() == Some(0) {
        // The request is to go out before anything happens.
        tokio::task::yield_now().await;
    }
    if let Some(manner) = act(script, view, frozen).await {
        return Some(manner);
    }
    let response = match answer.await {
        Ok(response) => response,
        Err(error) => {
            view.ending = Ending::NoAnswer(error.to_string());
            return None;
        }
    };
    let status = response.status().as_u16();
    let mut body = response.into_body();
    if status != 200 {
        small(status, body, view).await;
        return None;
    }
    view.answered(status, b"");
    while let Some(data) = body.data().await {
        let data = match data {
            Ok(data) => data,
            Err(error) => {
                view.ending = Ending::Cut(error.to_string());
                return None;
            }
        };
        view.got(&errand.body, &data);
        errand.progress.send_replace(view.bytes);
        if let Some(manner) = act(script, view, frozen).await {
            return Some(manner);
        }
        let _ = body.flow_control().release_capacity(data.len());
    }
    view.ending = Ending::Whole;
    None
}

/// Does what is due. `Some` where it leaves.
async fn act(script: &mut Script, view: &View, frozen: &AtomicBool) -> Option<Manner> {
    while let Some(act) = script.due(view.bytes) {
        match act {
            Act::Leave(manner) => return Some(manner),
            Act::Stall(time) => {
                frozen.store(true, Ordering::Relaxed);
                sleep(time).await;
                frozen.store(false, Ordering::Relaxed);
            }
            Act::HalfClose | Act::Break => {}
        }
    }
    None
}
