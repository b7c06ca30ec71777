//! What the fuzz targets hold, one module each. `fuzz_targets/` gives them to cargo-fuzz, and `tests/fuzz/` of the main
//! workspace runs them over their corpus and over what it makes up itself.
//!
//! A target panics where something does not hold, and depends on nothing but its input.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    missing_docs,
    reason = "a target fails loudly"
)]
#![allow(clippy::disallowed_methods, reason = "a target's tasks end with its runtime")]

pub mod chunked;
pub mod connection;
pub mod forwarded;
pub mod frames;
pub mod head;
mod hyper_reads;
pub mod json;
pub mod slot;

/// A name, and what it holds.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 7] = [
    ("head", head::hold),
    ("chunked", chunked::hold),
    ("frames", frames::hold),
    ("forwarded", forwarded::hold),
    ("json", json::hold),
    ("slot", slot::hold),
    ("connection", connection::hold),
];
