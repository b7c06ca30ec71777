//! `rendezvous completions` and `rendezvous man`: files for shells and for man(1), made from the command line itself.

use std::io::{Write, stdout};

use anyhow::Context;
use clap::{Args, ValueEnum};
use clap_complete::Shell as Generator;
use clap_mangen::Man;

use super::exit::{Exit, Failure};

/// The shells that completions exist for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// Print the completions of a shell
///
/// For bash: source <(rendezvous completions bash), or write them to
/// ~/.local/share/bash-completion/completions/rendezvous. For zsh: write them to a file _rendezvous
/// in a directory of $fpath. For fish: ~/.config/fish/completions/rendezvous.fish. The Debian
/// package has them already.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct CompletionsArguments {
    /// Shell to complete in
    shell: Shell,
}

/// Print a page for man(1)
///
/// rendezvous man send | man -l - shows that of send. The Debian package has them already.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct ManArguments {
    /// Command to describe [default: the program as a whole]
    command: Option<String>,
}

/// Prints the completions.
pub(crate) fn print_completions(arguments: &CompletionsArguments, program: clap::Command) -> Exit {
    print(&completions(arguments.shell, program))
}

/// Prints a page.
pub(crate) fn print_man(arguments: &ManArguments, program: clap::Command) -> Result<Exit, Failure> {
    let name = arguments.command.as_deref();
    let names: Vec<_> = program.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let page = man(program, name)?.ok_or_else(|| {
        let unknown = name.unwrap_or_default();
        Failure::usage(format!("there is no command {unknown:?}: give one of {}", names.join(", ")))
    })?;
    Ok(print(&page))
}

/// A reader that closes its end early, such as `head`, is no failure.
fn print(bytes: &[u8]) -> Exit {
    let mut out = stdout().lock();
    let _ = out.write_all(bytes).and_then(|()| out.flush());
    Exit::Stored
}

pub(super) fn completions(shell: Shell, mut program: clap::Command) -> Vec<u8> {
    let generator = match shell {
        Shell::Bash => Generator::Bash,
        Shell::Zsh => Generator::Zsh,
        Shell::Fish => Generator::Fish,
    };
    let mut bytes = Vec::new();
    clap_complete::generate(generator, &mut program, "rendezvous", &mut bytes);
    bytes
}

/// Returns the page of a command, or of the whole program; `None` if there is no such command.
pub(super) fn man(program: clap::Command, command: Option<&str>) -> anyhow::Result<Option<Vec<u8>>> {
    // Without the commit, so that the pages of the repository do not change with each one.
    let mut program = program.version(env!("CARGO_PKG_VERSION")).disable_help_subcommand(true);
    program.build();
    let Some(page) = command.map_or(Some(program.clone()), |name| program.find_subcommand(name).cloned())
    else {
        return Ok(None);
    };
    let mut bytes = Vec::new();
    Man::new(page).manual("http-rendezvous").render(&mut bytes).context("cannot write the page")?;
    Ok(Some(bytes))
}
