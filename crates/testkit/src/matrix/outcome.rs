//! The outcomes of the matrix: what docs/api.md (sections 2, 4 and 6) promises for each cell.

use super::{Cell, Event, Version, When};

/// The outcome that a cell must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Expected {
    /// The allowed final states.
    pub states: &'static [&'static str],
    /// The response to the source.
    pub source: Answered,
    /// The response to the destination.
    pub destination: Received,
    /// The `error` object of the status object, unless the state is `FINISHED`.
    pub error: Option<Error>,
}

/// The response that the source must get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answered {
    /// 200.
    Ok,
    /// This error.
    Error(Error),
    /// 200 if the final state is `FINISHED`, otherwise [`Error::DESTINATION_LEFT`].
    ByState,
    /// Nothing to compare: the source disconnected, or the server reset its HTTP/2 stream.
    Unseen,
}

/// The response that the destination must get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Received {
    /// 200 and the complete body.
    Whole,
    /// 200 and a prefix of the body, at least as long as [`Cell::passed_on`], with a visible cut at its end.
    Cut(Cut),
    /// This error.
    Error(Error),
    /// Nothing to compare: the destination disconnected.
    Unseen,
}

/// The form of a cut (docs/api.md, section 6, "Incomplete"). Over TLS, a cut HTTP/1 connection never ends with `close_notify`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cut {
    /// The connection ends by FIN before the end that `Content-Length` or the chunks declare.
    Short,
    /// The connection is reset (RST). Over TLS, a missing `close_notify` is enough.
    ConnectionReset,
    /// `RST_STREAM` with this error code.
    StreamReset(u32),
}

/// An error response (docs/api.md, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Error {
    /// The status code.
    pub status: u16,
    /// The `name` in the body.
    pub name: &'static str,
    /// A prefix of the `message` in the body.
    pub message: &'static str,
}

impl Error {
    /// The source disconnected before its body was complete.
    pub const SOURCE_LEFT: Self =
        Self { status: 502, name: "StreamSourceError", message: "Stream source closed unexpectedly" };
    /// The source sent nothing for the idle limit.
    pub const SOURCE_STALLED: Self =
        Self { status: 502, name: "StreamSourceError", message: "Stream source stalled" };
    /// The source sent invalid framing: the response to the destination.
    pub const SOURCE_BROKE: Self = Self { status: 502, name: "StreamSourceError", message: "" };
    /// The source sent invalid framing, or half-closed before its body was complete: the response to the source.
    pub const BAD_BODY: Self = Self { status: 400, name: "BadRequestError", message: "" };
    /// The destination disconnected before it had acknowledged the body.
    pub const DESTINATION_LEFT: Self = Self {
        status: 502,
        name: "StreamDestinationError",
        message: "Stream destination closed unexpectedly",
    };
    /// The destination read nothing for the idle limit.
    pub const DESTINATION_STALLED: Self =
        Self { status: 502, name: "StreamDestinationError", message: "Stream destination stalled" };
}

impl Cell {
    /// Returns the outcome that the cell must have.
    #[must_use]
    pub fn expected(self) -> Expected {
        let is_whole = self.when == When::AfterEnd;
        match self.event {
            Event::Nothing => FINISHED,
            Event::SourceHalfCloses if is_whole => FINISHED,
            Event::SourceCloses | Event::SourceResets if is_whole => {
                Expected { source: Answered::Unseen, ..FINISHED }
            }
            Event::DestinationCloses | Event::DestinationHalfCloses if is_whole => {
                Expected { destination: Received::Unseen, ..FINISHED }
            }
            // A reset can overtake the acknowledgement of what the destination has read.
            Event::DestinationResets if is_whole => Expected {
                states: &["FINISHED", "DST_DISCONNECTED"],
                source: Answered::ByState,
                ..DESTINATION_LEFT
            },
            Event::SourceCloses | Event::SourceResets => {
                self.source_failed(&["SRC_DISCONNECTED"], Answered::Unseen, Error::SOURCE_LEFT)
            }
            Event::SourceHalfCloses => {
                let answered = Answered::Error(Error::BAD_BODY);
                self.source_failed(&["SRC_DISCONNECTED"], answered, Error::SOURCE_LEFT)
            }
            Event::SourceBreaksFraming if self.source == Version::Http2 => {
                let states = &["SRC_ERROR", "SRC_DISCONNECTED"];
                self.source_failed(states, Answered::Unseen, Error::SOURCE_BROKE)
            }
            Event::SourceBreaksFraming => {
                self.source_failed(&["SRC_ERROR"], Answered::Error(Error::BAD_BODY), Error::SOURCE_BROKE)
            }
            Event::SourceStalls => {
                let error = Error::SOURCE_STALLED;
                self.source_failed(&["SRC_ERROR"], Answered::Error(error), error)
            }
            Event::DestinationStalls => Expected {
                states: &["DST_ERROR"],
                source: Answered::Error(Error::DESTINATION_STALLED),
                destination: Received::Cut(self.cut()),
                error: Some(Error::DESTINATION_STALLED),
            },
            Event::DestinationCloses
            | Event::DestinationResets
            | Event::DestinationHalfCloses
            | Event::DestinationStallsThenCloses
            | Event::DestinationStallsThenResets => DESTINATION_LEFT,
        }
    }

    /// Returns the outcome of a source failure. Before the first byte, the destination gets it as a status.
    fn source_failed(self, states: &'static [&'static str], source: Answered, error: Error) -> Expected {
        let destination = match self.passed_on(u64::MAX) {
            0 => Received::Error(error),
            _ => Received::Cut(self.cut()),
        };
        Expected { states, source, destination, error: Some(error) }
    }

    /// Returns the form in which the destination sees that its message is incomplete.
    #[must_use]
    pub fn cut(self) -> Cut {
        const INTERNAL_ERROR: u32 = 2;
        match self.destination {
            Version::Http2 => Cut::StreamReset(INTERNAL_ERROR),
            Version::Http10 | Version::Http11 => Cut::ConnectionReset,
        }
    }
}

const FINISHED: Expected =
    Expected { states: &["FINISHED"], source: Answered::Ok, destination: Received::Whole, error: None };

const DESTINATION_LEFT: Expected = Expected {
    states: &["DST_DISCONNECTED"],
    source: Answered::Error(Error::DESTINATION_LEFT),
    destination: Received::Unseen,
    error: Some(Error::DESTINATION_LEFT),
};
