//! Test code that the integration tests, fuzzing and the system tests share.
//!
//! - [`server`]: a server in the runtime of the test; [`client`]: a client that speaks raw HTTP/1; [`transport`]: plain or TLS
//! - [`messages`]: requests and bodies as bytes; [`settings`]: common changes of the configuration; [`sides`]: how sides connect and
//!   leave
//! - [`script`]: what clients do, as a list of steps
//! - [`matrix`]: every way in which a transfer can end, and what each side sees
//! - [`slot_model`]: the rules of the seats, told by what has happened

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
    missing_docs,
    reason = "a test fails loudly, and its helpers are named by what they do"
)]
#![allow(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]

pub mod client;
pub mod matrix;
pub mod messages;
pub mod script;
pub mod server;
pub mod settings;
pub mod sides;
pub mod slot_model;
pub mod transport;
