//! Sends and receives files end to end through a relay, without trust in it.
//!
//! [`send`](send::send) prints a link and serves whoever asks with it; [`receive`](receive::receive) asks, verifies, stores and confirms.
//! docs/send-and-receive.md describes the protocol. The relay only sees named paths and ciphertext, and needs to know nothing of this.
//!
//! - [`source`]: what is sent, a file, a tree or a pipe; [`destination`]: where it goes, a directory or a pipe
//! - [`link`]: the link and its secret; [`digest`]: SHA-256 as a value that can be continued
//! - [`send`], [`receive`]: the encrypted transfer; [`plain`]: a transfer that any HTTP client can fetch
//!
//! *Invariants.* A byte reaches a destination only once it is authenticated. [`SendEnding::Stored`](send::SendEnding::Stored) implies that the
//! receiver has verified the data, flushed it to disk and named it.
//!
//! *Concurrency.* The protocol is decided by state machines without I/O or clock. One task drives each; the source and the destination block,
//! so each has a thread of its own.
//!
//! *Bounds.* What the peer or the relay sends never decides how much memory is taken. Every wait has a deadline.

#![forbid(unsafe_code)]

mod backoff;
mod clock;
pub mod destination;
pub mod digest;
mod file_name;
mod http;
mod keys;
pub mod link;
mod messages;
pub mod plain;
pub mod receive;
mod receiver;
mod receiving;
pub mod relay;
mod reply;
mod seal;
pub mod send;
mod sender;
mod sending;
#[cfg(test)]
mod simulation;
pub mod source;
