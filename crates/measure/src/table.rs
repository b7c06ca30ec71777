//! The report: a Markdown table of medians and ratios.

use crate::results::Results;

const NOTE: &str = "
Medians of all rounds. In parentheses: the ratio to the contender without parentheses in that row.
";

/// A workload in the table: one row for each of its measured quantities.
pub struct Row {
    /// The name of the workload.
    pub workload: String,
    /// The contender that the others are compared with.
    pub reference: Option<String>,
}

/// Returns the table of these workloads, with a column for each of `contenders`.
#[must_use]
pub fn markdown(contenders: &[&str], rows: &[Row], results: &Results) -> String {
    let mut table = line("", "", contenders) + &line("---", "---", &vec!["---:"; contenders.len()]);
    for Row { workload, reference } in rows {
        for (index, measure) in results.measures(workload).into_iter().enumerate() {
            let median = |name: &str| results.median(workload, name, measure);
            let compared = reference.as_deref().and_then(median);
            let cell = |name: &&str| match (median(name), compared) {
                (None, _) => "–".to_owned(),
                (Some(value), Some(compared)) if reference.as_deref() != Some(*name) => {
                    format!("{} ({:.2}×)", measure.format(value), value / compared)
                }
                (Some(value), _) => measure.format(value),
            };
            let cells: Vec<_> = contenders.iter().map(cell).collect();
            table += &line(if index == 0 { workload } else { "" }, measure.unit(), &cells);
        }
    }
    table + NOTE
}

fn line(workload: &str, unit: &str, cells: &[impl AsRef<str>]) -> String {
    let cells = cells.iter().map(AsRef::as_ref);
    let cells: Vec<_> = [workload, unit].into_iter().chain(cells).collect();
    format!("| {} |\n", cells.join(" | "))
}
