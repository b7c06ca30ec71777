//! Measurement code that the benchmarks and the system tests share.
//!
//! - [`process`]: a child process, with its CPU time, memory, threads and descriptors
//! - [`machine`]: the machine that the measurements run on
//! - [`forwarder`]: distance between a client and a server
//! - [`settings`]: what a benchmark reads from the environment
//! - [`results`]: the figures of all rounds; [`table`] and [`chart`]: their presentation
//! - [`figures`]: quantiles and trends
//! - [`svg`]: the frame of a chart
//!
//! *Invariant.* A child process ends with the value that started it, and so does a forwarder.
//!
//! *Concurrency.* All functions block, except the forwarder, which runs in the caller's tokio runtime. Linux only, because they read
//! `/proc`.

#![cfg(target_os = "linux")]
#![allow(
    clippy::disallowed_methods,
    reason = "it measures real time, in threads that do nothing else; tasks end with their owner"
)]
#![allow(clippy::cast_precision_loss, reason = "figures need fewer than 16 digits")]

pub mod chart;
pub mod figures;
pub mod forwarder;
pub mod machine;
pub mod process;
pub mod results;
pub mod settings;
pub mod svg;
pub mod table;
