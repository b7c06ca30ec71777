//! How `recv` ended, as an exit code and a sentence. Pure.

use std::time::Duration;

use rendezvous_client::destination::DestinationError;
use rendezvous_client::plain::DownloadEnding;
use rendezvous_client::receive::{ReceiveEnding, Refusal};

use crate::cli::exit::Exit;
use crate::cli::transfer::text::{harmless, printable, size, time};
use crate::cli::transfer::view::Ending;

/// The end of an encrypted transfer, which another run can continue if what has arrived is kept.
pub(super) fn encrypted(ending: ReceiveEnding, give_up: Duration, is_kept: bool) -> Ending {
    match ending {
        ReceiveEnding::Stored { bytes, sha256, at, confirmed } => Ending {
            sha256: Some(sha256),
            at,
            ..Ending::success(Exit::Stored, verified("received and verified", confirmed), bytes)
        },
        ReceiveEnding::Handed { bytes, sha256, confirmed } => Ending {
            sha256: Some(sha256),
            ..Ending::success(Exit::Stored, verified("verified and passed on", confirmed), bytes)
        },
        ReceiveEnding::NoPeer => Ending::failure(
            Exit::NoPeer,
            format!(
                "no sender answered within {}: does it still run, and is this its latest link? `rendezvous doctor` \
                 tells whether the relay can be used",
                time(give_up)
            ),
        ),
        ReceiveEnding::Cut { why, bytes } => Ending::failure(
            Exit::Cut,
            format!("the transfer was cut at {} and did not go on: {}", size(bytes), harmless(&why)),
        ),
        ReceiveEnding::Refused { reason, message } => refused(reason, &harmless(&message)),
        ReceiveEnding::Integrity { why } => {
            Ending::failure(Exit::Integrity, format!("what arrived is not what was sent: {}", harmless(&why)))
        }
        ReceiveEnding::Destination(error) => {
            let next = match exit_of(&error) {
                Exit::Exists => ". If the sender has ended too, ask for a new link",
                _ => "",
            };
            Ending::failure(exit_of(&error), printable(&error.to_string()) + next)
        }
        ReceiveEnding::Unusable(error) => Ending::failure(Exit::Failed, error.to_string()),
        ReceiveEnding::Interrupted if is_kept => Ending::failure(
            Exit::Interrupted,
            "interrupted: what has arrived stays, and the same command continues it while the sender runs",
        ),
        ReceiveEnding::Interrupted => Ending::failure(
            Exit::Interrupted,
            "interrupted: what was passed on cannot be continued, so ask for a new link",
        ),
    }
}

fn verified(what: &str, is_confirmed: bool) -> String {
    if is_confirmed { what.to_owned() } else { format!("{what}; the sender has not confirmed that it knows") }
}

fn refused(reason: Refusal, message: &str) -> Ending {
    let what = match reason {
        Refusal::Gone => "the sender cannot go back that far: its pipe was read on. Let it send again",
        Refusal::Changed => "the file changed while it was sent: let the sender send it again",
        Refusal::Other => "the sender gave up",
    };
    let text = if message.is_empty() { what.to_owned() } else { format!("{what} ({message})") };
    Ending::failure(Exit::Refused, text)
}

/// The exit code for a destination that cannot take the data.
pub(super) fn exit_of(error: &DestinationError) -> Exit {
    match error {
        DestinationError::Exists { .. } => Exit::Exists,
        DestinationError::NoSpace { .. } | DestinationError::Refused { .. } => Exit::Refused,
        _ => Exit::Failed,
    }
}

/// The end of a download without encryption.
pub(super) fn plain(ending: DownloadEnding) -> Ending {
    match ending {
        DownloadEnding::Delivered { bytes, at } => {
            Ending { at, ..Ending::success(Exit::Delivered, "received, not verified", bytes) }
        }
        DownloadEnding::NoPeer { why } => Ending::failure(
            Exit::NoPeer,
            format!(
                "nothing is sent at this URL ({}): a URL can be fetched once, so ask for a new one",
                harmless(&why)
            ),
        ),
        DownloadEnding::Cut { why, bytes } => {
            Ending::failure(Exit::Cut, format!("the transfer was cut at {}: {}", size(bytes), harmless(&why)))
        }
        DownloadEnding::Destination(error) => Ending::failure(exit_of(&error), printable(&error.to_string())),
        DownloadEnding::Unusable(error) => Ending::failure(Exit::Failed, error.to_string()),
        DownloadEnding::Interrupted => Ending::failure(Exit::Interrupted, "interrupted"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn each_ending_has_its_exit_code_and_no_control_characters() {
        let sha256 = [0; 32].into();
        let path = || PathBuf::from("a\x1bb");
        let refused = |reason| ReceiveEnding::Refused { reason, message: "\x1b[2J".into() };
        let destination = ReceiveEnding::Destination;
        for (ending, exit) in [
            (ReceiveEnding::Stored { bytes: 1, sha256, at: None, confirmed: false }, Exit::Stored),
            (ReceiveEnding::Handed { bytes: 1, sha256, confirmed: true }, Exit::Stored),
            (ReceiveEnding::NoPeer, Exit::NoPeer),
            (ReceiveEnding::Cut { why: "\r".into(), bytes: 1 }, Exit::Cut),
            (refused(Refusal::Gone), Exit::Refused),
            (refused(Refusal::Changed), Exit::Refused),
            (refused(Refusal::Other), Exit::Refused),
            (ReceiveEnding::Integrity { why: "\x07".into() }, Exit::Integrity),
            (destination(DestinationError::Exists { path: path() }), Exit::Exists),
            (destination(DestinationError::NoSpace { path: path(), needed: 2, available: 1 }), Exit::Refused),
            (destination(DestinationError::Refused { what: "\x1b".into() }), Exit::Refused),
            (destination(DestinationError::PassedOn { bytes: 1 }), Exit::Failed),
            (ReceiveEnding::Interrupted, Exit::Interrupted),
        ] {
            let ending = encrypted(ending, Duration::from_secs(1), true);
            assert_eq!(ending.exit, exit, "{}", ending.message);
            assert!(!ending.message.chars().any(char::is_control), "{}", ending.message);
        }
    }

    #[test]
    fn however_long_a_path_is_the_message_says_what_to_do() {
        let error = DestinationError::Exists { path: PathBuf::from("x".repeat(1000)) };
        let ending = encrypted(ReceiveEnding::Destination(error), Duration::from_secs(1), true);
        let advice = "use --force to replace it, or --rename to keep both. If the sender has ended too, ask for a new link";
        assert!(ending.message.ends_with(advice), "{}", ending.message);
    }

    #[test]
    fn only_what_is_kept_is_said_to_continue() {
        for is_kept in [true, false] {
            let ending = encrypted(ReceiveEnding::Interrupted, Duration::from_secs(1), is_kept);
            assert_eq!(
                ending.message.contains("the same command continues it"),
                is_kept,
                "{}",
                ending.message
            );
        }
    }
}
