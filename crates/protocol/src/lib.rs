//! The types that both ends of http-rendezvous share: ids and paths of streams, the tags of processes, the two sides of a stream,
//! units, error names and the JSON of responses.
//!
//! *Invariants.* A value is validated when it is constructed: a [`StreamId`] has only the characters of docs/api.md,
//! a [`Period`] and a [`Size`] are within their ranges.
//!
//! *Concurrency.* Plain values. No I/O and no async runtime, so that clients stay light.
//!
//! *Bounds.* No type limits the length of the text that it parses; the caller does.

#![forbid(unsafe_code)]

mod error;
mod id;
mod name;
mod path;
mod side;
mod status;
mod tag;
mod units;

pub use error::{ErrorBody, ErrorKind};
pub use id::{ShortId, StreamId};
pub use name::{StreamKind, StreamName};
pub use path::{BadPath, HashedPath, PathName};
pub use side::Side;
pub use status::{CreatedStream, StreamStatus, Timestamp};
pub use tag::{BadTag, Tag};
pub use units::{BadPeriod, BadSize, Period, Size};
