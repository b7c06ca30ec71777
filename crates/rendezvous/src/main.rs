//! The program `rendezvous`: its allocator and its entry point. [`cli`] has everything else.

#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

/// mimalloc is fast when one thread frees the allocations of another, which happens some hundred times in a transfer.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
