//! What the receiver's state machine takes and what it has done.

use crate::destination::{Complete, Stored};
use crate::link::Id;
use crate::messages::{Control, SegmentHead};
use crate::receive::{ReceiveEvent, Refusal};
use crate::reply::{Reply, Verdict};
use crate::send::Failure;
use crate::source::Description;

/// What has happened.
#[derive(Debug)]
pub(crate) enum Input {
    /// The PUT of a control message ended.
    Told(Reply),
    /// A segment opened; the driver waits for [`Action::Take`].
    Opened { segment: u64, head: SegmentHead },
    /// So many bytes more are authenticated and written.
    Wrote { bytes: u64 },
    /// The GETs are ended, as [`Action::Close`] wished, and nothing is written any more.
    Closed,
    /// A segment's data ended, whole, or else cut.
    Ended { segment: u64, whole: bool },
    /// A segment's GET ended without data that opens.
    Got { segment: u64, reply: Reply },
    /// The destination has stored or passed on the verified data.
    Stored(Stored),
    /// Size or digest of what is held are not those of the end.
    Mismatch { why: String },
    /// The destination failed for good, as the driver knows.
    DestinationFailed { reason: Failure, message: String },
    /// The GET for the confirmation ended. `true` if it opened.
    ByeGot { opened: bool, reply: Reply },
    /// A person wishes to stop.
    Stop,
    /// Time has passed.
    Tick,
}

/// What the driver must do.
#[derive(Debug, PartialEq)]
pub(crate) enum Action {
    /// PUT a control message.
    Tell(Control),
    /// GET a segment of the current attempt.
    Get { attempt: Id, segment: u64 },
    /// Take the data of the opened segment. With `begin`, begin or restart the destination before.
    Take { segment: u64, begin: Option<Begin> },
    /// End all GETs of segments, and report when nothing of them is written any more.
    Close,
    /// Check size and digest of what is held, and make it final.
    Finish(Complete),
    /// GET the confirmation.
    GetBye { attempt: Id },
    /// The sender has confirmed: remove the state.
    Confirmed,
    /// Tell people.
    Event(ReceiveEvent),
    /// The last action.
    End(Ending),
}

/// How the destination starts.
#[derive(Debug, PartialEq)]
pub(crate) struct Begin {
    pub(crate) transfer: Id,
    pub(crate) description: Description,
    /// Whether to drop first what is held.
    pub(crate) restart: bool,
}

/// How it ended, without what only the driver knows.
#[derive(Debug, PartialEq)]
pub(crate) enum Ending {
    Stored {
        complete: Complete,
        stored: Stored,
        confirmed: bool,
    },
    NoPeer,
    Cut {
        why: String,
        bytes: u64,
    },
    Refused {
        reason: Refusal,
        message: String,
    },
    Integrity {
        why: String,
    },
    /// The destination failed, as the driver knows.
    Destination,
    Unusable {
        verdict: Verdict,
    },
    Interrupted,
}
