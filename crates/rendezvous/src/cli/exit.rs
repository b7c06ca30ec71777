//! The exit codes of the program, as one table: the help, docs/send-and-receive.md and the program itself take them from here.

use std::fmt::Write;
use std::process::ExitCode;

/// How a command ended. The discriminant is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// `send`: the receiver has verified the data, flushed it to disk and named it. Otherwise: success.
    Stored = 0,
    /// Anything that has no code of its own.
    Failed = 1,
    /// The command line, a variable or the configuration file is invalid.
    Usage = 2,
    /// `send`: the receiver has verified the data and passed it on.
    Handed = 3,
    /// `send`: everything is sent, and no receipt came.
    Unconfirmed = 4,
    /// The other side never came.
    NoPeer = 5,
    /// The transfer was cut and did not go on within `--give-up`.
    Cut = 6,
    /// What arrived is not what was sent.
    Integrity = 7,
    /// The other side refused, or has no space.
    Refused = 8,
    /// The target exists.
    Exists = 9,
    /// A transfer without encryption: delivered, and not verified.
    Delivered = 10,
    /// A signal ended the program.
    Interrupted = 130,
}

impl Exit {
    /// All of them, in the order of their codes.
    pub(crate) const ALL: [Self; 12] = [
        Self::Stored,
        Self::Failed,
        Self::Usage,
        Self::Handed,
        Self::Unconfirmed,
        Self::NoPeer,
        Self::Cut,
        Self::Integrity,
        Self::Refused,
        Self::Exists,
        Self::Delivered,
        Self::Interrupted,
    ];

    /// The exit code.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    /// The name in JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Handed => "handed",
            Self::Unconfirmed => "unconfirmed",
            Self::NoPeer => "no_peer",
            Self::Cut => "cut",
            Self::Integrity => "integrity",
            Self::Refused => "refused",
            Self::Exists => "exists",
            Self::Delivered => "delivered",
            Self::Interrupted => "interrupted",
        }
    }

    /// What the code means, for people.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Stored => {
                "send: the receiver has verified the data and flushed it to disk; recv: received and verified"
            }
            Self::Failed => "any other failure; standard error says which",
            Self::Usage => "the command line, a variable or the configuration file is invalid",
            Self::Handed => "send: verified and passed on, to a pipe or a browser, which may still lose it",
            Self::Unconfirmed => "send: everything is sent, but no receipt came: it may or may not be stored",
            Self::NoPeer => "the other side never came",
            Self::Cut => "the transfer was cut, and did not go on within --give-up",
            Self::Integrity => "what arrived is not what was sent",
            Self::Refused => "the other side refused, or has no space for the data",
            Self::Exists => "the target exists: --force or --rename of recv",
            Self::Delivered => "--plain and a plain URL: delivered, but not verified",
            Self::Interrupted => "Ctrl-C or SIGTERM; the other side was told, unless recv can be continued",
        }
    }

    /// The table as a part of a help text.
    pub(crate) fn help() -> String {
        Self::ALL.iter().fold("Exit codes:\n".to_owned(), |mut text, exit| {
            let _ = writeln!(text, "  {:>3}  {}", exit.code(), exit.meaning());
            text
        })
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command ended early: an exit code, and a sentence that says what to do.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }

    /// A mistake in the command line, a variable or the configuration file.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failed, format!("{error:#}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_exit_code_has_a_name_and_a_meaning_of_its_own() {
        let codes: BTreeSet<_> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        let names: BTreeSet<_> = Exit::ALL.iter().map(|exit| exit.name()).collect();
        let meanings: BTreeSet<_> = Exit::ALL.iter().map(|exit| exit.meaning()).collect();
        assert_eq!([codes.len(), names.len(), meanings.len()], [Exit::ALL.len(); 3]);
        assert!(Exit::ALL.is_sorted_by_key(|exit| exit.code()));
    }
}
