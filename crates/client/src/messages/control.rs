//! Messages of the receiver to the sender.

use super::object::{NewObject, Object};
use super::{InvalidMessage, VERSION};
use crate::destination::Stored;
use crate::digest::Digest;
use crate::link::Id;
use crate::seal::is_recipient;
use crate::send::Failure;

/// The longest text that a failure carries.
const MAX_MESSAGE: usize = 1000;

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Control {
    /// Who sends it.
    pub(crate) receiver: Id,
    /// Its number: higher than all before of this receiver.
    pub(crate) n: u64,
    /// What it says.
    pub(crate) body: Body,
}

/// What a control message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// Send from here on.
    Ask(Ask),
    /// All is verified, and stored or passed on.
    Done(Done),
    /// The transfer has failed for good.
    Failed(Failed),
}

/// The request to begin an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// The new attempt.
    pub(crate) attempt: Id,
    /// The first wanted byte of the plaintext.
    pub(crate) offset: u64,
    /// The age recipient to encrypt to.
    pub(crate) recipient: String,
    /// The transfer that is continued.
    pub(crate) transfer: Option<Id>,
}

/// The receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    /// The attempt that ended it; the confirmation comes there.
    pub(crate) attempt: Id,
    /// The transfer.
    pub(crate) transfer: Id,
    /// How many bytes.
    pub(crate) bytes: u64,
    /// Their digest.
    pub(crate) sha256: Digest,
    /// How far they have come.
    pub(crate) stored: Stored,
}

/// The receiver gives up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    /// The attempt that failed.
    pub(crate) attempt: Id,
    /// The transfer.
    pub(crate) transfer: Id,
    /// The kind of failure.
    pub(crate) reason: Failure,
    /// What it says about it.
    pub(crate) message: String,
}

impl Control {
    /// Parses a decrypted message.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, InvalidMessage> {
        let object = Object::parse(json)?;
        if object.integer("v") != Ok(VERSION) {
            return Err(InvalidMessage::Version);
        }
        let receiver = object.parsed("receiver")?;
        let n = object.integer("n")?;
        let body = match object.text("type")? {
            "ask" => Body::Ask(Ask {
                attempt: object.parsed("attempt")?,
                offset: object.integer("offset")?,
                recipient: recipient_of(object.text("recipient")?)?,
                transfer: object.optional("transfer", Object::parsed)?,
            }),
            "done" => Body::Done(Done {
                attempt: object.parsed("attempt")?,
                transfer: object.parsed("transfer")?,
                bytes: object.integer("bytes")?,
                sha256: object.parsed("sha256")?,
                stored: match object.text("stored")? {
                    "disk" => Stored::Disk,
                    "handed" => Stored::Handed,
                    _ => return Err(InvalidMessage::Field("stored")),
                },
            }),
            "failed" => Body::Failed(Failed {
                attempt: object.parsed("attempt")?,
                transfer: object.parsed("transfer")?,
                reason: failure_of(object.text("reason")?),
                message: printable(object.text("message").unwrap_or_default()),
            }),
            _ => return Err(InvalidMessage::Type),
        };
        Ok(Self { receiver, n, body })
    }

    /// Writes it as JSON.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut object = NewObject::new();
        match &self.body {
            Body::Ask(ask) => {
                object.set("type", "ask");
                object.set("attempt", ask.attempt.as_str());
                object.set("offset", ask.offset);
                object.set("recipient", ask.recipient.as_str());
                object.set_optional("transfer", ask.transfer.as_ref().map(Id::as_str));
            }
            Body::Done(done) => {
                object.set("type", "done");
                object.set("attempt", done.attempt.as_str());
                object.set("transfer", done.transfer.as_str());
                object.set("bytes", done.bytes);
                object.set("sha256", done.sha256.to_string());
                object.set("stored", stored_name(done.stored));
            }
            Body::Failed(failed) => {
                object.set("type", "failed");
                object.set("attempt", failed.attempt.as_str());
                object.set("transfer", failed.transfer.as_str());
                object.set("reason", failure_name(failed.reason));
                object.set("message", printable(&failed.message));
            }
        }
        object.set("receiver", self.receiver.as_str());
        object.set("n", self.n);
        object.into_json()
    }
}

/// Makes a hostile text safe to show: without control and direction characters, and short.
pub(super) fn printable(text: &str) -> String {
    let is_shown = |character: &char| {
        !character.is_control()
            && !matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().filter(is_shown).take(MAX_MESSAGE).collect()
}

fn recipient_of(text: &str) -> Result<String, InvalidMessage> {
    if is_recipient(text) { Ok(text.to_owned()) } else { Err(InvalidMessage::Field("recipient")) }
}

fn stored_name(stored: Stored) -> &'static str {
    match stored {
        Stored::Disk => "disk",
        Stored::Handed => "handed",
    }
}

fn failure_of(name: &str) -> Failure {
    match name {
        "refused" => Failure::Refused,
        "no_space" => Failure::NoSpace,
        "exists" => Failure::Exists,
        "integrity" => Failure::Integrity,
        _ => Failure::Other,
    }
}

fn failure_name(failure: Failure) -> &'static str {
    match failure {
        Failure::Refused => "refused",
        Failure::NoSpace => "no_space",
        Failure::Exists => "exists",
        Failure::Integrity => "integrity",
        Failure::Other => "other",
    }
}

#[cfg(test)]
mod tests;
