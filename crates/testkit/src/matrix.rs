//! The matrix of transfers: every combination of HTTP versions, framing, pace, event and moment, with the outcome that docs/api.md
//! (sections 4 and 6) promises for it.
//!
//! A [`Cell`] is one combination. [`Cell::all`] returns all that exist; [`Cell::expected`] returns the outcome that the server must produce.
//! `crates/server/tests/wire/matrix.rs` runs every cell over sockets, and `system-tests/chaos` chooses cells at random.
//!
//! In every cell the destination connects first, then the source, and the event happens while both are paired.

/// The version of HTTP that a side speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// HTTP/1.0, without keep-alive.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

/// How the length of the body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// The source declares it in `Content-Length`.
    Length,
    /// It is unknown until the end: a chunked upload, or an HTTP/2 request without `Content-Length`.
    Chunked,
    /// Like [`Framing::Chunked`], but the `download_headers` of the stream promise a `Content-Length`.
    Promised,
}

/// An event during the transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// No event: the transfer completes.
    Nothing,
    /// The source closes its connection.
    SourceCloses,
    /// The source resets its connection (HTTP/1) or its HTTP/2 stream, by `RST_STREAM(CANCEL)`.
    SourceResets,
    /// The source closes the sending side of its connection (HTTP/1).
    SourceHalfCloses,
    /// The source sends a body with invalid framing.
    SourceBreaksFraming,
    /// The source sends nothing until the idle limit.
    SourceStalls,
    /// The destination closes its connection.
    DestinationCloses,
    /// The destination resets its connection (HTTP/1) or its HTTP/2 stream, by `RST_STREAM(CANCEL)`.
    DestinationResets,
    /// The destination closes the sending side of its connection (HTTP/1).
    DestinationHalfCloses,
    /// The destination reads nothing from the start until the idle limit. Over HTTP/2 its flow-control window is used up.
    DestinationStalls,
    /// The destination reads nothing until its buffers are full, then closes its connection. Over HTTP/2 it does not read the connection, and
    /// its flow-control windows are open.
    DestinationStallsThenCloses,
    /// The destination reads nothing until its buffers are full, then resets. Over HTTP/2 its flow-control window is used up; with
    /// [`When::AfterEnd`] it does not read the connection instead, so that the last frame is in the socket buffers.
    DestinationStallsThenResets,
}

/// The moment of the event, as the part of the message that the source has sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum When {
    /// Nothing.
    BeforeFirstByte,
    /// The size line of the first chunk, without its data.
    InFirstByte,
    /// One byte.
    AfterFirstByte,
    /// All but one byte.
    BeforeLastByte,
    /// All but one byte, and the size line of the chunk with the last byte.
    InLastByte,
    /// All bytes, but not the end of the message that the framing requires.
    AfterLastByte,
    /// All bytes, and the size line of the last chunk without the empty line after it.
    InEnd,
    /// The complete message.
    AfterEnd,
}

/// One combination of the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cell {
    /// The version that the source uses.
    pub source: Version,
    /// The version that the destination uses.
    pub destination: Version,
    /// The framing of the body.
    pub framing: Framing,
    /// Whether the server limits the rate of each stream (`--max-stream-rate`).
    pub paced: bool,
    /// The event.
    pub event: Event,
    /// The moment of the event.
    pub when: When,
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

impl Version {
    const ALL: [Self; 3] = [Self::Http10, Self::Http11, Self::Http2];
}

impl Framing {
    const ALL: [Self; 3] = [Self::Length, Self::Chunked, Self::Promised];
}

impl Event {
    const ALL: [Self; 12] = [
        Self::Nothing,
        Self::SourceCloses,
        Self::SourceResets,
        Self::SourceHalfCloses,
        Self::SourceBreaksFraming,
        Self::SourceStalls,
        Self::DestinationCloses,
        Self::DestinationResets,
        Self::DestinationHalfCloses,
        Self::DestinationStalls,
        Self::DestinationStallsThenCloses,
        Self::DestinationStallsThenResets,
    ];

    /// Returns whether the destination reads nothing of the body before the end of the event.
    ///
    /// The body must then be larger than the destination's buffers. With [`When::BeforeLastByte`] it must be larger than all buffers on the
    /// way, so that backpressure stops the source. With [`When::AfterEnd`] it must be small enough for the source to send all of it.
    #[must_use]
    pub fn has_unread_body(self) -> bool {
        matches!(
            self,
            Self::DestinationStalls | Self::DestinationStallsThenCloses | Self::DestinationStallsThenResets
        )
    }

    /// Returns whether the idle limit ends the event.
    #[must_use]
    pub fn lasts_until_idle_limit(self) -> bool {
        matches!(self, Self::SourceStalls | Self::DestinationStalls)
    }

    fn is_of_source(self) -> bool {
        matches!(
            self,
            Self::SourceCloses
                | Self::SourceResets
                | Self::SourceHalfCloses
                | Self::SourceBreaksFraming
                | Self::SourceStalls
        )
    }
}

impl When {
    const ALL: [Self; 8] = [
        Self::BeforeFirstByte,
        Self::InFirstByte,
        Self::AfterFirstByte,
        Self::BeforeLastByte,
        Self::InLastByte,
        Self::AfterLastByte,
        Self::InEnd,
        Self::AfterEnd,
    ];
}

impl Cell {
    /// Returns all cells that exist.
    pub fn all() -> impl Iterator<Item = Self> {
        let sides =
            Version::ALL.into_iter().flat_map(|source| Version::ALL.map(|destination| (source, destination)));
        let framed = sides.flat_map(|sides| Framing::ALL.map(|framing| (sides, framing)));
        let paced = framed.flat_map(|framed| [false, true].map(|paced| (framed, paced)));
        let happens = paced.flat_map(|paced| Event::ALL.map(|event| (paced, event)));
        happens
            .flat_map(|happens| When::ALL.map(|when| (happens, when)))
            .map(|(((((source, destination), framing), paced), event), when)| Self {
                source,
                destination,
                framing,
                paced,
                event,
                when,
            })
            .filter(|cell| cell.exists())
    }

    fn exists(self) -> bool {
        // HTTP/1.0 has no chunks.
        let has_framing = self.source != Version::Http10 || self.framing == Framing::Length;
        has_framing && self.event_exists() && self.moment_exists()
    }

    fn event_exists(self) -> bool {
        match self.event {
            // HTTP/2 has no half-closed connection.
            Event::SourceHalfCloses => self.source != Version::Http2,
            Event::DestinationHalfCloses => self.destination != Version::Http2,
            // A declared length can be violated only where the framing carries another one.
            Event::SourceBreaksFraming => match self.source {
                Version::Http10 => false,
                Version::Http11 => self.framing != Framing::Length,
                Version::Http2 => self.framing == Framing::Length,
            },
            _ => true,
        }
    }

    fn moment_exists(self) -> bool {
        let has_chunks = self.source == Version::Http11 && self.framing != Framing::Length;
        let is_whole = self.when == When::AfterEnd;
        let happens = match self.event {
            Event::Nothing => is_whole,
            // After the end, nothing is left to violate or to wait for.
            Event::SourceBreaksFraming | Event::SourceStalls => !is_whole,
            event if event.has_unread_body() => is_whole || self.when == When::BeforeLastByte,
            _ => true,
        };
        let is_distinct = match self.when {
            // After the size line, only the data could be invalid, and any data is valid.
            When::InFirstByte | When::InLastByte => {
                has_chunks && self.event.is_of_source() && self.event != Event::SourceBreaksFraming
            }
            When::InEnd => has_chunks && self.event.is_of_source(),
            // The last byte of a declared length is the end of the message.
            When::AfterLastByte => self.framing != Framing::Length,
            _ => true,
        };
        happens && is_distinct
    }

    /// Returns how many bytes of a body of `length` bytes, at least 3, the source has sent when the event happens.
    ///
    /// With an unread body ([`Event::has_unread_body`]) and [`When::BeforeLastByte`] it has sent fewer: as many as fit into all buffers.
    #[must_use]
    pub fn sent(self, length: u64) -> u64 {
        match self.when {
            When::BeforeFirstByte | When::InFirstByte => 0,
            When::AfterFirstByte => 1,
            When::BeforeLastByte | When::InLastByte => length - 1,
            When::AfterLastByte | When::InEnd | When::AfterEnd => length,
        }
    }

    /// Returns how many bytes of a body of `length` bytes, at least 3, the server must have passed on when the event happens.
    #[must_use]
    pub fn passed_on(self, length: u64) -> u64 {
        // The byte that completes a promised length is held back until the source has ended its message.
        let is_held_back =
            self.framing == Framing::Promised && matches!(self.when, When::AfterLastByte | When::InEnd);
        if self.event.has_unread_body() {
            1
        } else if is_held_back {
            length - 1
        } else {
            self.sent(length)
        }
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
}

const FINISHED: Expected =
    Expected { states: &["FINISHED"], source: Answered::Ok, destination: Received::Whole, error: None };

const DESTINATION_LEFT: Expected = Expected {
    states: &["DST_DISCONNECTED"],
    source: Answered::Error(Error::DESTINATION_LEFT),
    destination: Received::Unseen,
    error: Some(Error::DESTINATION_LEFT),
};

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_cell_is_unique_and_every_value_is_in_a_cell() {
        let cells: Vec<_> = Cell::all().collect();
        assert_eq!(cells.iter().collect::<HashSet<_>>().len(), cells.len());
        for event in Event::ALL {
            for paced in [false, true] {
                for destination in Version::ALL {
                    let exists = event != Event::DestinationHalfCloses || destination != Version::Http2;
                    let mut of_it = cells.iter().filter(|cell| {
                        (cell.event, cell.paced, cell.destination) == (event, paced, destination)
                    });
                    assert_eq!(of_it.next().is_some(), exists, "{event:?} {paced} {destination:?}");
                }
            }
        }
        for when in When::ALL {
            assert!(cells.iter().any(|cell| cell.when == when), "{when:?}");
        }
    }

    #[test]
    fn no_more_is_passed_on_than_was_sent() {
        for cell in Cell::all().filter(|cell| !cell.event.has_unread_body()) {
            assert!(cell.passed_on(10) <= cell.sent(10) && cell.sent(10) <= 10, "{cell:?}");
        }
    }
}
