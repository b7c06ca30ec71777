//! Parsers for the framing of HTTP/1 messages and HTTP/2 frames. Pure: bytes in, values out.
//!
//! - [`head`]: the head of an HTTP/1 request, and how its body is framed.
//! - [`response`]: the head of a response between two nodes.
//! - [`body`]: the position inside an HTTP/1 body. [`chunked`] is its chunked form.
//! - [`frames`]: the boundaries of HTTP/2 frames.
//!
//! *Invariants.* Ambiguous input is rejected, never interpreted: request smuggling needs two parsers that disagree about
//! the end of a message (RFC 9112, section 11.2). The result does not depend on how the input is split into reads.
//!
//! *Concurrency.* None: each parser belongs to one direction of one connection.
//!
//! *Bounds.* The limit that [`head::HeadScanner::scan`] is given, and [`head::MAX_HEAD_FIELDS`]; 16 KiB for the size line of a chunk, and 16 KiB and
//! 100 fields for all trailers. No parser copies the body.

#![forbid(unsafe_code)]

pub mod body;
pub mod chunked;
pub mod frames;
pub mod head;
pub mod response;
mod token;
