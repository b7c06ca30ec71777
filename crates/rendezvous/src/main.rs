//! The program `rendezvous`: its allocator and its entry point. [`cli`] has everything else.

#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

/// A transfer makes some hundred short-lived allocations on one thread, and frees them on another, which mimalloc does fast.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run()
}
