//! What operators are given beside the program, held against the metrics that it tells: the page, the dashboard, the alerts.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use testkit::server::TestServer;

use crate::metrics::{Exposition, is_of};

const PAGE: &str = include_str!("../../../../docs/operations.md");
const README: &str = include_str!("../../../../README.md");
const DASHBOARD: &str = include_str!("../../../../packaging/grafana/rendezvous.json");
const ALERTS: &str = include_str!("../../../../packaging/prometheus/alerts.yml");

/// The rows of the page that tell of a metric: its name, type, labels, and all of it.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>, String)> {
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let name = cells[1].trim_matches('`').to_owned();
        let labels = cells[3].split(", ").filter(|label| !label.is_empty());
        let labels = labels.map(|label| label.trim_matches('`').to_owned()).collect();
        (name, (cells[2].to_owned(), labels, line.to_owned()))
    };
    PAGE.lines().filter(|line| line.starts_with("| `rendezvous_")).map(row).collect()
}

#[tokio::test]
async fn the_operations_page_documents_every_metric_and_no_other() {
    let told = Exposition::older_of(&TestServer::start().await).await;
    let documented = documented();
    assert_eq!(told.families.keys().collect::<Vec<_>>(), documented.keys().collect::<Vec<_>>());
    for (name, (kind, labels, row)) in documented {
        assert_eq!(told.families[&name], kind, "{name}");
        let samples = told.samples.keys().filter(|(sample, _)| is_of(sample, &name));
        let given: Vec<_> =
            samples.flat_map(|(_, labels)| labels).filter(|(label, _)| *label != "le").collect();
        let names: BTreeSet<_> = given.iter().map(|(label, _)| (*label).clone()).collect();
        assert_eq!(names, labels, "{name}");
        for (label, value) in given {
            let place = if label == "error" && value != "reported" { README } else { &row };
            assert!(label == "version" || place.contains(&format!("`{value}`")), "{name}: {label}={value}");
        }
    }
}

#[tokio::test]
async fn the_operations_page_names_no_unknown_metric() {
    let told = Exposition::older_of(&TestServer::start().await).await;
    for code in PAGE.split('`').skip(1).step_by(2).filter(|code| code.starts_with("rendezvous_")) {
        let name = code.split('{').next().unwrap();
        assert!(told.families.contains_key(name), "there is no {name}");
    }
}

/// The metrics that the server tells, by what queries may ask of them.
struct Told(Exposition);

impl Told {
    /// The metric of which there are samples of this name.
    fn metric(&self, sample: &str) -> &str {
        assert!(self.0.samples.keys().any(|(name, _)| name == sample), "there is no {sample}");
        self.0.families.keys().find(|family| is_of(sample, family)).unwrap()
    }

    /// Each name in a query is told, and so is what is asked of its labels. The answer is the metrics.
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

    /// `label="value", label=~"value|value"`; `job` and `instance` are Prometheus' own.
    fn check_selectors(&self, name: &str, selectors: &str) {
        for selector in selectors.split(", ") {
            let (label, values) = selector.split_once(['=', '!']).unwrap();
            let values = values.trim_matches(['=', '~', '"']).split('|');
            for value in values.filter(|_| !["job", "instance"].contains(&label)) {
                let is_told = |(sample, labels): (&String, &BTreeMap<String, String>)| {
                    sample == name && labels.get(label).is_some_and(|told| told == value)
                };
                let mut samples = self.0.samples.keys().map(|(sample, labels)| (sample, labels));
                assert!(samples.any(is_told), "there is no {name} with {label}={value:?}");
            }
        }
    }
}

/// All queries of these panels and those in them.
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
    let told = Told(Exposition::older_of(&TestServer::start().await).await);
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let queries = queries(&dashboard["panels"]);
    let shown: BTreeSet<_> = queries.iter().flat_map(|query| told.metrics_of(query)).collect();
    assert_eq!(shown, told.0.families.keys().map(String::as_str).collect());
    for query in queries {
        let selected = query.matches("rendezvous_").count();
        for choice in ["job=~\"$job\"", "instance=~\"$instance\""] {
            assert_eq!(query.matches(choice).count(), selected, "{query} does not heed {choice}");
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<_> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "job", "instance"]);
}

#[tokio::test]
async fn the_alerts_query_existing_metrics_only() {
    let told = Told(Exposition::older_of(&TestServer::start().await).await);
    assert!(!told.metrics_of(ALERTS).is_empty());
}
