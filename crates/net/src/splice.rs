//! splice(2): from socket to pipe to socket, without a copy through the program.
//!
//! The rules, each of them learned the hard way:
//! - Never splice more than what is left of the body: what follows is not the body.
//! - Splice in only with an empty pipe. Otherwise `EAGAIN` may mean that the pipe is full, and waiting for the socket
//!   hangs.
//! - splice(2) does not pass urgent data: only a read does.
//! - Only an empty pipe goes back to the pool: what is in a dirty one would reach somebody else.
//! - Pipes are limited: an unprivileged process gets small ones after 64 of 1 MiB. Then there is none, and the body is
//!   copied.

pub use system::{Pipe, Pipes};

/// What a pipe was filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// So many bytes, at least one.
    Bytes(usize),
    /// Nothing, though there is something: it has to be read.
    Unspliceable,
    /// Nothing: the peer sends no more.
    End,
}

#[cfg(target_os = "linux")]
mod system {
    use std::io;
    use std::os::fd::OwnedFd;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use rustix::io::Errno;
    use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

    use super::Filled;
    use crate::socket::Socket;

    /// The capacity of a pipe in bytes: what an unprivileged process may ask for.
    const CAPACITY: usize = 1 << 20;
    /// Asked for in one splice. A pipe counts slots, not bytes, and large segments take it far over its capacity.
    const AT_ONCE: u64 = 8 << 20;
    /// Empty pipes that are kept for the next body.
    const MAX_IDLE: usize = 32;

    /// The pipes of a server.
    #[derive(Debug)]
    pub struct Pipes {
        /// At a time: two descriptors each, and memory only while they are full.
        most: usize,
        counted: Mutex<Counted>,
    }

    #[derive(Debug, Default)]
    struct Counted {
        idle: Vec<(OwnedFd, OwnedFd)>,
        in_use: usize,
    }

    /// A pipe in use. Dropped empty, it goes back; dropped dirty, it is closed.
    #[derive(Debug)]
    pub struct Pipe {
        ends: Option<(OwnedFd, OwnedFd)>,
        held: usize,
        pipes: Arc<Pipes>,
    }

    impl Pipes {
        /// No more than `most` pipes at a time.
        #[must_use]
        pub fn new(most: usize) -> Self {
            Self { most, counted: Mutex::default() }
        }

        /// How many pipes are in use.
        #[must_use]
        pub fn in_use(&self) -> usize {
            self.counted.lock().in_use
        }

        /// An empty pipe; `None` where the system or the limit gives none, and the body is to be copied.
        #[must_use]
        pub fn take(self: &Arc<Self>) -> Option<Pipe> {
            let idle = {
                let mut counted = self.counted.lock();
                if counted.in_use >= self.most {
                    return None;
                }
                counted.in_use += 1;
                counted.idle.pop()
            };
            // Counted from here on, whatever comes of it.
            let mut pipe = Pipe { ends: None, held: 0, pipes: Arc::clone(self) };
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
            let mut counted = self.pipes.counted.lock();
            counted.in_use -= 1;
            if let Some(ends) = self.ends.take()
                && self.held == 0
                && counted.idle.len() < MAX_IDLE
            {
                counted.idle.push(ends);
            }
        }
    }

    impl Pipe {
        /// Bytes in the pipe.
        #[must_use]
        pub fn held(&self) -> usize {
            self.held
        }

        /// Takes at most `most` bytes from `socket` into the pipe, which must be empty.
        ///
        /// # Errors
        /// Those of splice(2).
        pub async fn fill(&mut self, socket: &Socket, most: u64) -> io::Result<Filled> {
            let Some((_, end)) = &self.ends else { return Err(io::ErrorKind::BrokenPipe.into()) };
            let most = usize::try_from(most.min(AT_ONCE)).unwrap_or(usize::MAX);
            let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
            let filled = socket.when_readable(|fd| match splice(fd, None, end, None, most, flags) {
                Ok(0) | Err(Errno::AGAIN) if socket.unread() > 0 => Ok(Filled::Unspliceable),
                Ok(0) => Ok(Filled::End),
                Ok(moved) => Ok(Filled::Bytes(moved)),
                Err(error) => Err(error.into()),
            });
            let filled = filled.await?;
            if let Filled::Bytes(moved) = filled {
                self.held += moved;
            }
            Ok(filled)
        }

        /// Passes some of what is in the pipe on to `socket`.
        ///
        /// # Errors
        /// Those of splice(2).
        pub async fn drain(&mut self, socket: &Socket) -> io::Result<usize> {
            let Some((end, _)) = &self.ends else { return Err(io::ErrorKind::BrokenPipe.into()) };
            let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
            let moved = socket.when_writable(|fd| Ok(splice(end, None, fd, None, self.held, flags)?)).await?;
            self.held -= moved;
            Ok(moved)
        }
    }
}

/// Elsewhere there are no pipes to splice by, and every body is copied.
#[cfg(not(target_os = "linux"))]
mod system {
    use std::convert::Infallible;
    use std::io;
    use std::sync::Arc;

    use super::Filled;
    use crate::socket::Socket;

    /// No pipes.
    #[derive(Debug)]
    pub struct Pipes;

    /// No pipe.
    #[derive(Debug)]
    pub struct Pipe(Infallible);

    impl Pipes {
        /// No pipes.
        #[must_use]
        pub fn new(_: usize) -> Self {
            Self
        }

        /// None.
        #[must_use]
        pub fn in_use(&self) -> usize {
            0
        }

        /// `None`.
        #[must_use]
        pub fn take(self: &Arc<Self>) -> Option<Pipe> {
            None
        }
    }

    impl Pipe {
        /// Never called.
        #[must_use]
        pub fn held(&self) -> usize {
            match self.0 {}
        }

        /// Never called.
        ///
        /// # Errors
        /// None.
        pub async fn fill(&mut self, _: &Socket, _: u64) -> io::Result<Filled> {
            match self.0 {}
        }

        /// Never called.
        ///
        /// # Errors
        /// None.
        pub async fn drain(&mut self, _: &Socket) -> io::Result<usize> {
            match self.0 {}
        }
    }
}
