//! Fetches a stream, as any HTTP client could.

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Url;
use reqwest::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{DownloadEnding, DownloadEvent};
use crate::destination::{Destination, DestinationError, ReceiverId};
use crate::digest::Hasher;
use crate::http::{Http, unusable};
use crate::link::Id;
use crate::relay::{Relay, Token};
use crate::reply::{Reply, Verdict};
use crate::source::{Description, Kind};

/// So many blocks wait for the destination.
const AHEAD: usize = 16;

/// How the thread that writes ended.
type Written = Result<Option<PathBuf>, DestinationError>;

/// Runs the whole of it.
pub(super) async fn run(
    url: Url,
    token: Option<Token>,
    give_up: Duration,
    destination: Box<dyn Destination>,
    mut observe: impl FnMut(DownloadEvent) + Send,
) -> DownloadEnding {
    let http = match Http::new(&Relay { url: url.clone(), token }) {
        Ok(http) => http,
        Err(unusable) => return DownloadEnding::Unusable(unusable),
    };
    let mut response = match timeout(give_up, http.get_stream(url.clone())).await {
        Ok(Ok(response)) => response,
        Ok(Err(reply)) => return ending_of(&reply, &url),
        Err(_) => return DownloadEnding::NoPeer { why: "there is no answer".into() },
    };
    let description = describe(&response, &url);
    observe(DownloadEvent::Description(description.clone()));
    let (blocks, inbox) = mpsc::channel(AHEAD);
    let (report, written) = oneshot::channel();
    // The thread may outlive an interrupted download, then nobody takes its report.
    thread::spawn(move || drop(report.send(write(destination, &description, inbox))));
    let mut bytes = 0;
    let cut = loop {
        let Ok(chunk) = timeout(give_up, response.chunk()).await else {
            break Some("nothing came any more".into());
        };
        match chunk {
            Ok(Some(chunk)) => {
                bytes += u64::try_from(chunk.len()).unwrap_or(0);
                if blocks.send(Some(chunk)).await.is_err() {
                    break None;
                }
                observe(DownloadEvent::Received { bytes });
            }
            Ok(None) => {
                drop(blocks.send(None).await);
                break None;
            }
            Err(error) => break Some(crate::http::reason_of(&error)),
        }
    };
    drop(blocks);
    match (written.await, cut) {
        (Ok(Err(error)), _) => DownloadEnding::Destination(error),
        (_, Some(why)) => DownloadEnding::Cut { why, bytes },
        (Ok(Ok(at)), None) => DownloadEnding::Delivered { bytes, at },
        (Err(_), None) => DownloadEnding::Cut { why: "the data could not be written".into(), bytes },
    }
}

fn ending_of(reply: &Reply, url: &Url) -> DownloadEnding {
    match reply.verdict() {
        Verdict::NoPaths => DownloadEnding::NoPeer { why: "the stream does not exist, or is over".into() },
        Verdict::NotPaired => DownloadEnding::NoPeer { why: "no sender came in time".into() },
        Verdict::PeerCut => DownloadEnding::Cut { why: "the sender disconnected".into(), bytes: 0 },
        Verdict::Later { why } => DownloadEnding::Cut { why, bytes: 0 },
        verdict => DownloadEnding::Unusable(unusable(&verdict, url)),
    }
}

/// Writes what comes, until the mark of the end. Without it, the body was cut.
fn write(
    mut destination: Box<dyn Destination>,
    description: &Description,
    mut blocks: mpsc::Receiver<Option<Bytes>>,
) -> Written {
    let receiver = ReceiverId { name: Id::random(), run: 0 };
    destination.begin(&Id::random(), &receiver, description)?;
    let (mut bytes, mut hasher) = (0, Hasher::default());
    while let Some(block) = blocks.blocking_recv() {
        let Some(block) = block else {
            destination.finish(bytes, &hasher.digest())?;
            destination.confirmed()?;
            return Ok(destination.stored_at().map(Into::into));
        };
        bytes += u64::try_from(block.len()).unwrap_or(0);
        hasher.update(&block);
        destination.write(&block)?;
    }
    // A plain stream can be fetched once, so nothing can be continued.
    destination.abandon();
    Ok(None)
}

/// Describes a response by its headers. What comes is one file, whatever it holds.
fn describe(response: &reqwest::Response, url: &Url) -> Description {
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
    let name = header(CONTENT_DISPOSITION).and_then(name_of);
    let last =
        || url.path_segments().and_then(|mut segments| segments.next_back()).filter(|last| !last.is_empty());
    let name = name.unwrap_or_else(|| last().unwrap_or("download").to_owned());
    let is_text = header(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/plain"));
    let kind = if is_text { Kind::Text } else { Kind::File };
    Description { kind, name, size: response.content_length(), mtime: None, mode: None }
}

/// Returns the name of a `Content-Disposition`: `filename*` in UTF-8, else `filename` (RFC 6266).
fn name_of(disposition: &str) -> Option<String> {
    let parameter = |wanted: &str| {
        let fields = disposition.split(';').map(str::trim).skip(1);
        let mut values = fields.filter_map(|field| field.split_once('='));
        let (_, value) = values.find(|(name, _)| name.trim().eq_ignore_ascii_case(wanted))?;
        Some(value.trim().trim_matches('"').to_owned())
    };
    let encoded = parameter("filename*").and_then(|value| {
        let (charset, rest) = value.split_once('\'')?;
        let (_, encoded) = rest.split_once('\'')?;
        charset.eq_ignore_ascii_case("utf-8").then(|| percent_decoded(encoded)).flatten()
    });
    let name = encoded.or_else(|| parameter("filename"))?;
    let name = name.trim();
    if name.is_empty() || name.len() > 255 { None } else { Some(name.to_owned()) }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |digit: Option<u8>| char::from(digit?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_download_is_read_as_rfc_6266_says() {
        for (disposition, name) in [
            ("attachment; filename=\"a b.txt\"", Some("a b.txt")),
            ("attachment; filename=\"a.txt\"; filename*=UTF-8''%C3%A4%2E", Some("ä.")),
            ("attachment; filename*=utf-8'en'x", Some("x")),
            ("attachment; filename=\"a\"; filename*=UTF-8''%FF", Some("a")),
            ("attachment", None),
            ("attachment; filename=\"\"", None),
        ] {
            assert_eq!(name_of(disposition).as_deref(), name, "{disposition}");
        }
    }
}
