//! Test code shared by the integration tests, fuzzing and the system tests.
//!
//! - [`server`]: a server in the runtime of the test; [`cluster`]: several, as the nodes of a cluster
//! - [`client`]: a raw HTTP/1 client; [`transport`]: plain TCP or TLS below it
//! - [`messages`]: requests and bodies as bytes; [`settings`]: common changes of the configuration; [`sides`]: how sides connect and
//!   disconnect
//! - [`script`]: the actions of clients as a list of steps
//! - [`matrix`]: every combination of events in a transfer, with the outcome that docs/api.md promises
//! - [`slot_model`]: a second implementation of the rules for seats, to compare the first with
//!
//! *Invariant.* A helper panics if the server violates HTTP, so no test passes by accident.
//!
//! *Concurrency.* Server and clients run in the runtime of the test.
//!
//! *Bounds.* No wait is longer than [`client::WAIT_TIMEOUT`]; a watchdog aborts a test that hangs nevertheless.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    clippy::missing_errors_doc,
    clippy::must_use_candidate,
    clippy::cast_possible_truncation,
    reason = "a test fails loudly"
)]
#![allow(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

pub mod client;
pub mod cluster;
pub mod matrix;
pub mod messages;
pub mod script;
pub mod server;
pub mod settings;
pub mod sides;
pub mod slot_model;
pub mod transport;
