//! A chart of bars in panels, as an SVG that is readable on light and dark pages. All sizes are in pixels.

use crate::svg::{Page, text};

/// Columns of panels.
const COLUMNS: usize = 2;
const PANEL_WIDTH: usize = 380;
const MARGIN: usize = 24;
/// From a panel's top to its first bar.
const HEADING: usize = 48;
const BAR: usize = 16;
/// From the top of one bar to the next.
const PITCH: usize = 24;
/// The space for the values after the bars.
const VALUES: usize = 64;
/// The space for the last line.
const FOOTER: usize = 40;

/// A chart. Panels fill it row by row, two in a row.
pub struct Chart<'a> {
    /// The description, for screen readers.
    pub title: &'a str,
    /// CSS rules for the classes of the bars, for light and dark pages.
    pub styles: (&'a str, &'a str),
    /// The width in pixels of the names before the bars.
    pub names: usize,
    /// The panels.
    pub panels: Vec<Panel>,
    /// The last line: where and when this was measured.
    pub footer: &'a str,
}

/// A group of bars on one scale.
pub struct Panel {
    /// The first line.
    pub title: String,
    /// The second line: the unit, and whether less or more is better.
    pub subtitle: String,
    /// The bars, from top to bottom.
    pub bars: Vec<Bar>,
}

/// A value of a panel.
pub struct Bar {
    /// The name before the bar.
    pub name: String,
    /// The CSS class.
    pub class: &'static str,
    /// The length, relative to the other bars of the panel.
    pub value: f64,
    /// The value as text, after the bar.
    pub label: String,
}

impl Chart<'_> {
    /// Returns the SVG document.
    #[must_use]
    pub fn draw(&self) -> String {
        let most_bars = self.panels.iter().map(|panel| panel.bars.len()).max().unwrap_or(0);
        let panel_height = HEADING + most_bars * PITCH + MARGIN;
        let width = MARGIN + COLUMNS * PANEL_WIDTH;
        let height = MARGIN + self.panels.len().div_ceil(COLUMNS) * panel_height + FOOTER;
        let drawn = self.panels.iter().enumerate().map(|(index, panel)| {
            let (row, column) = (index / COLUMNS, index % COLUMNS);
            panel.draw(MARGIN + column * PANEL_WIDTH, MARGIN + row * panel_height, self.names)
        });
        let drawn: String = drawn.collect();
        let footer = text(MARGIN, height - MARGIN, "muted", self.footer);
        Page { title: self.title, width, height, styles: self.styles }.draw(&(drawn + &footer))
    }
}

impl Panel {
    fn draw(&self, left: usize, top: usize, names: usize) -> String {
        let heading =
            text(left, top + 14, "title", &self.title) + &text(left, top + 32, "muted", &self.subtitle);
        let longest = self.bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
        let room = PANEL_WIDTH.saturating_sub(names + VALUES + MARGIN) as f64;
        let bars = self.bars.iter().enumerate().map(|(index, bar)| {
            let (x, y) = (left + names, top + HEADING + index * PITCH);
            let width = room * bar.value / longest;
            let value_at = x as f64 + width + 6.0;
            let baseline = y + BAR - 4;
            let Bar { name, class, label, .. } = bar;
            let rect = format!(
                r#"<rect class="{class}" x="{x}" y="{y}" width="{width:.1}" height="{BAR}" rx="2"/>"#
            );
            let name = text(left, baseline, "name", name);
            format!("{name}{rect}\n<text x=\"{value_at:.1}\" y=\"{baseline}\">{label}</text>\n")
        });
        heading + &bars.collect::<String>()
    }
}
