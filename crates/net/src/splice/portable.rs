//! Systems other than Linux have no splice(2), and every body is copied.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use super::Filled;
use crate::socket::Socket;

/// A pool that is always empty.
#[derive(Debug)]
pub struct Pipes;

/// A pipe that does not exist.
#[derive(Debug)]
pub struct Pipe(Infallible);

impl Pipes {
    /// Creates the empty pool.
    #[must_use]
    pub fn new(_: usize) -> Self {
        Self
    }

    /// Returns 0.
    #[must_use]
    pub fn in_use(&self) -> usize {
        0
    }

    /// Returns `None`.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Option<Pipe> {
        None
    }
}

impl Pipe {
    /// Never called.
    #[must_use]
    pub fn buffered(&self) -> usize {
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
