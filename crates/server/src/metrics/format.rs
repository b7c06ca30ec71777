//! The two text formats of metrics, and the negotiation between them. Pure.

use std::borrow::Cow;

/// A text format of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// `OpenMetrics` 1.0.0.
    OpenMetrics,
    /// The text format of Prometheus, version 0.0.4.
    Prometheus,
}

impl Format {
    /// Chooses the format for a request with these values of `Accept`: `OpenMetrics` if they name it with a quality that is at least
    /// that of `text/plain` (RFC 9110, section 12.5.1).
    pub(crate) fn of_accept<'a>(accepts: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut open_metrics, mut plain) = (0.0, 0.0);
        for range in accepts.into_iter().flat_map(|value| value.split(',')) {
            let (name, parameters) = range.split_once(';').unwrap_or((range, ""));
            let best = match name.trim() {
                name if name.eq_ignore_ascii_case("application/openmetrics-text") => &mut open_metrics,
                name if name.eq_ignore_ascii_case("text/plain") => &mut plain,
                _ => continue,
            };
            *best = f32::max(*best, quality(parameters));
        }
        if open_metrics > 0.0 && open_metrics >= plain { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The `Content-Type` of the format.
    #[must_use]
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The quality of a media range (RFC 9110, section 12.4.2): 1 if its parameters have none, 0 if it is malformed.
fn quality(parameters: &str) -> f32 {
    let mut pairs = parameters.split(';').filter_map(|pair| pair.split_once('='));
    let quality = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
    quality.map_or(1.0, |(_, value)| value.trim().parse().unwrap_or(0.0))
}

/// Translates to the format of Prometheus, which has no units, no end marker and no type `info`, and names a counter as its samples.
pub(super) fn to_prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    // The help comes before the type, which determines the name.
    let mut help = "";
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(_), Some(text)) => help = text,
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (name, kind) = match kind {
                    "counter" => (Cow::from(format!("{name}_total")), kind),
                    "info" => (Cow::from(format!("{name}_info")), "gauge"),
                    _ => (Cow::from(name), kind),
                };
                text.extend(["# HELP ", &name, " ", help, "\n# TYPE ", &name, " ", kind, "\n"]);
            }
            (Some("#"), ..) => {}
            _ => text.extend([line, "\n"]),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_metrics_is_sent_to_clients_that_ask_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                          application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,*/*;q=0.2";
        for (accepts, format) in [
            (&[][..], Format::Prometheus),
            (&["*/*"], Format::Prometheus),
            (&["text/html, */*;q=0.1"], Format::Prometheus),
            (&["text/plain;version=0.0.4"], Format::Prometheus),
            (&["application/openmetrics-text;q=0"], Format::Prometheus),
            (&["application/openmetrics-text; q=0.5, text/plain"], Format::Prometheus),
            (&["application/openmetrics-text;q=x"], Format::Prometheus),
            (&["application/openmetrics-text"], Format::OpenMetrics),
            (&["text/plain; q=0.5", "Application/OpenMetrics-Text ; Q=0.5"], Format::OpenMetrics),
            (&[prometheus], Format::OpenMetrics),
        ] {
            assert_eq!(Format::of_accept(accepts.iter().copied()), format, "{accepts:?}");
        }
    }

    #[test]
    fn the_older_format_has_the_same_values() {
        let open_metrics = "# HELP a_b Of a.\n# TYPE a_b counter\n# UNIT a_b b\na_b_total{x=\"y\"} 1\n\
                            # HELP c Of c d.\n# TYPE c info\nc_info{v=\"1\"} 1\n\
                            # HELP e Of e.\n# TYPE e gauge\ne 2\n# EOF\n";
        assert_eq!(
            to_prometheus(open_metrics),
            "# HELP a_b_total Of a.\n# TYPE a_b_total counter\na_b_total{x=\"y\"} 1\n\
             # HELP c_info Of c d.\n# TYPE c_info gauge\nc_info{v=\"1\"} 1\n\
             # HELP e Of e.\n# TYPE e gauge\ne 2\n"
        );
    }
}
