//! An HTTP rendezvous relay: the source sends a `PUT`, the destination a `GET`, and the server passes the bytes on without storing them.
//!
//! [`Server::bind`] binds the listeners, and [`Server::run`] serves until it is asked to stop:
//!
//! ```
//! use rendezvous_server::config::Config;
//! use rendezvous_server::{ListenerKind, Server};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let config = Config { port: 0, ..Config::default() };
//! let server = Server::bind(config, Vec::new()).await?;
//! println!("http://{}", server.address(ListenerKind::Main).unwrap());
//! server.run(async { /* resolves when the server should drain and stop */ }).await;
//! # Ok::<_, rendezvous_server::BindError>(())
//! # }).unwrap();
//! ```
//!
//! The modules, from the top down:
//!
//! - [`config`]: the settings; [`proxies`] parses those of trusted proxies
//! - `server`: the accept loops, limits on connections, graceful shutdown. Its parts are `listener`, `tls`, `certificate`, `descriptors`,
//!   `operators` and `exposure`
//! - `handshake`: an accepted connection, up to its driver
//! - `http1`, `http2`: the drivers of a connection
//! - `api`: from a request to a response, for both versions of HTTP and without I/O
//! - `connection`: a connection that speaks HTTP; `request_body` and `wire`: its input
//! - `metrics`, `log`: subscribers to the events of streams
//!
//! *Invariant.* A truncated transfer never looks complete to its destination, and a complete one never looks truncated.
//!
//! *Concurrency.* One task for each connection; the accept loops and timers run in the future of [`Server::run`].
//! Certificates are read on blocking threads.
//!
//! *Bounds.* [`config::Config`] limits connections, streams, and the bytes held for them. `descriptors` divides what the system allows,
//! `operators` limits admin connections, and `http2` what one HTTP/2 connection may hold and cause.
//!
//! ARCHITECTURE.md has a picture and the reasons.

#![forbid(unsafe_code)]

mod api;
mod body_writer;
mod certificate;
mod cluster;
pub mod config;
mod connection;
mod descriptors;
mod exposure;
mod handshake;
mod hop;
mod http1;
mod http2;
mod listener;
mod log;
mod metrics;
mod newest;

pub mod proxies;
mod quoted;
mod request_body;
mod server;
mod tls;
mod wire;

pub use certificate::CertificateSummary;
pub use cluster::joined::{ClusterConfig, ClusterError};
pub use listener::{BindError, Inherited, ListenerKind};
pub use server::{SHUTDOWN_GRACE, Server};
pub use tls::TlsError;

/// Items for tests and fuzzing, not part of the public interface.
#[doc(hidden)]
pub mod internal {
    use rendezvous_codec::head::Head;

    pub use crate::cluster::membership::{
        Caller, Found, Health, Lookup, Membership, Node, NodeAddress, Owner, Purpose,
    };
    pub use crate::server::{Join, NodeConfig};

    pub use crate::api::json_body::{BodyError, StreamSettings, report, stream_settings};
    pub use crate::api::message::head;
    pub use crate::api::openapi::DOCUMENT;
    pub use crate::api::response::ResponseHead;
    pub use crate::api::status::status;
    pub use crate::wire::input::HTTP2_PREFACE;

    /// Returns the seconds of the wait that a request prefers.
    #[must_use]
    pub fn preferred_wait(head: &Head<'_>) -> Option<u64> {
        crate::api::preferences::wait(head)
    }

    /// Returns whether `If-None-Match` lists the entity tag of this version of a status. `None` without that field.
    #[must_use]
    pub fn has_version(head: &Head<'_>, version: u64) -> bool {
        crate::api::preferences::has_version(head, version)
    }
}
