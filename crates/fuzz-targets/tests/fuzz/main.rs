//! The fuzz targets without a fuzzer: over their corpus, and over what is made up here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails loudly"
)]
#![allow(missing_docs, unreachable_pub, reason = "what is public here is so for fuzz/")]
#![allow(clippy::disallowed_methods, reason = "a target's tasks end with its runtime")]

mod corpus;
mod parsers;
use fuzz_targets as targets;
