//! Races on many threads: two sources, two destinations, clients that leave, clients that return, a report, and a short ttl, all
//! on one stream. Whichever client wins, the invariants hold. `crates/core/src/rendezvous/interleavings.rs` plays the same
//! without sockets, in every order that its scheduler chooses.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use rendezvous_server::config::Period;
use testkit::client::{End, Response, with_timeout};
use testkit::messages::framed;
use testkit::server::{TestServer, get, post, put_head};
use testkit::sides::Departure;
use tokio::task::JoinSet;

const STREAMS: usize = 240;
/// Streams at a time. Clients and server share the descriptors of one process: some 350, far below the usual limit of 1024.
const AT_ONCE: usize = 24;

/// The actions of one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Put,
    PutChunked,
    /// Sends a part of its body, and leaves by FIN or RST.
    PutAndLeave,
    Get,
    GetAndLeave,
    GetAndReturn,
    Report,
}

/// The actions of a client, and its response unless it left.
type Seen = (Act, Option<Response>);

/// The clients of a stream. Most streams have all clients that a transfer needs, some also clients that disturb it, and a few
/// have sources only.
fn clients_of(stream: usize) -> Vec<Act> {
    let mut acts = vec![Act::Put, Act::PutChunked];
    if stream % 24 != 23 {
        acts.extend([Act::Get, if stream.is_multiple_of(4) { Act::GetAndReturn } else { Act::Get }]);
    }
    if stream % 3 == 1 {
        acts.extend([Act::PutAndLeave, Act::GetAndLeave]);
    }
    if stream % 5 == 2 {
        acts.push(Act::Report);
    }
    let first = stream % acts.len();
    acts.rotate_left(first);
    acts
}

/// The body that a client sends. No two sources of a stream have a byte in common.
fn body(client: usize) -> Vec<u8> {
    let size = if client.is_multiple_of(2) { 20_000 } else { 300 };
    vec![b'A' + u8::try_from(client).unwrap(); size]
}

fn upload(act: Act, id: &str, body: &[u8]) -> Vec<u8> {
    let (fields, mut encoded) = framed(body, act == Act::PutChunked);
    if act == Act::PutAndLeave {
        encoded.truncate(body.len() / 2);
    }
    [put_head(id, &fields).into_bytes(), encoded].concat()
}

/// Plays the client with this number.
async fn perform(server: &TestServer, id: &str, act: Act, number: usize) -> Seen {
    let request = match act {
        Act::Put | Act::PutChunked | Act::PutAndLeave => upload(act, id, &body(number)),
        Act::Get | Act::GetAndLeave | Act::GetAndReturn => get(&format!("/stream/{id}")).into_bytes(),
        Act::Report => {
            post(&format!("/stream/{id}/error"), r#"{"http_status":418,"name":"N","message":"M"}"#)
        }
    };
    let how = if number.is_multiple_of(2) { Departure::Close } else { Departure::Reset };
    let mut client = server.connect().await;
    client.push(&request).await;
    match act {
        Act::PutAndLeave | Act::GetAndLeave => {
            client.leave(how);
            return (act, None);
        }
        Act::GetAndReturn => {
            client.leave(how);
            client = server.connect().await;
            client.push(&request).await;
        }
        _ => {}
    }
    let head = client.head().await.unwrap_or_else(|end| panic!("{act:?} gets no response: {end:?}"));
    (act, Some(client.rest(head).await))
}

/// Plays one stream to its end, checks the invariants, and returns the final state.
async fn race(server: Arc<TestServer>, stream: usize) -> String {
    let id = server.create().await;
    let mut clients = JoinSet::new();
    for (number, act) in clients_of(stream).into_iter().enumerate() {
        let (server, id) = (Arc::clone(&server), id.clone());
        clients.spawn(async move { (number, perform(&server, &id, act, number).await) });
    }
    let seen: BTreeMap<usize, Seen> = clients.join_all().await.into_iter().collect();
    let state = with_timeout(final_state(&server, &id)).await;
    check(&seen, &state).unwrap_or_else(|violated| panic!("violated: {violated}: {state}, {seen:#?}"));
    state
}

/// Waits for the final state: the server may notice the clients that left after all others have their responses.
async fn final_state(server: &TestServer, id: &str) -> String {
    loop {
        let status = server.ask(get(&format!("/stream/{id}/status"))).await;
        // On a slow machine, the server may have forgotten the stream by now.
        let state =
            if status.status == 404 { "forgotten".into() } else { status.json()["state"].to_string() };
        let state = state.trim_matches('"');
        if !["CREATED", "SRC_CONNECTED", "DST_CONNECTED", "STREAMING"].contains(&state) {
            return state.into();
        }
    }
}

fn check(seen: &BTreeMap<usize, Seen>, state: &str) -> Result<(), String> {
    let responses =
        || seen.iter().filter_map(|(number, (act, response))| Some((*number, *act, response.as_ref()?)));
    let is_source = |act: Act| matches!(act, Act::Put | Act::PutChunked);
    let sent: Vec<_> =
        responses().filter(|(_, act, response)| is_source(*act) && response.status == 200).collect();
    let begun: Vec<_> = responses()
        .filter(|(_, act, response)| matches!(act, Act::Get | Act::GetAndReturn) && response.status == 200)
        .collect();
    require(begun.len() <= 1 && sent.len() <= 1, "at most one pair")?;
    for (_, act, response) in responses().filter(|(_, _, response)| response.status != 200) {
        require(response.end == End::Whole, "an error response is whole")?;
        let error = response.error();
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
        require(is_known, &format!("{act:?} gets an error that the contract lists, not {error}"))?;
    }

    let whole = begun.iter().find(|(_, _, response)| response.end == End::Whole);
    if let Some((_, _, download)) = begun.first() {
        let first = download.body.first().copied();
        let source = first.map_or(0, |byte| usize::from(byte - b'A'));
        require(first.is_none() || body(source).starts_with(&download.body), "bytes of one source only")?;
        if whole.is_some() {
            require(download.body == body(source), "a whole download is a whole upload")?;
            require(
                sent.iter().any(|(number, ..)| *number == source),
                "the source of a whole download gets 200",
            )?;
        }
    }
    // A destination that left may have received everything before.
    let left = seen.values().any(|(act, _)| matches!(act, Act::GetAndLeave | Act::GetAndReturn));
    let delivered = whole.is_some() || (left && begun.is_empty());
    require(sent.is_empty() || delivered, "a source gets 200 only when its bytes arrived")?;

    let reported = responses().any(|(_, act, response)| act == Act::Report && response.status == 200);
    let notified = responses().filter(|(_, _, response)| response.status == 418).count();
    let expired = responses().filter(|(_, _, response)| response.status == 504).count();
    require(notified <= usize::from(reported), "a report reaches one client at most")?;
    require(expired <= 1 && (expired == 0 || begun.is_empty()), "only a side that waits alone gets 504")?;
    require(!reported || begun.is_empty(), "a reported stream transfers nothing")?;
    match state {
        "FINISHED" => require(!sent.is_empty() && delivered, "both sides of a finished stream see success"),
        "CLIENT_ERROR" => require(reported, "CLIENT_ERROR needs a report"),
        "forgotten" => Ok(()),
        _ => require(sent.is_empty() && !reported, "no client of a failed stream sees success"),
    }
}

fn require(holds: bool, invariant: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(invariant.into()) }
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
    // Without these outcomes, there were no races.
    for end in ["FINISHED", "CLIENT_ERROR", "TIMEOUT_NO_DST"] {
        assert!(ends.contains_key(end), "{ends:?}");
    }
}
