//! The command line: arguments become a `Config`, and a failure becomes a sentence and an exit code.

mod log;
mod serve;
mod systemd;
mod variables;

use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use self::variables::UnknownVariables;

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

/// Runs the program. Exit code 0: it ended well; 1: it failed; 2: the arguments or the environment are wrong.
pub(crate) fn run() -> ExitCode {
    let Arguments { command: Command::Serve(arguments) } = parse().unwrap_or_else(|error| error.exit());
    match serve::run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where stderr is closed, the exit code has to do.
            let _ = writeln!(std::io::stderr(), "rendezvous: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The arguments, or the error or help text to end with. An unknown variable is the first error reported, because it may
/// explain the others: Kubernetes sets `RENDEZVOUS_PORT` to what is no port.
fn parse() -> Result<Arguments, clap::Error> {
    let parsed = Arguments::try_parse();
    let has_help = parsed.as_ref().is_err_and(|error| {
        matches!(
            error.kind(),
            ErrorKind::DisplayHelp
                | ErrorKind::DisplayVersion
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        )
    });
    let names = std::env::vars_os().map(|(name, _)| name.to_string_lossy().into_owned());
    match UnknownVariables::find(names, &variables_of_flags()) {
        Some(unknown) if !has_help => {
            let help = "For more information, try 'rendezvous serve --help'.";
            Err(clap::Error::raw(ErrorKind::UnknownArgument, format!("{unknown}\n\n{help}\n")))
        }
        _ => parsed,
    }
}

/// The variables of the flags of all subcommands.
fn variables_of_flags() -> Vec<String> {
    let command = Arguments::command();
    let flags = command.get_subcommands().flat_map(clap::Command::get_arguments);
    flags.filter_map(|flag| Some(flag.get_env()?.to_string_lossy().into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use clap::{Arg, CommandFactory};

    use super::Arguments;

    const BEGIN: &str = "<!-- The flags, made by `UPDATE_DOCS=1 cargo test --bin rendezvous`: -->\n";
    const END: &str = "<!-- The end of the flags. -->\n";

    fn flags() -> Vec<Arg> {
        let mut command = Arguments::command();
        command.build();
        let flags = command.find_subcommand("serve").unwrap().get_arguments().cloned();
        flags.filter(|flag| flag.get_id() != "help").collect()
    }

    /// The flags of `serve`, as the page for operators has them.
    fn table() -> String {
        let head = "| flag | environment variable | value | default | |\n|---|---|---|---|---|\n".to_owned();
        flags().iter().fold(head, |table, flag| table + &row(flag))
    }

    fn row(flag: &Arg) -> String {
        let name = flag.get_long().unwrap();
        let variable = flag.get_env().unwrap_or_else(|| panic!("--{name} has no environment variable"));
        let help = flag.get_help().unwrap().to_string();
        // What the program works out for itself stands behind the text.
        let (text, worked_out) = help.split_once(" [default: ").unwrap_or((&help, "none]"));
        let given: Vec<_> = flag.get_default_values().iter().map(|value| value.to_str().unwrap()).collect();
        let default = match (flag.get_action().takes_values(), given.as_slice()) {
            (false, _) => "off".to_owned(),
            (true, []) => worked_out.strip_suffix(']').unwrap().to_owned(),
            (true, values) => format!("`{}`", values.join(",")),
        };
        let (variable, value, text) = (variable.to_str().unwrap(), value(flag), text.replace('|', "\\|"));
        format!("| `--{name}` | `{variable}` | {value} | {default} | {text} |\n")
    }

    /// What a flag takes: one of a few words, or what its name for the value says.
    fn value(flag: &Arg) -> String {
        let words = flag.get_possible_values();
        match (flag.get_action().takes_values(), words.as_slice()) {
            (false, _) => "none; as a variable `true` or `false`".to_owned(),
            (true, []) => format!("`{}`", flag.get_value_names().unwrap_or_default().join(" ")),
            (true, words) => {
                words.iter().map(|word| format!("`{}`", word.get_name())).collect::<Vec<_>>().join(", ")
            }
        }
    }

    #[test]
    fn the_page_for_operators_has_every_flag_as_it_is() {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
        let page = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = page.split_once(BEGIN).unwrap();
        let (_, after) = rest.split_once(END).unwrap();
        let as_it_is = [before, BEGIN, "\n", &table(), "\n", END, after].concat();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &as_it_is).unwrap();
            return;
        }
        assert!(
            page == as_it_is,
            "docs/operations.md is behind the flags: `UPDATE_DOCS=1 cargo test --bin rendezvous` brings it up to date\n{}",
            table()
        );
    }

    #[test]
    fn the_page_for_operators_says_what_every_value_is() {
        let page = include_str!("../../../docs/operations.md");
        for name in flags().iter().map(value).filter(|name| name.starts_with('`') && !name.contains(", ")) {
            assert!(page.contains(&format!("\n| {name} | ")), "{name} is not explained");
        }
    }
}
