//! A source: sends the request and the body with its steps, while it reads the response.

use std::future::pending;
use std::io;
use std::ops::ControlFlow::{self, Break, Continue};

use tokio::io::{AsyncWrite, AsyncWriteExt, split};
use tokio::time::sleep;

use super::incoming::Incoming;
use super::{leaving, prefer, version};
use crate::client::{Connection, Errand, Interims, Script, View, until_cue, until_received};
use crate::plan::{Act, Framing, Manner};

/// Bytes that are not HTTP, in place of a chunk's size.
const NONSENSE: &[u8] = b"zz\r\nno chunk\r\n";

/// The bytes that a source has given to its kernel.
#[derive(Debug, Default)]
struct Sent {
    bytes: u64,
    whole: bool,
}

/// `Some` if it left.
pub(super) async fn send(
    errand: &Errand,
    connection: Connection,
    script: Script,
    view: &mut View,
    departure: impl Future<Output = Manner>,
) -> Option<Manner> {
    let switches = connection.switches();
    let (read, write) = split(connection);
    let mut sent = Sent::default();
    let interims = Interims::default();
    let left = tokio::select! {
        biased;
        () = Incoming::new(read, errand.party.piece).answer(view, &interims) => None,
        manner = leaving(upload(errand, write, script, &interims, &mut sent), &switches) => Some(manner),
        manner = leaving(departure, &switches) => Some(manner),
    };
    view.bytes = sent.bytes;
    view.sent_whole = sent.whole;
    view.interims = interims.count();
    left
}

/// Sends until the departure. The reader notices a broken connection.
async fn upload(
    errand: &Errand,
    write: impl AsyncWrite + Unpin,
    mut script: Script,
    interims: &Interims,
    sent: &mut Sent,
) -> Manner {
    match try_upload(errand, write, &mut script, interims, sent).await {
        Ok(Some(manner)) => manner,
        Ok(None) => pending().await,
        Err(error) => {
            errand.log.note(errand.side, format!("can not send: {error}"));
            pending().await
        }
    }
}

async fn try_upload(
    errand: &Errand,
    mut write: impl AsyncWrite + Unpin,
    script: &mut Script,
    interims: &Interims,
    sent: &mut Sent,
) -> io::Result<Option<Manner>> {
    let Errand { body, framing, .. } = errand;
    let length = match framing {
        Framing::Length => format!("Content-Length: {}", body.size),
        Framing::Chunked => "Transfer-Encoding: chunked".to_owned(),
    };
    let expect = errand.party.expects.map_or_else(String::new, |value| format!("Expect: {value}\r\n"));
    let (version, prefer) = (version(errand), prefer(errand));
    let target = &errand.target;
    let head = format!("PUT {target} HTTP/{version}\r\nHost: localhost\r\n{expect}{prefer}{length}\r\n\r\n");
    write.write_all(head.as_bytes()).await?;
    write.flush().await?;
    interims.until_continue(errand).await;
    loop {
        sent.whole = *framing == Framing::Length && sent.bytes == body.size;
        while let Some(act) = script.due(sent.bytes) {
            if let Break(left) = perform(act, errand, &mut write).await? {
                return Ok(left);
            }
        }
        let piece = script.piece(body, sent.bytes, errand.party.piece);
        if *framing == Framing::Chunked {
            write.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
            while let Some(act) = script.due_in_chunk(sent.bytes) {
                write.flush().await?;
                if let Break(left) = perform(act, errand, &mut write).await? {
                    return Ok(left);
                }
            }
        }
        write.write_all(&piece).await?;
        if *framing == Framing::Chunked {
            write.write_all(b"\r\n").await?;
        }
        write.flush().await?;
        if piece.is_empty() {
            break;
        }
        sent.bytes += piece.len() as u64;
    }
    sent.whole = true;
    errand.log.note(errand.side, "has sent its whole message");
    while let Some(act) = script.due_at_end() {
        if let Break(left) = perform(act, errand, &mut write).await? {
            return Ok(left);
        }
    }
    Ok(None)
}

/// Takes the due steps of a source. `Break` if it sends nothing more, with the way in which it leaves, if it does.
async fn perform(
    act: Act,
    errand: &Errand,
    write: &mut (impl AsyncWrite + Unpin),
) -> io::Result<ControlFlow<Option<Manner>>> {
    match act {
        Act::Leave(manner) => return Ok(Break(Some(manner))),
        Act::HalfClose => {
            write.shutdown().await?;
            return Ok(Break(None));
        }
        Act::Break => {
            write.write_all(NONSENSE).await?;
            write.flush().await?;
            return Ok(Break(None));
        }
        Act::Stall(time) => sleep(time).await,
        Act::Await(offset) => until_received(errand, offset).await,
        Act::AwaitPair | Act::AwaitIntruder => until_cue(errand).await,
        // Only destinations have this step.
        Act::StopReading | Act::Withhold(_) => {}
    }
    Ok(Continue(()))
}
