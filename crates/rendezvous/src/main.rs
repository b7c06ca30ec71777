//! The program `rendezvous`.

#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

/// A transfer is some hundred short-lived allocations, made on one thread and freed on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
