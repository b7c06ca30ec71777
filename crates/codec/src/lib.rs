//! The framing of HTTP/1 messages and of HTTP/2 frames. Pure: bytes in, values out.
//!
//! Two readers of one connection must not disagree about where a message ends, so what is ambiguous is refused, never guessed at.
//!
//! Bounds: [`head::MAX_HEAD_BYTES`] and [`head::MAX_HEAD_FIELDS`]; 16 KiB for the size line of a chunk, and for all trailers.

#![forbid(unsafe_code)]

pub mod body;
pub mod chunked;
pub mod frames;
pub mod head;
