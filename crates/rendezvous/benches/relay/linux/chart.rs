//! The chart: bars in panels, as an SVG that is readable on light and dark pages. All sizes are in pixels.

use measure::svg::{Page, text};

use super::contender::{Contender, Kind};
use super::results::{Measure, Results};
use super::workload::Workload;

/// Columns of panels.
const COLUMNS: usize = 2;
const PANEL_WIDTH: usize = 380;
const MARGIN: usize = 24;
/// From a panel's top to its first bar.
const HEADING: usize = 48;
const BAR: usize = 16;
/// From the top of one bar to the next.
const PITCH: usize = 24;
/// The space for the names before the bars.
const NAMES: usize = 96;
/// The space for the values after the bars.
const VALUES: usize = 64;
/// The space for the last line.
const FOOTER: usize = 40;

const STYLES: (&str, &str) = (
    ".floor { fill: #afb8c1 } .current { fill: #0969da } .baseline { fill: #54aeff } .peer { fill: #bf8700 }",
    ".floor { fill: #656c76 } .current { fill: #4493f8 } .baseline { fill: #1f5ca8 } .peer { fill: #d29922 }",
);

/// A group of bars on one scale.
struct Panel {
    title: String,
    measure: Measure,
    bars: Vec<Bar>,
}

struct Bar {
    name: String,
    class: &'static str,
    value: f64,
}

pub(crate) fn svg(
    contenders: &[Contender],
    workloads: &[Workload],
    results: &Results,
    footer: &str,
) -> String {
    let panels: Vec<_> =
        workloads.iter().filter_map(|workload| panel(contenders, workload, results)).collect();
    let most_bars = panels.iter().map(|panel| panel.bars.len()).max().unwrap_or(0);
    let panel_height = HEADING + most_bars * PITCH + MARGIN;
    let width = MARGIN + COLUMNS * PANEL_WIDTH;
    let height = MARGIN + panels.len().div_ceil(COLUMNS) * panel_height + FOOTER;
    let drawn = panels.iter().enumerate().map(|(index, panel)| {
        let (row, column) = (index / COLUMNS, index % COLUMNS);
        panel.draw(MARGIN + column * PANEL_WIDTH, MARGIN + row * panel_height)
    });
    let drawn: String = drawn.collect();
    let footer = text(MARGIN, height - MARGIN, "muted", footer);
    let title = "CPU time and transfers per second of http-rendezvous and others";
    Page { title, width, height, styles: STYLES }.draw(&(drawn + &footer))
}

/// The panel of a workload, with the figure that a noisy machine distorts least. `None` for workloads without a panel.
fn panel(contenders: &[Contender], workload: &Workload, results: &Results) -> Option<Panel> {
    let measure = match workload {
        Workload::Bulk(_) => Measure::CpuPerGib,
        Workload::Small(_) => Measure::TransfersPerSecond,
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
        Some(Bar { name: contender.name.clone(), class, value })
    };
    let bars = contenders.iter().filter_map(bar).collect();
    Some(Panel { title, measure, bars })
}

impl Panel {
    fn draw(&self, left: usize, top: usize) -> String {
        let better = if self.measure == Measure::CpuPerGib { "less is better" } else { "more is better" };
        let subtitle = format!("{}, {better}", self.measure.unit());
        let heading = text(left, top + 14, "title", &self.title) + &text(left, top + 32, "muted", &subtitle);
        let longest = self.bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
        let room = (PANEL_WIDTH - NAMES - VALUES - MARGIN) as f64;
        let bars = self.bars.iter().enumerate().map(|(index, bar)| {
            let (x, y) = (left + NAMES, top + HEADING + index * PITCH);
            let width = room * bar.value / longest;
            let value_at = x as f64 + width + 6.0;
            let baseline = y + BAR - 4;
            let rect = format!(
                r#"<rect class="{}" x="{x}" y="{y}" width="{width:.1}" height="{BAR}" rx="2"/>"#,
                bar.class
            );
            let name = text(left, baseline, "name", &bar.name);
            let value = self.measure.format(bar.value);
            format!("{name}{rect}\n<text x=\"{value_at:.1}\" y=\"{baseline}\">{value}</text>\n")
        });
        heading + &bars.collect::<String>()
    }
}
