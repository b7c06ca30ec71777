//! The matrix of transfers: every combination of HTTP versions, framing, pace, event and moment, with the outcome that docs/api.md
//! (sections 4 and 6) promises for it.
//!
//! A [`Cell`] is one combination. [`Cell::all`] returns all that exist; [`Cell::expected`] returns the outcome that the server must produce.
//! `crates/server/tests/wire/matrix.rs` runs every cell over sockets, and `system-tests/chaos` chooses cells at random.
//!
//! In every cell the destination connects first, then the source, and the event happens while both are paired.

mod outcome;

pub use self::outcome::{Answered, Cut, Error, Expected, Received};

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
}

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
