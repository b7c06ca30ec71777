//! The report: which contender the others are compared with, and the panels of the chart.

use measure::chart::{Bar, Chart, Panel};
use measure::results::{Measure, Results};
use measure::table::{self, Row};

use super::contender::{Contender, Kind};
use super::workload::Workload;

/// The width in pixels of the longest contender's name in the chart.
const NAMES: usize = 96;

const STYLES: (&str, &str) = (
    ".floor { fill: #afb8c1 } .current { fill: #0969da } .baseline { fill: #54aeff } .peer { fill: #bf8700 }",
    ".floor { fill: #656c76 } .current { fill: #4493f8 } .baseline { fill: #1f5ca8 } .peer { fill: #d29922 }",
);

pub(crate) fn markdown(contenders: &[Contender], workloads: &[Workload], results: &Results) -> String {
    let names: Vec<_> = contenders.iter().map(|contender| contender.name.as_str()).collect();
    let row = |workload: &Workload| Row {
        workload: workload.to_string(),
        reference: reference(workload, contenders).map(str::to_owned),
    };
    let rows: Vec<_> = workloads.iter().map(row).collect();
    table::markdown(&names, &rows, results)
}

/// The contender that the others are compared with: the floor, otherwise the baseline, otherwise the last data path.
fn reference<'a>(workload: &Workload, contenders: &'a [Contender]) -> Option<&'a str> {
    let of_kind = |kind| contenders.iter().rfind(move |contender| contender.kind == kind);
    let order = [Kind::Floor, Kind::Baseline, Kind::Current].into_iter().filter(|kind| workload.suits(*kind));
    order.filter_map(of_kind).map(|contender| contender.name.as_str()).next()
}

pub(crate) fn svg(
    contenders: &[Contender],
    workloads: &[Workload],
    results: &Results,
    footer: &str,
) -> String {
    let panels = workloads.iter().filter_map(|workload| panel(contenders, workload, results)).collect();
    let title = "CPU time and transfers per second of http-rendezvous and others";
    Chart { title, styles: STYLES, names: NAMES, panels, footer }.draw()
}

/// The panel of a workload, with the figure that a noisy machine distorts least. `None` for workloads without a panel.
fn panel(contenders: &[Contender], workload: &Workload, results: &Results) -> Option<Panel> {
    let (measure, better) = match workload {
        Workload::Bulk(_) => (Measure::CpuPerGib, "less is better"),
        Workload::Small(_) => (Measure::TransfersPerSecond, "more is better"),
        Workload::Trickle { .. } | Workload::Waiting { .. } => return None,
    };
    let title = workload.to_string();
    let bar = |contender: &Contender| {
        let class = match contender.kind {
            Kind::Floor => "floor",
            Kind::Current => "current",
            Kind::Baseline => "baseline",
            Kind::Peer => "peer",
        };
        let value = results.median(&title, &contender.name, measure)?;
        Some(Bar { name: contender.name.clone(), class, value, label: measure.format(value) })
    };
    let bars = contenders.iter().filter_map(bar).collect();
    Some(Panel { title, subtitle: format!("{}, {better}", measure.unit()), bars })
}
