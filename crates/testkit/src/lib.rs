//! Test code that the integration tests and the proofs share. It does no I/O.

pub mod matrix;
