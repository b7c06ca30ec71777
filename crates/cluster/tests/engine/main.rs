//! The directory in a real `redis-server`, while that fails, loses what it has, and is written to by others.
//!
//! They need the program, so they run on request only: `./check cluster`, or `cargo test --package rendezvous-cluster --test engine --
//! --ignored`. Without the program they fail.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]
#![allow(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]
#![allow(unreachable_pub, reason = "public items are for the modules of this test only")]

mod deployments;
mod forgery;
mod losses;
mod membership;
mod nodes;
mod servers;
