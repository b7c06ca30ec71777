//! The benchmark: throughput, CPU time, latency and memory of the relay, compared with others. `cargo bench --bench relay` runs it.
//!
//! It starts the server, loads it over loopback, and prints a Markdown table. The contenders are the server with each of its data paths, and
//!
//! - the *floor*: a plain TCP relay by splice(2), without HTTP and without a copy in user space;
//! - an earlier build of the server, if `BASELINE` names one;
//! - [piping-server](https://github.com/nwtgck/piping-server), if it is installed, for instance by
//!   `npm install --no-save piping-server`.
//!
//! The contenders take turns within each round, so that a machine that becomes slower affects all of them. The clients run on the same
//! CPUs, so for large transfers the server's CPU time is more reliable than the throughput.
//!
//! | variable | effect |
//! |---|---|
//! | `ROUNDS=5` | number of rounds |
//! | `QUICK=1` | one round with a sixteenth of each workload, as a smoke test |
//! | `BASELINE=path/to/rendezvous` | adds an earlier build |
//! | `SVG=docs/benchmark.svg` | draws a chart into this file |
//!
//! Relative paths start at the root of the repository.
//!
//! Read [`linux`] (the rounds) first, then `workload` (what is measured) and `transfer`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the report goes to stdout, progress to stderr"
)]
#![allow(clippy::disallowed_methods, reason = "it measures real time, in threads that do nothing else")]
#![allow(clippy::cast_precision_loss, reason = "figures need fewer than 16 digits")]

#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "linux")]
fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [first, target] if first == linux::floor::ARGUMENT => linux::floor::serve(target.parse()?),
        // `cargo test --all-targets` runs this program too, without `--bench`.
        arguments if arguments.iter().any(|argument| argument == "--bench") => linux::run(),
        _ => {
            println!("nothing measured: run `cargo bench --bench relay`");
            Ok(())
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("nothing measured: the benchmark needs /proc and splice(2), which only Linux has");
}
