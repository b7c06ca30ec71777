//! The HTTP rendezvous relay: one side `PUT`s, the other `GET`s, and the bytes flow through, live and unstored.
//!
//! [`Server::bind`] listens, and [`Server::run`] serves until it is asked to stop:
//!
//! ```
//! use rendezvous_server::config::Config;
//! use rendezvous_server::{ListenerKind, Server};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! let config = Config { port: 0, ..Config::default() };
//! let server = Server::bind(config, Vec::new()).await?;
//! println!("http://{}", server.address(ListenerKind::Main).unwrap());
//! server.run(async { /* resolves when the server is to drain and end */ }).await;
//! # Ok::<_, rendezvous_server::BindError>(())
//! # }).unwrap();
//! ```
//!
//! From the top down:
//!
//! - `server`: listeners, limits on connections, graceful shutdown
//! - `http1`, `http2`: the drivers of a connection
//! - `api`: from a request to a response, for both versions of HTTP and without I/O
//! - `request_body`, `wire`: the input of a connection
//! - `metrics`, `log`: what is counted and logged
//!
//! ARCHITECTURE.md has the picture, the rules and the reasons.

#![forbid(unsafe_code)]

mod api;
mod certificate;
pub mod config;
mod connection;
mod exposure;
mod http1;
mod http2;
mod listener;
mod log;
mod metrics;
mod operators;
pub mod proxies;
mod request_body;
mod server;
mod shares;
mod tls;
mod wire;

pub use certificate::CertificateSummary;
pub use listener::{BindError, Inherited, ListenerKind};
pub use server::{LAST_WORDS, Server};
pub use tls::TlsError;

/// For tests and fuzzing. No part of the interface.
#[doc(hidden)]
pub mod internal {
    pub use crate::api::json_body;
    pub use crate::api::message;
    pub use crate::api::openapi::DOCUMENT;
    pub use crate::api::response::ResponseHead;
    pub use crate::api::status::status;
    pub use crate::wire::input::HTTP2_PREFACE;
}
