//! The command line: arguments become a `Config`, and a failure becomes a sentence and an exit code.

mod log;
mod serve;
mod systemd;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// An HTTP rendezvous relay: one side PUTs, the other GETs, and the bytes flow through, live and unstored.
#[derive(Debug, Parser)]
#[command(version, about, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::ServeArguments),
}

/// Runs the program. Exit code 0: it ended well; 1: it failed; 2: the arguments are wrong.
pub(crate) fn run() -> ExitCode {
    let Arguments { command: Command::Serve(arguments) } = Arguments::parse();
    match serve::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where stderr is closed, the exit code has to do.
            let _ = writeln!(std::io::stderr(), "rendezvous: {error:#}");
            ExitCode::FAILURE
        }
    }
}
