//! splice(2): from socket to pipe to socket, without a copy through user space. Owns the pool of pipes.
//!
//! *Invariants*, each found by a failure:
//! - Never splice more than the rest of the body: the bytes after it belong to the next request.
//! - Fill only an empty pipe. Otherwise `EAGAIN` may mean that the pipe is full, and waiting for the socket would
//!   hang.
//! - splice(2) stops before urgent data; only a read passes it.
//! - Only an empty pipe returns to the pool: the bytes in any other would reach another client.
//!
//! *Concurrency.* The pool is shared by all connections; its lock is held for a counter and a pop or push. A [`Pipe`] has one owner.
//!
//! *Bounds.* [`Pipes::new`] limits the pipes in use, and 32 empty ones are kept. The kernel gives an unprivileged process
//! only small pipes after 64 of 1 MiB (`pipe-user-pages-soft` of proc(5)): a small one is not used, and the body is copied.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod portable;

#[cfg(target_os = "linux")]
pub use linux::{Pipe, Pipes};
#[cfg(not(target_os = "linux"))]
pub use portable::{Pipe, Pipes};

/// The result of [`Pipe::fill`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// The number of bytes moved into the pipe, at least one.
    Bytes(usize),
    /// Nothing was moved, though there is unread data: it must be read.
    Unspliceable,
    /// Nothing was moved: the peer has closed its sending side.
    End,
}
