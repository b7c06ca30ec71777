//! The flags for limits of the whole server.

use clap::Args;
use rendezvous_server::config::{HeadLimit, Size, StreamsPerConnection};

use super::values::count;

#[derive(Debug, Args)]
#[command(next_help_heading = "Limits of the server")]
pub(super) struct ServerLimits {
    /// Streams that have not ended; more get 503
    #[arg(long, env = "RENDEZVOUS_MAX_STREAMS", value_name = "COUNT", default_value = "100000", value_parser = count)]
    pub(super) max_streams: usize,
    /// Memory for header sets, error reports and JSON bodies
    ///
    /// For all streams together. Requests that need more get 503. As much again is for large responses.
    #[arg(
        long,
        env = "RENDEZVOUS_MAX_METADATA_BYTES",
        value_name = "BYTES",
        default_value = "64m",
        verbatim_doc_comment
    )]
    pub(super) max_metadata_bytes: Size,
    /// Bytes of a request head: 4k to 1m; more get 431
    ///
    /// Over HTTP/2 each field counts 32 bytes more (RFC 9113, section 6.5.2), and a head of just as many
    /// bytes gets 431 too. A connection uses this much memory only while it receives a head of that
    /// size.
    #[arg(
        long,
        env = "RENDEZVOUS_MAX_HEAD_BYTES",
        value_name = "BYTES",
        default_value = "16k",
        verbatim_doc_comment
    )]
    pub(super) max_head_bytes: HeadLimit,
    /// Connections of clients; more get 503
    #[arg(long, env = "RENDEZVOUS_MAX_CONNECTIONS", value_name = "COUNT", default_value = "210000", value_parser = count)]
    pub(super) max_connections: usize,
    /// Concurrent requests of an HTTP/2 connection: 2 to 4000
    ///
    /// All but one of them may wait for the other side of their stream; a further one that would wait
    /// gets 503. Otherwise a client could fill its connection with waiting requests and have none left
    /// for the other sides.
    #[arg(
        long,
        env = "RENDEZVOUS_MAX_STREAMS_PER_CONNECTION",
        value_name = "COUNT",
        default_value = "100",
        verbatim_doc_comment
    )]
    pub(super) max_streams_per_connection: StreamsPerConnection,
    /// Memory for the bodies of HTTP/2 uploads
    ///
    /// For all connections together. An upload that waits for its destination takes up to 64 KiB of it;
    /// if none is left, it gets 503. A running upload takes what its window has grown beyond 64 KiB, up
    /// to 8 MiB for a long distance, and all of them at most half; if none is left, it is only slower.
    #[arg(
        long,
        env = "RENDEZVOUS_MAX_HTTP2_BODY_BYTES",
        value_name = "BYTES",
        default_value = "256m",
        verbatim_doc_comment
    )]
    pub(super) max_http2_body_bytes: Size,
}
