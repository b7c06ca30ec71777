//! What both ends of http-rendezvous share: stream ids, the two sides, units, error names and the JSON that goes over the wire.
//!
//! Pure: no I/O and no runtime, so that clients stay light.

#![forbid(unsafe_code)]

pub mod error;
pub mod id;
pub mod side;
pub mod status;
pub mod units;

pub use error::{ErrorBody, ErrorKind};
pub use id::StreamId;
pub use side::Side;
pub use status::{CreatedStream, StreamStatus};
pub use units::{Period, Size};
