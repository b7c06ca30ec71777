//! How fast the relay is, and how far from what is possible: `cargo bench --bench relay`.
//!
//! It starts release servers, loads them over loopback, and prints a Markdown table. Each lane of the server is
//! measured, and beside it
//!
//! - the *floor*: a plain TCP relay by splice(2), which knows no HTTP and never sees a byte;
//! - an earlier build of the server, where `BASELINE` names one;
//! - [piping-server](https://github.com/nwtgck/piping-server), where it is installed, also by
//!   `npm install --no-save piping-server`.
//!
//! They take turns within each round, so that a machine that gets slower gets slower for all. The clients run on
//! the same CPUs: of a big transfer, trust the server's own CPU time before the throughput.
//!
//! | variable | |
//! |---|---|
//! | `ROUNDS=5` | how often everything is measured |
//! | `QUICK=1` | one round of a sixteenth of everything, to see that it works |
//! | `BASELINE=path/to/rendezvous` | an earlier build, to compare with |
//! | `SVG=docs/benchmark.svg` | draw a chart into this file |
//!
//! Read [`linux`] first (the rounds), then `workload` (what is measured) and `transfer`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the report goes to stdout, progress to stderr"
)]
#![allow(clippy::disallowed_methods, reason = "it measures real time, in threads that do nothing else")]
#![allow(clippy::cast_precision_loss, reason = "no figure is read to the 16th digit")]

#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [first, target] if first == linux::floor::ARGUMENT => linux::floor::serve(target.parse()?),
        // `cargo test --all-targets` runs this program too, and does not say so.
        arguments if arguments.iter().any(|argument| argument == "--bench") => linux::run(),
        _ => {
            println!("nothing is measured: `cargo bench --bench relay` does that");
            Ok(())
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("nothing is measured: the benchmark needs /proc and splice(2), which only Linux has");
}
