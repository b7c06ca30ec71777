//! The probes: each sends requests through the proxies to itself and returns what it saw, without a judgement.
//!
//! *Concurrency.* Each has paths of its own, so all run at the same time.

use std::time::{Duration, SystemTime};

use rendezvous_client::link::Id;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::wire::{Answer, Connection, Target};
use crate::cli::transfer::text::harmless;

/// How long a byte, or a response that needs no waiting, may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The size of the largest segment of `send`, and so of the largest body that is declared.
pub(super) const LARGEST_BODY: u64 = 64 << 20;
/// The smallest limit that is told apart. The smallest segment of `send` is smaller.
const SMALLEST_BODY: u64 = 128 << 10;
/// The size of the body that is really sent.
const SENT_BODY: usize = 2 << 20;
/// What is sent behind a byte that does not arrive.
const FILLING: usize = 64 << 10;
const FIRST: &[u8] = b"<the first piece>";
const LAST: &[u8] = b"<the last piece>";

/// A path that nobody else uses.
fn path() -> String {
    format!("p/doctor-{}", Id::random())
}

/// What answers at the URL.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) status: u16,
    /// The version, if it is a relay.
    pub(super) version: Option<String>,
    /// What the proxies say about themselves: `Server` and `Via`.
    pub(super) through: Option<String>,
    /// How far the clock of the server is ahead of ours, in seconds.
    pub(super) clock: Option<i64>,
}

pub(super) async fn identity(target: &Target) -> anyhow::Result<Identity> {
    let (answer, body) = target.ask("GET", "openapi.json", &[], PATIENCE).await?;
    let document: Value = serde_json::from_str(&body).unwrap_or_default();
    let is_relay = document.pointer("/info/title").is_some_and(|title| title == "http-rendezvous");
    let version =
        document.pointer("/info/version").and_then(Value::as_str).filter(|_| is_relay).map(harmless);
    let named = ["server", "via"].iter().filter_map(|name| answer.field(name)).collect::<Vec<_>>();
    let through = (!named.is_empty()).then(|| named.join(", "));
    Ok(Identity { status: answer.status, version, through, clock: answer.field("date").and_then(ahead) })
}

/// How far a `Date` is ahead of our clock, in seconds.
fn ahead(date: &str) -> Option<i64> {
    let seconds = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        i64::try_from(since.as_secs()).ok()
    };
    let date = httpdate::parse_http_date(date).ok()?;
    Some(seconds(date)? - seconds(SystemTime::now())?)
}

/// Whether paths can be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Access {
    Open,
    TokenNeeded,
    TokenRefused,
    NoPaths,
    Other(String),
}

pub(super) async fn access(target: &Target) -> Access {
    match target.ask("GET", &path(), &["Prefer: wait=1"], PATIENCE).await {
        Ok((answer, body)) => match (answer.status, error_name(&body).as_deref()) {
            (503, Some("PeerNotConnectedError")) => Access::Open,
            (401, _) => Access::TokenNeeded,
            (403, Some("ForbiddenError")) => Access::TokenRefused,
            (404, Some("BadRouteError")) => Access::NoPaths,
            (status, name) => Access::Other(format!("status {status} {}", name.unwrap_or("of a proxy"))),
        },
        Err(error) => Access::Other(format!("{error:#}")),
    }
}

/// The name of an error of the relay. `None` if a proxy made the response.
fn error_name(body: &str) -> Option<String> {
    let object: Value = serde_json::from_str(body).ok()?;
    object.get("name")?.as_str().map(harmless)
}

/// A transfer to ourselves.
struct Pair {
    receiver: Connection,
    sender: Connection,
}

impl Pair {
    /// Sends both heads, the receiver's first.
    async fn open(target: &Target, wait: Duration, upload: &[&str]) -> anyhow::Result<Self> {
        let path = path();
        let wait = format!("Prefer: wait={}", wait.as_secs().max(1));
        let mut receiver = target.connect().await?;
        receiver.write(target.head("GET", &path, &[&wait]).as_bytes()).await?;
        let mut sender = target.connect().await?;
        let fields: Vec<_> = upload.iter().copied().chain([wait.as_str()]).collect();
        sender.write(target.head("PUT", &path, &fields).as_bytes()).await?;
        Ok(Self { receiver, sender })
    }
}

/// When the first piece of an upload arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Before the next is sent.
    Live,
    /// Once some ten KiB follow it.
    Filled,
    /// At the end of the upload.
    End,
    /// Not at all.
    Never,
}

pub(super) async fn uploads(target: &Target, is_chunked: bool) -> anyhow::Result<Arrival> {
    let length = format!("Content-Length: {}", FIRST.len() + FILLING + LAST.len());
    let framing = if is_chunked { "Transfer-Encoding: chunked" } else { &length };
    let mut pair = Pair::open(target, PATIENCE * 3, &[framing]).await?;
    let mut send = async |bytes: &[u8]| {
        let piece = if is_chunked { chunk(bytes) } else { bytes.to_vec() };
        pair.sender.write(&piece).await
    };
    send(FIRST).await?;
    if pair.receiver.has(FIRST, PATIENCE / 2).await {
        return Ok(Arrival::Live);
    }
    send(&vec![b'.'; FILLING]).await?;
    if pair.receiver.has(FIRST, PATIENCE / 5).await {
        return Ok(Arrival::Filled);
    }
    send(LAST).await?;
    if is_chunked {
        pair.sender.write(b"0\r\n\r\n").await?;
    }
    Ok(if pair.receiver.has(FIRST, PATIENCE).await { Arrival::End } else { Arrival::Never })
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

/// How large a body may be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BodyLimit {
    /// The largest size that was accepted, in bytes.
    pub(super) accepted: u64,
    /// The smallest that was refused by 413, and whether the relay itself did.
    pub(super) refused: Option<(u64, bool)>,
    /// What went wrong with a body of 2 MiB that was really sent.
    pub(super) failed: Option<String>,
}

pub(super) async fn body_limit(target: &Target) -> anyhow::Result<BodyLimit> {
    let (mut size, mut refused) = (LARGEST_BODY, None);
    while size >= SMALLEST_BODY {
        match declared(target, size).await? {
            None => break,
            Some(is_relays) => refused = Some((size, is_relays)),
        }
        size /= 2;
    }
    let accepted = if size < SMALLEST_BODY { 0 } else { size };
    let sent = u64::try_from(SENT_BODY).unwrap_or(u64::MAX);
    let failed = if accepted < sent { None } else { transferred(target).await?.err() };
    Ok(BodyLimit { accepted, refused, failed })
}

/// Declares a body of this size and sends none of it. Returns `None` if it is accepted, or whether the relay itself refused it by 413.
async fn declared(target: &Target, size: u64) -> anyhow::Result<Option<bool>> {
    let mut sender = target.connect().await?;
    let length = format!("Content-Length: {size}");
    sender.write(target.head("PUT", &path(), &[&length, "Prefer: wait=1"]).as_bytes()).await?;
    // A proxy that buffers uploads waits for the body, and has accepted its size.
    if sender.is_quiet(Duration::from_millis(800)).await {
        return Ok(None);
    }
    let Ok(answer) = sender.answer(PATIENCE).await else { return Ok(None) };
    Ok((answer.status == 413).then(|| is_json(&answer)))
}

fn is_json(answer: &Answer) -> bool {
    answer.field("content-type").is_some_and(|kind| kind.starts_with("application/json"))
}

/// Sends a body of 2 MiB. Returns what went wrong.
async fn transferred(target: &Target) -> anyhow::Result<Result<(), String>> {
    let mut pair = Pair::open(target, PATIENCE * 3, &[&format!("Content-Length: {SENT_BODY}")]).await?;
    let send = async {
        // If this fails, the response says why.
        let _ = pair.sender.write(&vec![b'.'; SENT_BODY]).await;
        pair.sender.answer(PATIENCE * 6).await
    };
    let (answer, received) = tokio::join!(send, pair.receiver.drain(PATIENCE * 6));
    Ok(match answer {
        Ok(answer) if answer.status == 200 && received >= SENT_BODY => Ok(()),
        Ok(answer) if answer.status == 200 => Err(format!("200, though only {received} bytes arrived")),
        Ok(answer) => Err(format!("status {} after {received} bytes had arrived", answer.status)),
        Err(error) => Err(format!("{error:#} after {received} bytes had arrived")),
    })
}

/// What happens to a request that is idle.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Idle {
    /// Nothing, for the time of the probe.
    Kept,
    /// It was ended, after this time and in this way.
    Cut(Duration, String),
    /// The relay itself ended it, because its `--ttl` is shorter.
    Ttl(Duration),
}

/// A receiver that waits for a sender.
pub(super) async fn waiting(target: &Target, time: Duration) -> anyhow::Result<Idle> {
    let began = Instant::now();
    let wait = format!("Prefer: wait={}", time.as_secs().max(1));
    let answered = target.ask("GET", &path(), &[&wait], time + PATIENCE).await;
    let elapsed = began.elapsed();
    Ok(match answered {
        Ok((answer, body)) => match (answer.status, error_name(&body).as_deref()) {
            (503, Some("PeerNotConnectedError")) => Idle::Kept,
            (504, Some("SessionTimeoutError")) => Idle::Ttl(elapsed),
            (status, _) => Idle::Cut(elapsed, format!("status {status}")),
        },
        Err(error) => Idle::Cut(elapsed, format!("{error:#}")),
    })
}

/// A transfer whose sender pauses.
pub(super) async fn pausing(target: &Target, time: Duration) -> anyhow::Result<Idle> {
    let mut pair = Pair::open(target, PATIENCE * 3, &["Transfer-Encoding: chunked"]).await?;
    pair.sender.write(&chunk(FIRST)).await?;
    if !pair.receiver.has(FIRST, PATIENCE / 2).await {
        anyhow::bail!("uploads are not live");
    }
    let began = Instant::now();
    tokio::select! {
        _ = pair.sender.answer(time) => {}
        _ = pair.receiver.has(LAST, time) => {}
        () = sleep(time) => {}
    }
    let elapsed = began.elapsed();
    let _ = pair.sender.write(&chunk(LAST)).await;
    if pair.receiver.has(LAST, PATIENCE / 2).await {
        return Ok(Idle::Kept);
    }
    Ok(Idle::Cut(elapsed, "the connection was closed".to_owned()))
}

/// What a sender that asks for `100 Continue` gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interim {
    /// 100, once the receiver is there.
    Paired,
    /// 100 before: a proxy made it.
    Early,
    /// No 100.
    Dropped,
}

pub(super) async fn interim(target: &Target) -> anyhow::Result<Interim> {
    let path = path();
    let mut sender = target.connect().await?;
    let fields = [&format!("Content-Length: {}", LAST.len()), "Expect: 100-continue", "Prefer: wait=10"];
    sender.write(target.head("PUT", &path, &fields).as_bytes()).await?;
    let is_early = !sender.is_quiet(Duration::from_millis(500)).await;
    let mut receiver = target.connect().await?;
    receiver.write(target.head("GET", &path, &["Prefer: wait=10"]).as_bytes()).await?;
    let answer = sender.answer(PATIENCE / 2).await;
    let _ = sender.write(LAST).await;
    match answer {
        Ok(answer) if answer.status == 100 && is_early => Ok(Interim::Early),
        Ok(answer) if answer.status == 100 => Ok(Interim::Paired),
        Ok(answer) => anyhow::bail!("status {}", answer.status),
        Err(_) => Ok(Interim::Dropped),
    }
}

/// Whether a receiver that leaves frees its seat. `None` if it never had one.
pub(super) async fn departure(target: &Target) -> anyhow::Result<Option<bool>> {
    let path = path();
    let mut receiver = target.connect().await?;
    receiver.write(target.head("GET", &path, &["Prefer: wait=30"]).as_bytes()).await?;
    if !is_taken(target, &path, true).await? {
        return Ok(None);
    }
    drop(receiver);
    Ok(Some(is_taken(target, &path, false).await?))
}

/// Waits until somebody is at the path, or nobody. Returns whether that came in time.
async fn is_taken(target: &Target, path: &str, wished: bool) -> anyhow::Result<bool> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let (answer, _) = target.ask("HEAD", path, &[], PATIENCE).await?;
        if (answer.status == 200) == wished {
            return Ok(true);
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(false)
}
