//! What a request's routing may know of the connection that it came by.

use std::net::IpAddr;

/// Where a connection came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entrance {
    /// Whom it serves.
    pub audience: Audience,
    /// Only programs of this machine can come in here.
    pub is_loopback: bool,
}

/// Whom a listener serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Those who make and use streams.
    Clients,
    /// Those who watch the server.
    Operators,
}

/// The far end of a connection, and the listener that accepted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionInfo {
    /// The listener.
    pub entrance: Entrance,
    /// A client's address, or a proxy's.
    pub address: IpAddr,
    /// It is a trusted proxy: its requests name the clients that it speaks for.
    pub is_proxy: bool,
    /// It is TLS.
    pub is_tls: bool,
}
