//! The metrics and operations pages, the dashboard and the alerts, compared with the metrics that the server exposes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use testkit::cluster::TestCluster;
use testkit::server::TestServer;

use crate::metrics::{Exposition, is_of};

const METRICS: &str = include_str!("../../../../docs/metrics.md");
const OPERATIONS: &str = include_str!("../../../../docs/operations.md");
const API: &str = include_str!("../../../../docs/api.md");
const DASHBOARD: &str = include_str!("../../../../packaging/grafana/rendezvous.json");
const ALERTS: &str = include_str!("../../../../packaging/prometheus/alerts.yml");

/// The rows of docs/metrics.md that document a metric, by its name: type, labels, and the whole row.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>, String)> {
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`').to_owned();
        let labels = cells[3].split(", ").filter(|label| !label.is_empty());
        let labels = labels.map(|label| label.trim_matches('`').to_owned()).collect();
        (name, (cells[2].to_owned(), labels, line.to_owned()))
    };
    METRICS.lines().filter(|line| line.starts_with("| `rendezvous_")).map(row).collect()
}

/// What a node of a cluster exposes: everything.
async fn exposition() -> Exposition {
    Exposition::in_prometheus_format(&TestCluster::start(1).await[0]).await
}

#[tokio::test]
async fn a_single_server_has_no_metric_of_a_cluster() {
    let exposed = Exposition::in_prometheus_format(&TestServer::start().await).await;
    assert!(!exposed.families.keys().any(|name| name.starts_with("rendezvous_cluster_")));
}

#[tokio::test]
async fn the_metrics_page_documents_every_metric_and_no_other() {
    let exposed = exposition().await;
    let documented = documented();
    assert_eq!(exposed.families.keys().collect::<Vec<_>>(), documented.keys().collect::<Vec<_>>());
    for (name, (kind, labels, row)) in documented {
        assert_eq!(exposed.families[&name], kind, "{name}");
        let samples = exposed.samples.keys().filter(|(sample, _)| is_of(sample, &name));
        let label_values: Vec<_> =
            samples.flat_map(|(_, labels)| labels).filter(|(label, _)| *label != "le").collect();
        let names: BTreeSet<_> = label_values.iter().map(|(label, _)| (*label).clone()).collect();
        assert_eq!(names, labels, "{name}");
        for (label, value) in label_values {
            let place = if label == "error" && value != "reported" { API } else { &row };
            assert!(label == "version" || place.contains(&format!("`{value}`")), "{name}: {label}={value}");
        }
    }
}

#[tokio::test]
async fn the_pages_name_no_unknown_metric() {
    let exposed = exposition().await;
    for page in [METRICS, OPERATIONS] {
        for code in page.split('`').skip(1).step_by(2).filter(|code| code.starts_with("rendezvous_")) {
            let name = code.split('{').next().unwrap();
            assert!(exposed.families.contains_key(name), "there is no {name}");
        }
    }
}

/// The metrics that the server exposes, to check queries against.
struct Exposed(Exposition);

impl Exposed {
    /// The metric that has samples of this name.
    fn metric(&self, sample: &str) -> &str {
        assert!(self.0.samples.keys().any(|(name, _)| name == sample), "there is no {sample}");
        self.0.families.keys().find(|family| is_of(sample, family)).unwrap()
    }

    /// Asserts that the metrics and labels of a query exist, and returns these metrics.
    fn metrics_of(&self, query: &str) -> BTreeSet<&str> {
        let mut metrics = BTreeSet::new();
        for (start, _) in query.match_indices("rendezvous_") {
            let name_end = query[start..].find(|letter: char| !letter.is_ascii_lowercase() && letter != '_');
            let (name, rest) = query[start..].split_at(name_end.unwrap_or(query.len() - start));
            metrics.insert(self.metric(name));
            if let Some((selectors, _)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
                self.check_selectors(name, selectors);
            }
        }
        metrics
    }

    /// Asserts that selectors such as `label="value", label=~"value|value"` match a sample. Prometheus itself adds `job` and
    /// `instance`.
    fn check_selectors(&self, name: &str, selectors: &str) {
        for selector in selectors.split(", ") {
            let (label, values) = selector.split_once(['=', '!']).unwrap();
            let values = values.trim_matches(['=', '~', '"']).split('|');
            for value in values.filter(|_| !["job", "instance"].contains(&label)) {
                let matches = |(sample, labels): (&String, &BTreeMap<String, String>)| {
                    sample == name && labels.get(label).is_some_and(|exposed| exposed == value)
                };
                let mut samples = self.0.samples.keys().map(|(sample, labels)| (sample, labels));
                assert!(samples.any(matches), "there is no {name} with {label}={value:?}");
            }
        }
    }
}

/// All queries of these panels and of the panels nested in them.
fn queries(panels: &Value) -> Vec<&str> {
    let mut found = Vec::new();
    for panel in panels.as_array().into_iter().flatten() {
        let targets = panel["targets"].as_array().into_iter().flatten();
        found.extend(targets.map(|target| target["expr"].as_str().unwrap()));
        found.extend(queries(&panel["panels"]));
    }
    found
}

#[tokio::test]
async fn the_dashboard_shows_every_metric_and_queries_no_other() {
    let exposed = Exposed(exposition().await);
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let queries = queries(&dashboard["panels"]);
    let shown: BTreeSet<_> = queries.iter().flat_map(|query| exposed.metrics_of(query)).collect();
    assert_eq!(shown, exposed.0.families.keys().map(String::as_str).collect());
    for query in queries {
        let selected = query.matches("rendezvous_").count();
        for choice in ["job=~\"$job\"", "instance=~\"$instance\""] {
            assert_eq!(query.matches(choice).count(), selected, "{query} does not select by {choice}");
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "job", "instance"]);
}

#[tokio::test]
async fn the_alerts_query_existing_metrics_only() {
    let exposed = Exposed(exposition().await);
    assert!(!exposed.metrics_of(ALERTS).is_empty());
}
