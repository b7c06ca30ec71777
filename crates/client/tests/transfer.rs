//! Transfers through a real relay in this process.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    reason = "a test fails loudly"
)]

#[path = "transfer/files.rs"]
mod files;
#[path = "transfer/memory.rs"]
mod memory;
#[path = "transfer/plain.rs"]
mod plain;
#[path = "transfer/proxy.rs"]
mod proxy;
#[path = "transfer/whole.rs"]
mod whole;
