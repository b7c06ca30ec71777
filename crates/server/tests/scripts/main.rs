//! What clients see stays the same: whatever they send, however it is split, and whichever way the body takes.
//!
//! A script is played to a server that splices and to one that copies, its bytes whole and split. All must give what stands in
//! `answers/`: what the clients see, and the stream's last status; `script.rs` says what can not be compared. What changed is accepted by
//! `INSTA_UPDATE=always cargo test --test scripts`, and then read in the diff. The answers were first recorded when HTTP/1 had two
//! implementations, which agreed on each of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails loudly"
)]
#![allow(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

mod endings;
mod generated;
mod play;
mod requests;
