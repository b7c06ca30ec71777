//! Tests of docs/api.md over real sockets, against a server in the runtime of the test.
//!
//! `RENDEZVOUS_DATA_PATH=copy` runs the suite without `splice(2)`, `RENDEZVOUS_TRANSPORT=tls` over TLS.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test fails by panicking"
)]
#![allow(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

mod access;
mod browsers;
mod connections;
mod cors;
mod creation;
mod endings;
mod events;
mod flow_control;
mod hops;
mod http2;
mod limits;
mod listeners;
mod matrix;
mod memory;
mod metrics;
mod operators;
mod paths;
mod polls;
mod quotas;
mod races;
mod reports;
mod streaming;
mod time;
mod tls;
mod urgent;
mod waiting;
mod waits;
