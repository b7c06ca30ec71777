//! How `send` ended, as an exit code and a sentence. Pure.

use std::time::Duration;

use rendezvous_client::plain::PlainSendEnding;
use rendezvous_client::send::{Failure, SendEnding};

use crate::cli::exit::Exit;
use crate::cli::transfer::text::{harmless, printable, size, time};
use crate::cli::transfer::view::Ending;

/// The end of an encrypted transfer. `unreached` is why the relay was never reached, if it was not.
pub(super) fn encrypted(ending: SendEnding, give_up: Duration, unreached: Option<&str>) -> Ending {
    match ending {
        SendEnding::Stored { bytes, sha256 } => {
            Ending { sha256: Some(sha256), ..Ending::success(Exit::Stored, "received and verified", bytes) }
        }
        SendEnding::Handed { bytes, sha256 } => {
            let message = "verified, and passed on to a pipe or a browser";
            Ending { sha256: Some(sha256), ..Ending::success(Exit::Handed, message, bytes) }
        }
        SendEnding::Unconfirmed { bytes } => Ending::failure(
            Exit::Unconfirmed,
            format!(
                "all {} are sent, but the receiver has not confirmed them: they may or may not be stored, so look there \
                 before you send again",
                size(bytes)
            ),
        ),
        SendEnding::NoPeer if let Some(why) = unreached => Ending::failure(
            Exit::NoPeer,
            format!(
                "the relay was not reached within {}: {}. `rendezvous doctor` finds out more",
                time(give_up),
                harmless(why)
            ),
        ),
        SendEnding::NoPeer => Ending::failure(
            Exit::NoPeer,
            format!(
                "nobody has used the link within {}: `rendezvous doctor` tells whether the relay can be used",
                time(give_up)
            ),
        ),
        SendEnding::Cut { why, bytes } => Ending::failure(
            Exit::Cut,
            format!("the transfer was cut at {} and did not go on: {}", size(bytes), harmless(&why)),
        ),
        SendEnding::Failed { reason, message } => failed(reason, &harmless(&message)),
        SendEnding::Source(error) => Ending::failure(Exit::Failed, printable(&error.to_string())),
        SendEnding::Unusable(error) => Ending::failure(Exit::Failed, error.to_string()),
        SendEnding::Interrupted => {
            Ending::failure(Exit::Interrupted, "interrupted; the link is of no use any more")
        }
    }
}

fn failed(reason: Failure, message: &str) -> Ending {
    let (exit, what) = match reason {
        Failure::Refused => (Exit::Refused, "the receiver refused the data"),
        Failure::NoSpace => (Exit::Refused, "the receiver has not enough space"),
        Failure::Exists => (
            Exit::Exists,
            "the receiver has a file of that name, and can take another with --rename and a new link",
        ),
        Failure::Integrity => (Exit::Integrity, "what arrived is not what was sent"),
        Failure::Other => (Exit::Failed, "the receiver gave up"),
    };
    Ending::failure(exit, if message.is_empty() { what.to_owned() } else { format!("{what}: {message}") })
}

/// The end of a transfer without encryption.
pub(super) fn plain(ending: PlainSendEnding) -> Ending {
    match ending {
        PlainSendEnding::Delivered { bytes } => {
            Ending::success(Exit::Delivered, "delivered, not verified", bytes)
        }
        PlainSendEnding::NoPeer => {
            Ending::failure(Exit::NoPeer, "nobody has fetched the URL before it expired: send it again")
        }
        PlainSendEnding::Cut { why } => {
            Ending::failure(Exit::Cut, format!("the transfer was cut: {}", harmless(&why)))
        }
        PlainSendEnding::Source(error) => Ending::failure(Exit::Failed, printable(&error.to_string())),
        PlainSendEnding::Unusable(error) => Ending::failure(Exit::Failed, error.to_string()),
        PlainSendEnding::Interrupted => Ending::failure(Exit::Interrupted, "interrupted"),
    }
}

#[cfg(test)]
mod tests {
    use rendezvous_client::source::SourceError;

    use super::*;

    #[test]
    fn only_a_receipt_from_disk_exits_with_0() {
        let sha256 = [0; 32].into();
        let day = Duration::from_hours(24);
        let failed = |reason| SendEnding::Failed { reason, message: "no\x1b[2J".into() };
        for (ending, exit) in [
            (SendEnding::Stored { bytes: 1, sha256 }, Exit::Stored),
            (SendEnding::Handed { bytes: 1, sha256 }, Exit::Handed),
            (SendEnding::Unconfirmed { bytes: 1 }, Exit::Unconfirmed),
            (SendEnding::NoPeer, Exit::NoPeer),
            (SendEnding::Cut { why: "x".into(), bytes: 1 }, Exit::Cut),
            (failed(Failure::Refused), Exit::Refused),
            (failed(Failure::NoSpace), Exit::Refused),
            (failed(Failure::Exists), Exit::Exists),
            (failed(Failure::Integrity), Exit::Integrity),
            (failed(Failure::Other), Exit::Failed),
            (SendEnding::Source(SourceError::Changed { what: "a\x1bb".into() }), Exit::Failed),
            (SendEnding::Interrupted, Exit::Interrupted),
        ] {
            let ending = encrypted(ending, day, None);
            assert_eq!(ending.exit, exit);
            assert_eq!(ending.is_success, matches!(exit, Exit::Stored | Exit::Handed));
            assert!(!ending.message.contains('\x1b'), "{}", ending.message);
        }
        assert_eq!(plain(PlainSendEnding::Delivered { bytes: 1 }).exit, Exit::Delivered);
    }

    #[test]
    fn a_relay_that_was_never_reached_is_not_a_link_that_nobody_used() {
        let told = |unreached| encrypted(SendEnding::NoPeer, Duration::from_secs(3), unreached);
        let unreached = told(Some("refused\x1b"));
        assert_eq!(unreached.exit, Exit::NoPeer);
        let message = "the relay was not reached within 3 s: refused_. `rendezvous doctor` finds out more";
        assert_eq!(unreached.message, message);
        assert!(told(None).message.starts_with("nobody has used the link within 3 s"));
    }
}
