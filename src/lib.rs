//! An HTTP rendezvous relay: one side `PUT`s, the other `GET`s, and the bytes flow through, live and
//! unstored.
//!
//! From the top down; a module knows only what stands below it:
//!
//! - [`server`]: listeners, connections, their limits and their end
//! - [`http`]: from a request to an answer
//! - [`rendezvous`]: the table of streams
//! - [`relay`]: one transfer
//! - [`wire`]: one HTTP/1 connection below HTTP; [`splice`]: bytes moved by the kernel
//! - [`socket`]: one TCP connection; [`slot`]: one stream's life; [`header_set`]: what its maker gave;
//!   [`clients`]: what each client may have
//! - [`outcome`], [`config`], [`id`], [`token`]: the vocabulary and the settings; [`proxies`]: whom a proxy speaks
//!   for; [`rate`]: how much in how long; [`budget`]: bytes that many share; [`metrics`]: what is counted
//!
//! ARCHITECTURE.md has the picture, the rules and the reasons.

#![forbid(unsafe_code)]

pub mod budget;
pub mod clients;
pub mod config;
pub mod header_set;
pub mod http;
pub mod id;
pub mod metrics;
pub mod outcome;
pub mod proxies;
pub mod rate;
pub mod relay;
pub mod rendezvous;
pub mod server;
pub mod slot;
pub mod socket;
pub mod splice;
pub mod token;
pub mod wire;
