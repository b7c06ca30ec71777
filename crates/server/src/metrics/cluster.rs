//! The metrics of a node of a cluster. A single server has none of them.

use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};
use rendezvous_cluster::Warning;

use super::{Labels, gauge};
use crate::cluster::membership::Health;

/// The values of a node of a cluster at the time of a scrape.
#[derive(Debug)]
pub(crate) struct ClusterGauges {
    /// What it knows about the others.
    pub(crate) health: Health,
    /// Nodes that have fallen silent.
    pub(crate) silent_nodes: usize,
    /// Connections with other nodes that carry a request.
    pub(crate) hops: usize,
    /// Bytes of bodies that have passed through this node to or from another one.
    pub(crate) body_bytes: u64,
}

impl ClusterGauges {
    pub(super) fn register(self, registry: &mut Registry) {
        let Self { health, silent_nodes, hops, body_bytes } = self;
        for (name, help, count) in [
            ("cluster_nodes", "Nodes of the cluster that this one knows, itself included", health.nodes),
            (
                "cluster_silent_nodes",
                "Nodes that requests run with and that have fallen silent",
                silent_nodes,
            ),
            ("cluster_hops", "Connections with other nodes that carry a request", hops),
        ] {
            registry.register(name, help, ConstGauge::new(gauge(count)));
        }
        if let Some(age) = health.directory_age {
            let (name, help) = ("cluster_directory_age", "Since the last read of the list of nodes began");
            registry.register_with_unit(name, help, Unit::Seconds, ConstGauge::new(age.as_secs_f64()));
        }
        let bytes = ConstCounter::new(body_bytes);
        let help = "Bytes of bodies that passed through this node to or from another one";
        registry.register_with_unit("cluster_body", help, Unit::Bytes, bytes);
        let warnings = Family::<Labels<1>, Gauge>::default();
        for name in Warning::NAMES {
            let holds = health.warnings.contains(&name);
            warnings.get_or_create(&[("warning", name)]).set(i64::from(holds));
        }
        registry.register("cluster_warning", "Whether the log warns of this about the cluster", warnings);
    }
}
