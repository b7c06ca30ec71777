//! A destination: sends the request, and reads the response with its steps.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, split};
use tokio::time::sleep;

use super::incoming::Incoming;
use super::{prefer, version};
use crate::client::{Connection, Ending, Errand, Interims, Script, Switches, View, until_cue};
use crate::plan::{Act, Manner};

/// `Some` if it left.
pub(super) async fn receive(
    errand: &Errand,
    connection: Connection,
    script: Script,
    view: &mut View,
    switches: &Switches,
) -> Option<Manner> {
    let (read, mut write) = split(connection);
    if let Err(error) = ask(errand, &mut write).await {
        view.ending = Ending::NoAnswer(format!("can not ask: {error}"));
        return None;
    }
    let mut incoming = Incoming::new(read, errand.party.piece);
    let left = read_answer(errand, &mut incoming, &mut write, script, view).await;
    if let Some(manner) = left {
        // Before the halves of the connection are dropped, which closes it.
        switches.leave_by(manner);
    }
    left
}

async fn ask(errand: &Errand, write: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let (version, prefer) = (version(errand), prefer(errand));
    let request = format!("GET {} HTTP/{version}\r\nHost: localhost\r\n{prefer}\r\n", errand.target);
    write.write_all(request.as_bytes()).await?;
    write.flush().await
}

/// Reads the response, and takes each step when it is due. `Some` if it leaves.
async fn read_answer(
    errand: &Errand,
    incoming: &mut Incoming<impl AsyncRead + Unpin>,
    write: &mut (impl AsyncWrite + Unpin),
    mut script: Script,
    view: &mut View,
) -> Option<Manner> {
    if let Some(manner) = act(errand, write, || script.due(view.bytes)).await {
        return Some(manner);
    }
    let interims = Interims::default();
    let head = incoming.head(&interims).await;
    view.interims = interims.count();
    let head = match head {
        Ok(head) => head,
        Err(ending) => {
            view.ending = ending;
            return None;
        }
    };
    if head.status != 200 {
        incoming.finish_small(head, view).await;
        return None;
    }
    view.answered(200, b"");
    let mut framing = head.framing;
    loop {
        match incoming.next(&mut framing).await {
            Ok(Some(bytes)) => {
                view.got(&errand.body, &bytes);
                errand.progress.send_replace(view.bytes);
                if let Some(manner) = act(errand, write, || script.due(view.bytes)).await {
                    return Some(manner);
                }
            }
            Ok(None) => break,
            Err(ending) => {
                view.ending = ending;
                return None;
            }
        }
    }
    if let Some(manner) = act(errand, write, || script.due_at_end()).await {
        return Some(manner);
    }
    incoming.finish(head.closes, view).await;
    None
}

/// Takes the due steps of a destination. `Some` if it leaves.
async fn act(
    errand: &Errand,
    write: &mut (impl AsyncWrite + Unpin),
    mut due: impl FnMut() -> Option<Act>,
) -> Option<Manner> {
    while let Some(act) = due() {
        match act {
            Act::Leave(manner) => return Some(manner),
            Act::Stall(time) | Act::Withhold(time) => sleep(time).await,
            Act::AwaitPair | Act::AwaitIntruder => until_cue(errand).await,
            // A destination has nothing more to send.
            Act::HalfClose | Act::Break => drop(write.shutdown().await),
            Act::Await(_) | Act::StopReading => {}
        }
    }
    None
}
