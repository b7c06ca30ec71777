//! The frame of a chart, as an SVG that is readable on light and dark pages.

/// The drawing has its own background, because the theme of the page and that of the reader's system may differ.
const STYLE: &str = "  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .title { font-size: 14px; font-weight: 600 }
  .muted { fill: #59636e }
  .ground { fill: #ffffff }
";
const DARK_STYLE: &str = "    text { fill: #f0f6fc }
    .muted { fill: #9198a1 }
    .ground { fill: #0d1117 }
";

/// The frame of a drawing.
pub struct Page<'a> {
    /// The description, for screen readers.
    pub title: &'a str,
    /// The width in pixels.
    pub width: usize,
    /// The height in pixels.
    pub height: usize,
    /// CSS rules for the classes of the content, for light and dark pages.
    pub styles: (&'a str, &'a str),
}

impl Page<'_> {
    /// Returns the SVG document with this content.
    #[must_use]
    pub fn draw(&self, content: &str) -> String {
        let Self { title, width, height, styles: (light, dark) } = self;
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">
<title>{title}</title>
<style>
{STYLE}  {light}
  @media (prefers-color-scheme: dark) {{
{DARK_STYLE}    {dark}
  }}
</style>
<rect class="ground" width="{width}" height="{height}" rx="8"/>
{content}</svg>
"#
        )
    }
}

/// Returns the SVG element of a line of text, at `x` and `y` in pixels, with the CSS class `class`.
#[must_use]
pub fn text(x: usize, y: usize, class: &str, content: &str) -> String {
    let content = content.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{content}</text>\n")
}
