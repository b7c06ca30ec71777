//! The assertions of the fuzz targets, one module each. `fuzz/fuzz_targets/` runs them with cargo-fuzz, and `tests/fuzz/` on their
//! corpus and on generated inputs.
//!
//! A target panics when an assertion fails, and its result depends only on its input. Targets run concurrently on any threads; the
//! state of [`connection`] is one pair of servers per thread.

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
    reason = "a target fails by panicking"
)]
#![allow(clippy::disallowed_methods, reason = "a target's tasks end with its runtime")]

pub mod chunked;
pub mod connection;
pub mod forwarded;
pub mod frames;
pub mod head;
mod hyper_reads;
pub mod json;
pub mod path;
pub mod preferences;
pub mod slot;

/// The name of a target, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 9] = [
    ("head", head::check),
    ("chunked", chunked::check),
    ("frames", frames::check),
    ("forwarded", forwarded::check),
    ("json", json::check),
    ("path", path::check),
    ("preferences", preferences::check),
    ("slot", slot::check),
    ("connection", connection::check),
];
