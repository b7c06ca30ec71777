//! The core of http-rendezvous: streams, their two sides, and their transfers. No sockets; of HTTP only the header types.
//!
//! - [`rendezvous`]: the table of all streams. A side takes a seat there, waits, and is paired with the other side.
//! - [`slot`]: the state machine of one stream. Pure. Public only for its model in the testkit.
//! - [`transfer`]: one paired stream, from the pairing to its [`outcome`].
//! - [`snapshot`]: the visible state of a stream at one moment.
//! - [`events`]: each change of a stream, published to subscribers such as the log and the metrics.
//! - [`feed`]: the same changes, kept for clients that watch a stream, each at its own speed.
//! - [`clients`], [`budget`]: quotas of each client, and memory limits that many requests share.
//! - [`token`], [`header_set`]: the options of a new stream.
//!
//! *Invariants.* A stream pairs at most once and has one outcome. A transfer ends as delivered only if the relay has
//! seen the end of the source's body and the destination has acknowledged it.
//!
//! *Concurrency.* One lock guards the table. It is held for map operations, never across an await, and events are
//! published after it is released. Each transfer has its own locks, and [`clients`] has one for each kind of count. Order: the table,
//! then a transfer or a count.
//!
//! *Bounds.* At most [`rendezvous::Limits::max_streams`] streams that have not ended, and as many that have. A transfer
//! holds one read of the source's connection. [`budget`] limits the memory of header sets and reports, [`clients`] has at most 100 000
//! token buckets.

#![forbid(unsafe_code)]

pub mod budget;
pub mod clients;
pub mod events;
pub mod feed;
pub mod header_set;
pub mod outcome;
mod rate;
pub mod rendezvous;
pub mod slot;
pub mod snapshot;
pub mod token;
pub mod transfer;
