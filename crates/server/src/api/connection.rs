//! The properties of a connection that routing and authorization may use.

use std::net::IpAddr;

/// The listener that accepted a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListenerInfo {
    /// The clients that the listener is for.
    pub audience: Audience,
    /// Whether it is bound to a loopback address, so that only programs on this machine reach it.
    pub is_loopback: bool,
}

/// The clients that a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Clients that create and use streams.
    Clients,
    /// Operators that monitor the server: the admin listener.
    Operators,
    /// Other nodes of the cluster, which pass on requests of their clients. A node has proved itself before its first request.
    Nodes,
}

/// The peer of a connection, and the listener that accepted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionInfo {
    /// The listener.
    pub listener: ListenerInfo,
    /// The address of the peer: a client or a proxy.
    pub address: IpAddr,
    /// Whether the peer is a trusted proxy, whose requests name their clients.
    pub is_proxy: bool,
    /// Whether the connection uses TLS.
    pub is_tls: bool,
}
