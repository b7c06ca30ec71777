//! The report: a Markdown table of medians and ratios.

use super::contender::{Contender, Kind};
use super::results::Results;
use super::workload::Workload;

const NOTE: &str = "
Medians of all rounds. In parentheses: the ratio to the contender without parentheses in that row.
";

pub(crate) fn markdown(contenders: &[Contender], workloads: &[Workload], results: &Results) -> String {
    let names: Vec<_> = contenders.iter().map(|contender| contender.name.as_str()).collect();
    let mut table = row("", "", &names) + &row("---", "---", &vec!["---:"; names.len()]);
    for workload in workloads {
        let reference = reference(workload, contenders);
        let title = workload.to_string();
        for (index, measure) in results.measures(&title).into_iter().enumerate() {
            let median = |name: &str| results.median(&title, name, measure);
            let compared = reference.and_then(median);
            let cell = |name: &&str| match (median(name), compared) {
                (None, _) => "–".to_owned(),
                (Some(value), Some(compared)) if reference != Some(*name) => {
                    format!("{} ({:.2}×)", measure.format(value), value / compared)
                }
                (Some(value), _) => measure.format(value),
            };
            let cells: Vec<_> = names.iter().map(cell).collect();
            table += &row(if index == 0 { &title } else { "" }, measure.unit(), &cells);
        }
    }
    table + NOTE
}

/// The contender that the others are compared with: the floor, otherwise the baseline, otherwise the last data path.
fn reference<'a>(workload: &Workload, contenders: &'a [Contender]) -> Option<&'a str> {
    let of_kind = |kind| contenders.iter().rfind(move |contender| contender.kind == kind);
    let order = [Kind::Floor, Kind::Baseline, Kind::Current].into_iter().filter(|kind| workload.suits(*kind));
    order.filter_map(of_kind).map(|contender| contender.name.as_str()).next()
}

fn row(workload: &str, unit: &str, cells: &[impl AsRef<str>]) -> String {
    let cells = cells.iter().map(AsRef::as_ref);
    let cells: Vec<_> = [workload, unit].into_iter().chain(cells).collect();
    format!("| {} |\n", cells.join(" | "))
}
