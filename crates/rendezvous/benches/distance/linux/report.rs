//! The report: throughput over distance, CPU time beside nginx, and a chart.

use measure::chart::{Bar, Chart, Panel};
use measure::results::{Figure, Measure, Results, Sample};
use measure::table::{self, Row};

use super::contender::{Contender, Kind, Protocol};
use super::workload::Workload;

/// The width in pixels of the longest name in the chart.
const NAMES: usize = 144;

const STYLES: (&str, &str) = (
    ".reference { fill: #afb8c1 } .current { fill: #0969da } .baseline { fill: #54aeff }",
    ".reference { fill: #656c76 } .current { fill: #4493f8 } .baseline { fill: #1f5ca8 }",
);

/// The protocol that the others are compared with over a distance.
const REFERENCE: Protocol = Protocol::Http1Tls;
/// The relay that the others are compared with beside nginx.
const NGINX: &str = "nginx";

/// All samples.
#[derive(Default)]
pub(crate) struct Report {
    /// Each workload once.
    workloads: Vec<Workload>,
    /// A row for each workload, a column for each protocol of a build of the server.
    over_distance: Table,
    /// A row for each workload and protocol, a column for each program.
    beside_nginx: Table,
}

/// Samples with their rows and columns, in the order in which they first came.
#[derive(Default)]
struct Table {
    columns: Vec<String>,
    rows: Vec<String>,
    results: Results,
}

impl Report {
    pub(crate) fn add(&mut self, workload: &Workload, contender: &Contender, figures: Vec<Figure>) {
        let Contender { relay, protocol } = contender;
        if !self.workloads.contains(workload) {
            self.workloads.push(*workload);
        }
        if !workload.is_distant() && *protocol != Protocol::Http1 {
            self.beside_nginx.add(format!("{workload}, {protocol}"), relay.name.to_owned(), figures.clone());
        }
        match relay.kind {
            Kind::Rendezvous { is_baseline, .. } => {
                self.over_distance.add(workload.to_string(), column(*protocol, is_baseline), figures);
            }
            Kind::Nginx(_) => {}
        }
    }

    /// Returns both tables.
    pub(crate) fn markdown(&self) -> String {
        let over_distance = self.over_distance.markdown(&column(REFERENCE, false));
        format!("{over_distance}\n{}", self.beside_nginx.markdown(NGINX))
    }

    /// Returns the chart of the throughput.
    pub(crate) fn svg(&self, footer: &str) -> String {
        // Those with several transfers are in the panel of the one with a single transfer.
        let panels = self.workloads.iter().filter(|workload| workload.at_once == 1 && workload.waiting == 0);
        let panels = panels.map(|workload| self.panel(workload)).collect();
        let title = "Throughput of http-rendezvous over a distance, by protocol";
        Chart { title, styles: STYLES, names: NAMES, panels, footer }.draw()
    }

    fn panel(&self, single: &Workload) -> Panel {
        let same = |other: &&Workload| other.path() == single.path();
        let columns = [
            (REFERENCE, false, "reference", "HTTP/1.1, TLS"),
            (Protocol::Http2Tls, false, "current", "HTTP/2"),
            (Protocol::Http2Tls, true, "baseline", "HTTP/2, baseline"),
        ];
        let bars = self.workloads.iter().filter(same).flat_map(|workload| {
            columns.into_iter().filter_map(|(protocol, is_baseline, class, name)| {
                let (measure, column) = (Measure::MegabytesPerSecond, column(protocol, is_baseline));
                let value = self.over_distance.results.median(&workload.to_string(), &column, measure)?;
                let name = match (workload.at_once, workload.waiting) {
                    (1, 0) => name.to_owned(),
                    (1, waiting) => format!("{name}, {waiting} wait"),
                    (at_once, _) => format!("{at_once} × {name}"),
                };
                Some(Bar { name, class, value, label: measure.format(value) })
            })
        });
        let subtitle = format!("{}, more is better", Measure::MegabytesPerSecond.unit());
        Panel { title: single.to_string(), subtitle, bars: bars.collect() }
    }
}

impl Table {
    fn add(&mut self, row: String, column: String, figures: Vec<Figure>) {
        if !self.columns.contains(&column) {
            self.columns.push(column.clone());
        }
        if !self.rows.contains(&row) {
            self.rows.push(row.clone());
        }
        self.results.add(Sample { workload: row, contender: column, figures });
    }

    fn markdown(&self, reference: &str) -> String {
        let columns: Vec<_> = self.columns.iter().map(String::as_str).collect();
        let row = |name: &String| Row { workload: name.clone(), reference: Some(reference.to_owned()) };
        let rows: Vec<_> = self.rows.iter().map(row).collect();
        table::markdown(&columns, &rows, &self.results)
    }
}

/// The column of a build of the server.
fn column(protocol: Protocol, is_baseline: bool) -> String {
    if is_baseline { format!("baseline, {protocol}") } else { protocol.to_string() }
}
