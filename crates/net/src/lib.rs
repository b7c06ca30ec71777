//! One client's socket, plain or TLS.
//!
//! - [`socket`]: reading and writing, the departure of the peer, and the delivery of what was written to its kernel.
//! - [`splice`]: moving bytes from socket to socket without a copy through the program, where the system can.
//!
//! Linux is what this is built for. Elsewhere bodies are copied, and a delivery is what the system can tell of it.

#![forbid(unsafe_code)]

pub mod socket;
pub mod splice;
