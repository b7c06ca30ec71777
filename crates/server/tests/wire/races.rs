//! All at once, on many threads: two sources, two destinations, some who leave and some who return, a report, and a time to
//! live that is soon over. Whoever wins, the laws hold. `src/rendezvous/interleavings.rs` is the same without sockets, in orders
//! that are chosen.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use rendezvous_server::config::Period;
use testkit::client::{Client, End, Response, soon};
use testkit::server::{TestServer, get, post, put_head};
use tokio::task::JoinSet;

const STREAMS: usize = 240;
/// With their clients and the server in one process, this is far below the fewest descriptors that a system gives.
const AT_ONCE: usize = 24;

/// What one client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Put,
    PutChunked,
    /// Brings a part of its body, and leaves by FIN or RST.
    PutAndLeave,
    Get,
    GetAndLeave,
    GetAndReturn,
    Report,
}

/// How a client was answered, if it stayed to be.
type Seen = (Act, Option<Response>);

/// Who comes to a stream: to most all who can make it go well, to some what makes that unlikely, to a few one side only.
fn cast(stream: usize) -> Vec<Act> {
    let mut cast = vec![Act::Put, Act::PutChunked];
    if stream % 24 != 23 {
        cast.extend([Act::Get, if stream.is_multiple_of(4) { Act::GetAndReturn } else { Act::Get }]);
    }
    if stream % 3 == 1 {
        cast.extend([Act::PutAndLeave, Act::GetAndLeave]);
    }
    if stream % 5 == 2 {
        cast.push(Act::Report);
    }
    let first = stream % cast.len();
    cast.rotate_left(first);
    cast
}

/// No two sources of a stream have a byte in common.
fn body(party: usize) -> Vec<u8> {
    let size = if party.is_multiple_of(2) { 20_000 } else { 300 };
    vec![b'A' + u8::try_from(party).unwrap(); size]
}

fn upload(act: Act, id: &str, body: &[u8]) -> Vec<u8> {
    let (head, body) = match act {
        Act::PutChunked => {
            let size = format!("{:x}\r\n", body.len());
            (
                put_head(id, "Transfer-Encoding: chunked\r\n"),
                [size.as_bytes(), body, b"\r\n0\r\n\r\n"].concat(),
            )
        }
        Act::PutAndLeave => {
            (put_head(id, &format!("Content-Length: {}\r\n", body.len())), body[..body.len() / 2].to_vec())
        }
        _ => (put_head(id, &format!("Content-Length: {}\r\n", body.len())), body.to_vec()),
    };
    [head.into_bytes(), body].concat()
}

fn leave(client: Client, party: usize) {
    if party.is_multiple_of(2) { client.close() } else { client.reset() }
}

async fn perform(server: &TestServer, id: &str, act: Act, party: usize) -> Seen {
    let request = match act {
        Act::Put | Act::PutChunked | Act::PutAndLeave => upload(act, id, &body(party)),
        Act::Get | Act::GetAndLeave | Act::GetAndReturn => get(&format!("/stream/{id}")).into_bytes(),
        Act::Report => {
            post(&format!("/stream/{id}/error"), r#"{"http_status":418,"name":"N","message":"M"}"#)
        }
    };
    let mut client = server.connect().await;
    client.push(&request).await;
    match act {
        Act::PutAndLeave | Act::GetAndLeave => {
            leave(client, party);
            return (act, None);
        }
        Act::GetAndReturn => {
            leave(client, party);
            client = server.connect().await;
            client.push(&request).await;
        }
        _ => {}
    }
    let head = client.head().await.unwrap_or_else(|end| panic!("{act:?} gets no answer: {end:?}"));
    (act, Some(client.rest(head).await))
}

/// Plays one stream to its end, holds the laws, and says how it ended.
async fn race(server: Arc<TestServer>, stream: usize) -> String {
    let id = server.create().await;
    let mut parties = JoinSet::new();
    for (party, act) in cast(stream).into_iter().enumerate() {
        let (server, id) = (Arc::clone(&server), id.clone());
        parties.spawn(async move { (party, perform(&server, &id, act, party).await) });
    }
    let seen: BTreeMap<usize, Seen> = parties.join_all().await.into_iter().collect();
    let state = soon(ended(&server, &id)).await;
    judge(&seen, &state).unwrap_or_else(|law| panic!("{law}: {state}, {seen:#?}"));
    state
}

/// How the stream has ended. Those who left may be the last to be missed.
async fn ended(server: &TestServer, id: &str) -> String {
    loop {
        let status = server.ask(get(&format!("/stream/{id}/status"))).await;
        // A slow machine may have forgotten it by now.
        let state =
            if status.status == 404 { "forgotten".into() } else { status.json()["state"].to_string() };
        let state = state.trim_matches('"');
        if !["CREATED", "SRC_CONNECTED", "DST_CONNECTED", "STREAMING"].contains(&state) {
            return state.into();
        }
    }
}

fn judge(seen: &BTreeMap<usize, Seen>, state: &str) -> Result<(), String> {
    let answers = || seen.iter().filter_map(|(party, (act, answer))| Some((*party, *act, answer.as_ref()?)));
    let is_source = |act: Act| matches!(act, Act::Put | Act::PutChunked);
    let sent: Vec<_> = answers().filter(|(_, act, answer)| is_source(*act) && answer.status == 200).collect();
    let begun: Vec<_> = answers()
        .filter(|(_, act, answer)| matches!(act, Act::Get | Act::GetAndReturn) && answer.status == 200)
        .collect();
    law(begun.len() <= 1 && sent.len() <= 1, "one pair at most")?;
    for (_, act, answer) in answers().filter(|(_, _, answer)| answer.status != 200) {
        law(answer.end == End::Whole, "an error is told whole")?;
        let error = answer.error();
        let is_known = match act {
            Act::Report => ["404 SessionNotFoundError", "409 StreamStartedError"].contains(&&error[..]),
            _ => [
                "404 SessionNotFoundError",
                "418 N",
                "429 AlreadyConnectedError",
                "502 StreamDestinationError",
                "502 StreamSourceError",
                "504 SessionTimeoutError",
            ]
            .contains(&&error[..]),
        };
        law(is_known, &format!("{act:?} is answered by the contract, and not by {error}"))?;
    }

    let whole = begun.iter().find(|(_, _, answer)| answer.end == End::Whole);
    if let Some((_, _, download)) = begun.first() {
        let first = download.body.first().copied();
        let source = first.map_or(0, |byte| usize::from(byte - b'A'));
        law(first.is_none() || body(source).starts_with(&download.body), "bytes of one source")?;
        if whole.is_some() {
            law(download.body == body(source), "a whole download is a whole upload")?;
            law(sent.iter().any(|(party, ..)| *party == source), "its source is told so, as is no other")?;
        }
    }
    // Who leaves may have got everything just before.
    let left = seen.values().any(|(act, _)| matches!(act, Act::GetAndLeave | Act::GetAndReturn));
    let delivered = whole.is_some() || (left && begun.is_empty());
    law(sent.is_empty() || delivered, "a sender's 200 means that the bytes arrived")?;

    let reported = answers().any(|(_, act, answer)| act == Act::Report && answer.status == 200);
    let told = answers().filter(|(_, _, answer)| answer.status == 418).count();
    let expired = answers().filter(|(_, _, answer)| answer.status == 504).count();
    law(told <= usize::from(reported), "a report is told once")?;
    law(expired <= 1 && (expired == 0 || begun.is_empty()), "who waits alone is told that the time is over")?;
    law(!reported || begun.is_empty(), "a reported stream streams nothing")?;
    match state {
        "FINISHED" => law(!sent.is_empty() && delivered, "finished, and both are told so"),
        "CLIENT_ERROR" => law(reported, "somebody reported an error"),
        "forgotten" => Ok(()),
        _ => law(sent.is_empty() && !reported, "it failed, and nobody is told otherwise"),
    }
}

fn law(holds: bool, text: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(text.into()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_invariants_hold_whichever_client_wins() {
    let server = TestServer::start_with(|config| config.ttl = Period::from_secs(2)).await;
    let server = Arc::new(server);
    let races = futures_util::stream::iter(0..STREAMS)
        .map(|stream| tokio::spawn(race(Arc::clone(&server), stream)))
        .buffer_unordered(AT_ONCE);
    let ends = races.fold(BTreeMap::<String, usize>::new(), |mut ends, end| async {
        *ends.entry(end.unwrap()).or_default() += 1;
        ends
    });
    let ends = ends.await;
    // Otherwise nothing was proved.
    for end in ["FINISHED", "CLIENT_ERROR", "TIMEOUT_NO_DST"] {
        assert!(ends.contains_key(end), "{ends:?}");
    }
}
