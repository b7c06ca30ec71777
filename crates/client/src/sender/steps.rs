//! What the sender's state machine takes and what it has done.

use std::time::Duration;

use crate::destination::{Complete, Stored};
use crate::link::Id;
use crate::messages::{Control, Refused};
use crate::receive::Refusal;
use crate::reply::{Reply, Verdict};
use crate::send::{Failure, SendEvent};

/// What has happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// A control message arrived.
    Heard(Control),
    /// A control message arrived that does not open.
    Unreadable,
    /// The GET for a control message ended without one.
    Listened(Reply),
    /// The answer to [`Action::Probe`].
    Probed(Reply),
    /// The data of a segment is known.
    Made(Made),
    /// So many bytes of a segment's ciphertext are taken by the connection.
    Taken { attempt: Id, segment: u64, bytes: u64 },
    /// A segment's PUT ended.
    Put { attempt: Id, segment: u64, reply: Reply },
    /// The PUT of an empty segment ended.
    Nudged { attempt: Id, segment: u64, reply: Reply },
    /// The PUT of a refusal ended.
    RefusalPut(Reply),
    /// The PUT of the confirmation ended.
    ByePut(Reply),
    /// The source reaches back to this offset only.
    Earliest(u64),
    /// The source failed for good.
    SourceFailed { refusal: Refusal, message: String },
    /// A person wishes to stop.
    Stop,
    /// Time has passed.
    Tick,
}

/// What a segment that is about to be sent consists of.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) attempt: Id,
    pub(crate) segment: u64,
    /// The number of bytes of data.
    pub(crate) data: u64,
    /// The length of the message.
    pub(crate) sealed: u64,
    /// Set if the data ends with it.
    pub(crate) end: Option<Complete>,
}

/// What the driver must do.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    /// GET the control path, with this wait.
    Listen { wait: Duration },
    /// HEAD the control path.
    Probe,
    /// Show the link: the relay holds the control request.
    Link,
    /// Make a segment of at most `limit` bytes from `offset` on, and PUT it. One at a time, in this order.
    Put { attempt: Id, recipient: String, segment: u64, offset: u64, limit: u64 },
    /// End the PUTs of segments from this one on.
    Close { segment: u64 },
    /// PUT nothing at the place of a segment.
    Nudge { attempt: Id, segment: u64 },
    /// PUT a segment 0 that refuses an attempt.
    Refuse { attempt: Id, recipient: String, reason: Refused, message: String },
    /// PUT the confirmation.
    Bye { attempt: Id, recipient: String },
    /// Tell people.
    Event(SendEvent),
    /// The last action.
    End(Ending),
}

/// How it ended, without what only the driver knows.
#[derive(Debug, PartialEq)]
pub(crate) enum Ending {
    Received {
        complete: Complete,
        stored: Stored,
    },
    Unconfirmed {
        bytes: u64,
    },
    NoPeer,
    Cut {
        why: String,
        bytes: u64,
    },
    Failed {
        reason: Failure,
        message: String,
    },
    /// The source failed, as the driver knows.
    Source,
    Unusable {
        verdict: Verdict,
    },
    Interrupted,
}
