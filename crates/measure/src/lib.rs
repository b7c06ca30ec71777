//! What the benchmark and the system tests share: processes that are measured, the machine they run on, figures, and the frame
//! of a chart. Linux only: it reads `/proc`.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "it measures real time, in threads that do nothing else")]
#![allow(clippy::cast_precision_loss, reason = "no figure is read to the 16th digit")]

pub mod figures;
pub mod machine;
pub mod process;
pub mod svg;
