//! The two sides of a stream.

use std::fmt;

/// One of the two sides of a stream. Each has one seat, so a stream pairs at most one source with one destination.
///
/// Displayed in lower case, as error messages and logs write it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The sending side: `PUT`.
    Source,
    /// The receiving side: `GET`.
    Destination,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Source => "source",
            Self::Destination => "destination",
        })
    }
}
