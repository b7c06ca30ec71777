//! An HTTP/2 client, by the h2 crate, with a connection for each side.

use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, EXPECT};
use http::{HeaderName, HeaderValue, Method, Request, Response};
use tokio::time::{sleep, timeout};

use super::{Connection, Dial, Ending, Errand, Interims, Script, Switches, View, until_cue, until_received};
use crate::plan::{Act, Framing, Manner, Side};

/// The budget for small DATA frames of hyper's clients: half of their connection window of 5 MiB. The default would follow from our
/// smaller windows.
const SMALL_FRAMES: usize = 5 << 19;
/// The time for the last frames to be sent.
const LAST_FRAMES: Duration = Duration::from_secs(2);

const PREFER: HeaderName = HeaderName::from_static("prefer");

/// Runs the errand on a connection of its own.
pub(super) async fn run(errand: Errand, dial: &Dial, view: &mut View) {
    let script = Script::new(&errand);
    let mut departure = pin!(script.departure());
    let connected = tokio::select! {
        connected = connect(&errand, dial) => connected,
        manner = &mut departure => {
            view.ending = Ending::Left(manner);
            return;
        }
    };
    let Connected { requests, connection, switches, room } = match connected {
        Ok(connected) => connected,
        Err(error) => {
            view.ending = Ending::NoAnswer(format!("no connection: {error}"));
            return;
        }
    };
    view.room = room;
    errand.log.note(errand.side, "connected");
    let mut connection = Some(connection);
    let exchange = exchange(&errand, requests.clone(), script, view, &switches, departure);
    let left = drive(exchange, &mut connection, &switches).await;
    if view.bytes > 0 {
        // The library may have read this much ahead.
        view.room = view.room.map(|room| room + u64::from(errand.party.window));
    }
    if let Some(manner) = left {
        switches.leave_by(manner);
        view.ending = Ending::Left(manner);
    }
    if let Some(connection) = connection {
        close(&errand, requests, connection, left).await;
    }
}

/// A connection after its handshake.
struct Connected {
    requests: SendRequest<Bytes>,
    connection: Driver,
    switches: Switches,
    /// The bound on the unread bytes that the kernel accepts, if any.
    room: Option<u64>,
}

/// The future that reads and writes a connection.
type Driver = Pin<Box<h2::client::Connection<Connection>>>;

async fn connect(errand: &Errand, dial: &Dial) -> Result<Connected, String> {
    let connection = dial.connect(&errand.party).await.map_err(|error| error.to_string())?;
    let (switches, room) = (connection.switches(), connection.room(&errand.party));
    let shaking = Builder::new()
        .initial_window_size(errand.party.window)
        .initial_connection_window_size(errand.party.window.max(65_535))
        .data_frame_budget(SMALL_FRAMES)
        .handshake::<_, Bytes>(connection);
    let (requests, connection) = shaking.await.map_err(|error| error.to_string())?;
    Ok(Connected { requests, connection: Box::pin(connection), switches, room })
}

/// Runs the exchange and its connection until the exchange has ended. The connection is `None` once it has ended itself.
async fn drive<T>(
    exchange: impl Future<Output = T>,
    connection: &mut Option<Driver>,
    switches: &Switches,
) -> T {
    let mut exchange = pin!(exchange);
    // Polls the exchange first: it may stop the connection, which then neither reads nor writes.
    poll_fn(|cx| {
        if let Poll::Ready(left) = exchange.as_mut().poll(cx) {
            return Poll::Ready(left);
        }
        if let Some(alive) = connection.as_mut().filter(|_| !switches.is_frozen())
            && alive.as_mut().poll(cx).is_ready()
        {
            // This notifies its streams that it has ended.
            *connection = None;
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await
}

/// Closes the connection, or keeps it, after the exchange that ended in this way.
async fn close(errand: &Errand, requests: SendRequest<Bytes>, connection: Driver, left: Option<Manner>) {
    match left {
        // A client that cancels a request keeps the connection for the next one.
        Some(Manner::ResetStream) => {
            errand.kept.lock().spawn(async move {
                let _requests = requests;
                // Its result does not matter.
                let _ = connection.await;
            });
        }
        Some(_) => {}
        None => {
            drop(requests);
            // The server's responses show whether they were sent.
            let _ = timeout(LAST_FRAMES, connection).await;
        }
    }
}

/// `Some` if it left.
async fn exchange(
    errand: &Errand,
    mut requests: SendRequest<Bytes>,
    mut script: Script,
    view: &mut View,
    switches: &Switches,
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
            let interims = Interims::default();
            let sending = async {
                interims.until_continue(errand).await;
                upload(errand, &mut send, &mut script, &mut bytes, &mut whole).await
            };
            let left = tokio::select! {
                biased;
                () = answered(answer, view, &interims) => None,
                manner = sending => Some(manner),
                manner = departure => Some(manner),
            };
            (view.bytes, view.sent_whole, view.interims) = (bytes, whole, interims.count());
            left
        }
        Side::Destination => tokio::select! {
            biased;
            left = receive(errand, answer, &mut script, view, switches) => left,
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
    *request.uri_mut() = format!("http://localhost{}", errand.target).parse().unwrap_or_default();
    if errand.side == Side::Source && errand.framing == Framing::Length {
        request.headers_mut().insert(CONTENT_LENGTH, errand.body.size.into());
    }
    if let Some(value) = errand.party.expects {
        request.headers_mut().insert(EXPECT, HeaderValue::from_static(value));
    }
    if let Some(seconds) = errand.party.wait {
        let value = HeaderValue::from_str(&format!("wait={seconds}"));
        request.headers_mut().extend(value.ok().map(|value| (PREFER, value)));
    }
    requests.send_request(request, is_whole)
}

/// Sends until the departure. The reader notices a broken HTTP/2 stream.
async fn upload(
    errand: &Errand,
    send: &mut SendStream<Bytes>,
    script: &mut Script,
    bytes: &mut u64,
    whole: &mut bool,
) -> Manner {
    let body = &errand.body;
    loop {
        // As in HTTP/1, a declared length ends the body by itself.
        *whole = errand.framing == Framing::Length && *bytes == body.size;
        while let Some(act) = script.due(*bytes) {
            if let Some(manner) = perform(act, errand, send, *bytes).await {
                return manner;
            }
        }
        let is_last = *bytes == body.size;
        let mut piece = Bytes::from(script.piece(body, *bytes, errand.party.piece));
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
            errand.log.note(errand.side, "has sent its whole message");
            while let Some(act) = script.due_at_end() {
                if let Some(manner) = perform(act, errand, send, *bytes).await {
                    return manner;
                }
            }
            return pending().await;
        }
    }
}

/// Takes the steps of a source that are due after this number of bytes. `Some` if it leaves.
async fn perform(act: Act, errand: &Errand, send: &mut SendStream<Bytes>, bytes: u64) -> Option<Manner> {
    match act {
        Act::Leave(manner) => return Some(manner),
        Act::Stall(time) => sleep(time).await,
        Act::Await(offset) => until_received(errand, offset).await,
        Act::AwaitPair | Act::AwaitIntruder => until_cue(errand).await,
        Act::Break => {
            // The rest of the body, and a byte more than declared.
            let mut excess = errand.body.piece(bytes, usize::MAX);
            excess.push(0);
            // Fails if the server has reset the HTTP/2 stream.
            let _ = send.send_data(excess.into(), true);
            return pending().await;
        }
        Act::HalfClose | Act::StopReading | Act::Withhold(_) => {}
    }
    None
}

async fn answered(answer: ResponseFuture, view: &mut View, interims: &Interims) {
    match final_answer(answer, interims).await {
        Ok(response) => {
            let status = response.status().as_u16();
            small(status, response.into_body(), view).await;
        }
        Err(error) => view.ending = Ending::NoAnswer(error.to_string()),
    }
}

/// The final response. Counts those before it.
async fn final_answer(
    mut answer: ResponseFuture,
    interims: &Interims,
) -> Result<Response<RecvStream>, h2::Error> {
    poll_fn(|cx| {
        while let Poll::Ready(Some(Ok(_))) = answer.poll_informational(cx) {
            interims.came();
        }
        Pin::new(&mut answer).poll(cx)
    })
    .await
}

async fn small(status: u16, mut body: RecvStream, view: &mut View) {
    let mut whole = Vec::new();
    while let Some(data) = body.data().await {
        match data {
            Ok(data) => {
                // The released capacity is no more than the received one.
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

/// `Some` if it left.
async fn receive(
    errand: &Errand,
    answer: ResponseFuture,
    script: &mut Script,
    view: &mut View,
    switches: &Switches,
) -> Option<Manner> {
    if script.next_offset() == Some(0) {
        // The request must be sent before any step.
        tokio::task::yield_now().await;
    }
    if let Some(manner) = act(errand, switches, || script.due(0)).await {
        return Some(manner);
    }
    let interims = Interims::default();
    let answer = final_answer(answer, &interims).await;
    view.interims = interims.count();
    let response = match answer {
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
        if let Some(manner) = act(errand, switches, || script.due(view.bytes)).await {
            return Some(manner);
        }
        let _ = body.flow_control().release_capacity(data.len());
    }
    if let Some(manner) = act(errand, switches, || script.due_at_end()).await {
        return Some(manner);
    }
    view.ending = Ending::Whole;
    None
}

/// Takes the due steps of a destination. `Some` if it leaves.
async fn act(errand: &Errand, switches: &Switches, mut due: impl FnMut() -> Option<Act>) -> Option<Manner> {
    while let Some(act) = due() {
        match act {
            Act::Leave(manner) => return Some(manner),
            Act::Stall(time) => {
                switches.freeze(true);
                sleep(time).await;
                switches.freeze(false);
            }
            Act::Withhold(time) => sleep(time).await,
            Act::AwaitPair | Act::AwaitIntruder => until_cue(errand).await,
            Act::StopReading => switches.stop_reading(),
            Act::HalfClose | Act::Break | Act::Await(_) => {}
        }
    }
    None
}
