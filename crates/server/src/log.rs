//! The log: one line at `debug` for each change of a stream, and errors together with their causes.

use std::error::Error;
use std::fmt;
use std::iter::successors;

use rendezvous_core::events::{Change, Event, Subscriber};
use tracing::{Level, debug, enabled};

/// The subscriber that logs each change of a stream, with a shortened id.
pub(crate) struct Log;

impl Subscriber for Log {
    fn publish(&self, event: &Event) {
        if !enabled!(target: "access", Level::DEBUG) {
            return;
        }
        let id = event.stream.name.short();
        match &event.change {
            Change::Created => debug!(target: "access", stream = %id, "created"),
            Change::Waiting(side) => debug!(target: "access", stream = %id, "{side} waits"),
            Change::Left(side) => debug!(target: "access", stream = %id, "{side} left while it waited"),
            Change::Paired { .. } => debug!(target: "access", stream = %id, "streaming"),
            Change::Reported { status } => {
                debug!(target: "access", stream = %id, "error {status} reported by a client");
            }
            Change::Ended { outcome, duration: None } => debug!(target: "access", stream = %id, "{outcome}"),
            Change::Ended { outcome, duration: Some(_) } => {
                debug!(target: "access", stream = %id, bytes = event.stream.bytes_transferred, "{outcome}");
            }
        }
    }
}

/// Displays an error and its causes, separated by colons. The messages of our errors leave their cause out, so that each is
/// reported once.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        successors(self.0.source(), |error| (*error).source()).try_for_each(|cause| write!(f, ": {cause}"))
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::{BindError, TlsError};

    #[test]
    fn an_error_is_displayed_with_each_cause_once() {
        let refused = || io::Error::other("refused");
        let read = || TlsError::Read { path: "key.pem".into(), source: refused() };
        let address = "192.0.2.1:80".parse().unwrap();
        for (error, text) in [
            (BindError::Tls(read()), r#"cannot read "key.pem": refused"#),
            (BindError::Listen { address, source: refused() }, "cannot listen on 192.0.2.1:80: refused"),
            (
                BindError::Host { host: "a".into(), source: refused() },
                r#"cannot find the address of the host "a": refused"#,
            ),
            (BindError::Inherited(refused()), "cannot listen on the inherited socket: refused"),
        ] {
            assert_eq!(Chain(&error).to_string(), text);
        }
    }
}
