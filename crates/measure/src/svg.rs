//! The frame of a chart, as an SVG that reads well on a light and on a dark page.

/// It brings its own ground, so that a page whose theme is not the reader's does not make it unreadable.
const STYLE: &str = "  text { font: 12px system-ui, sans-serif; fill: #1f2328 }
  .title { font-size: 14px; font-weight: 600 }
  .muted { fill: #59636e }
  .ground { fill: #ffffff }
";
const DARK_STYLE: &str = "    text { fill: #f0f6fc }
    .muted { fill: #9198a1 }
    .ground { fill: #0d1117 }
";

/// A whole drawing.
pub struct Page<'a> {
    /// What it shows, for who can not see it.
    pub title: &'a str,
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// Rules for the content's own classes, on a light page and on a dark one.
    pub styles: (&'a str, &'a str),
}

impl Page<'_> {
    /// The drawing with this content.
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

/// A line of text.
#[must_use]
pub fn text(x: usize, y: usize, class: &str, content: &str) -> String {
    let content = content.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text class=\"{class}\" x=\"{x}\" y=\"{y}\">{content}</text>\n")
}
