//! Converts the flags to the settings of the server, the runtime and the log.

use std::path::Path;

use rendezvous_server::ClusterConfig;
use rendezvous_server::config::{ClientLimits, Config, DataPath, StreamLimits, TlsFiles};

use super::values::{DataPathName, TokenFile};
use super::{Log, ServeArguments};
use crate::cli::log;

impl ServeArguments {
    /// The settings of the server. `descriptors` is the limit of the process, if there is one.
    pub(crate) fn config(&self, descriptors: Option<usize>) -> Config {
        let Self { listeners, access, timeouts, server, client, stream, .. } = self;
        let tls = listeners.tls_cert.clone().zip(listeners.tls_key.clone());
        let token = |file: &Option<TokenFile>| file.as_ref().map(|file| file.token.clone());
        Config {
            host: listeners.host.clone(),
            port: listeners.port,
            tls: tls.map(|(certificate, key)| TlsFiles { certificate, key }),
            plain_port: listeners.plain_port,
            admin_listen: listeners.admin_listen,
            public_url: listeners.public_url.clone(),
            create_token: token(&access.create_token_file),
            admin_token: token(&access.admin_token_file),
            open_list: access.open_list,
            no_paths: access.no_paths,
            trusted_proxies: access.trusted_proxy.iter().copied().collect(),
            cors_origins: access.cors_origins.clone(),
            allowed_hosts: access.allow_host.clone(),
            ttl: timeouts.ttl,
            max_ttl: timeouts.max_ttl,
            idle_timeout: timeouts.idle_timeout,
            head_timeout: timeouts.head_timeout,
            keep_alive: timeouts.keep_alive,
            drain_timeout: timeouts.drain_timeout,
            peer_timeout: timeouts.peer_timeout,
            max_streams: server.max_streams,
            max_metadata_bytes: server.max_metadata_bytes,
            max_http2_body_bytes: server.max_http2_body_bytes,
            max_head_bytes: server.max_head_bytes,
            max_connections: server.max_connections,
            max_streams_per_connection: server.max_streams_per_connection,
            descriptors,
            clients: ClientLimits {
                max_connections: client.max_connections_per_client,
                max_streams: client.max_streams_per_client,
                max_creations_per_minute: client.max_creations_per_minute,
            },
            streams: StreamLimits {
                max_bytes: stream.max_stream_bytes,
                max_rate: stream.max_stream_rate,
                min_upload_rate: stream.min_upload_rate,
            },
            data_path: match self.performance.data_path {
                DataPathName::Splice => DataPath::Splice,
                DataPathName::Copy => DataPath::Copy,
            },
        }
    }

    /// The settings of a node of a cluster; `None` for a single server.
    pub(crate) fn cluster(&self) -> Option<ClusterConfig> {
        self.cluster.config()
    }

    /// The file of the token that `POST /stream` requires.
    pub(crate) fn create_token_file(&self) -> Option<&Path> {
        self.access.create_token_file.as_ref().map(|file| file.path.as_path())
    }

    /// The number of threads that serve connections; `None` if it is not given.
    pub(crate) fn threads(&self) -> Option<usize> {
        self.performance.threads
    }

    /// The events to log, and their format.
    pub(crate) fn log(&self) -> (log::Filter, log::Format) {
        let Log { log, log_level, log_format } = &self.log;
        (log.clone().unwrap_or_else(|| (*log_level).into()), *log_format)
    }
}
