//! Creates a stream, and uploads to it what a thread reads.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Url;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::{PlainSendEnding, PlainSendEvent};
use crate::http::{BLOCK, Created, Http, UploadBody, unusable};
use crate::relay::{Relay, Unusable};
use crate::reply::{Reply, Verdict};
use crate::source::{Description, Kind, Source, SourceError};

/// How often the progress is looked at.
const PROGRESS: Duration = Duration::from_millis(100);

/// How long the last look at the source may take once the relay has confirmed everything.
const LAST_READ: Duration = Duration::from_secs(5);

/// Runs the whole of it.
pub(super) async fn run(
    source: Box<dyn Source>,
    relay: &Relay,
    http: &Http,
    mut observe: impl FnMut(PlainSendEvent) + Send,
) -> PlainSendEnding {
    let description = source.description().clone();
    let url = match create(http, relay, &description).await {
        Ok(url) => url,
        Err(ending) => return ending,
    };
    observe(PlainSendEvent::Url(url.clone()));
    let (input, body) = UploadBody::new();
    let (report, mut is_read) = oneshot::channel();
    let taken = Arc::clone(&input.taken);
    // It reports before its end of the body is dropped, which fails the upload.
    thread::spawn(move || drop(report.send(read(source, &input.blocks))));
    let body = match description.size {
        Some(size) => body.with_length(size),
        None => body,
    };
    let upload = http.put_stream(url, body);
    tokio::pin!(upload);
    let mut reported = 0;
    let reply = loop {
        tokio::select! {
            reply = &mut upload => break reply,
            () = tokio::time::sleep(PROGRESS) => {
                let bytes = taken.load(Ordering::Relaxed);
                if bytes > reported {
                    reported = bytes;
                    observe(PlainSendEvent::Sent { bytes });
                }
            }
        }
    };
    let bytes = taken.load(Ordering::Relaxed);
    if reply.verdict() == Verdict::Success {
        // The last block is taken, so the thread is about to end, unless the answer came too early.
        return match timeout(LAST_READ, is_read).await {
            Ok(Ok(Ok(true))) => PlainSendEnding::Delivered { bytes },
            Ok(Ok(Err(error))) => PlainSendEnding::Source(error),
            _ => PlainSendEnding::Cut { why: "the relay answered before all was sent".into() },
        };
    }
    // A thread that still reads is not waited for: a pipe may be silent forever.
    match is_read.try_recv() {
        Ok(Err(error)) => PlainSendEnding::Source(error),
        _ => ending_of(&reply, relay),
    }
}

fn ending_of(reply: &Reply, relay: &Relay) -> PlainSendEnding {
    match reply.verdict() {
        // Nothing was taken before the sides paired, but for a buffer.
        Verdict::NotPaired => PlainSendEnding::NoPeer,
        Verdict::PeerCut => PlainSendEnding::Cut { why: "the receiver disconnected".into() },
        Verdict::Later { why } => PlainSendEnding::Cut { why },
        Verdict::NoPaths => PlainSendEnding::Cut { why: "the relay has forgotten the stream".into() },
        Verdict::TooLarge => PlainSendEnding::Cut { why: "the data is larger than the relay allows".into() },
        verdict => PlainSendEnding::Unusable(unusable(&verdict, &relay.url)),
    }
}

/// Creates the stream, with the headers that tell a browser what it downloads.
async fn create(http: &Http, relay: &Relay, description: &Description) -> Result<Url, PlainSendEnding> {
    let unusable = |unusable| PlainSendEnding::Unusable(unusable);
    let kind = match description.kind {
        Kind::File => "application/octet-stream",
        Kind::Tar => "application/x-tar",
        Kind::Text => "text/plain; charset=utf-8",
    };
    let mut headers = json!({"Content-Type": kind, "Content-Disposition": disposition(&description.name)});
    if let (Some(size), Some(headers)) = (description.size, headers.as_object_mut()) {
        headers.insert("Content-Length".into(), size.into());
    }
    let body = json!({ "download_headers": headers }).to_string();
    match http.create(body).await {
        Created::Stream(json) => {
            let created: Value = serde_json::from_slice(&json).unwrap_or_default();
            let id = created.get("stream").and_then(Value::as_str).filter(|id| is_id(id));
            let bad = || unusable(Unusable::NoRelay { url: relay.url.clone(), status: 201 });
            let id = id.ok_or_else(bad)?;
            let base = crate::link::base_of(&relay.url).map_err(|_| bad())?;
            base.join(&format!("stream/{id}")).map_err(|_| bad())
        }
        Created::Not(reply) => Err(match reply.verdict() {
            Verdict::Later { why } => PlainSendEnding::Cut { why },
            Verdict::NotPaired | Verdict::PeerCut => PlainSendEnding::Cut { why: "the relay is busy".into() },
            Verdict::NoPaths => unusable(Unusable::NoRelay { url: relay.url.clone(), status: 404 }),
            verdict => unusable(crate::http::unusable(&verdict, &relay.url)),
        }),
    }
}

fn is_id(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// `Content-Disposition` with the name in UTF-8 (RFC 6266, RFC 8187).
fn disposition(name: &str) -> String {
    let plain: String =
        name.chars()
            .map(|character| {
                if character.is_ascii_alphanumeric() || "-_. ".contains(character) { character } else { '_' }
            })
            .collect();
    let mut encoded = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}")
}

/// Reads the whole source. Returns whether the connection has taken all of it.
fn read(mut source: Box<dyn Source>, blocks: &tokio::sync::mpsc::Sender<Bytes>) -> Result<bool, SourceError> {
    let mut buffer = vec![0; BLOCK];
    let mut bytes = 0;
    source.seek(0)?;
    loop {
        let length = source.read(&mut buffer)?;
        let Some(block) = buffer.get(..length).filter(|block| !block.is_empty()) else { break };
        bytes += u64::try_from(length).unwrap_or(0);
        if blocks.blocking_send(Bytes::copy_from_slice(block)).is_err() {
            // The connection is gone, and its answer tells why.
            return Ok(false);
        }
    }
    source.check()?;
    if source.description().size.is_some_and(|size| size != bytes) {
        return Err(SourceError::Changed { what: "the source".into() });
    }
    // The end of a body without length; no longer read if it has one.
    drop(blocks.blocking_send(Bytes::new()));
    Ok(true)
}
