//! The contract through real sockets, against a server in the test's own runtime.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails loudly"
)]
#![allow(unreachable_pub, reason = "what is public here is so for this one crate")]
#![allow(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

mod client;
mod connections;
mod creation;
mod endings;
mod limits;
mod reports;
mod server;
mod streaming;
mod time;
mod waiting;
