//! Pipes, and the two calls of splice(2) for each piece of a body.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use super::Filled;
use crate::socket::Socket;

/// The capacity of a pipe in bytes: the largest that an unprivileged process may request.
const CAPACITY: usize = 1 << 20;
/// The largest request of one splice, in bytes. A pipe counts slots, not bytes, so large segments take it far over its capacity.
const MAX_SPLICE: u64 = 8 << 20;
/// Empty pipes that are kept for later bodies.
const MAX_IDLE: usize = 32;

/// The pool of pipes of a server.
#[derive(Debug)]
pub struct Pipes {
    /// The most pipes in use at a time. Each has two descriptors, and takes memory only while there are bytes in it.
    limit: usize,
    state: Mutex<PoolState>,
}

#[derive(Debug, Default)]
struct PoolState {
    idle: Vec<(OwnedFd, OwnedFd)>,
    in_use: usize,
}

/// A pipe in use. On drop it returns to the pool if it is empty, and is closed otherwise.
#[derive(Debug)]
pub struct Pipe {
    /// The read end and the write end; `None` only if opening them failed.
    ends: Option<(OwnedFd, OwnedFd)>,
    buffered: usize,
    pipes: Arc<Pipes>,
}

impl Pipes {
    /// Creates a pool that allows `limit` pipes in use at a time.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default() }
    }

    /// Returns how many pipes are in use.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.state.lock().in_use
    }

    /// Returns an empty pipe; `None` if the limit is reached or the system refuses one, and the body must be copied.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Option<Pipe> {
        let idle = {
            let mut state = self.state.lock();
            if state.in_use >= self.limit {
                return None;
            }
            state.in_use += 1;
            state.idle.pop()
        };
        // Created before `open`, so that its drop also lowers the count if `open` fails.
        let mut pipe = Pipe { ends: None, buffered: 0, pipes: Arc::clone(self) };
        pipe.ends = Some(idle.or_else(open)?);
        Some(pipe)
    }
}

fn open() -> Option<(OwnedFd, OwnedFd)> {
    let ends = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
    (fcntl_setpipe_size(&ends.1, CAPACITY).ok()? >= CAPACITY).then_some(ends)
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut state = self.pipes.state.lock();
        state.in_use -= 1;
        if let Some(ends) = self.ends.take()
            && self.buffered == 0
            && state.idle.len() < MAX_IDLE
        {
            state.idle.push(ends);
        }
    }
}

impl Pipe {
    /// Returns how many bytes are in the pipe.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.buffered
    }

    /// Moves at most `limit` bytes from `socket` into the pipe, which must be empty. Waits until there are some.
    ///
    /// # Errors
    /// Those of splice(2).
    pub async fn fill(&mut self, socket: &Socket, limit: u64) -> io::Result<Filled> {
        let Some((_, end)) = &self.ends else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let limit = usize::try_from(limit.min(MAX_SPLICE)).unwrap_or(usize::MAX);
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let filled = socket.when_readable(|fd| match splice(fd, None, end, None, limit, flags) {
            Ok(0) | Err(Errno::AGAIN) if socket.unread() > 0 => Ok(Filled::Unspliceable),
            Ok(0) => Ok(Filled::End),
            Ok(moved) => Ok(Filled::Bytes(moved)),
            Err(error) => Err(error.into()),
        });
        let filled = filled.await?;
        if let Filled::Bytes(moved) = filled {
            self.buffered += moved;
        }
        Ok(filled)
    }

    /// Moves bytes from the pipe to `socket`, and returns how many. Waits until the socket takes some.
    ///
    /// # Errors
    /// Those of splice(2).
    pub async fn drain(&mut self, socket: &Socket) -> io::Result<usize> {
        let Some((end, _)) = &self.ends else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        let moved = socket.when_writable(|fd| Ok(splice(end, None, fd, None, self.buffered, flags)?)).await?;
        self.buffered -= moved;
        Ok(moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_pipes_are_kept_as_the_pool_says_and_the_others_are_closed() {
        let pipes = Arc::new(Pipes::new(2 * MAX_IDLE));
        drop(pipes.take().expect("the first pipe"));
        assert_eq!(pipes.state.lock().idle.len(), 1);
        let taken: Vec<Pipe> =
            (0..=MAX_IDLE).map(|_| pipes.take().expect("a pipe below the limit")).collect();
        drop(taken);
        assert_eq!(pipes.state.lock().idle.len(), MAX_IDLE);
    }

    #[test]
    fn a_pipe_with_bytes_in_it_is_not_used_for_another_body() {
        let pipes = Arc::new(Pipes::new(1));
        let mut pipe = pipes.take().expect("the first pipe");
        pipe.buffered = 1;
        drop(pipe);
        assert_eq!(pipes.in_use(), 0);
        assert!(pipes.state.lock().idle.is_empty(), "its bytes would reach another client");
    }
}
