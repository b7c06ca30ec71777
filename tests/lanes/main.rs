//! The fast lane and hyper give the same, whatever clients say, and whichever lanes the two sides are in.
//!
//! A script is played to a server that has only hyper, and to one that has both lanes, there with each side in either. All
//! that the clients see is compared, and the stream's last status; `script.rs` says what can not be.
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

#[allow(dead_code, reason = "some of it is for tests/wire alone")]
#[path = "../wire/client.rs"]
mod client;
mod endings;
mod generated;
mod play;
mod requests;
mod script;
#[allow(dead_code, reason = "some of it is for tests/wire alone")]
#[path = "../wire/server.rs"]
mod server;
#[allow(dead_code, reason = "some of it is for tests/wire alone")]
#[path = "../wire/transport.rs"]
mod transport;
