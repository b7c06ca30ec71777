//! The floor: a plain TCP relay, with a thread per connection, that moves bytes between sockets by splice(2).
//!
//! It has no HTTP, does not watch its connections and guarantees nothing, so its cost is the reference for a server. (A server that moves
//! more bytes per wakeup may cost slightly less.) It is a separate process, so that its CPU time is measured like a server's.

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

use anyhow::Context;
use rustix::pipe::{SpliceFlags, fcntl_setpipe_size, pipe, splice};

/// The argument before the port to connect to.
pub(crate) const ARGUMENT: &str = "floor";
/// Bytes per splice, and the size of the pipe between the sockets: the default maximum for an unprivileged process.
const PIPE_SIZE: usize = 1 << 20;

/// Relays every connection to `target`, until it is killed.
pub(crate) fn serve(target: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
    println!("Listening on {}", listener.local_addr()?);
    io::stdout().flush()?;
    for source in listener.incoming() {
        let source = source?;
        thread::spawn(move || {
            // The receiver notices the failure by the missing bytes.
            if let Err(error) = relay(&source, target) {
                eprintln!("the floor failed: {error}");
            }
        });
    }
    Ok(())
}

fn relay(source: &TcpStream, target: u16) -> io::Result<()> {
    let destination = TcpStream::connect((Ipv4Addr::LOCALHOST, target))?;
    destination.set_nodelay(true)?;
    let (out_of_pipe, into_pipe) = pipe()?;
    fcntl_setpipe_size(&into_pipe, PIPE_SIZE)?;
    loop {
        let mut in_pipe = splice(source, None, &into_pipe, None, PIPE_SIZE, SpliceFlags::MOVE)?;
        if in_pipe == 0 {
            return Ok(());
        }
        while in_pipe > 0 {
            in_pipe -= splice(&out_of_pipe, None, &destination, None, in_pipe, SpliceFlags::MOVE)?;
        }
    }
}
