//! The command line: parses the arguments, runs the subcommand, and reports a failure as text and an exit code.

mod doctor;
mod exit;
mod generate;
mod log;
mod recv;
mod send;
mod serve;
mod signals;
mod systemd;
mod transfer;
mod variables;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use self::exit::{Exit, Failure};
use self::transfer::view::complain;
use self::variables::UnknownVariables;

const EXAMPLES: &str = r#"Examples:
  Start the relay, and send a directory through it; the other side uses the link that this prints:
      rendezvous serve
      rendezvous send holiday/ --to http://127.0.0.1:9999

  Create a stream, receive in one terminal, and send in another:
      id=$(curl -fsS -X POST http://127.0.0.1:9999/stream | cut -d'"' -f4)
      curl -fsS http://127.0.0.1:9999/stream/$id -o copy
      curl -fsS -T file http://127.0.0.1:9999/stream/$id

  See all flags with their defaults, and how to serve other machines:
      rendezvous serve --help"#;

/// An HTTP rendezvous relay: one side PUTs, the other GETs, and the bytes flow through, live and unstored.
#[derive(Debug, Parser)]
#[command(
    name = "rendezvous",
    version = env!("VERSION"),
    about,
    arg_required_else_help = true,
    after_help = "--help has examples.",
    after_long_help = EXAMPLES
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(Box<serve::ServeArguments>),
    Send(send::SendArguments),
    Recv(recv::RecvArguments),
    Doctor(doctor::DoctorArguments),
    Completions(generate::CompletionsArguments),
    Man(generate::ManArguments),
}

/// Runs the program. [`Exit`] has the exit codes; `serve` uses 0 for success, 1 for a failure, and 2 for invalid arguments or environment
/// variables.
pub(crate) fn run() -> ExitCode {
    let Arguments { command } = parse().unwrap_or_else(|error| error.exit());
    let ended = match command {
        Command::Serve(arguments) => serve::run(&arguments).map(|()| Exit::Stored).map_err(Failure::from),
        Command::Send(arguments) => send::run(&arguments),
        Command::Recv(arguments) => recv::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Completions(arguments) => Ok(generate::print_completions(&arguments, Arguments::command())),
        Command::Man(arguments) => generate::print_man(&arguments, Arguments::command()),
    };
    ended
        .unwrap_or_else(|Failure { exit, message }| {
            complain(&message);
            exit
        })
        .into()
}

/// Returns the arguments, or the error or help text to exit with. An unknown variable is reported before other errors, because it may
/// explain them: Kubernetes sets `RENDEZVOUS_PORT` to a URL.
fn parse() -> Result<Arguments, clap::Error> {
    let parsed = Arguments::try_parse();
    let is_help = parsed.as_ref().is_err_and(|error| {
        matches!(
            error.kind(),
            ErrorKind::DisplayHelp
                | ErrorKind::DisplayVersion
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        )
    });
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    match UnknownVariables::find(names, &variables_of_flags()) {
        Some(unknown) if !is_help => {
            let help = "For more information, try 'rendezvous serve --help'.";
            Err(clap::Error::raw(ErrorKind::UnknownArgument, format!("{unknown}\n\n{help}\n")))
        }
        _ => parsed,
    }
}

/// Returns the environment variables of the flags of all subcommands.
fn variables_of_flags() -> Vec<String> {
    let command = Arguments::command();
    let flags = command.get_subcommands().flat_map(clap::Command::get_arguments);
    flags.filter_map(|flag| Some(flag.get_env()?.to_string_lossy().into_owned())).collect()
}

#[cfg(test)]
mod tests;
