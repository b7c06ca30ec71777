//! Recorded scripts: clients see the same responses with either data path, however their bytes are split.
//!
//! Each script ([`testkit::script`]) is played to a server that splices and to one that copies, with its bytes whole and split.
//! Every run must match the record in `records/`: the responses that the clients receive, and the stream's last status.
//! [`testkit::script::Script::racy`] marks what cannot be compared. `INSTA_UPDATE=always cargo test --test scripts` accepts changes;
//! review them in the diff. They were first recorded when HTTP/1 had two implementations, which agreed on all of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]
#![allow(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

mod endings;
mod generated;
mod paths;
mod play;
mod requests;
