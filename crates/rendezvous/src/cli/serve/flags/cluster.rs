//! The flags of a node of a cluster.

#![allow(clippy::doc_markdown, reason = "the help is plain text")]

use std::net::SocketAddr;
use std::sync::Arc;

use clap::Args;
use rendezvous_server::ClusterConfig;
use rendezvous_server::config::{ClusterName, EngineUrl, NodeAddress, Secrets};

use super::values::{address, engine_url, secret_file};

#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub(super) struct ClusterFlags {
    /// Redis or Valkey that has the list of nodes
    ///
    /// All servers with the same engine, name and secret are one cluster: any of them takes any request.
    /// redis://HOST, redis+sentinel://HOST,.../SERVICE or redis+cluster://HOST,..., and rediss for TLS.
    #[arg(
        long,
        env = "RENDEZVOUS_CLUSTER",
        value_name = "ENGINE",
        value_parser = engine_url,
        hide_env_values = true,
        requires = "cluster_secret_file",
        verbatim_doc_comment
    )]
    cluster: Option<EngineUrl>,
    /// Name of the cluster; several may share an engine
    #[arg(long, env = "RENDEZVOUS_CLUSTER_NAME", value_name = "CLUSTER", default_value = "rendezvous")]
    cluster_name: ClusterName,
    /// Listener for the other nodes
    ///
    /// Connections are authenticated. Without --cluster-tls they are not encrypted, and the network between
    /// the nodes must be trusted.
    #[arg(
        long,
        env = "RENDEZVOUS_CLUSTER_LISTEN",
        value_name = "ADDR:PORT",
        value_parser = address,
        default_value = "0.0.0.0:7780",
        verbatim_doc_comment
    )]
    cluster_listen: SocketAddr,
    /// Where other nodes reach --cluster-listen [default: own address]
    #[arg(long, env = "RENDEZVOUS_CLUSTER_ADVERTISE", value_name = "HOST:PORT", requires = "cluster")]
    cluster_advertise: Option<NodeAddress>,
    /// File with the secret by which nodes know each other
    ///
    /// One line of at least 32 characters, read once, at the start. During a rotation the other secret
    /// is on a second line: both are accepted, the first one is used.
    #[arg(
        long,
        env = "RENDEZVOUS_CLUSTER_SECRET_FILE",
        value_name = "FILE",
        value_parser = secret_file,
        requires = "cluster",
        verbatim_doc_comment
    )]
    cluster_secret_file: Option<Arc<Secrets>>,
    /// Encrypt connections between nodes
    ///
    /// Needs no certificates. Must be set on all nodes or on none.
    #[arg(long, env = "RENDEZVOUS_CLUSTER_TLS", requires = "cluster", verbatim_doc_comment)]
    cluster_tls: bool,
}

impl ClusterFlags {
    /// The settings of a node; `None` without `--cluster`.
    pub(super) fn config(&self) -> Option<ClusterConfig> {
        Some(ClusterConfig {
            name: self.cluster_name.clone(),
            engine: self.cluster.clone()?,
            listen: self.cluster_listen,
            advertise: self.cluster_advertise.clone(),
            secrets: self.cluster_secret_file.clone()?,
            tls: self.cluster_tls,
        })
    }
}
