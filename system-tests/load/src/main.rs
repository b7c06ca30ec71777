//! The server under load: `cargo run --release -p load -- scale`, `… paths`, and `… soak`.
//!
//! Each starts servers of its own, prints its figures, and fails on a response against the contract, on growing memory or on a leaked
//! descriptor.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the report goes to stdout, progress to stderr"
)]
#![allow(clippy::cast_precision_loss, reason = "no figure is read to the 16th digit")]

#[cfg(target_os = "linux")]
mod answer;
#[cfg(target_os = "linux")]
mod paths;
#[cfg(target_os = "linux")]
mod scale;
#[cfg(target_os = "linux")]
mod server;
#[cfg(target_os = "linux")]
mod soak;

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    use clap::Parser;

    /// The server under load.
    #[derive(Parser)]
    enum Command {
        Paths(paths::Arguments),
        Scale(scale::Arguments),
        Soak(soak::Arguments),
    }

    let held = match Command::parse() {
        Command::Paths(arguments) => paths::run(&arguments),
        Command::Scale(arguments) => scale::run(&arguments),
        Command::Soak(arguments) => soak::run(&arguments),
    };
    match held {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("FAILED: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("nothing is measured: this needs /proc, which only Linux has");
}
