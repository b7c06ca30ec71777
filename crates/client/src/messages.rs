//! The messages of both sides, as values and as JSON.
//!
//! *Invariant.* What the peer sends is parsed into these values or refused as a whole: no duplicate keys, integers below 2^53, digests and names
//! in their one spelling. Unknown fields are ignored.
//!
//! *Bounds.* A control message is at most [`MAX_CONTROL`] bytes of ciphertext, the head of a segment at most [`MAX_HEAD`] of JSON.

mod control;
mod head;
mod object;

pub(crate) use control::{Ask, Body, Control, Done, Failed};
pub(crate) use head::{Head, Refused, SegmentHead};

/// At most this much ciphertext of a control message is read.
pub(crate) const MAX_CONTROL: usize = 32 * 1024;

/// The longest JSON object at the start of a segment.
pub(crate) const MAX_HEAD: usize = 16 * 1024;

/// Integers of the protocol are below this, so that every JSON parser reads them exactly.
const INTEGER_LIMIT: u64 = 1 << 53;

/// The version of the messages.
const VERSION: u64 = 1;

/// Why a message is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidMessage {
    /// Not one JSON object without duplicate keys.
    #[error("not a JSON object, or one with duplicate keys")]
    Json,
    /// A field is missing or has another form.
    #[error("the field {0} is missing or not as the protocol says")]
    Field(&'static str),
    /// Of another version.
    #[error("the version of the protocol is unknown")]
    Version,
    /// Of a type that a later version may have.
    #[error("the type of the message is unknown")]
    Type,
}
