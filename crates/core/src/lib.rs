//! Where the two sides of a stream meet, and how their transfer ends. No sockets and no HTTP.
//!
//! - [`rendezvous`]: the table of all streams, shared by all connections. One lock guards it, held for map operations and never across an
//!   await; what it changes is published as [`events`] once the lock is released.
//! - [`slot`]: the state machine of one stream. Pure.
//! - [`transfer`]: the bytes of one pair, from the meeting to the [`outcome`]. Only here a body becomes a whole body, and only a whole body
//!   can be delivered.
//! - [`clients`], [`rate`], [`budget`]: quotas of each client, pace, and memory that many share.
//! - [`token`], [`header_set`]: what the creator of a stream gives it.
//!
//! Bounds: as many streams as [`rendezvous::Limits`] allows, and as many again that have ended.

#![forbid(unsafe_code)]

pub mod budget;
pub mod clients;
pub mod events;
pub mod header_set;
pub mod outcome;
pub mod rate;
pub mod rendezvous;
pub mod slot;
pub mod token;
pub mod transfer;
