//! [`App`]: the state that all requests share. It decides whether a request is served, checks its rights, and finds its client.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rendezvous_core::budget::Budget;
use rendezvous_core::clients::Clients;
use rendezvous_core::token::{AuthError, RequiredToken};
use rendezvous_net::splice::Pipes;
use rendezvous_protocol::{Period, Side, StreamName};

use super::access::{self, Access};
use super::connection::{Audience, ConnectionInfo, ListenerInfo};
use super::cors::Cors;
use super::credential;
use super::head::RequestHead;
use super::hosts::Hosts;
use super::route::Route;
use crate::cluster::Cluster;
use crate::config::PublicUrl;
use crate::hop::request;
use crate::metrics::{Gauges, Metrics};
use crate::proxies::TrustedProxies;
use crate::request_body::Rendezvous;

/// The state and the settings that all requests share.
pub(crate) struct App {
    /// The table of all streams.
    pub rendezvous: Arc<Rendezvous>,
    /// The metrics of the server.
    pub metrics: Arc<Metrics>,
    /// The pipes for splice(2); `None` if all bodies are copied through user space.
    pub pipes: Option<Arc<Pipes>>,
    /// The timeout for a TLS handshake, a request head, a JSON body, and a client that reads nothing of a response.
    pub request_timeout: Duration,
    /// Whether there are named paths.
    pub has_paths: bool,
    /// The longest `ttl` that a new stream may ask for.
    pub max_ttl: Period,
    /// The limit on the bytes of a request head.
    pub max_head_bytes: usize,
    /// The timeout of an idle connection between two requests.
    pub keep_alive: Duration,
    /// The timeout after which a client whose kernel acknowledges nothing counts as disconnected.
    pub peer_timeout: Duration,
    /// The authorization of requests that need no token of a stream.
    pub access: Access,
    /// The web origins that may use the server.
    pub cors: Cors,
    /// The host names that a loopback listener accepts.
    pub hosts: Hosts,
    /// The URL at which clients reach this server.
    pub public_url: Option<PublicUrl>,
    /// The quotas of each client: connections, streams and creations.
    pub clients: Clients,
    /// The memory budget of JSON bodies that are being read, and of the header sets and error reports of all streams.
    pub metadata_memory: Arc<Budget>,
    /// The memory budget of large responses that describe streams.
    pub response_memory: Arc<Budget>,
    /// The memory budget of HTTP/2 uploads: those that wait, and large windows of those that are passed on.
    pub upload_memory: Arc<Budget>,
    /// The maximum number of requests of an HTTP/2 connection at a time.
    pub max_streams_per_connection: u32,
    /// This node's part in a cluster; `None` without `--cluster`.
    pub cluster: Option<Arc<Cluster>>,
    /// The proxies whose `Forwarded` and `X-Forwarded-For` fields are trusted.
    pub trusted_proxies: TrustedProxies,
}

impl App {
    /// Whether a listener serves named paths.
    pub(super) fn serves_paths(&self, listener: ListenerInfo) -> bool {
        self.has_paths && matches!(listener.audience, Audience::Clients | Audience::Nodes)
    }

    /// Whether a listener serves a route.
    pub(super) fn serves(&self, listener: ListenerInfo, route: &Route) -> bool {
        self.access.serves(listener, route) && (!route.is_named_path() || self.serves_paths(listener))
    }

    /// Checks the `Host`, origin, purpose and token of a request (docs/api.md, section 2, "Rights"). Affects no stream.
    pub(super) fn authorize(
        &self,
        connection: ConnectionInfo,
        route: &Route,
        head: &impl RequestHead,
    ) -> Result<(), AuthError> {
        let listener = connection.listener;
        // The node that the client has connected to has checked its request already.
        let is_hop = listener.audience == Audience::Nodes;
        if !route.is_public() && !is_hop {
            // A proxy forwards the `Host` of its clients, which is a public name.
            if listener.is_loopback && !connection.is_proxy {
                self.hosts.check(head)?;
            }
            self.cors.check(listener, route, head)?;
        }
        if route.has_effect() && !is_hop {
            access::check_purpose(head)?;
        }
        let credential = credential(head);
        let of_stream = |id, needed| self.rendezvous.authorize(id, needed, credential);
        match route {
            Route::Create if is_hop => Ok(()),
            Route::Create => self.access.creation().check(credential),
            Route::List | Route::ListEvents => self.access.list(listener).check(credential),
            Route::Metrics => self.access.metrics(listener).check(credential),
            Route::Source(StreamName::Id(id)) => of_stream(id, RequiredToken::Of(Side::Source)),
            Route::Destination(StreamName::Id(id)) => of_stream(id, RequiredToken::Of(Side::Destination)),
            Route::Probe(StreamName::Id(id)) | Route::Report(id) | Route::Status(id) | Route::Events(id) => {
                of_stream(id, RequiredToken::Either)
            }
            // The first side of a path is checked with the table locked.
            Route::Source(StreamName::Path(_))
            | Route::Destination(StreamName::Path(_))
            | Route::Probe(StreamName::Path(_))
            | Route::Front
            | Route::Ping
            | Route::Health
            | Route::Ready
            | Route::OpenApi => Ok(()),
        }
    }

    /// Returns the values that are read at each `GET /metrics`.
    pub(super) fn gauges(&self) -> Gauges {
        Gauges {
            streams: self.rendezvous.censuses(),
            body_bytes: self.rendezvous.body_bytes(),
            pipes_in_use: self.pipes.as_ref().map_or(0, |pipes| pipes.in_use()),
            cluster: self.cluster.as_ref().map(|cluster| cluster.gauges()),
        }
    }

    /// Returns the client's address: the peer of the connection, or the address that a trusted proxy or another node names.
    pub(super) fn client(&self, connection: ConnectionInfo, head: &impl RequestHead) -> IpAddr {
        let forwarded = match connection.listener.audience {
            Audience::Nodes => request::client(head),
            _ if connection.is_proxy => {
                self.trusted_proxies.client(head.values("forwarded"), head.values("x-forwarded-for"))
            }
            _ => None,
        };
        forwarded.unwrap_or(connection.address)
    }
}
