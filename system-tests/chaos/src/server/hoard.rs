//! The shortage of pipes: a process of the server's user that takes all pipes except a few, before the server starts.

use std::io::{self, Read, Write};
use std::process::Stdio;

use anyhow::Context;
use rustix::process::geteuid;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use super::workshop::Workshop;
use crate::plan::Episode;

/// Unused user ids, one for each episode that is short of pipes.
const FIRST_USER: u64 = 1_900_000;

/// Takes all pipes except `left` of the user whose server is about to start.
pub(super) async fn hoard(workshop: &Workshop, episode: &Episode, left: u32) -> anyhow::Result<Child> {
    let mut command = Command::new(workshop.path("chaos"));
    run_by_poor_user(&mut command, episode);
    command.args(["--hoard", &left.to_string()]).kill_on_drop(true);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut ready = [0];
    child
        .stdout
        .as_mut()
        .context("no output")?
        .read_exact(&mut ready)
        .await
        .context("the process that takes pipes failed")?;
    Ok(child)
}

/// Root is exempt from the limit on the pipes of a user.
pub(super) fn run_by_poor_user(command: &mut Command, episode: &Episode) {
    if geteuid().is_root() {
        let user = u32::try_from(FIRST_USER + episode.number % 50_000).unwrap_or(u32::MAX);
        command.uid(user).gid(user);
    }
}

/// Runs the process that [`hoard`] starts: opens pipes until it gets no more, closes `left` of them, and waits for the end of its
/// input.
///
/// # Errors
/// It cannot write its output.
pub(crate) fn be_hoarder(left: usize) -> io::Result<()> {
    const CAPACITY: usize = 1 << 20;
    let mut pipes = Vec::new();
    while let Ok(ends) = rustix::pipe::pipe()
        && rustix::pipe::fcntl_setpipe_size(&ends.1, CAPACITY).is_ok()
    {
        pipes.push(ends);
    }
    pipes.truncate(pipes.len().saturating_sub(left));
    let mut stdout = io::stdout();
    stdout.write_all(b".")?;
    stdout.flush()?;
    io::stdin().read_to_end(&mut Vec::new())?;
    drop(pipes);
    Ok(())
}
