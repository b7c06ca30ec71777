//! A client that is a curl process, which can be killed.

use std::io;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::{Dial, Ending, Errand, Script, View};
use crate::plan::{Act, Framing, Manner, Moment, Side, Transport};

/// Runs the errand in a process of its own.
pub(super) async fn run(errand: Errand, dial: &Dial, view: &mut View) {
    if let Err(error) = try_run(&errand, dial, view).await {
        view.ending = Ending::Malformed(format!("curl can not be run: {error}"));
    }
}

async fn try_run(errand: &Errand, dial: &Dial, view: &mut View) -> io::Result<()> {
    // A file, because curl declares no length of anything else.
    let file = if errand.framing == Framing::Length && errand.side == Side::Source {
        let file = tempfile::NamedTempFile::new()?;
        tokio::fs::write(file.path(), errand.body.piece(0, usize::MAX)).await?;
        Some(file)
    } else {
        None
    };
    // The progress of curl with a file, or at a kill at any time, is not known.
    let is_killed_anywhen = errand.steps.iter().any(|step| matches!(step.moment, Moment::After(_)));
    view.sent_whole = file.is_some() || is_killed_anywhen;
    let mut command = command(errand, dial);
    match (errand.side, &file) {
        (Side::Source, Some(file)) => command.arg("-T").arg(file.path()),
        (Side::Source, None) => command.args(["-T", "-"]),
        // The head goes before the body to the output: a killed curl does not report the status.
        (Side::Destination, _) => command.arg("-i"),
    };
    let mut child = command.spawn()?;
    errand.log.note(errand.side, "curl starts");
    let script = Script::new(errand);
    let pid = pid_of(&child);
    let departure = script.departure();
    // The kill is in here, because the other futures, one of which owns curl's input, are dropped before the branch runs.
    let departure = async {
        let manner = departure.await;
        kill(pid);
        manner
    };
    let left = tokio::select! {
        biased;
        left = work(errand, &mut child, script, view) => left?,
        manner = departure => Some(manner),
    };
    if let Some(manner) = left {
        child.kill().await?;
        view.ending = Ending::Left(manner);
    }
    Ok(())
}

fn pid_of(child: &Child) -> Option<Pid> {
    child.id().and_then(|pid| Pid::from_raw(pid.try_into().ok()?))
}

/// Kills curl. Must precede the drop of its input, which would end the body.
fn kill(pid: Option<Pid>) {
    // Fails for a process that has ended.
    let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
}

fn command(errand: &Errand, dial: &Dial) -> Command {
    let transport = errand.party.transport;
    let scheme = if transport.is_tls() { "https" } else { "http" };
    let address = dial.address(&errand.party);
    let version = match transport {
        Transport::Plain | Transport::Tls => "--http1.1",
        Transport::H2 => "--http2-prior-knowledge",
        Transport::H2Tls => "--http2",
    };
    let mut command = Command::new("curl");
    command.args(["-q", "-sS", "-N", version, "--noproxy", "*", "-w", "%{stderr}\n%{http_code}"]);
    command.arg("--cacert").arg(&dial.certificate).arg(format!("{scheme}://{address}{}", errand.target));
    command.args(errand.party.wait.map(|seconds| format!("-HPrefer: wait={seconds}")));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// `Some` if it left.
async fn work(
    errand: &Errand,
    child: &mut Child,
    script: Script,
    view: &mut View,
) -> io::Result<Option<Manner>> {
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(io::Error::other("no pipes"));
    };
    match errand.side {
        Side::Source => {
            let pid = pid_of(child);
            let mut sent = 0;
            let left = tokio::select! {
                biased;
                answer = to_end(stdout) => {
                    end(child, stderr, answer?, view).await?;
                    None
                }
                manner = upload(errand, stdin, script, &mut sent, pid) => Some(manner),
            };
            view.bytes = sent;
            view.sent_whole |= left.is_none();
            Ok(left)
        }
        Side::Destination => {
            drop(stdin);
            receive(errand, child, stdout, stderr, script, view).await
        }
    }
}

async fn upload(
    errand: &Errand,
    mut stdin: impl tokio::io::AsyncWrite + Unpin,
    mut script: Script,
    sent: &mut u64,
    pid: Option<Pid>,
) -> Manner {
    if errand.framing == Framing::Length {
        // curl reads the file, so only the destination knows the progress.
        if let Some(offset) = script.next_offset() {
            let mut progress = errand.progress.subscribe();
            let reached = progress.wait_for(|bytes| *bytes >= offset).await.is_ok();
            if let Some(Act::Leave(manner)) = script.due(u64::MAX).filter(|_| reached) {
                return manner;
            }
        }
        return std::future::pending().await;
    }
    loop {
        if let Some(Act::Leave(manner)) = script.due(*sent) {
            kill(pid);
            return manner;
        }
        if *sent == errand.body.size {
            drop(stdin);
            return std::future::pending().await;
        }
        let piece = script.piece(&errand.body, *sent, errand.party.piece);
        if stdin.write_all(&piece).await.is_err() {
            return std::future::pending().await;
        }
        *sent += piece.len() as u64;
    }
}

async fn receive(
    errand: &Errand,
    child: &mut Child,
    mut stdout: impl AsyncRead + Unpin,
    stderr: impl AsyncRead + Unpin,
    mut script: Script,
    view: &mut View,
) -> io::Result<Option<Manner>> {
    let (mut head, mut error) = (Vec::new(), Vec::new());
    let mut status = None;
    let mut got = vec![0; errand.party.piece];
    loop {
        if let Some(Act::Leave(manner)) = script.due(view.bytes) {
            return Ok(Some(manner));
        }
        let count = stdout.read(&mut got).await?;
        if count == 0 {
            break;
        }
        let mut bytes = got.get(..count).unwrap_or_default();
        let behind_head;
        if status.is_none() {
            head.extend_from_slice(bytes);
            let Some((final_status, end)) = final_head(&head) else { continue };
            status = Some(final_status);
            behind_head = head.split_off(end);
            bytes = &behind_head;
        }
        if status == Some(200) {
            view.got(&errand.body, bytes);
            errand.progress.send_replace(view.bytes);
        } else {
            error.extend_from_slice(bytes);
        }
    }
    end(child, stderr, error, view).await?;
    Ok(None)
}

/// The status of the final response and the end of its head, once these bytes have the whole head. Interim responses may precede it.
fn final_head(bytes: &[u8]) -> Option<(u16, usize)> {
    const END: &[u8] = b"\r\n\r\n";
    let mut begin = 0;
    loop {
        let behind = bytes.get(begin..)?;
        let length = behind.windows(END.len()).position(|bytes| bytes == END)?;
        let head = str::from_utf8(behind.get(..length)?).ok()?;
        let status = head.split(' ').nth(1)?.get(..3)?.parse().ok()?;
        begin += length + END.len();
        if status >= 200 {
            return Some((status, begin));
        }
    }
}

async fn to_end(mut read: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    read.read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// The ending according to curl: its exit code and the status that it received.
async fn end(
    child: &mut Child,
    stderr: impl AsyncRead + Unpin,
    body: Vec<u8>,
    view: &mut View,
) -> io::Result<()> {
    let said = String::from_utf8_lossy(&to_end(stderr).await?).into_owned();
    let status = said.lines().last().and_then(|line| line.trim().parse().ok()).unwrap_or_default();
    let exit = child.wait().await?;
    let words = said.lines().next().unwrap_or_default();
    view.ending = match (exit.success(), status) {
        (_, 0) => Ending::NoAnswer(format!("curl: {exit}: {words}")),
        (true, _) => Ending::Whole,
        (false, _) => Ending::Cut(format!("curl: {exit}: {words}")),
    };
    if status >= 200 {
        view.answered(status, &body);
    }
    Ok(())
}
