//! The fuzz targets without a fuzzer: on their corpus, and on generated inputs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails by panicking"
)]
#![allow(clippy::disallowed_methods, reason = "a target's tasks end with its runtime")]

mod corpus;
mod parsers;
