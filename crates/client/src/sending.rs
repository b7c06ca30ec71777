//! The threads that read, hash and encrypt what is sent.
//!
//! ```text
//! reader ──► maker ──► connection      reader: reads the source, block by block, from the offset that was wished last
//!    └─────► hasher                    maker: cuts segments and encrypts them; hasher: SHA-256 of each byte when it is first read
//! ```
//!
//! *Bounds.* Each channel holds a few blocks of 256 KiB. A source of unknown size is sent in segments of at most [`maker::BUFFERED`], which are
//! held in memory because their length must be known before they are sent.

pub(crate) mod maker;
mod reader;

pub(crate) use maker::{Job, Maker, Report};
