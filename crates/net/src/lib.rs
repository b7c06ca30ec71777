//! Client connections on the socket level, plain or TLS.
//!
//! - [`socket`]: reading and writing, detecting that the peer has closed or reset the connection, and confirming that its
//!   kernel has acknowledged what was written.
//! - [`splice`]: moving bytes from socket to socket inside the kernel, where the system supports it.
//!
//! *Invariants.* No code here depends on HTTP or streams. Code that differs between systems is in `socket` and `splice` only:
//! Linux is the target; elsewhere bodies are copied, and "acknowledged" means that the bytes have left the server's buffers.
//!
//! *Concurrency.* A [`socket::Socket`] is shared by reference: one task may watch it while others read or write it, with one
//! task for each direction.
//!
//! *Bounds.* A connection without TLS owns no buffers; with TLS it has those of its session, and 64 KiB of ciphertext while
//! there is some to decrypt. [`splice::Pipes`] limits the number of pipes.

#![forbid(unsafe_code)]

pub mod socket;
pub mod splice;
