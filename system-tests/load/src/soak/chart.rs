//! The chart: memory and descriptors over time, a line for each server.

use measure::svg::{Page, text};

use super::samples::{Sample, Series};

const WIDTH: usize = 784;
const MARGIN: usize = 24;
/// The width for the values beside a panel.
const VALUES: usize = 48;
/// From the top of a panel to its plot.
const HEADING: usize = 24;
const PANEL: usize = 160;
/// From panel to panel.
const PITCH: usize = HEADING + PANEL + 40;
const FOOTER: usize = 40;
/// Over the highest point.
const HEADROOM: f64 = 1.2;

const CLASSES: [&str; 2] = ["first", "second"];
const STYLES: (&str, &str) = (
    "polyline { fill: none; stroke-width: 1.5 } .axis { stroke: #d1d9e0 } polyline.first { stroke: #0969da } \
     polyline.second { stroke: #bf8700 } text.first { fill: #0969da } text.second { fill: #bf8700 }",
    ".axis { stroke: #3d444d } polyline.first { stroke: #4493f8 } polyline.second { stroke: #d29922 } \
     text.first { fill: #4493f8 } text.second { fill: #d29922 }",
);

pub(super) fn svg(servers: &[(&str, Vec<Sample>)], footer: &str) -> String {
    let height = MARGIN + Series::ALL.len() * PITCH + FOOTER;
    let panels = Series::ALL.into_iter().enumerate();
    let panels: String = panels.map(|(row, series)| panel(series, servers, MARGIN + row * PITCH)).collect();
    let title = "Memory and descriptors of http-rendezvous under a mixed load, over time";
    let (machine, load) = footer.split_once("; ").unwrap_or((footer, ""));
    let footer =
        text(MARGIN, height - MARGIN, "muted", machine) + &text(MARGIN, height - MARGIN + 16, "muted", load);
    Page { title, width: WIDTH, height, styles: STYLES }.draw(&(panels + &footer))
}

fn panel(series: Series, servers: &[(&str, Vec<Sample>)], top: usize) -> String {
    let all = || servers.iter().flat_map(|(_, samples)| samples);
    let most = HEADROOM * all().map(|sample| series.value(sample)).fold(1.0, f64::max);
    let last = all().map(|sample| sample.seconds).fold(1.0, f64::max);
    let (left, right) = (MARGIN + VALUES, WIDTH - MARGIN);
    let (ceiling, floor) = (top + HEADING, top + HEADING + PANEL);
    let lines = servers.iter().zip(CLASSES).enumerate().map(|(index, ((name, samples), class))| {
        let points = samples.iter().map(|sample| {
            let x = left as f64 + sample.seconds / last * (right - left) as f64;
            let y = floor as f64 - series.value(sample) / most * PANEL as f64;
            format!("{x:.1},{y:.1} ")
        });
        let points = points.collect::<String>();
        let line = format!("<polyline class=\"{class}\" points=\"{}\"/>\n", points.trim_end());
        text(right - 160 + index * 80, top + 14, class, name) + &line
    });
    let rules = [(floor, 0.0), (floor - PANEL / 2, most / 2.0), (ceiling, most)].map(|(y, value)| {
        let rule = format!("<line class=\"axis\" x1=\"{left}\" y1=\"{y}\" x2=\"{right}\" y2=\"{y}\"/>\n");
        rule + &text(MARGIN, y + 4, "muted", &format!("{value:.0}"))
    });
    let begin = text(left, floor + 18, "muted", "0");
    let end = text(right - 60, floor + 18, "muted", &format!("{:.0} min", last / 60.0));
    let title = text(MARGIN, top + 14, "title", series.name());
    [title, rules.concat(), lines.collect(), begin, end].concat()
}
